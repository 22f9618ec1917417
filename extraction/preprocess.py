"""What is done to an image before the model sees it, as a value that can be compared, printed and hashed.

A :class:`Preprocess` has two halves. The geometric half, :meth:`Preprocess.view`, resizes and crops: its result is what
the model saw, and what crops, maps, masks and thumbnails are drawn on. The numeric half, :meth:`Preprocess.tensor`,
turns that view into the normalised tensor.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from conceptatlas.extraction.errors import UserError

logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_CROP_MODES = ("center", "squash", "border")
_WHOLE_RESIZE_PIXELS = 16_000_000  # above, only the part that the crop keeps is resized


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop and normalise: the evaluation transform of timm, pixel for pixel.

    Parameters
    ----------
    size
        Height and width of the model's input; one integer stands for a square.
    crop
        Share of the shorter side that the centre crop keeps, in (0, 1]: the image is resized to ``floor(size / crop)``
        and ``size`` is cut out of its middle.
    interpolation
        ``"bicubic"``, ``"bilinear"``, ``"nearest"``, ``"lanczos"``, ``"box"`` or ``"hamming"``.
    mean, std
        Three values each, subtracted from and divided into RGB values in 0..1.
    crop_mode
        ``"center"`` keeps the aspect ratio and loses the ends of the longer side; ``"squash"`` resizes both sides;
        ``"border"`` keeps the whole image and pads it with `fill`.
    fill
        RGB colour (0..255) of padding in ``"border"`` mode; the mean colour where None.

    Raises
    ------
    UserError
        A value is out of range.

    Examples
    --------
    >>> from PIL import Image
    >>> preprocess = Preprocess(size=32, crop=0.5)
    >>> preprocess.view(Image.new("RGB", (100, 60))).size
    (32, 32)
    >>> preprocess(Image.new("RGB", (100, 60))).shape
    torch.Size([3, 32, 32])
    """

    size: tuple[int, int] = (224, 224)
    crop: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_mode: str = "center"
    fill: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(int(side) for side in self.size)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "crop", float(self.crop))
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if self.fill is not None:
            object.__setattr__(self, "fill", tuple(int(value) for value in self.fill))
        self._validate()

    def _validate(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"size must be (height, width) in pixels, not {self.size}.")
        if not 0 < self.crop <= 1:
            raise UserError(f"crop must be a share in (0, 1], not {self.crop}.")
        if self.interpolation not in _FILTERS:
            raise UserError(f"interpolation must be one of {', '.join(_FILTERS)}, not {self.interpolation!r}.")
        if self.crop_mode not in _CROP_MODES:
            raise UserError(f"crop_mode must be one of {', '.join(_CROP_MODES)}, not {self.crop_mode!r}.")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise UserError(f"mean and std need three values each, std without zeros, not {self.mean} and {self.std}.")

    @classmethod
    def for_model(cls, model: object) -> Preprocess:
        """Return the preprocessing that the model's own configuration asks for.

        Read in this order: a `Preprocess` that the model carries as ``.preprocess``, open_clip's
        ``visual.preprocess_cfg``, timm's ``pretrained_cfg``; else ImageNet's customary one, which is logged.

        Raises
        ------
        UserError
            The model takes another number of channels than three.
        """
        carried = getattr(model, "preprocess", None)
        if isinstance(carried, cls):
            return carried
        open_clip = getattr(getattr(model, "visual", model), "preprocess_cfg", None)
        if isinstance(open_clip, Mapping):
            return cls._from_open_clip(open_clip)
        if isinstance(getattr(model, "pretrained_cfg", None), Mapping):
            return cls._from_timm(model)
        logger.warning(
            "%s does not say how its images are prepared; taking 256 -> 224 bilinear with ImageNet's mean and "
            "deviation. Pass preprocess=Preprocess(...) if that is not so.",
            type(model).__name__,
        )
        return cls((224, 224), 0.875, "bilinear")

    @classmethod
    def _from_timm(cls, model: Any) -> Preprocess:
        from timm.data.config import resolve_model_data_config

        config = resolve_model_data_config(model)
        channels, height, width = config["input_size"]
        if channels != 3:
            raise UserError(f"{type(model).__name__} takes {channels} channels; only RGB models can be explained.")
        built = getattr(getattr(model, "patch_embed", None), "img_size", None)
        size = (height, width) if built is None else tuple(built)
        mode = config.get("crop_mode") or "center"
        return cls(size, config["crop_pct"], config["interpolation"], config["mean"], config["std"], crop_mode=mode)

    @classmethod
    def _from_open_clip(cls, config: Mapping[str, Any]) -> Preprocess:
        size = config["size"]
        size = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        resize = config.get("resize_mode", "shortest")
        mode = {"shortest": "center", "longest": "border", "squash": "squash"}[resize]
        grey = int(config.get("fill_color", 0))
        fill = (grey, grey, grey) if mode == "border" else None
        return cls(
            size, 1.0, config.get("interpolation", "bicubic"), config["mean"], config["std"], crop_mode=mode, fill=fill
        )

    @property
    def digest(self) -> str:
        """Hexadecimal hash of every value: equal for equal preprocessings."""
        return hash_values(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return every value, fit for JSON; `from_dict` is the way back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Return the preprocessing that `to_dict` wrote.

        >>> Preprocess.from_dict(Preprocess(96, 0.9).to_dict()) == Preprocess(96, 0.9)
        True
        """
        known = set(cls.__dataclass_fields__)
        if unknown := set(values) - known:
            raise UserError(f"a preprocessing has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}.")
        given: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
        return cls(**given)

    def view(self, image: Image.Image) -> Image.Image:
        """Return what the model sees of an upright RGB image, as an RGB image of ``size``."""
        height, width = self._resized(image)
        if height * width > _WHOLE_RESIZE_PIXELS:
            return self._view_of_part(image, height, width)
        if (width, height) != image.size:
            image = image.resize((width, height), _FILTERS[self.interpolation])
        return self._cut(image)

    def tensor(self, view: Image.Image) -> torch.Tensor:
        """Return the normalised tensor (3, h, w), float32, of a view (or of any RGB image of another size)."""
        pixels = np.asarray(view, dtype=np.uint8).transpose(2, 0, 1).astype(np.float32, order="C")
        pixels /= np.float32(255)
        pixels -= np.asarray(self.mean, dtype=np.float32)[:, None, None]
        pixels /= np.asarray(self.std, dtype=np.float32)[:, None, None]
        return torch.from_numpy(pixels)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the tensor (3, h, w) that the model gets for an upright RGB image."""
        return self.tensor(self.view(image))

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        """Return the height and width before the crop, rounded as timm and torchvision round them."""
        width, height = image.size
        scale_height, scale_width = (math.floor(side / self.crop) for side in self.size)
        if self.crop_mode == "squash":
            return scale_height, scale_width
        ratios = height / scale_height, width / scale_width
        if self.crop_mode == "border":
            ratio = max(ratios)
        elif scale_height != scale_width:
            ratio = min(ratios)
        elif width <= height:
            return int(scale_width * height / width), scale_width
        else:
            return scale_height, int(scale_height * width / height)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _cut(self, image: Image.Image) -> Image.Image:
        """Cut ``size`` out of the middle, padding where the image is smaller."""
        height, width = self.size
        spare_height, spare_width = max(0, height - image.height), max(0, width - image.width)
        if spare_height or spare_width:
            border = (
                spare_width // 2,
                spare_height // 2,
                (spare_width + 1) // 2,
                (spare_height + 1) // 2,
            )
            image = ImageOps.expand(image, border, fill=self._fill())
        top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
        return image.crop((left, top, left + width, top + height))

    def _fill(self) -> tuple[int, int, int]:
        if self.fill is not None:
            return self.fill
        red, green, blue = (round(255 * value) for value in self.mean) if self.crop_mode == "border" else (0, 0, 0)
        return red, green, blue

    def _view_of_part(self, image: Image.Image, height: int, width: int) -> Image.Image:
        """Resize only what the crop keeps, so that a sliver of 4000 x 1 pixels does not become 200 megapixels."""
        rows, columns = min(height, self.size[0]), min(width, self.size[1])
        top, left = round((height - rows) / 2.0), round((width - columns) / 2.0)
        down, across = image.height / height, image.width / width
        box = (left * across, top * down, (left + columns) * across, (top + rows) * down)
        return self._cut(image.resize((columns, rows), _FILTERS[self.interpolation], box=box))


def hash_values(values: Mapping[str, Any]) -> str:
    """Return the hexadecimal SHA-256 of plain values, whatever the order of their keys.

    >>> hash_values({"a": 1, "b": 2}) == hash_values({"b": 2, "a": 1})
    True
    """
    text = json.dumps(values, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
