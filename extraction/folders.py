"""Images below a folder: class folders or a flat one, every real file once."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from conceptatlas.extraction.decode import decode_image
from conceptatlas.extraction.errors import SourceError
from conceptatlas.extraction.samples import Sample, printable_id, unique_ids

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    (".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm")
    + (".pgm", ".png", ".pnm", ".ppm", ".svg", ".tga", ".tif", ".tiff", ".webp")
)
"""Endings, in lower case, of the files that a folder source takes for images."""

_SYSTEM_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


class FolderSource:
    """The images below a folder: class folders, or a flat folder.

    Every real file is taken once, whatever links lead to it; a link that leads back up is not followed twice. A file
    in a sub-folder has the name of the topmost sub-folder as its label. Hidden files, AppleDouble files, system files
    and files without the ending of an image are left out and listed in ``ignored``; so is a folder that may not be
    read, which is logged. What only looks like an image (a dangling link, a FIFO, an empty file) is kept: reading it
    raises ImageError, so that it is counted.

    Parameters
    ----------
    path
        The folder.

    Attributes
    ----------
    ids
        Paths relative to the folder, with ``/``, sorted by code point.
    labels
        Name of the class folder of each image, or None for images that lie directly in the folder.
    paths
        Full paths.
    class_counts
        Number of images of each class folder, in order of name; zero for an empty one.
    ignored
        Relative path of each file that was left out -> the reason.

    Raises
    ------
    SourceError
        The folder is missing, is not a folder, cannot be listed, or holds no image.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp()); (folder / "ants").mkdir()
    >>> Image.new("RGB", (8, 8)).save(folder / "ants" / "1.png")
    >>> source = FolderSource(folder)
    >>> source.ids, source[0].label
    (['ants/1.png'], 'ants')
    """

    cheap_ids = True
    parallel = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.root = Path(path)
        _check_folder(self.root)
        walk = _Walk(self.root)
        self.ignored = walk.ignored
        if walk.closed:
            shown = ", ".join(map(printable_id, sorted(walk.closed)[:5]))
            logger.warning("%d folders may not be read, so their images are missing: %s", len(walk.closed), shown)
        found = sorted((printable_id(relative), relative) for relative in walk.files)
        if not found:
            raise SourceError(_nothing_found(self.root, self.ignored))
        self.ids = unique_ids(sample_id for sample_id, _ in found)
        self.paths = [str(self.root / relative) for _, relative in found]
        self.labels = [_top_folder(sample_id) for sample_id in self.ids]
        counts = Counter(label for label in self.labels if label is not None)
        self.class_counts = {name: counts.get(name, 0) for name in sorted(walk.class_folders | set(counts))}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at `index`; raises ImageError where the file cannot be read."""
        return Sample(self.ids[index], decode_image(self.paths[index]), self.labels[index])

    def __repr__(self) -> str:
        return f"FolderSource({str(self.root)!r}): {len(self)} images, {len(self.class_counts)} class folders"


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise SourceError(f"there is no folder {str(root)!r}: check the path of the images.")
    if not root.is_dir():
        raise SourceError(f"{str(root)!r} is a file: give the folder that holds the images, or a list of paths.")
    if not os.access(root, os.R_OK | os.X_OK):
        raise SourceError(f"the folder {str(root)!r} may not be read: check its permissions.")


def _nothing_found(root: Path, ignored: dict[str, str]) -> str:
    reasons = ", ".join(f"{count} x {reason}" for reason, count in Counter(ignored.values()).most_common(3))
    left_out = f" ({len(ignored)} files left out: {reasons})" if ignored else ""
    return f"no image below {str(root)!r}{left_out}: give a folder with .jpg, .png, .webp, .tif or similar files."


def _top_folder(relative: str) -> str | None:
    top, _, rest = relative.partition("/")
    return top if rest else None


class _Walk:
    """Lists a tree: real folders and files first, then links, so that a file keeps its own name if it has one."""

    def __init__(self, root: Path) -> None:
        self.files: list[str] = []
        self.ignored: dict[str, str] = {}
        self.class_folders: set[str] = set()
        self.closed: list[str] = []
        self._root = root
        self._seen: set[str] = set()
        self._links: list[tuple[str, bool]] = []
        self._folder("")
        while self._links:
            links, self._links = sorted(self._links), []
            for relative, is_folder in links:
                self._link(relative, is_folder)

    def _folder(self, relative: str) -> int:
        """Take all that lies in a folder. Returns the number of files taken; links are left for later."""
        absolute = self._root / relative
        real = os.path.realpath(absolute)
        if real in self._seen:
            self.ignored[relative] = "link to a folder that was read"
            return 0
        self._seen.add(real)
        try:
            entries = sorted(os.scandir(absolute), key=lambda entry: entry.name)
        except OSError as error:
            self.ignored[relative or "."] = f"folder not readable ({type(error).__name__})"
            self.closed.append(relative or ".")
            return 0
        return sum(self._entry(entry, f"{relative}/{entry.name}" if relative else entry.name) for entry in entries)

    def _entry(self, entry: os.DirEntry[str], relative: str) -> int:
        if reason := reason_to_ignore(entry.name):
            self.ignored[relative] = reason
            return 0
        if entry.is_symlink():
            self._links.append((relative, Path(entry.path).is_dir()))  # False for a link to itself
            return 0
        if entry.is_dir(follow_symlinks=False):
            return self._sub_folder(relative)
        return self._file(relative, entry.name)

    def _sub_folder(self, relative: str) -> int:
        taken = self._folder(relative)
        if not taken and _has_image_suffix(relative):
            self.files.append(relative)  # a folder called x.jpg: reading it says what it is
            return 1
        if "/" not in relative and (relative not in self.ignored or relative in self.closed):
            self.class_folders.add(printable_id(relative))
        return taken

    def _link(self, relative: str, is_folder: bool) -> None:
        if is_folder:
            self._sub_folder(relative)
        else:
            self._file(relative, relative.rpartition("/")[2])

    def _file(self, relative: str, name: str) -> int:
        if not _has_image_suffix(name):
            self.ignored[relative] = "not the ending of an image"
            return 0
        real = os.path.realpath(self._root / relative)
        if real in self._seen:
            self.ignored[relative] = "link to a file that was read"
            return 0
        self._seen.add(real)
        self.files.append(relative)
        return 1


def reason_to_ignore(name: str) -> str | None:
    """Return why a file or folder of this name is no image of the user's; None where it may be.

    >>> reason_to_ignore(".DS_Store"), reason_to_ignore("ant.jpg")
    ('hidden', None)
    """
    if name.startswith("._"):
        return "AppleDouble file"
    if name.startswith("."):
        return "hidden"
    return "system file" if name.lower() in _SYSTEM_NAMES else None


def _has_image_suffix(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def duplicate_files(paths: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of two or more files with equal bytes, each sorted; only files of equal size are read.

    >>> duplicate_files([])
    []
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        if Path(path).is_file():
            by_size[Path(path).stat().st_size].append(path)
    groups = (group for group in by_size.values() if len(group) > 1)
    return sorted(tuple(sorted(same)) for group in groups for same in _equal_bytes(group))


def _equal_bytes(paths: Sequence[str]) -> Iterator[list[str]]:
    by_hash: dict[bytes, list[str]] = defaultdict(list)
    for path in paths:
        try:
            with Path(path).open("rb") as file:
                by_hash[hashlib.file_digest(file, "sha256").digest()].append(path)
        except OSError:
            continue
    return (group for group in by_hash.values() if len(group) > 1)
