"""TCAV with concepts of a bank: directional derivatives of the target, and whether chance would give as much.

The score is that of Kim et al. (2018): the share of images whose target grows along the concept. Its test here is
against random directions of the activation space itself: differences between random weightings of the activations, as
concept vectors of random image sets are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptatlas.importance.contributions import slope
from conceptatlas.importance.recomposition import Decomposition, in_batches, select
from conceptatlas.importance.tabled import Tabled
from conceptatlas.importance.targets import as_target


@dataclass(frozen=True)
class Tcav(Tabled):
    """TCAV of k concepts.

    Attributes
    ----------
    score
        ``(k,)``: share of images whose target grows as the concept does. Under an affine head all images agree, and
        it is 0 or 1.
    sensitivity
        ``(k,)``: mean derivative of the target along the concept, at all positions together.
    p_value
        ``(k,)``: share of random directions, of the same length, with a mean derivative as large in magnitude.
    q_value
        ``(k,)``: the same corrected for the number of concepts (Benjamini and Hochberg 1995).
    """

    score: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]


def tcav(
    split_model: Any,
    features: Any,
    W: Any,
    target: Any,
    *,
    n_random: int = 499,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tcav:
    """Return TCAV scores of concept directions with a test against random directions.

    Parameters
    ----------
    split_model, features, W
        The head, activations with positions ``(B, P, p)`` and directions ``(k, p)``.
    target
        Class index, :func:`margin`, :func:`similarity` or a callable ``(B, n) -> (B,)``.
    n_random
        Random directions; the smallest p-value is ``1 / (n_random + 1)``.
    seed
        Seed of the random directions.
    batch_size
        Most images at once.

    Returns
    -------
    Tcav

    Raises
    ------
    ValueError
        If `W` does not fit the activations or `n_random` is below 1.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from conceptatlas.extraction.features import Features
    >>> head = SimpleNamespace(head=lambda features: features.positions.sum(1), head_is_affine=True)
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> features = Features(U @ W, None, (1, 1))
    >>> tcav(head, features, W, 0).score.tolist()
    [1.0, 0.0]
    """
    if n_random < 1:
        raise ValueError(f"n_random must be at least 1, got {n_random}")
    positions = features.positions
    nothing = torch.zeros(*positions.shape[:2], len(W)).to(positions)
    parts = Decomposition.build(split_model, features, nothing, W, as_target(target), batch_size=batch_size)
    gradients = _pooled_gradients(parts)
    lengths = parts.directions.norm(dim=1, keepdim=True)
    along = gradients @ parts.directions.T
    chance = (gradients.mean(dim=0) @ _random_directions(positions, n_random, seed).T).abs()
    mean = along.mean(dim=0)
    as_large = (chance[None] >= mean.abs()[:, None] / lengths).sum(dim=1)
    p_value = _to_numpy((1.0 + as_large) / (n_random + 1.0))
    score = _to_numpy((along > 0).double().mean(dim=0))
    return Tcav(score, _to_numpy(mean), p_value, benjamini_hochberg(p_value))


def benjamini_hochberg(p_value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values ``(n,)`` corrected for the false discovery rate.

    Examples
    --------
    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.5])).round(3).tolist()
    [0.03, 0.06, 0.5]
    """
    n, order = len(p_value), np.argsort(p_value)
    scaled = p_value[order] * n / np.arange(1, n + 1)
    corrected = np.empty(n)
    corrected[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return corrected


def _pooled_gradients(parts: Decomposition) -> Tensor:
    """Return the target's gradient summed over the positions, ``(B, p)``."""
    every = torch.arange(parts.n_images, device=parts.directions.device)

    def some(part: slice) -> Tensor:
        return slope(parts, select(parts.features, every[part])).sum(dim=1)

    return torch.cat(list(in_batches(some, parts.n_images, parts.rows())))


def _random_directions(positions: Tensor, n_random: int, seed: int) -> Tensor:
    """Return unit directions ``(n_random, p)`` with the covariance of the activations."""
    rows = positions.detach().flatten(0, 1)
    generator = torch.Generator().manual_seed(seed)
    some = rows[torch.randperm(len(rows), generator=generator)[:4096].to(rows.device)]
    weights = torch.randn(n_random, len(some), generator=generator).to(rows)
    return torch.nn.functional.normalize(weights @ (some - some.mean(dim=0)), dim=1)


def _to_numpy(values: Tensor) -> NDArray[np.float64]:
    return values.detach().double().cpu().numpy()
