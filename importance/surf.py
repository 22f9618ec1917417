"""SURF: how well concepts and importances rebuild all logits without a parameter fitted.

The surrogate adds up coefficients times importances, class by class, over all positions::

    y'_c = b_c + sum_j sum_k alpha_ck P(h_j; V_c)_k

and is compared with the model's logits (mean absolute error) and probabilities (half the mean L1 distance) over all
classes, not the predicted one alone ("Measuring the (Un)Faithfulness of Concept-Based Explanations", CVPR 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptatlas.importance.contributions import slope
from conceptatlas.importance.faithfulness import Faithfulness, FaithfulnessRow, random_directions, summarise
from conceptatlas.importance.recomposition import Decomposition
from conceptatlas.importance.targets import logit

_N_DRAWS = 12
"""Draws that each of the two rows of chance averages."""


@dataclass(frozen=True)
class Surf:
    """SURF of a set of concept banks: both lower is better."""

    mae: Faithfulness
    emd: Faithfulness


def surf(
    split_model: Any,
    features: Any,
    banks: Mapping[int, Any],
    *,
    effects: Mapping[int, Any] | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> Surf:
    """Return SURF's two errors of the concept banks of several classes.

    Parameters
    ----------
    split_model, features
        The head, and activations with positions ``(B, P, p)``.
    banks
        Class index to directions ``(k_c, p)``. Errors are over these classes; give all that are to be explained.
    effects
        Class index to importances ``(k_c,)``: what a unit of the coefficient at one position adds to the logit. By
        default the mean gradient along each direction, which is exact for affine heads.
    seed, confidence
        Of the shuffles and random directions, and of the intervals over images.

    Returns
    -------
    Surf
        With the rows for shuffled importances, and for random directions that bear shuffled importances: nothing of the
        explanation is left there. Random directions with effects of their own are no floor: a network's output
        is linear in many of its activations, and enough directions of any kind rebuild it. Their coefficients are
        brought to the size of the concepts', or saying next to nothing would count as being nearly right.

    Raises
    ------
    ValueError
        For fewer than two classes, or effects whose length is not that of the bank.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from conceptatlas.extraction.features import Features
    >>> head = SimpleNamespace(head=lambda features: features.positions.sum(1), head_is_affine=True)
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> features = Features(U @ W, None, (1, 1))
    >>> found = surf(head, features, {0: W, 1: W})
    >>> round(found.mae.score, 6), found.mae.higher_is_better
    (0.0, False)
    """
    if len(banks) < 2:
        raise ValueError(f"SURF compares logits of several classes, got banks of {len(banks)}")
    positions = features.positions
    directions = {index: torch.as_tensor(W).to(positions) for index, W in banks.items()}
    heads = {index: _linearised(split_model, features, index) for index in directions}
    given = {index: heads[index].effects(W) for index, W in directions.items()}
    for index, values in (effects or {}).items():
        given[index] = _checked(values, given[index])
    amounts = _amounts(positions, directions)
    real, rng = _surrogate(amounts, given, heads), np.random.default_rng(seed)
    shuffled = [_surrogate(amounts, _shuffled(given, rng), heads) for _ in range(_N_DRAWS)]
    nothing = [
        _surrogate(_alike(_amounts(positions, _others(directions, rng)), amounts), _shuffled(given, rng), heads)
        for _ in range(_N_DRAWS)
    ]
    with torch.no_grad():
        truth = split_model.head(features)[:, list(directions)].double().cpu().numpy()
    return Surf(
        mae=_scored("SURF MAE", _absolute_error, truth, real, shuffled, nothing, confidence),
        emd=_scored("SURF EMD", _probability_error, truth, real, shuffled, nothing, confidence),
    )


@dataclass(frozen=True)
class _Linearised:
    """A class's logit as a constant and a mean gradient over images and positions ``(p,)``."""

    constant: float
    gradient: Tensor

    def effects(self, directions: Tensor) -> Tensor:
        return directions @ self.gradient


def _linearised(split_model: Any, features: Any, index: int) -> _Linearised:
    nothing = torch.zeros(*features.positions.shape[:2], 1).to(features.positions)
    width = features.positions.shape[2]
    parts = Decomposition.build(split_model, features, nothing, torch.zeros(1, width), logit(index))
    gradient = slope(parts, parts.features)
    with torch.no_grad():
        constant = parts.target(split_model.head(features)) - (gradient * features.positions).sum(dim=(1, 2))
    return _Linearised(float(constant.mean()), gradient.mean(dim=(0, 1)))


def _amounts(positions: Tensor, directions: dict[int, Tensor]) -> dict[int, Tensor]:
    """Return the coefficients of each class's concepts summed over the positions, ``(B, k_c)``."""
    from conceptatlas.concepts.nnls import nnls

    return {index: nnls(positions, W).sum(dim=1) for index, W in directions.items()}


def _alike(amounts: dict[int, Tensor], like: dict[int, Tensor]) -> dict[int, Tensor]:
    """Return amounts scaled, class by class, to the size of others."""
    return {index: found * (like[index].norm() / found.norm().clamp(min=1e-12)) for index, found in amounts.items()}


def _surrogate(
    amounts: dict[int, Tensor], effects: dict[int, Tensor], heads: dict[int, _Linearised]
) -> NDArray[np.float64]:
    """Return the surrogate's logits, ``(B, classes)``."""
    columns = [found @ effects[index] + heads[index].constant for index, found in amounts.items()]
    return torch.stack(columns, dim=1).double().cpu().numpy()


def _shuffled(effects: dict[int, Tensor], rng: np.random.Generator) -> dict[int, Tensor]:
    return {index: values[torch.as_tensor(rng.permutation(len(values)))] for index, values in effects.items()}


def _others(directions: dict[int, Tensor], rng: np.random.Generator) -> dict[int, Tensor]:
    return {index: random_directions(W, int(rng.integers(2**31))) for index, W in directions.items()}


def _checked(values: Any, like: Tensor) -> Tensor:
    effects = torch.as_tensor(values).to(like)
    if effects.shape != like.shape:
        raise ValueError(f"effects must have shape {tuple(like.shape)}, got {tuple(effects.shape)}")
    return effects


def _absolute_error(truth: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(truth - found).mean(axis=1)


def _probability_error(truth: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(_softmax(truth) - _softmax(found)).sum(axis=1) / 2


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _scored(
    metric: str,
    error: Any,
    truth: NDArray[np.float64],
    real: NDArray[np.float64],
    shuffled: list[NDArray[np.float64]],
    nothing: list[NDArray[np.float64]],
    confidence: float,
) -> Faithfulness:
    rows: list[FaithfulnessRow] = [
        summarise("concepts", error(truth, real), confidence),
        summarise("random importance", np.mean([error(truth, each) for each in shuffled], axis=0), confidence),
        summarise("random concepts", np.mean([error(truth, each) for each in nothing], axis=0), confidence),
    ]
    return Faithfulness(metric, False, *rows)
