"""Whether a layer's tokens lie row by row on the image: seen by changing a quarter of it."""

from __future__ import annotations

import torch
from torch import nn

from conceptatlas.extraction.layouts import Grid

_LOCALITY = 0.8  # area under the curve; tokens in another order are at 0.5, row by row above 0.95
_CONCENTRATION = 0.5  # of a change in a quarter of the tokens; 0.8 where it stays put, 0.25 where it spreads evenly


def noise_images(model: nn.Module, input_size: Grid, channels: int) -> torch.Tensor:
    """Return three noise images (3, C, H, W) on the model's device.

    The second differs from the first in the top right quarter, the third in the bottom left one.
    """
    generator = torch.Generator().manual_seed(0)
    first, other = torch.randn(2, channels, *input_size, generator=generator)
    rows, columns = input_size[0] // 2, input_size[1] // 2
    images = torch.stack([first, first, first])
    images[1, :, :rows, columns:] = other[:, :rows, columns:]
    images[2, :, rows:, :columns] = other[:, rows:, :columns]
    parameter = next(model.parameters(), torch.empty(0))
    return images.to(device=parameter.device, dtype=parameter.dtype if parameter.is_floating_point() else None)


def is_scrambled(changes: torch.Tensor, grid: Grid) -> bool:
    """Say whether tokens lie in another order than row by row, by where the changes (2, h * w) of two quarters show up.

    Where a change stays within some tokens, but other ones than those of the changed quarter, the order is another.
    Where it is spread over all of them, nothing can be told, and the order is taken as it is.
    """
    return locality(changes, grid) < _LOCALITY and concentration(changes) > _CONCENTRATION


def concentration(changes: torch.Tensor) -> float:
    """Return the share of the changes (2, n) that the quarter of the tokens which changes most has: 0.25 to 1."""
    ranked = changes.sort(descending=True).values
    return float((ranked[:, : -(-changes.shape[1] // 4)].sum(1) / ranked.sum(1)).min())


def locality(changes: torch.Tensor, grid: Grid) -> float:
    """Return how well changes (2, h * w) tell the quarters that changed (`noise_images`): 1 always, 0.5 by chance."""
    rows, columns = grid
    if min(grid) < 2 or not bool(torch.isfinite(changes).all()):
        return 1.0
    quarter = torch.zeros(2, rows, columns, dtype=torch.bool, device=changes.device)
    quarter[0, : rows // 2, (columns + 1) // 2 :] = True
    quarter[1, (rows + 1) // 2 :, : columns // 2] = True
    areas = []
    for change, inside in zip(changes, quarter.flatten(1), strict=True):
        within, outside = change[inside], change[~inside].sort().values
        below = torch.searchsorted(outside, within, side="left") + torch.searchsorted(outside, within, side="right")
        areas.append(float(below.float().mean()) / (2 * len(outside)))
    return min(areas)
