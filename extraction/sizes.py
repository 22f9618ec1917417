"""The size of the images that a model takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from conceptatlas.extraction.errors import UserError


def image_shape(model: nn.Module, input_size: Any = None) -> tuple[int, int, int]:
    """Return (height, width, channels) of the images: as asked for, else as the model's own configuration says.

    >>> image_shape(nn.Conv2d(1, 4, 3), (32, 48))
    (32, 48, 1)
    """
    size = _declared_size(model) if input_size is None else input_size
    if isinstance(size, int):
        size = (size, size)
    if not (isinstance(size, (tuple, list, torch.Size)) and len(size) in (2, 3) and all(int(s) > 0 for s in size)):
        raise UserError(f"input_size={input_size!r} is not a size; give (height, width), for example (224, 224)")
    height, width = int(size[-2]), int(size[-1])
    return height, width, int(size[0]) if len(size) == 3 else _input_channels(model)


def _declared_size(model: nn.Module) -> Any:
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    if isinstance(config, dict) and config.get("input_size"):
        configured = tuple(config["input_size"])[-2:]
        return getattr(getattr(model, "patch_embed", None), "img_size", None) or configured
    for part in (model, getattr(model, "config", None), getattr(model, "patch_embed", None)):
        for name in ("img_size", "image_size", "input_size"):
            size = getattr(part, name, None)
            if isinstance(size, (int, tuple, list)):
                return size
    return (224, 224)


def _input_channels(model: nn.Module) -> int:
    first = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    return first.in_channels if first is not None and first.in_channels <= 16 else 3
