"""What is done and what is not: one process records finished shards, whoever computed them, and applies the policy."""

from __future__ import annotations

from collections.abc import Callable

from conceptatlas.extraction.errors import LayerError, StoreError
from conceptatlas.extraction.failures import Failures
from conceptatlas.extraction.filling import Filled, Shard
from conceptatlas.extraction.manifest import ShardRecord, Skipped
from conceptatlas.extraction.samples import ImageSource
from conceptatlas.extraction.writer import StoreWriter


class Ledger:
    """Keeps the books of one extraction.

    Parameters
    ----------
    source, writer, failures
        The images, what records shards, and what counts the images that fail.
    shard_size
        Images per shard.
    layer
        Name of the layer, for messages.
    progress
        Called with the numbers of images done and of all.
    shards
        The shards to compute; all where None.

    Attributes
    ----------
    spans
        First sample, and the one after the last, of every shard.

    Raises
    ------
    StoreError
        The images are not those of the recorded shards.
    """

    def __init__(
        self,
        source: ImageSource,
        writer: StoreWriter,
        failures: Failures,
        shard_size: int,
        layer: str,
        progress: Callable[[int, int], None] | None,
        shards: range | None = None,
    ) -> None:
        self.spans = spans_of(len(source), shard_size)
        self._writer, self._failures, self._layer, self._progress = writer, failures, layer, progress
        self._shards = range(len(self.spans)) if shards is None else shards
        self._total = sum(self.size(index) for index in self._shards)
        self._alive = self._shards.start > 0  # the first part judges whether the layer is dead
        if writer.done:
            self._check_recorded(source.ids)
        self._done = self._total - sum(self.size(index) for index in self.pending())
        self.seen(0)

    def size(self, index: int) -> int:
        """Return the number of images of a shard."""
        start, stop = self.spans[index]
        return stop - start

    def pending(self) -> list[int]:
        """Return the shards that are not done, in order."""
        return [index for index in self._shards if index not in self._writer.done]

    def seen(self, count: int) -> None:
        """Report progress."""
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)

    def fail(self, failure: Skipped) -> None:
        """Count an image that cannot be used; raises where the policy says so."""
        self._failures.add(failure)

    def check(self, shard: Shard | Filled) -> None:
        """Raise LayerError where the first activations are all zero."""
        rows = shard.record.rows if isinstance(shard, Filled) else len(shard.kept)
        if rows and not self._alive and not shard.alive:
            raise LayerError(f"dead layer: {self._layer!r} is zero in all of {rows} images: choose another layer.")
        self._alive = self._alive or shard.alive

    def take(self, filled: Filled) -> None:
        """Record a finished shard."""
        if filled.shapes is not None:
            self._writer.begin(filled.shapes)
        self._writer.record(filled.record)

    def take_from_afar(self, filled: Filled) -> None:
        """Record a shard that another process computed, after its failures have been counted here."""
        for failure in filled.record.skipped:
            self.fail(failure)
        if filled.alive or filled.record.index == next(iter(self.pending()), -1):
            self.check(filled)
        self.take(filled)
        self.seen(self.size(filled.record.index))

    def _check_recorded(self, ids: list[str]) -> None:
        for index, shard in sorted(self._writer.done.items()):
            start, stop = self.spans[index] if index < len(self.spans) else (0, 0)
            if changed := _ids_of(shard).symmetric_difference(ids[start:stop]):
                raise StoreError(
                    f"the images have changed since the store was begun ({min(changed)!r} is new or gone): choose "
                    "another folder, or start again with resume=False."
                )
            self._alive = self._alive or shard.rows > 0
            for failure in shard.skipped:
                self._failures.add(failure, known=True)


def spans_of(n_samples: int, shard_size: int) -> list[tuple[int, int]]:
    """Return the first sample, and the one after the last, of every shard.

    >>> spans_of(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + shard_size, n_samples)) for start in range(0, n_samples, shard_size)]


def _ids_of(shard: ShardRecord) -> set[str]:
    return {*shard.sample_ids, *(entry.sample_id for entry in shard.skipped)}
