"""Writing a store so that it is valid at every instant: write aside, force to disk, rename, then record."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from conceptatlas.extraction.errors import StoreError
from conceptatlas.extraction.manifest import (
    MANIFEST,
    ShardRecord,
    Skipped,
    append_line,
    canonical_bytes,
    header_record,
    line_of,
    read_manifest,
    shapes_record,
    shard_name,
    shard_record,
)
from conceptatlas.extraction.parts import PARTS, Part
from conceptatlas.extraction.store import file_checksum, has_size, is_sound

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "lock"
_TMP = ".tmp"


class StoreWriter:
    """The one writer of a store; a context manager that holds the store's lock.

    Parameters
    ----------
    folder
        Made where it does not exist.
    identity
        What makes two runs the same: model, weights, layer, transform and so on. A store of another identity is
        refused.
    resume
        Whether to go on with what the store holds. If not, it is emptied.
    verify
        Whether to compare the checksum of every recorded shard, and count those that differ as not done.
    part
        Where several processes fill one store, each its own shards: the part of this one, with a manifest of its own.

    Attributes
    ----------
    done : dict
        Index -> record of every shard that need not be computed.

    Raises
    ------
    StoreError
        The folder cannot be written, another process writes to it, or it holds another run.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: Mapping[str, Any],
        *,
        resume: bool = True,
        verify: bool = False,
        part: Part | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._part = part
        self._manifest = MANIFEST if part is None else part.manifest
        self._identity = dict(identity)
        self._resume, self._verify = resume, verify
        self._lock: IO[str] | None = None
        self.done: dict[int, ShardRecord] = {}
        self.header: Mapping[str, Any] = {}
        self._recorded: Mapping[int, ShardRecord] = {}
        self._end = 0
        self._ordered, self._last = True, -3

    def __enter__(self) -> StoreWriter:
        """Take the lock and read what is there."""
        self._made = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.folder, self._lock_name)
        except OSError as error:
            raise StoreError(
                f"{str(self.folder)!r} cannot be written ({type(error).__name__}): choose another folder."
            ) from error
        try:
            self._clean()
            self._load()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back; a folder that was made here and stayed empty is removed."""
        if self._lock is not None:
            drop_lock(self.folder, self._lock, self._lock_name)
            self._lock = None
        if self._made and not self.header:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    @property
    def _lock_name(self) -> str:
        return LOCK if self._part is None else self._part.lock

    def _clean(self) -> None:
        """Remove what a killed run left half-written, and, without resume, all that belongs to a store."""
        if self._part is None:
            self._refuse_parts()
        for path in self._own(f"shard-*{_TMP}"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        if not self._resume:
            (self.folder / self._manifest).unlink(missing_ok=True)
            for path in self._own("shard-*.safetensors"):
                path.unlink(missing_ok=True)

    def _own(self, pattern: str) -> list[Path]:
        """Return the files of the shards that this process may write."""
        found = self.folder.glob(pattern)
        return [path for path in found if self._part is None or self._part.owns(path.name)]

    def _refuse_parts(self) -> None:
        """Raise StoreError where parts of a store wait to be merged; without resume they are removed."""
        parts = sorted(self.folder.glob(PARTS))
        if parts and self._resume:
            raise StoreError(
                f"{str(self.folder)!r} holds {len(parts)} parts of a store (such as {parts[0].name!r}): run "
                "`conceptatlas merge` on the run first, or start again with resume=False."
            )
        for path in parts:
            path.unlink()

    def _load(self) -> None:
        manifest = read_manifest(self.folder, self._manifest)
        self.header, self._recorded, self._end = manifest.header, manifest.shards, manifest.sound_bytes
        self._ordered, self._last = manifest.ordered, max(manifest.shards, default=-1)
        if self.header:
            self._compare(self._identity)
        sound = is_sound if self._verify else has_size
        self.done = {index: shard for index, shard in self._recorded.items() if sound(self.folder, shard)}

    def _compare(self, fields: Mapping[str, Any]) -> None:
        """Raise StoreError where the store's header says otherwise than these fields."""
        for name, value in fields.items():
            if self.header.get(name) != value:
                raise StoreError(
                    f"{str(self.folder)!r} belongs to another run: its {name} is {_short(self.header.get(name))}, "
                    f"not {_short(value)}; choose another folder, or start again with resume=False."
                )

    def begin(self, fields: Mapping[str, Any]) -> None:
        """Record what the first images have shown (shapes); compared with the record where there is one."""
        self._begin_header()
        if all(name in self.header for name in fields):
            self._compare(fields)
            return
        self._ordered = self._ordered and not self._recorded
        self._append(shapes_record(fields))
        self.header = {**self.header, **fields}

    def _begin_header(self) -> None:
        if not self.header:
            self._append(header_record(self._identity))
            self.header = dict(self._identity)

    def write(
        self,
        index: int,
        span: tuple[int, int],
        tensors: Mapping[str, np.ndarray],
        *,
        sample_ids: Sequence[str] = (),
        labels: Sequence[str | int | None] = (),
        skipped: Sequence[Skipped] = (),
    ) -> ShardRecord:
        """Write one shard and record it.

        Parameters
        ----------
        index
            Number of the shard.
        span
            First sample of the source, and the one after the last.
        tensors
            ``positions``, ``logits``, and ``prefix`` where there is one, one row per sample; empty if all were skipped.
        sample_ids, labels
            Of the rows.
        skipped
            The images of the span that were left out.

        Raises
        ------
        StoreError
            The disk is full or fails. What was recorded before stays valid.
        """
        record = write_shard(self.folder, index, span, tensors, sample_ids=sample_ids, labels=labels, skipped=skipped)
        self.record(record)
        return record

    def record(self, record: ShardRecord) -> None:
        """Record a shard whose file `write_shard` has written, in this process or in another.

        Raises
        ------
        StoreError
            The disk is full or fails.
        """
        self._begin_header()
        if self._recorded.get(record.index) != record:
            self._append(shard_record(record))
            self._ordered = self._ordered and record.index > self._last
            self._last = max(self._last, record.index)
        self.done[record.index] = record

    def finish(self) -> None:
        """Put the records into the order of the shards, so that any way of computing them leaves the same bytes."""
        self._begin_header()
        if not self._ordered:
            replace_manifest(self.folder, self._manifest, canonical_bytes(self.header, self.done))
            self._ordered = True

    def _append(self, record: Mapping[str, Any]) -> None:
        path = self.folder / self._manifest
        try:
            self._end = append_line(path, line_of(record), at=self._end)
        except OSError as error:
            raise StoreError(
                f"{str(path)!r} cannot be written ({error}): free space and run again to go on."
            ) from error


def write_shard(
    folder: Path,
    index: int,
    span: tuple[int, int],
    tensors: Mapping[str, np.ndarray],
    *,
    sample_ids: Sequence[str] = (),
    labels: Sequence[str | int | None] = (),
    skipped: Sequence[Skipped] = (),
) -> ShardRecord:
    """Write the file of one shard and return its record, which `StoreWriter.record` records.

    Any process may do so, at the same time as others: the file is written aside under a name of its own and renamed.
    Parameters are those of `StoreWriter.write`.
    """
    file, size, checksum = _write_file(folder, index, tensors) if sample_ids else ("", 0, "")
    return ShardRecord(index, span[0], span[1], file, size, checksum, tuple(sample_ids), tuple(labels), tuple(skipped))


def _write_file(folder: Path, index: int, tensors: Mapping[str, np.ndarray]) -> tuple[str, int, str]:
    name = shard_name(index)
    path, aside = folder / name, folder / f"{name}.{secrets.token_hex(6)}{_TMP}"
    written = aside / name  # in a folder of its own: safetensors makes another file beside it, whose name is not known
    try:
        aside.mkdir()
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, written)
        with written.open("rb+") as file:
            os.fsync(file.fileno())
        size, checksum = written.stat().st_size, file_checksum(written)
        written.replace(path)
        aside.rmdir()
        _sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise StoreError(f"{str(path)!r} cannot be written ({error}): free space and run again to go on.") from error
    return name, size, checksum


def replace_manifest(folder: Path, name: str, data: bytes) -> None:
    """Write a whole manifest in place of the one that is there; a reader sees the old or the new one.

    Raises
    ------
    StoreError
        The disk is full or fails.
    """
    path, aside = folder / name, folder / f"{name}{_TMP}"
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _sync_folder(folder)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise StoreError(f"{str(path)!r} cannot be written ({error}): free space and run again to go on.") from error


def take_lock(folder: Path, name: str = LOCK) -> IO[str]:
    """Return the locked lock file. The system drops the lock of a process that dies, so a stale file is no obstacle.

    Raises
    ------
    StoreError
        Another process holds it.
    """
    path = folder / name
    while True:
        file = path.open("a+", encoding="utf-8")
        if not _lock_file(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise StoreError(f"{str(folder)!r} is being written by process {holder}: wait for it, or choose another.")
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            break
        file.close()  # the former holder removed the file between our opening and locking it
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _lock_file(file: IO[str]) -> bool:
    """Try to lock an open file; False where another holds the lock."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def drop_lock(folder: Path, file: IO[str], name: str = LOCK) -> None:
    """Give a lock back."""
    with contextlib.suppress(OSError):
        (folder / name).unlink(missing_ok=True)
    file.close()


def _sync_folder(folder: Path) -> None:
    """Force a rename to disk, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
