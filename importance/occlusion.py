"""Covering parts of an image: the fills that the causal test uses, and the occlusion map of a concept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from conceptatlas.extraction import SplitModel

Transform = Callable[[torch.Tensor], torch.Tensor]  # activations (n, p) -> coefficients (n, k)

FILLS = ("blur", "mean")
SIDE = 8  # windows of an occlusion map per side


def cover(images: torch.Tensor, region: torch.Tensor, *, fill: str = "blur") -> torch.Tensor:
    """Images with a region replaced by something that carries none of its content.

    Parameters
    ----------
    images : tensor (B, 3, H, W)
        Normalised images.
    region : bool tensor (B, H, W)
        True where the image is covered.
    fill : {"blur", "mean"}
        ``mean`` puts each image's own mean colour; ``blur`` carries the colours of the uncovered surroundings into
        the hole (a blur of the uncovered pixels alone, so that nothing of the covered content leaks back).

    Returns
    -------
    tensor (B, 3, H, W)

    Examples
    --------
    >>> image = torch.zeros(1, 3, 8, 8); image[:, :, :2, :2] = 9.0
    >>> region = image[:, 0] > 0
    >>> float(cover(image, region, fill="blur").max()) < 1e-4
    True
    """
    if region.shape != (images.shape[0], *images.shape[-2:]):
        raise ValueError(f"region {tuple(region.shape)} does not fit images {tuple(images.shape)}")
    if fill == "mean":
        filling = images.mean(dim=(-2, -1), keepdim=True).expand_as(images)
    elif fill == "blur":
        filling = _surroundings(images, region)
    else:
        raise ValueError(f"fill must be one of {FILLS}, got {fill!r}")
    return torch.where(region[:, None], filling, images)


def pooled_coefficients(
    split_model: SplitModel,
    images: torch.Tensor,
    transform: Transform,
    *,
    batch_size: int = 32,
    pool: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Each image's concept coefficients, mean over its positions, without gradients.

    Parameters
    ----------
    split_model : SplitModel
        The model cut at the concepts' layer.
    images : tensor (B, 3, H, W)
        Normalised images.
    transform : callable (n, p) -> (n, k)
        Coefficients of activations, for example ``lambda A: nnls(A, W)``.
    batch_size : int
        Images per forward pass.
    pool : callable (B, positions, k) -> (B, k), optional
        Another summary of the positions than their mean.

    Returns
    -------
    tensor (B, k)
    """
    pooled = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            positions = split_model.encode(images[start : start + batch_size]).positions
            coefficients = transform(positions.flatten(0, 1))
            coefficients = coefficients.reshape(*positions.shape[:2], -1)
            pooled.append(coefficients.mean(dim=1) if pool is None else pool(coefficients))
    return torch.cat(pooled)


def occlusion_maps(
    split_model: SplitModel,
    images: torch.Tensor,
    transform: Transform,
    *,
    concepts: Sequence[int],
    grid: int = SIDE,
    side: float = 0.25,
    fill: str = "mean",
    batch_size: int = 32,
) -> torch.Tensor:
    """How far each concept's pooled coefficient falls when a window of the image is covered, window by window.

    The windows are centred on the cells of a `grid` x `grid` division of the image and overlap, so the map lines up
    with the image like any other map. `grid` squared forward passes per image, shared by all concepts.

    Parameters
    ----------
    split_model : SplitModel
        The model cut at the concepts' layer.
    images : tensor (B, 3, H, W)
        Normalised images.
    transform : callable (n, p) -> (n, k)
        Coefficients of activations.
    concepts : sequence of int
        Which concepts' maps.
    grid : int
        Windows per side.
    side : float in (0, 1]
        Side of a window as a share of the image's side.
    fill : {"blur", "mean"}
        What covers a window; see `cover`.
    batch_size : int
        Images per forward pass.

    Returns
    -------
    tensor (B, len(concepts), grid, grid)
        The fall of the coefficient, negative falls (rises) set to 0.
    """
    windows = _windows(images.shape[-2], images.shape[-1], grid=grid, side=side).to(images.device)
    chosen = list(concepts)
    maps = []
    for image in images:
        copies = image.expand(len(windows), -1, -1, -1)
        covered = cover(copies, windows, fill=fill)
        together = torch.cat([image[None], covered])
        pooled = pooled_coefficients(split_model, together, transform, batch_size=batch_size)[:, chosen]
        maps.append((pooled[:1] - pooled[1:]).clamp(min=0).T.reshape(len(chosen), grid, grid))
    return torch.stack(maps)


def discs(height: int, width: int, *, grid: int, area: float) -> torch.Tensor:
    """Discs centred on the cells of a `grid` x `grid` division of an image, row by row.

    Parameters
    ----------
    height, width : int
        Of the image.
    grid : int
        Discs per side.
    area : float in (0, 1]
        Of one disc, as a share of the image.

    Returns
    -------
    bool tensor (grid * grid, height, width)

    Examples
    --------
    >>> round(float(discs(100, 100, grid=2, area=0.05)[0].float().mean()), 2)
    0.05
    """
    centres = (torch.arange(grid) + 0.5) / grid
    down, right = (torch.arange(length) + 0.5 - centres[:, None] * length for length in (height, width))
    square = down[:, None, :, None] ** 2 + right[None, :, None, :] ** 2
    return (square <= area * height * width / torch.pi).reshape(grid * grid, height, width)


def _surroundings(images: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Fill from the uncovered pixels: the same blur of image x uncovered and of uncovered, divided, coarse to fine."""
    size = images.shape[-2:]
    kept = (~region)[:, None].to(images.dtype)
    known, weight = images * kept, kept
    filling = known.sum(dim=(-2, -1), keepdim=True) / weight.sum(dim=(-2, -1), keepdim=True).clamp(min=1.0)
    filling = filling.expand(-1, -1, *size)
    for cells in (4, 8, 16):  # a finer level speaks only where it has uncovered pixels within reach
        coarse, support = (F.adaptive_avg_pool2d(t, cells) for t in (known, weight))
        coarse, support = (F.avg_pool2d(t, 3, 1, 1, count_include_pad=False) for t in (coarse, support))
        coarse, support = (F.interpolate(t, size=size, mode="bilinear", align_corners=False) for t in (coarse, support))
        trust = (support * 4.0).clamp(max=1.0)
        filling = trust * coarse / support.clamp(min=1e-6) + (1.0 - trust) * filling
    return filling


def _windows(height: int, width: int, *, grid: int, side: float) -> torch.Tensor:
    """Boolean windows (grid * grid, H, W), row by row."""
    inside = []
    for length in (height, width):
        centres = (torch.arange(grid) + 0.5) / grid
        pixels = (torch.arange(length) + 0.5) / length
        inside.append((pixels[None] - centres[:, None]).abs() <= side / 2)
    rows, columns = inside
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(grid * grid, height, width)
