"""Where a layer's positions lie on the image: whether row by row, and how far beside its place each one reads.

A quarter of the image is changed for the first. For the second, the gradient of a position by the pixels is weighed: a
3 x 3 convolution of stride 2 reads around the first of the two pixels that its output stands for, so that a network of
five of them reads half a cell further up and to the left than its grid says.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from conceptatlas.extraction.layouts import Grid

_LOCALITY = 0.8  # area under the curve; tokens in another order are at 0.5, row by row above 0.95
_BESIDE = 0.1  # of a cell: positions that read less than that beside their places read at them
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


def reading_offset(
    positions_of: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, grid: Grid
) -> tuple[float, float]:
    """Return how far below and to the right of their own places positions read the image, in cells.

    Parameters
    ----------
    positions_of
        Takes images and returns activations (B, h * w, p), differentiably.
    images
        (B, C, H, W) of noise, in multiples of four: each is asked about one of the four positions in the middle.
    grid
        (h, w).

    Returns
    -------
    Centre of the squared gradient, mean over images and over both directions, whose strides and paddings are the same;
    what else there is comes from lopsided weights. 0 where it is less than a tenth of a cell, or than how far the two
    are apart, or where nothing carries a gradient.
    """
    rows, columns = grid
    pixels = images.detach().clone().requires_grad_()
    middle = [r * columns + c for r in ((rows - 1) // 2, rows // 2) for c in ((columns - 1) // 2, columns // 2)]
    asked = torch.tensor(middle, device=images.device).repeat(len(images) // 4)
    found = positions_of(pixels)[torch.arange(len(asked), device=images.device), asked]
    if not found.requires_grad:
        return 0.0, 0.0
    signs = torch.randn(found.shape, generator=torch.Generator().manual_seed(0)).to(found)
    (gradient,) = torch.autograd.grad((found * signs).sum(), pixels)
    energy = gradient.double().square().sum(dim=1)
    offsets = []
    for axis, (size, place) in enumerate(((rows, asked // columns), (columns, asked % columns))):
        along = energy.sum(dim=2 - axis)
        centres = (torch.arange(along.shape[1], device=along.device).to(along) + 0.5) * size / along.shape[1]
        beside = (along @ centres) / along.sum(dim=1) - (place + 0.5)
        offsets.append(float(beside.mean()))
    both = round(sum(offsets) / 2, 2)  # the same whatever the order in which threads add up
    return (both, both) if abs(both) >= max(_BESIDE, abs(offsets[0] - offsets[1])) else (0.0, 0.0)
