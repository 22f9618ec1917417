"""The record of a store: a header, the shapes, and one line per shard, appended, each with its own checksum.

A line is ``{"check": hash, "record": {...}}``. A last line that is not whole was being written when the run was killed:
it is dropped. Any other damage is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from conceptatlas.extraction.errors import StoreError
from conceptatlas.extraction.records import SHARD as SHARD_RULES
from conceptatlas.extraction.records import SKIPPED, first_wrong

SCHEMA = 1
MANIFEST = "manifest.jsonl"
SHAPES = ("grid", "n_features", "prefix_tokens", "n_classes", "view")
"""What the header holds that only the first batch shows."""


@dataclass(frozen=True)
class Skipped:
    """An image that was left out.

    Attributes
    ----------
    sample_id, path
        Which one; the path is the id where there is no path.
    cause
        A short code: ``truncated``, ``bomb``, ``missing``, ``nan``, ...
    error
        What went wrong, with the exception's class where there was one.
    stage
        ``decode``, ``preprocess`` or ``forward``.
    """

    sample_id: str
    path: str
    cause: str
    error: str
    stage: str


@dataclass(frozen=True)
class ShardRecord:
    """What is known of one shard: the samples ``start`` to ``stop`` of the source, less the skipped ones.

    ``checksum`` is the SHA-256 of the file; a shard all of whose samples were skipped has no file, and an empty one.
    """

    index: int
    start: int
    stop: int
    file: str
    size: int
    checksum: str
    sample_ids: tuple[str, ...] = ()
    labels: tuple[str | int | None, ...] = ()
    skipped: tuple[Skipped, ...] = field(default=())

    @property
    def rows(self) -> int:
        """Number of samples in the file."""
        return len(self.sample_ids)


@dataclass(frozen=True)
class Manifest:
    """A manifest as read.

    Attributes
    ----------
    header
        Empty if there is none.
    shards
        By index.
    sound_bytes
        How many bytes are sound.
    ordered
        Whether the records stand in the order in which one process would have written them, each once.
    """

    header: Mapping[str, Any]
    shards: Mapping[int, ShardRecord]
    sound_bytes: int
    ordered: bool = True


def shard_name(index: int) -> str:
    """Return the one file name that a shard may have.

    >>> shard_name(3)
    'shard-00003.safetensors'
    """
    return f"shard-{index:05d}.safetensors"


def line_of(record: Mapping[str, Any]) -> bytes:
    r"""Return a record as a line with its checksum.

    >>> line_of({"kind": "header"})[:9], line_of({})[-1:]
    (b'{"check":', b'\n')
    """
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    check = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f'{{"check":"{check}","record":{text}}}\n'.encode()


def header_record(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the header of a store with these fields."""
    return {"kind": "header", "schema": SCHEMA, **fields}


def shapes_record(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of what only the first batch shows: grid, numbers of features, classes and prefix tokens."""
    return {"kind": "shapes", **fields}


def shard_record(record: ShardRecord) -> dict[str, Any]:
    """Return a shard's record as plain values."""
    return {"kind": "shard", **asdict(record)}


def canonical_bytes(header: Mapping[str, Any], shards: Mapping[int, ShardRecord]) -> bytes:
    """Return a manifest as one process writes it: the header, the shapes, and the shards in order."""
    identity = {key: value for key, value in header.items() if key not in SHAPES}
    shapes = {key: header[key] for key in SHAPES if key in header}
    records = [header_record(identity), *([shapes_record(shapes)] if shapes else [])]
    records += [shard_record(shards[index]) for index in sorted(shards)]
    return b"".join(line_of(record) for record in records)


def read_manifest(folder: Path, name: str = MANIFEST) -> Manifest:
    """Return the manifest of a store; an empty one where there is none.

    Raises
    ------
    StoreError
        A line before the last is damaged, the schema is unknown, or a record names a file outside the store.
    """
    path = folder / name
    data = path.read_bytes() if path.exists() else b""
    header: Mapping[str, Any] = {}
    shards: dict[int, ShardRecord] = {}
    position = 0
    order: list[int] = []
    while position < len(data):
        end = data.find(b"\n", position) + 1
        record = _parse(data[position : end or len(data)])
        if record is None or not end:
            if end in (0, len(data)):
                break
            raise StoreError(f"{str(path)!r} is damaged at byte {position}: extract again with resume=False.")
        if record.get("kind") == "header":
            header = _check_header(record, path)
            order.append(-2)
        elif record.get("kind") == "shapes":
            header = {**header, **{key: value for key, value in record.items() if key != "kind"}}
            order.append(-1)
        else:
            shard = _shard_from(record, path)
            shards[shard.index] = shard
            order.append(shard.index)
        position = end
    ordered = all(a < b for a, b in zip(order, order[1:], strict=False))
    return Manifest(header, shards, position, ordered)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the record in a line, or None where the line is not whole."""
    try:
        outer = json.loads(line)
        record = outer["record"]
        return record if isinstance(record, dict) and line_of(record) == line else None
    except (ValueError, KeyError, TypeError):
        return None


def _check_header(record: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    if record.get("schema") != SCHEMA:
        raise StoreError(
            f"{str(path)!r} has the schema {record.get('schema')!r}; this version reads {SCHEMA}: extract again."
        )
    return {key: value for key, value in record.items() if key not in ("kind", "schema")}


def _shard_from(record: Mapping[str, Any], path: Path) -> ShardRecord:
    try:
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
        values["skipped"] = tuple(Skipped(**entry) for entry in record["skipped"])
        values.pop("kind")
        shard = ShardRecord(**values)
    except (KeyError, TypeError) as error:
        raise StoreError(f"{str(path)!r} holds a record that is no shard ({error}): extract again.") from error
    wrong = first_wrong(vars(shard), SHARD_RULES)
    wrong = wrong or next((name for entry in shard.skipped if (name := first_wrong(vars(entry), SKIPPED))), None)
    if wrong or len(shard.labels) != shard.rows or shard.stop < shard.start:
        raise StoreError(
            f"{str(path)!r} holds a record that is no shard (its {wrong or 'numbers'} cannot be): extract again."
        )
    if shard.file not in ("", shard_name(shard.index)):
        raise StoreError(f"{str(path)!r} names the file {shard.file!r}, which is not one of the store's own: refused.")
    if shard.rows and (path.parent / shard.file).is_symlink():
        raise StoreError(f"{shard.file!r} in {str(path.parent)!r} is a link, which may lead out of the store: refused.")
    return shard


def append_line(path: Path, line: bytes, *, at: int) -> int:
    """Write a line at byte `at`, cutting off whatever was torn there, force it to disk, and return where it ends."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(at)
        file.seek(at)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return at + len(line)
