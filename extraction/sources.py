"""Where images come from: a folder, a list or a dataset, each read as a sequence of samples.

Every sample has an id that stays the same from run to run: the path relative to the folder, or, where there is no path,
the index and a hash of the pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from conceptatlas.extraction.datasets import DatasetSource
from conceptatlas.extraction.decode import decode_image
from conceptatlas.extraction.errors import SourceError
from conceptatlas.extraction.folders import FolderSource
from conceptatlas.extraction.remote import RemoteSource, is_address
from conceptatlas.extraction.samples import ImageSource, Sample, content_id, plain_label, printable_id, unique_ids

_TEXT_KINDS = ("O", "U", "T")  # of numpy and pandas


class ListSource:
    """Images given one by one.

    Parameters
    ----------
    items
        Paths, ``(path, label)`` pairs, PIL images or ``(image, label)`` pairs. Labels are text or whole numbers.

    Raises
    ------
    SourceError
        The list is empty, or an item is something else.

    Examples
    --------
    >>> from PIL import Image
    >>> source = ListSource([(Image.new("RGB", (8, 8)), "black")])
    >>> source[0].label, source.ids[0][:9]
    ('black', '00000000-')
    """

    cheap_ids = True
    parallel = True

    def __init__(self, items: Sequence[Any]) -> None:
        if len(items) == 0:
            raise SourceError("the list of images is empty: give at least one path.")
        pairs = [item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None) for item in items]
        self._images = [_check_item(image) for image, _ in pairs]
        self.labels = [plain_label(label) for _, label in pairs]
        self.paths = [os.fspath(image) if not isinstance(image, Image.Image) else None for image in self._images]
        self.ids = _list_ids(self._images)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at `index`; raises ImageError where the image cannot be read."""
        image = decode_image(self._images[index], name=self.paths[index] or self.ids[index])
        return Sample(self.ids[index], image, self.labels[index])


def _check_item(item: Any) -> Path | Image.Image:
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, (str, os.PathLike)):
        return Path(item)
    raise SourceError(f"a list of images holds paths, PIL images or (image, label) pairs, not {type(item).__name__}.")


def _list_ids(images: Sequence[Path | Image.Image]) -> list[str]:
    """Return paths relative to the deepest folder that holds them all, and index-hash for images without a path."""
    paths = [image.absolute() for image in images if isinstance(image, Path)]
    root = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return unique_ids(
        printable_id(image.absolute().relative_to(root).as_posix())
        if isinstance(image, Path)
        else content_id(index, image)
        for index, image in enumerate(images)
    )


def as_source(images: Any) -> ImageSource:
    """Return an image source for what the user gave.

    Parameters
    ----------
    images
        A folder, a file, an address such as ``s3://bucket/images``, a list of paths or of (path, label), a map-style
        dataset, or a source.

    Raises
    ------
    SourceError
        None of these, or nothing in it.

    Examples
    --------
    >>> as_source("nowhere")
    Traceback (most recent call last):
    conceptatlas.extraction.errors.SourceError: there is no folder 'nowhere': check the path of the images.
    """
    if is_address(images):
        return RemoteSource(images)
    if isinstance(images, (str, os.PathLike)):
        return ListSource([images]) if Path(images).is_file() else FolderSource(images)
    if isinstance(images, (list, tuple)):
        return ListSource(images)
    if isinstance(images, (DatasetSource, ImageSource)):  # in this order: asking for ids reads a dataset
        return images
    _refuse_lookalikes(images)
    if getattr(getattr(images, "dtype", None), "kind", "") in _TEXT_KINDS:
        return ListSource(images.tolist())
    if hasattr(images, "__len__") and hasattr(images, "__getitem__"):
        return DatasetSource(images)
    raise SourceError(
        f"images must be a folder, a list of paths or a map-style dataset with len(), not {type(images).__name__}."
    )


def _refuse_lookalikes(images: Any) -> None:
    """Raise SourceError for what has a length and items, and yet is no sequence of images."""
    if isinstance(images, Mapping):
        raise SourceError(f"images is a dictionary of {_some(images)}: pass one of its datasets.")
    if hasattr(images, "dataset") and hasattr(images, "batch_size"):
        raise SourceError("images is a DataLoader: pass its dataset (loader.dataset), which has stable indices.")
    if hasattr(images, "columns") and hasattr(images, "iloc"):
        raise SourceError(
            f"images is a table with {_some(images.columns)}: pass a list of (path, label) pairs, such as "
            "list(zip(table['path'], table['label']))."
        )


def _some(names: Iterable[Any], shown: int = 5) -> str:
    """Return the first names, joined."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:shown]) + (", ..." if len(texts) > shown else "")
