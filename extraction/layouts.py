"""Where in a tensor the image's positions lie: layout, grid and prefix tokens, read off shapes and neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from conceptatlas.extraction.liveness import target_name

Grid = tuple[int, int]
MAX_PREFIX_TOKENS = 16  # a class token, a distillation token and registers; models in use have at most nine

_CHANNELS_FIRST = (
    *(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.GroupNorm, nn.PixelShuffle),
    *(nn.Upsample, nn.ConvTranspose2d),
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
_FIRST_NAMES = {"conv2d", "batch_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "group_norm", "interpolate"}
_LAST_NAMES = {"linear", "layer_norm", "rms_norm"}


@dataclass(frozen=True)
class Layout:
    """How a value is laid out. ``kind`` is "NCHW", "NHWC", "NLC" or "NC"."""

    kind: str
    grid: Grid | None
    prefix_tokens: int = 0


@dataclass(frozen=True)
class Surroundings:
    """What is known beside a value's own shape.

    Attributes
    ----------
    input_size
        (H, W) of the images.
    prefix_tokens
        What the model says of itself (``num_prefix_tokens``), or None.
    grids
        Grids that convolutions before the value have had, the last one first; then the patch embedding's own.
    """

    input_size: Grid
    prefix_tokens: int | None
    grids: tuple[Grid, ...]


def is_grid(height: int, width: int, input_size: Grid) -> bool:
    """Say whether (height, width) can be a grid over an image of ``input_size``: no finer, and of the same proportions.

    Strides that do not divide the image, and windows without padding, may move the proportions by two positions.
    """
    rows, columns = input_size
    if not (1 <= height <= rows and 1 <= width <= columns):
        return False
    if rows == columns:
        return height == width
    return abs(width - height * columns / rows) <= 2 or abs(height - width * rows / columns) <= 2


def layout_of(shape: Sequence[int], around: Surroundings, channels_last: bool | None) -> Layout | None:
    """Return the layout of one image's value of ``shape`` (without the batch), or None where it has no known one.

    ``channels_last`` is what the operations around the value say; it decides where the shape fits both ways.

    >>> layout_of((7, 7, 768), Surroundings((224, 224), None, ()), None)
    Layout(kind='NHWC', grid=(7, 7), prefix_tokens=0)
    >>> layout_of((198, 192), Surroundings((224, 224), 2, ((14, 14),)), None)
    Layout(kind='NLC', grid=(14, 14), prefix_tokens=2)
    """
    if len(shape) == 1:
        return Layout("NC", None)
    if len(shape) == 2:
        return _token_layout(shape[0], around)
    if len(shape) != 3:
        return None
    first, last = is_grid(shape[1], shape[2], around.input_size), is_grid(shape[0], shape[1], around.input_size)
    if first and not (last and channels_last):
        return Layout("NCHW", (shape[1], shape[2]))
    return Layout("NHWC", (shape[0], shape[1])) if last else None


def _token_layout(tokens: int, around: Surroundings) -> Layout | None:
    declared = [around.prefix_tokens] if around.prefix_tokens else []
    for prefix in (*declared, 0):
        for grid in (*around.grids, _proportional(tokens - prefix, around.input_size)):
            if grid is not None and math.prod(grid) + prefix == tokens:
                return Layout("NLC", grid, prefix)
    if around.prefix_tokens is not None and around.prefix_tokens > 0:
        return None
    for grid in around.grids:
        if 0 < tokens - math.prod(grid) <= MAX_PREFIX_TOKENS:
            return Layout("NLC", grid, tokens - math.prod(grid))
    return None


def _proportional(tokens: int, input_size: Grid) -> Grid | None:
    """Return the grid of so many positions that has the image's proportions."""
    if tokens < 1:
        return None
    height = round(math.sqrt(tokens * input_size[0] / input_size[1]))
    width = tokens // max(height, 1)
    fits = height * width == tokens and is_grid(height, width, input_size)
    exact = abs(height * input_size[1] - width * input_size[0]) < max(input_size)
    return (height, width) if fits and exact else None


def channels_last_near(node: fx.Node, modules: dict[str, nn.Module]) -> bool | None:
    """Say what the nearest operations before a value tell: True after a linear layer, False after a convolution."""
    current: fx.Node | None = node
    flipped = False
    while current is not None and current.op != "placeholder":
        told = _told(current, modules)
        if told is not None:
            return told != flipped
        if target_name(current) == "permute":
            flipped = not flipped
        current = next(iter(current.all_input_nodes), None)
    return None


def _told(node: fx.Node, modules: dict[str, nn.Module]) -> bool | None:
    if node.op == "call_module":
        module = modules.get(str(node.target))
        if isinstance(module, _CHANNELS_FIRST):
            return False
        return True if isinstance(module, _CHANNELS_LAST) else None
    name = target_name(node) if node.op == "call_function" else ""
    if name in _FIRST_NAMES:
        return False
    return True if name in _LAST_NAMES else None


def makes_grid(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Say whether a node is a convolution, a pooling or a batch norm: what has (C, h, w) and no doubt about it."""
    return _told(node, modules) is False


def patch_grid(model: nn.Module, input_size: Grid) -> tuple[Grid, ...]:
    """Return the grids that the model's patch embeddings declare (`grid_size`), where they are of the image's shape."""
    declared = (getattr(part, "grid_size", None) for part in model.modules())
    pairs = [tuple(grid) for grid in declared if isinstance(grid, (tuple, list)) and len(grid) == 2]
    return tuple((int(h), int(w)) for h, w in pairs if is_grid(int(h), int(w), input_size))


def declared_prefix_tokens(model: nn.Module) -> int | None:
    """Return the number of prefix tokens that the model, or the first part of it that has one, declares."""
    for part in model.modules():
        count = getattr(part, "num_prefix_tokens", None)
        if isinstance(count, int):
            return count
    return None
