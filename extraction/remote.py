"""Addresses such as ``s3://bucket/images`` or ``memory://x``: images read where they lie, and runs kept elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from conceptatlas.extraction.decode import decode_image
from conceptatlas.extraction.errors import ImageError, SourceError, UserError
from conceptatlas.extraction.folders import IMAGE_SUFFIXES, reason_to_ignore
from conceptatlas.extraction.samples import Sample, printable_id, unique_ids

_LAST = "run.json"
_KNOWN = ".mirror.json"


def is_address(path: object) -> bool:
    """Return whether a path is an address and not a path of this machine.

    >>> is_address("s3://bucket/x"), is_address("photographs/"), is_address("C:/photographs")
    (True, False, False)
    """
    return isinstance(path, str) and "://" in path


def open_address(address: str) -> tuple[Any, str]:
    """Return the file system (fsspec) of an address, and the path in it.

    Raises
    ------
    UserError
        The kind of address is unknown, needs a package that is not installed, or cannot be reached.

    Examples
    --------
    >>> open_address("memory://x/y")[1]
    '/x/y'
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UserError(f"{address!r} cannot be opened ({error}).") from error
    except Exception as error:  # what file systems raise where they cannot be reached differs between them
        raise UserError(f"{address!r} cannot be reached ({type(error).__name__}: {error}).") from error
    return system, str(path).rstrip("/")


class RemoteSource:
    """The images below an address: class folders, or a flat folder; each is fetched when it is read.

    Parameters
    ----------
    address
        Anything that fsspec opens, such as ``s3://bucket/images``.

    Attributes
    ----------
    ids, labels, paths
        As those of `FolderSource`; `paths` are addresses.

    Raises
    ------
    SourceError
        The folder is missing, cannot be listed, or holds no image.

    Examples
    --------
    >>> import fsspec, io
    >>> from PIL import Image
    >>> stream = io.BytesIO()
    >>> Image.new("RGB", (8, 8)).save(stream, "PNG")
    >>> fsspec.filesystem("memory").pipe_file("/doc/ants/1.png", stream.getvalue())
    >>> source = RemoteSource("memory://doc")
    >>> source.ids, source[0].label
    (['ants/1.png'], 'ants')
    """

    cheap_ids = True
    parallel = True

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        system, root = open_address(self.address)
        found = sorted((printable_id(name), name) for name in _files_below(system, root, self.address) if _wanted(name))
        if not found:
            raise SourceError(f"no image below {address!r}: give an address with .jpg, .png, .webp or similar files.")
        self._names = [name for _, name in found]
        self.ids = unique_ids(sample_id for sample_id, _ in found)
        self.labels = [parts[0] if len(parts := PurePosixPath(name).parts) > 1 else None for name in self.ids]
        self.paths = [f"{self.address}/{name}" for name in self._names]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at `index`; raises ImageError where the image cannot be fetched or read."""
        system, root = open_address(self.address)
        try:
            data = system.cat_file(f"{root}/{self._names[index]}")
        except FileNotFoundError as error:
            raise ImageError(self.paths[index], "missing", str(error)) from error
        except PermissionError as error:
            raise ImageError(self.paths[index], "permission", str(error)) from error
        except Exception as error:  # what file systems raise where they cannot be reached differs between them
            raise ImageError(self.paths[index], "unreadable", f"{type(error).__name__}: {error}") from error
        return Sample(self.ids[index], decode_image(data, name=self.paths[index]), self.labels[index])


def _files_below(system: Any, root: str, address: str) -> Iterator[str]:
    """Yield the paths of all files, relative to the root."""
    try:
        if not system.exists(root):
            raise SourceError(f"there is no folder {address!r}: check the address.")
        found = system.find(root)
    except (OSError, PermissionError) as error:
        raise SourceError(f"{address!r} cannot be listed ({type(error).__name__}: {error}).") from error
    prefix = root.rstrip("/") + "/"
    yield from (str(path)[len(prefix) :] for path in found if str(path).startswith(prefix))


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(reason_to_ignore(part) for part in path.parts)


class Mirror:
    """A folder of this machine that stands for an address: work is done in it, and pushed when it is whole.

    The folder is the same for the same address, so that a run that was killed resumes. It lies in
    ``CONCEPTATLAS_MIRRORS``, or in the folder for temporary files.

    Parameters
    ----------
    address
        Anything that fsspec opens.

    Examples
    --------
    >>> Mirror("memory://a/run").path == Mirror("memory://a/run/").path
    True
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        home = Path(os.environ.get("CONCEPTATLAS_MIRRORS") or Path(tempfile.gettempdir()) / "conceptatlas-mirrors")
        self.path = home / hashlib.sha256(self.address.encode()).hexdigest()[:20]

    def _known(self) -> dict[str, list[Any]]:
        """Return, for each file that is the same here and there, its state there, and its size and time here."""
        try:
            known = json.loads((self.path / _KNOWN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) and all(isinstance(entry, list) for entry in known.values()) else {}

    def _keep(self, known: dict[str, list[Any]]) -> None:
        aside = self.path / f"{_KNOWN}.{os.getpid()}"
        aside.write_text(json.dumps(known), encoding="utf-8")
        aside.replace(self.path / _KNOWN)

    def pull(self, *, without: tuple[str, ...] = ()) -> Path:
        """Fetch what the address holds and the folder does not, less some sub-folders; return the folder.

        Raises
        ------
        UserError
            The address cannot be read, or names a file outside the folder.
        """
        system, root = open_address(self.address)
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        base, known = self.path.resolve(), self._known()
        names = list(_files_below(system, root, self.address)) if system.exists(root) else []
        for name in sorted(names, key=lambda name: name == _LAST):
            target = (base / name).resolve()
            if base not in target.parents:
                raise UserError(f"{self.address!r} holds {name!r}, which leads out of the folder: refused.")
            remote = f"{root}/{name}"
            if PurePosixPath(name).parts[0] in without or (
                target.is_file() and known.get(name, [""])[:1] == [_state(system, remote)]
            ):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_name(f".{target.name}.{os.getpid()}")
            system.get_file(remote, str(aside))
            aside.replace(target)
            known[name] = [_state(system, remote), *_stamp(target)]
        self._keep(known)
        return self.path

    def push(self) -> None:
        """Write to the address what the folder holds and the address does not; ``run.json`` comes last.

        Raises
        ------
        UserError
            The address cannot be written.
        """
        system, root = open_address(self.address)
        names = [path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()]
        known = self._known()
        try:
            for name in sorted(names, key=lambda name: name == _LAST):
                local, remote = self.path / name, f"{root}/{name}"
                if local.name.startswith((".", "lock")):
                    continue
                if name in known and known[name] == [_state(system, remote), *_stamp(local)]:
                    continue
                system.makedirs(str(PurePosixPath(remote).parent), exist_ok=True)
                system.put_file(str(local), remote)
                known[name] = [_state(system, remote), *_stamp(local)]
            self._keep(known)
        except OSError as error:
            raise UserError(
                f"{self.address!r} cannot be written ({type(error).__name__}: {error}); the run lies in "
                f"{str(self.path)!r}: run again to go on."
            ) from error


def _state(system: Any, remote: str) -> str | None:
    """Return what changes whenever a file at an address does; None where there is none."""
    try:
        return str(system.ukey(remote))
    except (OSError, FileNotFoundError):
        return None


def _stamp(local: Path) -> list[int]:
    found = local.stat()
    return [found.st_size, found.st_mtime_ns]
