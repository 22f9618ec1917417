"""Maps of a class (or any target), for comparison with concept maps: the Grad-CAM family, Eigen-CAM, class-weighted.

Letters: `A` (B, P, p) activations and `g` (B, P, p) the target's gradient at a cut point.

- Grad-CAM (Selvaraju et al. 2017): ReLU(sum_c mean_P(g_c) A_c)
- LayerCAM (Jiang et al. 2021): ReLU(sum_c ReLU(g_c) A_c)
- gradient x activation: ReLU(sum_c g_c A_c)
- NormGrad (Rebuffi et al. 2020), 1 x 1 convolution: |A| |g|
- Eigen-CAM (Muhammad and Yeasin 2020): the first principal axis of the activations; it knows no class
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conceptatlas.extraction.errors import LayerError, UserError
from conceptatlas.importance.implicit import POOLINGS, frozen
from conceptatlas.importance.maps import nnls_transform
from conceptatlas.importance.occlusion import Transform
from conceptatlas.importance.targets import as_target

if TYPE_CHECKING:
    from conceptatlas.extraction import CutPoint, SplitModel

ClassMapFunction = Callable[[torch.Tensor, Any], torch.Tensor]  # images, target -> maps (B, h, w): a user's own method


def class_maps(
    split_model: SplitModel,
    images: torch.Tensor,
    target: Any,
    *,
    method: str | ClassMapFunction = "gradcam",
    cut: str | CutPoint | None = None,
    batch_size: int = 16,
) -> torch.Tensor:
    """Where a model looks for a target, by one of the methods that the field knows.

    Parameters
    ----------
    split_model : SplitModel
        The model, in eval mode.
    images : tensor (B, 3, H, W)
        Normalised images.
    target : int, Target or callable
        A class index, `margin`, `similarity` or a callable logits -> (B,).
    method : str or callable
        ``gradcam``, ``layercam``, ``gradxact``, ``normgrad``, ``eigencam``, or a callable
        (images, target) -> (B, h, w).
    cut : str or CutPoint, optional
        Where activations and gradients are taken; the split's own layer by default. Not behind it.
    batch_size : int
        Images per pass.

    Returns
    -------
    tensor (B, h, w), float32
        Non-negative.

    Raises
    ------
    UserError
        If there is no such method.
    """
    if callable(method):
        maps = torch.as_tensor(method(images, target))
        if maps.ndim != 3 or len(maps) != len(images):
            raise ValueError(f"a map function must return (B, h, w) for {len(images)} images, got {tuple(maps.shape)}")
        return maps
    if method != "eigencam" and method not in POOLINGS:
        raise UserError(f"no class map is called {method!r}; take one of {', '.join([*POOLINGS, 'eigencam'])}")
    parts = []
    for some in images.split(batch_size):
        A, gradient, grid = _at_cut(split_model, some, target, cut)
        pooled = eigen_cam(A) if method == "eigencam" else POOLINGS[method](A, gradient)
        parts.append(pooled.reshape(-1, *grid).float())
    return torch.cat(parts)


def class_weighted_map(
    split_model: SplitModel,
    W: np.ndarray | torch.Tensor,
    images: torch.Tensor,
    target: Any,
    *,
    transform: Transform | None = None,
    batch_size: int = 16,
) -> torch.Tensor:
    """What all concepts together say for (positive) or against (negative) a target at each position.

    The value at a position is sum_k U_k <w_k, d target / dA>, so that a map sums to the concepts' gradient x input
    contributions; for an affine head after mean pooling that is exact, and equals sum_k (share of k) U_k.

    Parameters
    ----------
    split_model : SplitModel
        The model cut at the concepts' layer.
    W : array or tensor (k, p)
        Concept directions.
    images : tensor (B, 3, H, W)
        Normalised images.
    target : int, Target or callable
        As in `class_maps`.
    transform : callable (n, p) -> (n, k), optional
        Coefficients of activations; default `nnls` on W.
    batch_size : int
        Images per pass.

    Returns
    -------
    tensor (B, h, w), float32
        Signed.
    """
    directions = torch.as_tensor(W, dtype=torch.float32, device=images.device)
    coefficients = transform or nnls_transform(directions, images.device)
    parts = []
    for some in images.split(batch_size):
        A, gradient, grid = _at_cut(split_model, some, target, None)
        with torch.no_grad():
            U = coefficients(A.flatten(0, 1)).reshape(*A.shape[:2], -1)
            parts.append((U * (gradient @ directions.T)).sum(dim=-1).reshape(-1, *grid).float())
    return torch.cat(parts)


def eigen_cam(A: torch.Tensor) -> torch.Tensor:
    """Projection of each image's centred activations on their first principal axis, its sign settled.

    A singular vector's sign is arbitrary, so one image would light up where the next one is dark. Here the tail
    decides: the sign is the one for which the third moment is positive, that is, the positions that stand out from
    the rest are the bright ones.

    Parameters
    ----------
    A : tensor (B, P, p)
        Activations.

    Returns
    -------
    tensor (B, P)
        Non-negative (ReLU).

    Examples
    --------
    >>> A = torch.zeros(1, 9, 2); A[0, 4] = torch.tensor([-3.0, 1.0])
    >>> int(eigen_cam(A).argmax()), int(eigen_cam(-A).argmax())
    (4, 4)
    """
    centred = A.detach().float() - A.detach().float().mean(dim=1, keepdim=True)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    projection = (centred @ axes[:, :1].transpose(1, 2))[..., 0]
    sign = torch.where(projection.pow(3).sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    return (projection * sign).clamp(min=0)


def _at_cut(
    split_model: SplitModel, images: torch.Tensor, target: Any, cut: str | CutPoint | None
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """Activations, the target's gradient there, and the grid."""
    name = split_model.layer.name if cut is None else getattr(cut, "name", cut)
    with torch.inference_mode(False), frozen(split_model.model), torch.enable_grad():
        earlier = [] if name == split_model.layer.name else [name]
        features = split_model.encode_through(images.detach(), earlier)
        if features[0].grid is None or min(features[0].grid) < 2:
            raise LayerError(f"{name!r} has no positions to draw a map on; take a spatial cut point")
        value = as_target(target)(split_model.head(features[-1])).sum()
        (gradient,) = torch.autograd.grad(value, [features[0].positions])
    return features[0].positions.detach(), gradient, features[0].grid
