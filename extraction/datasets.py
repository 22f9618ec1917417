"""Images of a map-style dataset: torchvision, Hugging Face, or any object with ``len()`` and ``[index]``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image

from conceptatlas.extraction.decode import decode_image
from conceptatlas.extraction.errors import ImageError, SourceError
from conceptatlas.extraction.samples import Sample, content_id, plain_label

_IMAGE_KEYS = ("image", "img", "pixel_values", "picture")
_CHANNELS = (1, 3, 4)
_SLACK = 1 / 255  # by which rounding may push values out of 0..1
_LABEL_KEYS = ("label", "labels", "fine_label", "class", "target")


class DatasetSource:
    """A map-style dataset: torchvision, Hugging Face, or any object with ``len()`` and ``[index]``.

    Items are a PIL image, a path, an image tensor or array, a pair of it and a label, or a dictionary with both. A
    tensor is (3, h, w) or (1, h, w), a numpy array (h, w, 3), (h, w) or (3, h, w); in 0..1, in 0..255 as bytes or in
    0..65535 as uint16, not yet normalised.

    Parameters
    ----------
    dataset
        The dataset.
    image_key, label_key
        Keys of a dictionary item; found by type and customary name where None.

    Raises
    ------
    SourceError
        The dataset is empty, or its items hold no image.

    Examples
    --------
    >>> from PIL import Image
    >>> DatasetSource([(Image.new("RGB", (8, 8), "red"), 3)])[0].label
    3
    """

    cheap_ids = False
    parallel = False

    def __init__(self, dataset: Any, *, image_key: str | None = None, label_key: str | None = None) -> None:
        if len(dataset) == 0:
            raise SourceError(f"the dataset {type(dataset).__name__} is empty: give one with at least one image.")
        self._dataset = dataset
        self._keys = image_key, label_key
        self._names = _label_names(dataset)
        self._known: list[tuple[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def ids(self) -> list[str]:
        """Index and content hash of each image; the first use reads the whole dataset."""
        return [sample_id for sample_id, _ in self._read_all()]

    @property
    def labels(self) -> list[Any]:
        """Label of each image; the first use reads the whole dataset."""
        return [label for _, label in self._read_all()]

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at `index`; raises ImageError where the dataset fails on it."""
        name = f"item {index}"
        try:
            item = self._dataset[index]
        except Exception as error:  # a dataset is foreign code that opens files
            if _process_is_lost(error):
                raise SourceError(
                    f"a process that reads the dataset has died at item {index} ({type(error).__name__}: {error}): "
                    "run again to go on, with fewer workers if memory was short."
                ) from error
            raise ImageError(name, "unreadable", f"{type(error).__name__}: {error}") from error
        picture, label = _divide_item(item, *self._keys)
        image = decode_image(_from_array(picture, name) if _is_array(picture) else picture, name=name)
        return Sample(content_id(index, image), image, self._name_of(label))

    def failed_id(self, index: int) -> str:
        """Return the id of an item that could not be read."""
        return f"{index:08d}-unreadable"

    def _name_of(self, label: Any) -> Any:
        label = plain_label(label)
        if self._names is not None and isinstance(label, int) and 0 <= label < len(self._names):
            return self._names[label]
        return label

    def _read_all(self) -> list[tuple[str, Any]]:
        if self._known is None:
            self._known = [self._read_one(index) for index in range(len(self))]
        return self._known

    def _read_one(self, index: int) -> tuple[str, Any]:
        try:
            sample = self[index]
        except ImageError:
            return self.failed_id(index), None
        return sample.sample_id, sample.label


def _process_is_lost(error: Exception) -> bool:
    """Return whether not the image is at fault but the process or the connection that reads it."""
    return isinstance(error, (BrokenExecutor, ConnectionError)) or (
        isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
    )


def _label_names(dataset: Any) -> Sequence[str] | None:
    """Return the names of integer labels where a torchvision or Hugging Face dataset, or a part of one, knows them."""
    whole = [getattr(dataset, "dataset", None), *getattr(dataset, "datasets", ())]
    inner = [_label_names(part) for part in whole if part is not None]
    if inner and all(names == inner[0] for names in inner):
        return inner[0]
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes):
        return classes
    features = getattr(dataset, "features", None)
    if isinstance(features, dict):
        for key in _LABEL_KEYS:
            if names := getattr(features.get(key), "names", None):
                return names
    return None


def _divide_item(item: Any, image_key: str | None, label_key: str | None) -> tuple[Any, Any]:
    """Return picture and label of a dataset's item."""
    if isinstance(item, Mapping):
        image_key = image_key or next((key for key in _IMAGE_KEYS if key in item), None)
        image_key = image_key or next((key for key, value in item.items() if isinstance(value, Image.Image)), None)
        if image_key not in item:
            raise SourceError(f"no image among the keys {sorted(map(str, item))}: pass image_key=.")
        label_key = label_key or next((key for key in _LABEL_KEYS if key in item), None)
        return _picture_in(item[image_key]), item.get(label_key) if label_key else None
    picture, label = (item[0], item[1]) if isinstance(item, (tuple, list)) and len(item) >= 2 else (item, None)
    picture = picture[0] if isinstance(picture, (tuple, list)) and len(picture) == 1 else picture
    return _picture_in(picture), label


def _picture_in(value: Any) -> Any:
    """Return an image, a path, bytes or an array; Hugging Face keeps undecoded images as bytes beside a path."""
    if isinstance(value, Mapping) and {"bytes", "path"} <= set(value):
        value = value["bytes"] if value["bytes"] is not None else value["path"]
    if isinstance(value, (Image.Image, str, os.PathLike, bytes)) or _is_array(value) or value is None:
        return value
    raise SourceError(f"the dataset's items hold {type(value).__name__}, not a PIL image or an image tensor.")


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, str)


def _from_array(array: Any, name: str) -> Image.Image:
    """Return the picture of a tensor (c, h, w), or of a numpy array (h, w), (h, w, c) or (c, h, w)."""
    pixels = _channels_last(_as_numpy(array), first=isinstance(array, torch.Tensor))
    if pixels.size == 0:
        raise ImageError(name, "empty", f"an array of the shape {tuple(array.shape)}")
    if pixels.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(pixels))
    if pixels.dtype == np.uint16:
        return Image.fromarray(np.rint(pixels / 257.0).astype(np.uint8))
    if not np.isfinite(pixels).all():
        raise ImageError(name, "range", "values that are not finite")
    if pixels.dtype.kind not in "fb" or pixels.min() < -_SLACK or pixels.max() > 1 + _SLACK:
        raise SourceError(
            f"the dataset's tensors hold {pixels.dtype} values {pixels.min():g}..{pixels.max():g}, not 0..1 or bytes: "
            "leave out Normalize, which belongs into preprocess=, and clamp what resizing has pushed out of 0..1."
        )
    return Image.fromarray(np.rint(np.clip(pixels.astype(np.float32), 0, 1) * 255).astype(np.uint8))


def _as_numpy(array: Any) -> np.ndarray:
    if not isinstance(array, torch.Tensor):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.is_floating_point() else array).numpy()  # numpy knows no bfloat16


def _channels_last(pixels: np.ndarray, *, first: bool) -> np.ndarray:
    """Return an image's array as (h, w) or (h, w, c); channels may stand `first`, and do where only they can."""
    shape = pixels.shape
    if pixels.ndim == 3 and (first or (pixels.shape[2] not in _CHANNELS and pixels.shape[0] in _CHANNELS)):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS):
        raise SourceError(
            f"the dataset's images are arrays of the shape {shape}; give tensors (3, h, w) or numpy arrays (h, w, 3)."
        )
    return pixels
