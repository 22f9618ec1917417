"""Reading ahead: images are decoded and prepared in threads while the model computes, and come out in order."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL import Image

from conceptatlas.extraction.errors import ImageError, UserError
from conceptatlas.extraction.manifest import Skipped
from conceptatlas.extraction.samples import ImageSource

logger = logging.getLogger(__name__)


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
    pending: deque[Future[Read]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    try:
        for index in indices:
            pending.append(pool.submit(read_one, source, preprocess, index))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
    label = sample.label if isinstance(sample.label, (str, int, type(None))) else str(sample.label)
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
