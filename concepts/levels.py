"""Activations of the same rows at several layers: what the recursion goes down on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from conceptatlas.extraction.errors import LayerError

_EARLIER = (2 / 3, 1 / 3)  # of the late layer's depth


@dataclass(frozen=True)
class Level:
    """Activations ``rows`` (n, p) at ``layer``; row i is the same part of the same image at every level."""

    layer: str
    rows: np.ndarray


def levels_of(
    split_model: Any,
    images: torch.Tensor,
    layers: Sequence[Any] | None,
    *,
    unit: Literal["position", "crop"],
    batch_size: int,
) -> tuple[list[Level], int]:
    """Return the model's layer and earlier ones, latest first, and the number of rows per image.

    Parameters
    ----------
    split_model
        Has ``encode_through(images, layers)``, ``layer`` and ``cut_points``.
    images
        (n, 3, H, W), normalised.
    layers
        Earlier cut points, latest first; None chooses two by depth.
    unit
        ``"position"``: a row per position of the model's layer, earlier layers averaged over its cell; ``"crop"``: a
        row per image, averaged over all positions.
    batch_size
        Images per forward pass.
    """
    chosen = list(layers) if layers is not None else earlier_layers(split_model)
    pieces: list[list[torch.Tensor]] = [[] for _ in range(len(chosen) + 1)]
    for batch in images.split(batch_size):
        found = split_model.encode_through(batch, chosen[::-1])[::-1]  # latest first
        grid = found[0].grid if unit == "position" else (1, 1)
        for piece, features in zip(pieces, found, strict=True):
            piece.append(_on_grid(features, grid).detach().cpu())
    names = [_name(layer) for layer in [split_model.layer, *chosen]]
    levels = [
        Level(name, torch.cat(piece).flatten(0, 1).float().numpy()) for name, piece in zip(names, pieces, strict=True)
    ]
    return levels, len(levels[0].rows) // len(images)


def earlier_layers(split_model: Any) -> list[Any]:
    """Choose cut points at two thirds and one third of the depth of the model's layer that have a grid, latest first.

    Raises
    ------
    LayerError
        If no cut point with a grid lies before the model's layer.
    """
    late = split_model.layer
    before = [point for point in split_model.cut_points if point.index < late.index and point.grid is not None]
    if not before:
        raise LayerError(f"No cut point with a grid lies before {late.name!r}: split the model at a later layer.")
    chosen: list[Any] = []
    for share in _EARLIER:
        nearest = min(before, key=lambda point: abs(point.depth - share * late.depth))
        if nearest not in chosen and (not chosen or nearest.index < chosen[-1].index):
            chosen.append(nearest)
    return chosen


def _on_grid(features: Any, grid: tuple[int, int]) -> torch.Tensor:
    """Average the positions over the cells of ``grid``; (B, h * w, p)."""
    if tuple(features.grid) == tuple(grid):
        return features.positions
    maps = features.positions.unflatten(1, tuple(features.grid)).permute(0, 3, 1, 2)
    return adaptive_avg_pool2d(maps, grid).flatten(2).transpose(1, 2)


def _name(layer: Any) -> str:
    return layer if isinstance(layer, str) else str(layer.name)
