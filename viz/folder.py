"""The folder that a site is written into: it owns only the files it wrote itself."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from conceptatlas.extraction.errors import UserError

MARKER = ".conceptatlas-site.json"


class SiteFolder:
    """Writes files under one folder and, at the end, removes those of an earlier export that are no longer written.

    Parameters
    ----------
    path
        The folder; made where it is missing.

    Raises
    ------
    UserError
        Where the path is a file, is an audit's run folder, or cannot be written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._written: set[str] = set()
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{str(self.path)!r} is a file; give a folder to write the site into")
        if (self.path / "run.json").exists():
            raise UserError(f"{str(self.path)!r} is the folder of an audit; give another folder to write the site into")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {str(self.path)!r} ({error.strerror}); give another folder") from None

    def write(self, relative: str, content: str | bytes) -> Path:
        """Write one file (whole or not at all) and return its path."""
        self._written.add(relative)
        data = content.encode("utf-8", "replace") if isinstance(content, str) else content
        return write_whole(self.path / relative, data)

    def finish(self) -> None:
        """Remove what an earlier export wrote and this one did not, and note what belongs to this one."""
        for relative in sorted(self._earlier() - self._written):
            (self.path / relative).unlink(missing_ok=True)
        names = sorted(self._written)
        (self.path / MARKER).write_text(json.dumps({"schema": 1, "files": names}, indent=0), encoding="utf-8")

    def _earlier(self) -> set[str]:
        try:
            names = json.loads((self.path / MARKER).read_text(encoding="utf-8"))["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return set()
        root = self.path.resolve()
        return {n for n in names if isinstance(n, str) and root in (root / n).resolve().parents}


def write_whole(target: Path, content: bytes) -> Path:
    """Write a file so that a reader sees the old one or the new one, never half of one; return its path.

    Raises
    ------
    UserError
        Where the folder cannot be made or written to.
    """
    side = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        side.write_bytes(content)
        side.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            side.unlink(missing_ok=True)
        raise UserError(f"cannot write {str(target)!r} ({error.strerror}); give another folder") from None
    return target
