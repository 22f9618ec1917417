"""Reading ahead: images are decoded and prepared in threads while the model computes, and come out in order."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from PIL import Image

from conceptatlas.extraction.errors import ImageError, SourceError, UserError
from conceptatlas.extraction.manifest import Skipped
from conceptatlas.extraction.samples import ImageSource, plain_label

logger = logging.getLogger(__name__)

READ_SECONDS = 900.0
"""An image that is not read by then ends the run: its disk, or what stands behind it, does not answer."""


@dataclass(frozen=True)
class Read:
    """One image of a source, ready for the model, or why it is not.

    Attributes
    ----------
    index
        In the source.
    sample_id, label
        Of the sample.
    tensor
        (3, h, w), or None where `failure` says why.
    failure
        None where the image can be used.
    """

    index: int
    sample_id: str
    label: str | int | None
    tensor: torch.Tensor | None
    failure: Skipped | None = None


def read_ahead(
    source: ImageSource,
    preprocess: Callable[[Image.Image], torch.Tensor],
    indices: Sequence[int],
    *,
    threads: int | None = None,
    window: int = 32,
) -> Iterator[Read]:
    """Yield images of a source in the order of `indices`, read by threads that are at most `window` images ahead.

    Parameters
    ----------
    source
        Read by several threads at once only if it says ``parallel = True``, as folders and lists do.
    preprocess
        From an upright RGB image to a tensor (3, h, w).
    indices
        Which images.
    threads
        By default one fewer than there are cores, from 1 to 8.
    window
        Bounds the memory.

    Examples
    --------
    >>> from conceptatlas.extraction import ListSource, Preprocess
    >>> source = ListSource([Image.new("RGB", (40, 30))])
    >>> [read.tensor.shape for read in read_ahead(source, Preprocess(32), [0])]
    [torch.Size([3, 32, 32])]
    """
    threads = _thread_count(threads) if getattr(source, "parallel", False) else 1
    pending: deque[tuple[int, Future[Read]]] = deque()
    readers = _Readers(threads)
    try:
        for index in indices:
            pending.append((index, readers.submit(read_one, source, preprocess, index)))
            if len(pending) >= window:
                yield _awaited(source, *pending.popleft())
        while pending:
            yield _awaited(source, *pending.popleft())
    finally:
        for _, future in pending:
            future.cancel()
        readers.dismiss()


def _awaited(source: ImageSource, index: int, future: Future[Read]) -> Read:
    try:
        return future.result(READ_SECONDS)
    except TimeoutError as error:
        if future.done():
            raise
        raise SourceError(
            f"{path_of(source, index)!r} could not be read in {READ_SECONDS:g} s: look whether its disk or connection "
            "answers, and run again to go on."
        ) from error


class _Readers:
    """Threads that end with the process even where one of them never comes back, which those of an executor do not."""

    def __init__(self, count: int) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name=f"read-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Return what will hold ``function(*arguments)``."""
        future: Future[Any] = Future()
        self._queue.put((future, function, arguments))
        return future

    def dismiss(self) -> None:
        """Let the threads end when they come back from what they are doing."""
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            future, function, arguments = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asked
                future.set_exception(error)
            del task, future, function, arguments


def _thread_count(asked: int | None) -> int:
    return max(1, asked) if asked is not None else min(8, max(1, (os.cpu_count() or 1) - 1))


def read_one(source: ImageSource, preprocess: Callable[[Image.Image], torch.Tensor], index: int) -> Read:
    """Return one image of a source, or its failure. Mistakes of the user are raised."""
    try:
        sample = source[index]
    except ImageError as error:
        sample_id = _id_of_failed(source, index)
        return Read(index, sample_id, None, None, Skipped(sample_id, error.path, error.cause, error.detail, "decode"))
    for note in sample.image.info.get("notes", ()):
        logger.info("%s: %s", sample.sample_id, note)
    label = plain_label(sample.label)
    try:
        tensor = preprocess(sample.image)
    except UserError:
        raise
    except Exception as error:  # the user's function; one image that it cannot take must not end the run
        message = f"{type(error).__name__}: {error}"
        failure = Skipped(sample.sample_id, path_of(source, index), "preprocess", message, "preprocess")
        return Read(index, sample.sample_id, label, None, failure)
    return Read(index, sample.sample_id, label, tensor)


def _id_of_failed(source: ImageSource, index: int) -> str:
    name = getattr(source, "failed_id", None)
    return name(index) if name is not None else source.ids[index]


def path_of(source: ImageSource, index: int) -> str:
    """Return the path of an image, or its id where the source has no paths."""
    paths = getattr(source, "paths", None)
    return (paths[index] if paths is not None else None) or _id_of_failed(source, index)
