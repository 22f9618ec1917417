"""Preprocessings that users bring: torchvision presets, ``Compose``, and functions from an image to a tensor."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.preprocess import Preprocess, hash_values


@runtime_checkable
class Preprocessor(Protocol):
    """Anything with the two halves of a preprocessing: :class:`Preprocess`, or a callable wrapped in its clothes."""

    @property
    def digest(self) -> str:
        """Hexadecimal hash of what it does."""
        ...

    def view(self, image: Image.Image) -> Image.Image:
        """Return what the model sees of an upright RGB image."""
        ...

    def tensor(self, view: Image.Image) -> torch.Tensor:
        """Return the normalised tensor (3, h, w) of a view."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for a record."""
        ...

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the normalised tensor (3, h, w) of an upright RGB image."""
        ...


_CARRIED = "normalised"


@dataclass(frozen=True)
class _Carried:
    """The tensor that a view was drawn from, with the view's bytes, by which a part or a changed view is told."""

    pixels: bytes
    tensor: torch.Tensor


class CallablePreprocess:
    """A user's function from a PIL image to a tensor, as a preprocessing.

    A torchvision ``Compose`` is divided at the step that makes the tensor, which gives an exact view. For any other
    function the view is drawn from the tensor itself (right in place, approximate in colour) and carries it along;
    `tensor` is refused for anything but such a view as it is.

    Parameters
    ----------
    function
        Takes an RGB PIL image, returns a float tensor (3, h, w); the same for the same image.

    Raises
    ------
    UserError
        The function fails on a plain image, returns something else, or returns two results for one image.
    """

    def __init__(self, function: Callable[[Image.Image], Any]) -> None:
        self.function = function
        self._halves = _halves_of(function)
        probe = _probe_image()
        first, second = _call_on(function, probe), _call_on(function, probe)
        if not torch.equal(first, second):
            raise UserError("the preprocessing is random: two calls on one image differ; pass the evaluation one.")
        self.size = (int(first.shape[1]), int(first.shape[2]))
        self._fingerprint = hashlib.sha256(first.contiguous().numpy().tobytes()).hexdigest()

    @property
    def digest(self) -> str:
        """Hexadecimal hash of what the function makes of a fixed image."""
        return hash_values(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the function's name and the fingerprint of its result, for a record."""
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return {"callable": name, "size": list(self.size), "fingerprint": self._fingerprint}

    def view(self, image: Image.Image) -> Image.Image:
        """Return what the model sees of an image, as an RGB image."""
        if self._halves is not None:
            return _run(self._halves[0], image)
        pixels = self(image)
        low, high = pixels.amin(), pixels.amax()
        scaled = (pixels - low) / (high - low).clamp_min(1e-12) * 255
        view = Image.fromarray(scaled.round().byte().permute(1, 2, 0).numpy())
        view.info[_CARRIED] = _Carried(view.tobytes(), pixels)
        return view

    def tensor(self, view: Image.Image) -> torch.Tensor:
        """Return the normalised tensor (3, h, w) of a view.

        Raises
        ------
        UserError
            The function is opaque: where the geometry ends and the numbers begin cannot be told.
        """
        if self._halves is None:
            carried = view.info.get(_CARRIED)
            if carried is not None and carried.pixels == view.tobytes():
                return carried.tensor
            raise UserError(
                "this preprocessing is one opaque function, so a part of a view cannot be normalised by it; "
                "pass Preprocess(size, crop, interpolation, mean, std) or a torchvision Compose."
            )
        return _run(self._halves[1], view)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the tensor (3, h, w) that the model gets for an RGB image."""
        return _call_on(self.function, image)


def as_preprocess(value: object, *, model: object = None) -> Preprocess | CallablePreprocess:
    """Return a preprocessing for what the user gave.

    Parameters
    ----------
    value
        None (then `model` is asked), a `Preprocess`, its dictionary, a torchvision preset or ``Compose``, or any
        callable from a PIL image to a tensor (3, h, w).
    model
        Whose preprocessing to take where `value` is None.

    Raises
    ------
    UserError
        None of these.

    Examples
    --------
    >>> as_preprocess({"size": [64, 64], "crop": 1.0}).size
    (64, 64)
    """
    if value is None and model is not None:
        return Preprocess.for_model(model)
    if isinstance(value, (Preprocess, CallablePreprocess)):
        return value
    if isinstance(value, Mapping):
        return Preprocess.from_dict(value)
    if hasattr(value, "crop_size") and hasattr(value, "resize_size"):
        return _from_preset(value)
    if callable(value):
        return CallablePreprocess(value)
    raise UserError(f"preprocess must be a Preprocess, a dictionary or a callable, not {type(value).__name__}.")


def _from_preset(preset: Any) -> Preprocess:
    """Translate torchvision's ``ImageClassification`` preset, whose resize and crop are given in pixels."""
    side, resized = int(preset.crop_size[0]), int(preset.resize_size[0])
    share = side / max(side, resized)
    while math.floor(side / share) < resized:
        share = math.nextafter(share, 0)
    interpolation = getattr(preset.interpolation, "value", str(preset.interpolation))
    return Preprocess((side, side), share, interpolation, tuple(preset.mean), tuple(preset.std))


def _halves_of(function: object) -> tuple[list[Any], list[Any]] | None:
    """Divide a ``Compose`` at the step that makes a tensor; None for anything else."""
    steps = getattr(function, "transforms", None)
    if not isinstance(steps, (list, tuple)):
        return None
    state: Any = _probe_image()
    for position, step in enumerate(steps):
        state = step(state)
        if not isinstance(state, Image.Image):
            return list(steps[:position]), list(steps[position:])
    return None


def _run(steps: list[Any], value: Any) -> Any:
    for step in steps:
        value = step(value)
    return value


def _call_on(function: Callable[[Image.Image], Any], image: Image.Image) -> torch.Tensor:
    result = function(image)
    if not isinstance(result, torch.Tensor) or result.ndim != 3 or result.shape[0] != 3:
        shape = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
        raise UserError(f"the preprocessing must return a tensor (3, height, width), not {shape}.")
    return result.detach().to("cpu", torch.float32)


def _probe_image() -> Image.Image:
    """Return a fixed picture of 131 x 97 pixels in which no two rows, columns or channels are alike."""
    rows, columns = np.mgrid[0:97, 0:131]
    channels = [(rows * 7 + columns * 3) % 256, (rows * columns) % 251, (rows * 2 + columns * 5 + 31) % 256]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))
