"""Activations on disk: read by block or by row, never as a whole.

A store is a folder of safetensors shards and ``manifest.jsonl``. Every shard holds, for a fixed number of samples,
``positions`` (b, h * w, p), ``logits`` (b, n_classes) and, where the layer has them, ``prefix`` (b, t, p). A shard's
checksum is compared the first time it is read. `StoreWriter` writes it.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from conceptatlas.extraction.crops import CropSpec, position_boxes
from conceptatlas.extraction.errors import StoreError
from conceptatlas.extraction.features import Features
from conceptatlas.extraction.manifest import MANIFEST, ShardRecord, Skipped, read_manifest
from conceptatlas.extraction.parts import Part
from conceptatlas.extraction.records import HEADER, SHAPES, first_wrong


class ActivationStore:
    """The activations of a set of images at one layer.

    Samples are numbered 0 to ``len(store) - 1`` in the order of the source, without the skipped ones.

    Parameters
    ----------
    path
        A folder that `extract` wrote.
    part
        Read only what one of several processes has computed so far; see `merge`.

    Attributes
    ----------
    sample_ids, labels
        Of every sample.
    skipped
        The images that were left out.
    header
        The record of the run: model, weights, layer, transform, dtype, grid and so on.

    Raises
    ------
    StoreError
        There is no store, or its manifest is damaged or tampered with.

    Examples
    --------
    >>> ActivationStore("nowhere")
    Traceback (most recent call last):
    conceptatlas.extraction.errors.StoreError: there is no activation store in 'nowhere': run extract first.
    """

    def __init__(self, path: str | os.PathLike[str], *, part: Part | None = None) -> None:
        self.path = Path(path)
        self._part = part
        manifest = read_manifest(self.path, MANIFEST if part is None else part.manifest)
        if "grid" not in manifest.header and not (part is not None and manifest.header):
            raise StoreError(f"there is no activation store in {str(self.path)!r}: run extract first.")
        wrong = first_wrong(manifest.header, HEADER if "grid" not in manifest.header else {**HEADER, **SHAPES})
        if wrong:
            raise StoreError(
                f"the manifest in {str(self.path)!r} has no usable {wrong} ({manifest.header.get(wrong)!r}): extract "
                "again with resume=False."
            )
        self.header: Mapping[str, Any] = manifest.header
        self.shards: tuple[ShardRecord, ...] = tuple(manifest.shards[index] for index in sorted(manifest.shards))
        self.sample_ids: list[str] = [name for shard in self.shards for name in shard.sample_ids]
        self.labels: list[str | int | None] = [label for shard in self.shards for label in shard.labels]
        self.skipped: tuple[Skipped, ...] = tuple(entry for shard in self.shards for entry in shard.skipped)
        self._first = np.cumsum([0, *(shard.rows for shard in self.shards)])
        self._checked: set[int] = set()
        self._refuse_impossible_shapes()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the path: activations stay on disk."""
        return partial(ActivationStore, part=self._part), (self.path.absolute(),)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.sample_ids)

    def __repr__(self) -> str:
        """Return layer, size and place in one line."""
        return (
            f"ActivationStore({str(self.path)!r}): {len(self)} samples at {self.header['layer']!r}, "
            f"grid {self.grid}, {self.n_features} features, {self.header['dtype']}"
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of positions (or of crops)."""
        rows, columns = self.header["grid"]
        return rows, columns

    @property
    def n_features(self) -> int:
        """Number of columns p of the activations."""
        return self.header["n_features"]

    @property
    def n_classes(self) -> int:
        """Number of logits."""
        return self.header["n_classes"]

    @property
    def unit(self) -> str:
        """What a row of activations is: ``"position"`` or ``"crop"``."""
        return self.header["unit"]

    @property
    def complete(self) -> bool:
        """Whether every image of the source is stored or was skipped."""
        return sum(shard.stop - shard.start for shard in self.shards) == self.header["n_samples"]

    @property
    def boxes(self) -> np.ndarray:
        """Box of every position or crop (h * w, 4): left, top, right, bottom in pixels of the view."""
        height, width = self.header["view"]
        if self.header["crops"] is None:
            return position_boxes(self.grid, (height, width))
        try:
            spec = CropSpec(**self.header["crops"])
            grid = spec.grid((height, width))
        except (TypeError, ValueError, OverflowError) as error:
            raise StoreError(f"the manifest in {str(self.path)!r} holds no crops: {error}.") from error
        if grid != self.grid:
            raise StoreError(
                f"the manifest in {str(self.path)!r} holds crops on a grid of {grid}, and activations on one of "
                f"{self.grid}: extract again with resume=False."
            )
        return spec.boxes((height, width))[1].astype(np.float32)

    @cached_property
    def logits(self) -> np.ndarray:
        """What the model said of each sample, (n, n_classes) float32; read when first asked for."""
        parts = [self._read(number, "logits", slice(None)) for number in self._filled()]
        return np.concatenate(parts) if parts else np.zeros((0, self.n_classes), np.float32)

    def logit_blocks(self) -> Iterator[np.ndarray]:
        """Yield the logits of all samples in order, (b, n_classes) float32, one shard at a time."""
        for number in self._filled():
            yield self._read(number, "logits", slice(None))

    def logits_of(self, indices: Iterable[int] | np.ndarray) -> np.ndarray:
        """Return the logits of some samples, (b, n_classes) float32, in the order asked for.

        Raises
        ------
        StoreError
            A sample is not in the store, or its shard is damaged.
        """
        wanted = self._checked_indices(indices)
        logits = np.empty((len(wanted), self.n_classes), np.float32)
        for number, places in self._by_shard(wanted):
            logits[places] = self._read(number, "logits", slice(None))[wanted[places] - self._first[number]]
        return logits

    def blocks(self, batch: int = 256) -> Iterator[tuple[np.ndarray, Features]]:
        """Yield all activations in order, at most `batch` samples at a time.

        Yields
        ------
        sample_indices : ndarray (b,)
        features : Features
            Float32 numpy arrays in place of tensors: positions (b, h * w, p), and prefix (b, t, p) or None.
        """
        for number in self._filled():
            first, rows = int(self._first[number]), self.shards[number].rows
            for start in range(0, rows, batch):
                part = slice(start, min(start + batch, rows))
                prefix: Any = self._prefix(number, part)
                positions: Any = self._read(number, "positions", part)
                yield np.arange(first + part.start, first + part.stop), Features(positions, prefix, self.grid)

    def features(self, indices: Iterable[int]) -> Features:
        """Return the activations of some samples, in the order asked for, as float32 tensors on the CPU.

        Raises
        ------
        StoreError
            A sample is not in the store, or its shard is damaged.
        """
        wanted = self._checked_indices(indices)
        positions = np.empty((len(wanted), self.grid[0] * self.grid[1], self.n_features), np.float32)
        prefixes = [np.empty(0)] * len(wanted)
        for number, places in self._by_shard(wanted):
            for place in places:
                row = int(wanted[place] - self._first[number])
                positions[place] = self._read(number, "positions", slice(row, row + 1))[0]
                prefixes[place] = self._prefix(number, slice(row, row + 1))
        prefix = torch.from_numpy(np.concatenate(prefixes)) if self._has_prefix and len(wanted) else None
        return Features(torch.from_numpy(positions), prefix, self.grid)

    def rows(
        self,
        sample_indices: Sequence[int] | np.ndarray | None = None,
        max_rows: int | None = None,
        seed: int = 0,
        *,
        keep: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows of activations with where each comes from, in order of sample and position.

        Parameters
        ----------
        sample_indices
            Which samples, each once; all where None.
        max_rows
            Draw so many of their rows at random, without replacement; all where None or where there are fewer. Memory
            is bounded by the result and one shard.
        seed
            Of the draw.
        keep
            Boolean (len(store), h * w): rows that may be taken, such as ``~artefact_positions(store)``; all where None.

        Returns
        -------
        A : ndarray (n, p)
            Float32.
        sample_index : ndarray (n,)
        position_index : ndarray (n,)
        """
        wanted = np.sort(self._checked_indices(range(len(self)) if sample_indices is None else sample_indices))
        n_positions = self.grid[0] * self.grid[1]
        if keep is None:
            chosen = _draw(len(wanted) * n_positions, max_rows, seed)
        else:
            allowed = np.flatnonzero(np.asarray(keep)[wanted])
            chosen = allowed[_draw(len(allowed), max_rows, seed)]
        samples, positions = wanted[chosen // n_positions], chosen % n_positions
        rows = np.empty((len(chosen), self.n_features), np.float32)
        for number, places in self._by_shard(samples):
            local = samples[places] - self._first[number]
            part = slice(int(local.min()), int(local.max()) + 1)
            rows[places] = self._read(number, "positions", part, dtype=None)[local - part.start, positions[places]]
        return rows, samples, positions

    def verify(self) -> list[int]:
        """Return the indices of the shards whose bytes are not what was recorded; empty where all is sound.

        Shards whose file is missing count. `extract(..., verify=True)` redoes them.
        """
        return [shard.index for shard in self.shards if not is_sound(self.path, shard)]

    def _refuse_impossible_shapes(self) -> None:
        """Raise StoreError where a shard is smaller than the shapes in the header would make it."""
        for shard in self.shards if "grid" in self.header else ():
            values = sum(math.prod(self._shape(shard, name)) for name in ("positions", "prefix"))
            least = values * np.dtype(self.header["dtype"]).itemsize + math.prod(self._shape(shard, "logits")) * 4
            if shard.size < least:
                raise StoreError(
                    f"the manifest in {str(self.path)!r} holds shapes that do not fit the size of {shard.file!r} "
                    f"({shard.size} bytes, {least} needed): extract again with resume=False."
                )

    @property
    def _has_prefix(self) -> bool:
        return self.header["prefix_tokens"] > 0

    def _filled(self) -> list[int]:
        return [number for number, shard in enumerate(self.shards) if shard.rows]

    def _checked_indices(self, indices: Iterable[int] | np.ndarray) -> np.ndarray:
        wanted = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise StoreError(f"the store holds the samples 0 to {len(self) - 1}; {wanted.min()}..{wanted.max()} asked.")
        for number, _ in self._by_shard(wanted):  # before memory is taken for them
            if number not in self._checked and not has_size(self.path, self.shards[number]):
                raise self._damaged(number)
        return wanted

    def _by_shard(self, samples: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of each shard that holds some of the samples, with their places in `samples`."""
        numbers = np.searchsorted(self._first, samples, side="right") - 1
        for number in np.unique(numbers):
            yield int(number), np.flatnonzero(numbers == number)

    def _prefix(self, number: int, part: slice) -> Any:
        return self._read(number, "prefix", part) if self._has_prefix else None

    def _shape(self, shard: ShardRecord, name: str) -> list[int]:
        """Return the shape that a tensor of a shard must have."""
        if name == "logits":
            return [shard.rows, self.n_classes]
        rows = self.header["prefix_tokens"] if name == "prefix" else self.grid[0] * self.grid[1]
        return [shard.rows, rows, self.n_features]

    def _read(self, number: int, name: str, part: slice, *, dtype: Any = np.float32) -> np.ndarray:
        """Return a slice of one tensor of a shard; the shard's checksum is compared the first time."""
        shard = self.shards[number]
        if number not in self._checked:
            if not is_sound(self.path, shard):
                raise self._damaged(number)
            self._checked.add(number)
        try:
            with safe_open(self.path / shard.file, framework="numpy") as file:
                whole = file.get_slice(name)
                if whole.get_shape() != self._shape(shard, name):
                    raise StoreError(
                        f"{shard.file!r} in {str(self.path)!r} holds {name} of the shape {whole.get_shape()}, and not "
                        f"{self._shape(shard, name)} as its manifest says: run extract with verify=True."
                    )
                values = whole[part]
        except (SafetensorError, OSError) as error:
            raise StoreError(f"{shard.file!r} in {str(self.path)!r} cannot be read: {error}.") from error
        return values if dtype is None else values.astype(dtype, copy=False)

    def _damaged(self, number: int) -> StoreError:
        return StoreError(
            f"{self.shards[number].file!r} in {str(self.path)!r} is damaged or missing: run extract with verify=True, "
            "which redoes it."
        )


def _draw(total: int, max_rows: int | None, seed: int) -> np.ndarray:
    """Return `max_rows` of ``range(total)`` in order, or all of them."""
    if max_rows is None or max_rows >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, max_rows, replace=False, shuffle=False))


def is_sound(folder: Path, shard: ShardRecord) -> bool:
    """Return whether a shard's file is there with the recorded bytes."""
    if not shard.rows:
        return True
    path = folder / shard.file
    return has_size(folder, shard) and file_checksum(path) == shard.checksum


def has_size(folder: Path, shard: ShardRecord) -> bool:
    """Return whether a shard's file is there with the recorded size, without reading it."""
    path = folder / shard.file
    return not shard.rows or (path.is_file() and path.stat().st_size == shard.size)


def file_checksum(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_store(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a manifest.

    >>> has_store("nowhere")
    False
    """
    return (Path(folder) / MANIFEST).exists()
