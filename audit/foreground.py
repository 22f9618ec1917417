"""How much of a concept lies on the object: by the user's masks, or by what the model's own features set apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from conceptatlas.audit.context import Context, Masks, sample
from conceptatlas.audit.examples import Pool
from conceptatlas.extraction.errors import UserError
from conceptatlas.importance.foreground import cut_foreground, foreground_share
from conceptatlas.importance.implicit import aligned

LARGEST_GRID, SMALLEST_GRID = 16, 4
MAX_IMAGES = 48


@dataclass(frozen=True)
class Foreground:
    """How much of each concept's map lies on the object.

    Attributes
    ----------
    share
        (k,) share of the mass of the concept's maps that lies on the object; NaN where no mask is to be had.
    area
        Share of the images that the object covers: what a map without a place would have.
    source
        ``"masks"``, ``"features"``, or ``"none"``.
    """

    share: np.ndarray
    area: float
    source: str


def foreground_of(context: Context, pool: Pool) -> Foreground:
    """Return the foreground shares of a class's concepts over some of its images.

    Where the run has masks, images without one are left out. Else the object is the part that the model's features at
    the layer set apart (TokenCut, see `conceptatlas.importance.cut_foreground`); grids below 4 x 4 tell nothing.
    """
    k = pool.raw.shape[1]
    at = sample(np.arange(len(pool.rows)), MAX_IMAGES, context.settings.seed)
    found = [_mask(context, int(pool.rows[i]), pool.views[i]) for i in at]
    kept = [(int(i), mask) for i, mask in zip(at, found, strict=True) if mask is not None]
    if not kept:
        return Foreground(np.full(k, np.nan), float("nan"), "none")
    inside, total, areas = np.zeros(k), np.zeros(k), []
    for i, mask in kept:
        maps = torch.as_tensor(np.maximum(pool.raw[i], 0))[None].float()
        weight = maps.double().sum(dim=(2, 3))[0].numpy()
        share = foreground_share(maps, torch.as_tensor(mask)[None])[0].numpy()
        inside += np.nan_to_num(share) * weight
        total += weight
        areas.append(mask.mean())
    share = np.divide(inside, total, out=np.full(k, np.nan), where=total > 0)
    return Foreground(share, float(np.mean(areas)), "masks" if context.masks is not None else "features")


def _mask(context: Context, row: int, view: Image.Image) -> np.ndarray | None:
    if context.masks is not None:
        return _given(context, context.masks, row, view)
    spatial = context.features(np.array([row])).spatial[0].float().cpu()
    if min(spatial.shape[:2]) < SMALLEST_GRID:
        return None
    side = tuple(min(LARGEST_GRID, n) for n in spatial.shape[:2])
    cells = torch.nn.functional.adaptive_avg_pool2d(spatial.permute(2, 0, 1), side).permute(1, 2, 0).numpy()
    found = cut_foreground(cells)
    if not found.any():
        return None
    return aligned(torch.as_tensor(found).float(), context.split.reading_offset(grid=found.shape)).numpy() >= 0.5


def _given(context: Context, masks: Masks, row: int, view: Image.Image) -> np.ndarray | None:
    """Return the user's mask of an image in the pixels of its view."""
    sample_id = str(context.images["sample_id"].iloc[row])
    mask = masks.get(sample_id) if isinstance(masks, Mapping) else masks(sample_id)
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise UserError(f"the mask of {sample_id!r} has shape {mask.shape}; give one of (height, width)")
    if mask.shape == (view.size[1], view.size[0]):
        return mask > 0
    whole = Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).convert("RGB")
    return np.asarray(context.preprocess.view(whole))[..., 0] > 127
