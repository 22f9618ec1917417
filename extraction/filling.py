"""The loop of extraction: spans of images become shards, each computed and written as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from conceptatlas.extraction.engine import Activations, Engine
from conceptatlas.extraction.errors import LayerError, SourceError, StoreError
from conceptatlas.extraction.failures import Failures
from conceptatlas.extraction.manifest import Skipped
from conceptatlas.extraction.reading import Read, path_of, read_ahead
from conceptatlas.extraction.samples import ImageSource
from conceptatlas.extraction.transforms import Preprocessor
from conceptatlas.extraction.writer import StoreWriter


@dataclass
class _Shard:
    """A shard in the making: its samples in order, less those that cannot be used."""

    index: int
    span: tuple[int, int]
    kept: list[Read] = field(default_factory=list)
    parts: list[Activations] = field(default_factory=list)
    failed: list[tuple[int, Skipped]] = field(default_factory=list)

    def tensors(self, dtype: Any, layer: str) -> dict[str, np.ndarray]:
        """Return what goes to disk, as the type it has there."""
        prefixes = [part.prefix for part in self.parts if part.prefix is not None]
        tensors = {"logits": np.concatenate([part.logits for part in self.parts])}
        with np.errstate(over="ignore"):
            tensors["positions"] = np.concatenate(
                [part.positions for part in self.parts], dtype=dtype, casting="same_kind"
            )
            if prefixes:
                tensors["prefix"] = np.concatenate(prefixes, dtype=dtype, casting="same_kind")
        if dtype is np.float16 and any(np.isinf(values).any() for values in tensors.values()):
            raise LayerError(
                f"the layer {layer!r} has values beyond 65504, which float16 cannot hold: use dtype='float32'."
            )
        return tensors


class Filling:
    """Fills a store with the activations of a source.

    Parameters
    ----------
    source, preprocess, engine, writer, failures
        Where images come from, what is done to them, what computes, what writes, and what counts those that fail.
    shard_size
        Images per shard.
    dtype
        numpy type of activations on disk.
    progress
        Called with the numbers of images done and of all.
    """

    def __init__(
        self,
        source: ImageSource,
        preprocess: Preprocessor,
        engine: Engine,
        writer: StoreWriter,
        failures: Failures,
        shard_size: int,
        dtype: Any,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._source, self._preprocess, self._engine, self._writer = source, preprocess, engine, writer
        self._failures, self._dtype, self._progress = failures, dtype, progress
        self._spans = [(start, min(start + shard_size, len(source))) for start in range(0, len(source), shard_size)]
        self._done = 0
        self._alive = False

    def run(self, threads: int | None) -> None:
        """Compute every shard that is not done."""
        self._check_recorded()
        pending = [index for index in range(len(self._spans)) if index not in self._writer.done]
        wanted = [sample for index in pending for sample in range(*self._spans[index])]
        self._report(len(self._source) - len(wanted))
        window = 2 * self._engine.batch_size
        reads = read_ahead(self._source, self._preprocess, wanted, threads=threads, window=window)
        with contextlib.closing(reads):
            for index in pending:
                self._fill(_Shard(index, self._spans[index]), reads)

    def _check_recorded(self) -> None:
        """Raise StoreError where the images are not those of the recorded shards; count what was skipped then."""
        if not self._writer.done:
            return
        ids = self._source.ids
        for index, shard in sorted(self._writer.done.items()):
            recorded = {*shard.sample_ids, *(entry.sample_id for entry in shard.skipped)}
            start, stop = self._spans[index] if index < len(self._spans) else (0, 0)
            if changed := recorded.symmetric_difference(ids[start:stop]):
                raise StoreError(
                    f"the images have changed since the store was begun ({min(changed)!r} is new or gone): choose "
                    "another folder, or start again with resume=False."
                )
            self._alive = self._alive or shard.rows > 0
            for failure in shard.skipped:
                self._failures.add(failure, known=True)

    def _fill(self, shard: _Shard, reads: Iterator[Read]) -> None:
        """Compute one shard and write it."""
        remaining = shard.span[1] - shard.span[0]
        while remaining:
            batch, seen = self._take(shard, reads, remaining)
            if batch:
                self._compute(shard, batch)
            remaining -= seen
            self._report(seen)
        tensors = self._checked(shard) if shard.kept else {}
        self._writer.write(
            shard.index,
            shard.span,
            tensors,
            sample_ids=[read.sample_id for read in shard.kept],
            labels=[read.label for read in shard.kept],
            skipped=[failure for _, failure in sorted(shard.failed, key=lambda entry: entry[0])],
        )

    def _take(self, shard: _Shard, reads: Iterator[Read], remaining: int) -> tuple[list[Read], int]:
        """Return a batch of images that could be read, and how many images it took to find them."""
        batch: list[Read] = []
        seen = 0
        for read in islice(reads, remaining):
            seen += 1
            if read.failure is not None:
                self._fail(shard, read.index, read.failure)
            else:
                batch.append(read)
            if len(batch) == self._engine.batch_size:
                break
        return batch, seen

    def _compute(self, shard: _Shard, batch: Sequence[Read]) -> None:
        """Add a batch's activations to the shard, less the images whose values are not finite."""
        images = torch.stack(_same_shape(batch))
        activations = self._engine.run(images)
        bad = activations.bad_images()
        for row, kind in bad.items():
            read = batch[row]
            message = f"the layer {self._engine.layer!r} or the output holds {kind} values"
            path = path_of(self._source, read.index)
            self._fail(shard, read.index, Skipped(read.sample_id, path, kind, message, "forward"))
        good = [row for row in range(len(batch)) if row not in bad]
        if good:
            self._view = (int(images.shape[2]), int(images.shape[3]))
            shard.kept += [batch[row] for row in good]
            shard.parts.append(activations.select(good) if bad else activations)

    def _checked(self, shard: _Shard) -> dict[str, np.ndarray]:
        """Return the shard's tensors after the checks that need a whole shard, and record their shapes."""
        tensors = shard.tensors(self._dtype, self._engine.layer)
        positions = tensors["positions"]
        if not self._alive and not positions.any():
            raise LayerError(
                f"dead layer: {self._engine.layer!r} is zero in all of {len(positions)} images: choose another layer."
            )
        self._alive = True
        self._writer.begin(
            {
                "grid": list(shard.parts[0].grid),
                "n_features": int(positions.shape[2]),
                "prefix_tokens": int(tensors["prefix"].shape[1]) if "prefix" in tensors else 0,
                "n_classes": int(tensors["logits"].shape[1]),
                "view": list(self._view),
            }
        )
        return tensors

    def _fail(self, shard: _Shard, index: int, failure: Skipped) -> None:
        shard.failed.append((index, failure))
        self._failures.add(failure)

    def _report(self, seen: int) -> None:
        self._done += seen
        if self._progress is not None:
            self._progress(self._done, len(self._source))


def _same_shape(batch: Sequence[Read]) -> list[torch.Tensor]:
    tensors = [read.tensor for read in batch if read.tensor is not None]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise SourceError(f"the preprocessing gives images of different sizes ({sorted(shapes)}): resize them to one.")
    return tensors
