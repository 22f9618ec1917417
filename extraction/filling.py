"""A span of images becomes a shard, computed and written as a whole: the unit of work of every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conceptatlas.extraction.engine import Activations, Engine
from conceptatlas.extraction.errors import LayerError, SourceError
from conceptatlas.extraction.manifest import ShardRecord, Skipped
from conceptatlas.extraction.reading import Read, path_of
from conceptatlas.extraction.samples import ImageSource
from conceptatlas.extraction.writer import write_shard


@dataclass(frozen=True)
class Filled:
    """What is known of a shard whose file is written; small, and the same whoever wrote it.

    Attributes
    ----------
    record
        For the manifest.
    shapes
        Grid, numbers of features, prefix tokens and classes, and size of the view; None where all images were skipped.
    alive
        Whether any activation is not zero.
    """

    record: ShardRecord
    shapes: Mapping[str, Any] | None
    alive: bool


@dataclass
class Shard:
    """A shard in the making: its samples in order, less those that cannot be used.

    Attributes
    ----------
    index, span
        Its number; its first sample of the source, and the one after its last.
    kept, parts
        The samples, and their activations by batch.
    failed
        The others, with their places in the source.
    view
        Size (h, w) of the images.
    """

    index: int
    span: tuple[int, int]
    kept: list[Read] = field(default_factory=list)
    parts: list[Activations] = field(default_factory=list)
    failed: list[tuple[int, Skipped]] = field(default_factory=list)
    view: tuple[int, int] = (0, 0)

    @property
    def alive(self) -> bool:
        """Whether any activation is not zero."""
        return any(part.positions.any() for part in self.parts)

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
    """Computes the shards of a store.

    Parameters
    ----------
    source, engine
        Where images come from, and what computes.
    folder
        Of the store.
    dtype
        numpy type of activations on disk.
    fail
        Told of each image that cannot be used; may raise.
    seen
        Told how many images have been looked at.
    """

    def __init__(
        self,
        source: ImageSource,
        engine: Engine,
        folder: Path,
        dtype: Any,
        *,
        fail: Callable[[Skipped], None] | None = None,
        seen: Callable[[int], None] | None = None,
    ) -> None:
        self._source, self._engine, self._folder, self._dtype = source, engine, folder, dtype
        self._fail_one, self._seen = fail, seen

    def compute(self, index: int, span: tuple[int, int], reads: Iterator[Read]) -> Shard:
        """Run the images of one shard, which `reads` yields next, through the model."""
        shard = Shard(index, span)
        remaining = span[1] - span[0]
        while remaining:
            batch, seen = self._take(shard, reads, remaining)
            if batch:
                self._compute(shard, batch)
            remaining -= seen
            if self._seen is not None:
                self._seen(seen)
        return shard

    def write(self, shard: Shard) -> Filled:
        """Write a shard's file; the record is the caller's to keep."""
        tensors = shard.tensors(self._dtype, self._engine.layer) if shard.kept else {}
        record = write_shard(
            self._folder,
            shard.index,
            shard.span,
            tensors,
            sample_ids=[read.sample_id for read in shard.kept],
            labels=[read.label for read in shard.kept],
            skipped=[failure for _, failure in sorted(shard.failed, key=lambda entry: entry[0])],
        )
        return Filled(record, _shapes(shard, tensors) if shard.kept else None, shard.alive)

    def _take(self, shard: Shard, reads: Iterator[Read], remaining: int) -> tuple[list[Read], int]:
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

    def _compute(self, shard: Shard, batch: Sequence[Read]) -> None:
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
            shard.view = (int(images.shape[2]), int(images.shape[3]))
            shard.kept += [batch[row] for row in good]
            shard.parts.append(activations.select(good) if bad else activations)

    def _fail(self, shard: Shard, index: int, failure: Skipped) -> None:
        shard.failed.append((index, failure))
        if self._fail_one is not None:
            self._fail_one(failure)


def _shapes(shard: Shard, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        "grid": list(shard.parts[0].grid),
        "n_features": int(tensors["positions"].shape[2]),
        "prefix_tokens": int(tensors["prefix"].shape[1]) if "prefix" in tensors else 0,
        "n_classes": int(tensors["logits"].shape[1]),
        "view": list(shard.view),
    }


def _same_shape(batch: Sequence[Read]) -> list[torch.Tensor]:
    tensors = [read.tensor for read in batch if read.tensor is not None]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise SourceError(f"the preprocessing gives images of different sizes ({sorted(shapes)}): resize them to one.")
    return tensors
