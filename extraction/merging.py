"""Joining the parts of a store into one, whose bytes are those that a single process would have written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from conceptatlas.extraction.errors import StoreError
from conceptatlas.extraction.manifest import MANIFEST, ShardRecord, canonical_bytes, read_manifest
from conceptatlas.extraction.parts import PARTS
from conceptatlas.extraction.records import first_wrong, is_count
from conceptatlas.extraction.store import ActivationStore, has_size
from conceptatlas.extraction.writer import drop_lock, replace_manifest, take_lock


def merge(store_dir: str | os.PathLike[str]) -> ActivationStore:
    """Join the parts of a store that `extract(..., shard=(i, n))` wrote, and return it opened.

    No activation is read or moved. Parts that were computed on machines without a common disk are merged after their
    folders have been copied into one. A merge that was killed is run again; a merged store is left as it is.

    Parameters
    ----------
    store_dir
        Folder of the store.

    Raises
    ------
    StoreError
        There is nothing to merge, a part is still being written, parts belong to different runs, or shards are missing.
    """
    folder = Path(store_dir)
    names = sorted(path.name for path in folder.glob(PARTS))
    if not names and not (folder / MANIFEST).exists():
        raise StoreError(f"{str(folder)!r} holds no parts of a store: run extract with shard=(i, n) first.")
    with ExitStack() as stack:
        for name in ("lock", *(name.replace("manifest.", "lock.").removesuffix(".jsonl") for name in names)):
            stack.callback(drop_lock, folder, take_lock(folder, name), name)
        header, shards = _joined(folder, [MANIFEST, *names])
        _check_whole(folder, header, shards)
        if names:
            replace_manifest(folder, MANIFEST, canonical_bytes(header, shards))
        for name in names:
            (folder / name).unlink()
    return ActivationStore(folder)


def _joined(folder: Path, names: Iterable[str]) -> tuple[dict[str, Any], dict[int, ShardRecord]]:
    """Return the header and the shards of several manifests, which must belong to one run."""
    header: dict[str, Any] = {}
    shards: dict[int, ShardRecord] = {}
    for name in names:
        part = read_manifest(folder, name)
        differing = sorted(key for key in part.header if key in header and header[key] != part.header[key])
        if differing:
            raise StoreError(
                f"{name!r} in {str(folder)!r} belongs to another run than the parts before it (different "
                f"{', '.join(differing)}): remove it, and run that part again."
            )
        header |= part.header
        shards |= {index: shard for index, shard in part.shards.items() if has_size(folder, shard)}
    return header, shards


def _check_whole(folder: Path, header: Mapping[str, Any], shards: Mapping[int, ShardRecord]) -> None:
    """Raise StoreError where shards are missing."""
    if wrong := first_wrong(header, {"n_samples": is_count, "shard_size": lambda value: is_count(value, 1)}):
        raise StoreError(f"the parts in {str(folder)!r} have no usable {wrong}: run them again.")
    n_samples, size = header["n_samples"], header["shard_size"]
    expected = -(-n_samples // size)
    missing = [index for index in range(expected) if index not in shards]
    if missing or not expected:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise StoreError(
            f"{len(missing)} of {expected} shards are missing in {str(folder)!r} ({shown}): run the parts that are not "
            "done again, then merge."
        )
