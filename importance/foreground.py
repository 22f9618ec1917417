"""An unsupervised foreground mask from a model's own features, and how much of a concept's map lies on it.

After TokenCut (Wang et al. 2022): positions are the nodes of a graph, joined where their features are alike; the second
smallest eigenvector y of (D - E) y = lambda D y, the relaxed normalised cut, splits them in two. Two changes, because
the features are not DINO's: they are centred over the image's positions first (supervised features and those after a
ReLU all point the same way), and the foreground is the side that touches the image's edge less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.ndimage import label

from conceptatlas.extraction.errors import LayerError
from conceptatlas.importance.implicit import aligned
from conceptatlas.importance.maps import upsample

if TYPE_CHECKING:
    from conceptatlas.extraction import SplitModel

WEAK = 1e-5  # weight of an edge between unlike positions: the graph stays connected
MAX_CELLS = 1024  # finer grids are pooled first


def foreground_masks(
    split_model: SplitModel, images: torch.Tensor, *, similarity: float = 0.0, batch_size: int = 16
) -> torch.Tensor:
    """The part of each image that the model's features set apart from the rest.

    Parameters
    ----------
    split_model : SplitModel
        The model, cut at a spatial layer; a late one.
    images : tensor (B, 3, H, W)
        Normalised images.
    similarity : float in (-1, 1)
        Cosine of centred features above which two positions are joined.
    batch_size : int
        Images per pass.

    Returns
    -------
    bool tensor (B, H, W), on the CPU
        In view pixels; all False where the features are the same everywhere.

    Raises
    ------
    LayerError
        If the layer has fewer than 4 x 4 positions.
    """
    grid = split_model.layer.grid
    if grid is None or min(grid) < 4:
        raise LayerError(
            f"{split_model.layer.name!r} has a grid of {grid}; a foreground needs at least 4 x 4 positions"
        )
    masks = []
    for some in images.split(batch_size):
        with torch.no_grad():
            spatial = split_model.encode(some).spatial.permute(0, 3, 1, 2).float().cpu()
        side = int(MAX_CELLS**0.5)
        if max(spatial.shape[-2:]) > side:
            spatial = F.adaptive_avg_pool2d(spatial, (min(side, spatial.shape[-2]), min(side, spatial.shape[-1])))
        cells = np.stack([cut_foreground(one, similarity=similarity) for one in spatial.permute(0, 2, 3, 1).numpy()])
        moved = aligned(torch.from_numpy(cells)[:, None].float(), split_model.reading_offset(grid=cells.shape[1:]))
        soft = upsample(moved, (some.shape[-2], some.shape[-1]))
        masks.append(soft[:, 0] >= 0.5)
    return torch.cat(masks)


def cut_foreground(features: NDArray[np.float32], *, similarity: float = 0.0) -> NDArray[np.bool_]:
    """Foreground of one image's features by a normalised cut.

    Parameters
    ----------
    features : array (h, w, p)
        Activations at the positions.
    similarity : float
        Cosine of centred features above which two positions are joined.

    Returns
    -------
    bool array (h, w)
        The connected component, on the side that touches the edge less, that holds that side's most distinct position.

    Examples
    --------
    >>> features = np.zeros((6, 6, 2)); features[..., 0] = 1.0; features[2:4, 2:4] = [0.0, 1.0]
    >>> int(cut_foreground(features).sum())
    4
    """
    height, width, _ = features.shape
    rows = features.reshape(height * width, -1).astype(np.float64)
    rows = rows - rows.mean(axis=0)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if float(length.max()) <= 1e-9:
        return np.zeros((height, width), dtype=bool)
    cosine = (rows / np.maximum(length, 1e-12)) @ (rows / np.maximum(length, 1e-12)).T
    edges = np.where(cosine > similarity, 1.0, WEAK)
    degree = edges.sum(axis=1)
    _, vectors = eigh(np.diag(degree) - edges, np.diag(degree), subset_by_index=[1, 1])
    second = vectors[:, 0].reshape(height, width)
    bright = second > second.mean()
    bright = bright if _touch(bright) <= _touch(~bright) else ~bright
    return _component(bright, np.abs(second - second.mean()))


def foreground_share(maps: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
    """Share of each map's mass that lies on the foreground; its chance level is the foreground's area share.

    Parameters
    ----------
    maps : tensor (B, k, h, w)
        Non-negative maps, at any resolution.
    foreground : bool tensor (B, H, W)
        From `foreground_masks`, or true masks.

    Returns
    -------
    tensor (B, k)
        In [0, 1]; NaN where a map is all zero.

    Examples
    --------
    >>> mask = torch.zeros(1, 8, 8, dtype=torch.bool); mask[:, :, :4] = True
    >>> foreground_share(torch.ones(1, 1, 2, 2), mask).tolist()
    [[0.5]]
    """
    pixels = upsample(maps.float(), (foreground.shape[-2], foreground.shape[-1])).cpu().double()
    total = pixels.sum(dim=(-2, -1))
    inside = (pixels * foreground.cpu()[:, None]).sum(dim=(-2, -1))
    return torch.where(total > 0, inside / total, torch.nan)


def _touch(mask: NDArray[np.bool_]) -> float:
    """Share of the edge's cells that are on the mask."""
    edge = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return float(edge.mean())


def _component(mask: NDArray[np.bool_], weight: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The connected component of the mask that holds its heaviest cell."""
    if not mask.any():
        return mask
    parts, _ = label(mask)  # type: ignore[misc]
    seed = np.unravel_index(np.argmax(np.where(mask, weight, -np.inf)), mask.shape)
    return parts == parts[seed]
