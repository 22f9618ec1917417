"""One image with its id and label, and what every source of images offers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from PIL import Image


@dataclass(frozen=True)
class Sample:
    """One image with what is known of it.

    Attributes
    ----------
    sample_id
        Stable, unique within its source.
    image
        Upright, RGB.
    label
        The folder's name, the dataset's label, or None.
    """

    sample_id: str
    image: Image.Image
    label: str | int | None = None


@runtime_checkable
class ImageSource(Protocol):
    """A sequence of samples. Reading one may raise :class:`ImageError`; its id is known all the same."""

    @property
    def ids(self) -> list[str]:
        """Ids of all samples, in order, unique."""
        ...

    @property
    def labels(self) -> list[Any]:
        """Labels of all samples, in order; None where there is none."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def content_id(index: int, image: Image.Image) -> str:
    """Return an id of eight digits of index and twelve of a hash of the pixels.

    >>> from PIL import Image
    >>> content_id(7, Image.new("RGB", (2, 2)))[:9]
    '00000007-'
    """
    digest = hashlib.sha256(repr((image.mode, image.size)).encode())
    digest.update(image.tobytes())
    return f"{index:08d}-{digest.hexdigest()[:12]}"


def plain_label(label: Any) -> str | int | None:
    """Return a label as text or a whole number; None for anything else (a vector, a fraction): not known.

    >>> import numpy as np
    >>> plain_label(np.int64(3)), plain_label("ant"), plain_label([0.0, 1.0])
    (3, 'ant', None)
    """
    if getattr(label, "shape", None) == ():
        label = label.item()
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if isinstance(label, str):
        return str(label)
    return int(label) if isinstance(label, int) else None


def unique_ids(names: Iterable[str]) -> list[str]:
    """Return the names in order, with ``#2``, ``#3`` after those that came before.

    >>> unique_ids(["a", "b", "a"])
    ['a', 'b', 'a#2']
    """
    seen: Counter[str] = Counter()
    ids = []
    for name in names:
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return ids


def printable_id(path: str) -> str:
    r"""Return a path as text that any file can hold: bytes that are not UTF-8 become ``\xNN``.

    >>> printable_id("caf\udce9.jpg")
    'caf\\xe9.jpg'
    """
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
