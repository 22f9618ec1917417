"""Concept attribution maps: where in an image a concept is, by several methods of which `choose_map` picks one.

Letters: `A` activations (n, p) at the concepts' layer; `W` (k, p) concept directions; `U` (n, k) their coefficients.

The methods' names:

``coefficients``
    The coefficient at each position of the layer. Free, and exact for "where is the concept read"; but deep layers
    often read a thing beside the place where it lies.
``layercam@CUT``, ``gradxact@CUT``, ``normgrad@CUT``, ``gradcam@CUT``
    Implicit differentiation: the gradient of the pooled coefficient through the closed form of the non-negative
    least squares (on the active set S, du_S/da = (W_S W_S^T)^-1 W_S), on to an earlier cut point, pooled there.
    CUT is a cut point's name, or ``input`` for the pixels.
``occlusion``
    The fall of the coefficient when a window of the image is covered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from conceptatlas.importance.grounding import peak_of
from conceptatlas.importance.implicit import CANDIDATES, aligned_map, gradients_of, joined
from conceptatlas.importance.occlusion import Transform, occlusion_maps

if TYPE_CHECKING:
    from conceptatlas.extraction import CutPoint, SplitModel

MapFunction = Callable[[torch.Tensor], torch.Tensor]  # images (B, 3, H, W) -> maps (B, k, h, w), a user's own method


def concept_maps(
    split_model: SplitModel,
    W: np.ndarray | torch.Tensor,
    images: torch.Tensor,
    *,
    method: str | MapFunction = "coefficients",
    concepts: Sequence[int] | None = None,
    transform: Transform | None = None,
    batch_size: int = 16,
) -> torch.Tensor:
    """Where each concept is in each image, at the native resolution of the method.

    Parameters
    ----------
    split_model : SplitModel
        The model cut at the concepts' layer, in eval mode.
    W : array or tensor (k, p)
        Concept directions.
    images : tensor (B, 3, H, W)
        Normalised images, as the model takes them.
    method : str or callable
        A name of this module's docstring, or a callable images -> (B, k, h, w).
    concepts : sequence of int, optional
        Only these concepts, in this order; each costs one backward pass with the implicit methods.
    transform : callable (n, p) -> (n, k), optional
        Coefficients of activations, differentiable for the implicit methods. Default: `nnls` on W.
    batch_size : int
        Images per pass.

    Returns
    -------
    tensor (B, len(concepts), h, w), float32, on the images' device
        Non-negative, and where the cells read the image (`aligned`). Images that do not have the concept get a map
        near zero: nothing is scaled per image.

    Raises
    ------
    UserError
        If the method or its cut point does not exist, or lies behind the concepts' layer.
    """
    chosen = list(range(len(W))) if concepts is None else [int(c) for c in concepts]
    if callable(method):
        return _checked(method(images), len(images))[:, chosen]
    coefficients = transform or nnls_transform(W, images.device)
    if method == "occlusion":
        return occlusion_maps(split_model, images, coefficients, concepts=chosen)
    batches = []
    for start in range(0, len(images), batch_size):
        per_concept = _maps_of_batch(split_model, images[start : start + batch_size], coefficients, method, chosen)
        batches.append(per_concept)
    return torch.cat(batches)


def paired_maps(
    split_model: SplitModel,
    images: torch.Tensor,
    concepts: torch.Tensor,
    transform: Transform,
    *,
    methods: Sequence[str],
    batch_size: int = 16,
) -> dict[str, torch.Tensor]:
    """Maps by several methods at once, of one concept per image: one forward and one backward pass for all of them.

    The gradient of a sum over images holds each image's own gradient, so that different concepts on different images
    share the backward pass, and every earlier cut point is read from the same one.

    Parameters
    ----------
    split_model : SplitModel
        The model cut at the concepts' layer.
    images : tensor (B, 3, H, W)
        Normalised images; repeat an image to map several of its concepts.
    concepts : int tensor (B,)
        The concept of each image.
    transform : callable (n, p) -> (n, k)
        Coefficients of activations, differentiable.
    methods : sequence of str
        Names of this module's docstring, without ``occlusion``.
    batch_size : int
        Images per pass.

    Returns
    -------
    dict of method -> tensor (B, h, w)
    """
    parts: dict[str, list[torch.Tensor]] = {method: [] for method in methods}
    for start in range(0, len(images), batch_size):
        mine = concepts[start : start + batch_size, None]
        with joined(split_model, images[start : start + batch_size], transform, methods) as (U, ends):
            total = U.mean(dim=1).gather(1, mine).sum()
            gradients = gradients_of(total, ends, keep=False)
            spatial = U.detach().gather(2, mine[:, None].expand(-1, U.shape[1], -1))[..., 0]
            for method in methods:
                parts[method].append(aligned_map(split_model, method, spatial, ends, gradients))
    return {method: torch.cat(maps) for method, maps in parts.items()}


def map_methods(split_model: SplitModel, *, cuts: int = 4) -> list[str]:
    """The candidates among which `choose_map` chooses: coefficients, then each pooling at each cut, deepest first.

    Parameters
    ----------
    split_model : SplitModel
        The model cut at the concepts' layer.
    cuts : int
        How many earlier cut points; see `earlier_cuts`.

    Returns
    -------
    list of str
        Method names; ``occlusion`` is not among them, because it costs far more (see `choose_map`).
    """
    names = [cut.name for cut in earlier_cuts(split_model, limit=cuts)]
    return ["coefficients", *(f"{pooling}@{name}" for name in names for pooling in CANDIDATES)]


def earlier_cuts(split_model: SplitModel, *, limit: int = 4) -> list[CutPoint]:
    """A handful of cut points before the layer, deepest first: what each grid ends with, then what lies between.

    Where a network halves its grid, the last cut point of each grid is taken (nearest to the layer first); the places
    left over, all of them where the grid never changes, go to cut points spread evenly over the depth. Places inside
    a block are left out where the grid has whole blocks.

    Parameters
    ----------
    split_model : SplitModel
        The model cut at the concepts' layer.
    limit : int
        At most so many.

    Returns
    -------
    list of CutPoint
        Spatial cut points with a grid of at least 4 cells and at most 64 per side.
    """
    layer = split_model.layer
    before = [c for c in split_model.cut_points if c.index < layer.index and _is_useful(c.grid)]
    in_blocks = {c.grid for c in before if c.is_block}
    spatial = [c for c in before if c.is_block or c.grid not in in_blocks]
    ends = [c for c, following in pairwise([*spatial, layer]) if c.grid != following.grid]
    chosen = ends[::-1][:limit]
    while len(chosen) < min(limit, len(spatial)):
        taken = [layer.depth, *(c.depth for c in chosen)]
        rest = [c for c in spatial if c not in chosen]
        chosen.append(max(rest, key=lambda c: (_gap(c.depth, taken), c.index)))
    return sorted(chosen, key=lambda c: -c.index)


def nnls_transform(W: np.ndarray | torch.Tensor, device: torch.device | str) -> Transform:
    """Non-negative least squares on fixed directions, as a differentiable function of the activations.

    Parameters
    ----------
    W : array or tensor (k, p)
        Concept directions.
    device : torch.device or str
        Where the activations lie.

    Returns
    -------
    callable (n, p) -> (n, k)
    """
    from conceptatlas.concepts import nnls

    directions = torch.as_tensor(W, dtype=torch.float32, device=device)
    return lambda A: nnls(A, directions)


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps brought to the view's pixels, bilinearly, cell centres on cell centres.

    Parameters
    ----------
    maps : tensor (B, k, h, w)
        Maps at their native resolution.
    size : (int, int)
        Height and width of the view: what the model saw, hence the images' own last two dimensions.

    Returns
    -------
    tensor (B, k, H, W)

    Examples
    --------
    >>> upsample(torch.ones(1, 1, 7, 7), (224, 224)).shape
    torch.Size([1, 1, 224, 224])
    """
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def map_scale(maps: torch.Tensor, *, quantile: float = 0.99) -> torch.Tensor:
    """One scale per concept: the quantile of its values over all images and positions of a probe set.

    A scale per image would light up images that do not have the concept.

    Parameters
    ----------
    maps : tensor (B, k, h, w)
        Maps of the probe set.
    quantile : float in (0, 1]
        0.99 by default, so that one hot pixel does not set the scale.

    Returns
    -------
    tensor (k,)
        Positive; the maximum where the quantile is 0, and 1 where the concept's maps are all zero.

    Examples
    --------
    >>> map_scale(torch.tensor([[[[0.0, 4.0]]]]), quantile=1.0).tolist()
    [4.0]
    """
    values = maps.transpose(0, 1).flatten(1).double().cpu().numpy()
    scale, top = np.quantile(values, quantile, axis=1), values.max(axis=1)
    scale = np.where(scale > 0, scale, np.where(top > 0, top, 1.0))
    return torch.as_tensor(scale, dtype=maps.dtype, device=maps.device)


def outline_level(maps: torch.Tensor, *, quantile: float = 0.90) -> torch.Tensor:
    """The level at which a concept's outline is drawn: a quantile of its values over a probe set.

    Parameters
    ----------
    maps : tensor (B, k, h, w)
        Maps of the probe set.
    quantile : float in (0, 1)
        0.90 by default: CRAFT's 90th percentile over the data set.

    Returns
    -------
    tensor (k,)

    Examples
    --------
    >>> outline_level(torch.arange(11.0).reshape(1, 1, 1, 11)).tolist()
    [9.0]
    """
    values = maps.transpose(0, 1).flatten(1).double().cpu().numpy()
    return torch.as_tensor(np.quantile(values, quantile, axis=1), dtype=maps.dtype, device=maps.device)


def peak(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Row and column, in view pixels, of the maximum of each bilinearly upsampled map.

    Parameters
    ----------
    maps : tensor (B, k, h, w)
        Maps at their native resolution.
    size : (int, int)
        Height and width of the view.

    Returns
    -------
    int tensor (B, k, 2)

    Examples
    --------
    >>> peak(torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]]), (8, 8)).tolist()
    [[[6, 6]]]
    """
    return torch.from_numpy(peak_of(upsample(maps.float(), size).cpu().numpy()))


def _maps_of_batch(
    split_model: SplitModel, images: torch.Tensor, transform: Transform, method: str, concepts: list[int]
) -> torch.Tensor:
    with joined(split_model, images, transform, [method]) as (U, ends):
        maps = []
        for i, concept in enumerate(concepts):
            gradients = gradients_of(U[..., concept].mean(dim=1).sum(), ends, keep=i + 1 < len(concepts))
            maps.append(aligned_map(split_model, method, U[..., concept].detach(), ends, gradients))
    return torch.stack(maps, dim=1)


def _is_useful(grid: tuple[int, int] | None) -> bool:
    return grid is not None and min(grid) >= 4 and max(grid) <= 64


def _gap(depth: float, taken: list[float]) -> float:
    """Distance to the nearest depth already taken."""
    return min(abs(depth - other) for other in taken)


def _checked(maps: torch.Tensor, n_images: int) -> torch.Tensor:
    if maps.ndim != 4 or len(maps) != n_images:
        raise ValueError(f"a map function must return (B, k, h, w) for {n_images} images, got {tuple(maps.shape)}")
    return maps.clamp(min=0)
