"""Total Sobol indices of a function of concept masks: exact where it is affine, with intervals where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from conceptatlas.importance.chaos import chaos_indices
from conceptatlas.importance.designs import Sampler
from conceptatlas.importance.jansen import Estimate, craft_indices, is_flat, jansen_indices
from conceptatlas.importance.masks import MaskFunction
from conceptatlas.importance.tabled import Tabled

Method = Literal["auto", "affine", "chaos", "jansen", "craft"]

DEFAULT_DESIGNS = 32
_AFFINE_TOLERANCE = 1e-5
_LEAST_EVALUATIONS = 4096
_MOST_BEYOND = 0.10
_MOST_WIDTH = 0.25


@dataclass(frozen=True)
class SobolIndices(Tabled):
    """Total Sobol indices of k concepts, with their intervals.

    Attributes
    ----------
    total
        ``(k,)``: share of the output's variance in which the concept takes part, alone or with others. They sum to 1
        where the function is additive and to more where concepts interact; all 0 where the output does not vary.
    low, high
        ``(k,)``: ends of the interval around each. Equal to `total` within rounding for the closed form; NaN for the
        published estimator, which offers none.
    n_evaluations
        Masks that the function was given, those of a first call that it refused included.
    method
        ``"affine"``, ``"chaos"``, ``"jansen"`` or ``"craft"``: what was used.
    n_gradients
        How many of the evaluations were differentiated as well.
    """

    total: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n_evaluations: int
    method: str
    n_gradients: int = 0

    @property
    def shares(self) -> NDArray[np.float64]:
        """The indices divided by their sum, ``(k,)``; zeros where all are 0."""
        whole = self.total.sum()
        return self.total / whole if whole > 0 else np.zeros_like(self.total)


def total_sobol(
    function: Callable[[Any], Any],
    n_concepts: int,
    *,
    method: Method = "auto",
    seed: int = 0,
    n_designs: int | None = None,
    gradient: Callable[[Any], Any] | None = None,
    sampler: Sampler | None = None,
    confidence: float = 0.95,
    tolerance: float = 0.05,
    max_designs: int = 256,
) -> SobolIndices:
    """Return the total Sobol index of each concept, for masks that are independent and uniform on [0, 1].

    Parameters
    ----------
    function
        Takes masks ``(n, k)`` and returns n values. It is given float32 numpy arrays; a torch function (one that
        refuses those, or answers with a torch tensor) is given torch tensors, of float64 only where it refuses
        float32, and may carry gradients.
    n_concepts
        k, at least 1.
    method
        ``"affine"``: closed form ``c_i^2 / sum c^2`` of the effects c (only right for affine functions).
        ``"chaos"``: quadratic Legendre chaos fitted to values and gradients, doubled until it agrees with itself.
        ``"jansen"``: Jansen's estimator. ``"craft"``: the published estimator, for comparison alone.
        ``"auto"``: the closed form where the function is found to be affine; else chaos where there are gradients;
        else Jansen. Where the chaos leaves more than a tenth of the variance unexplained (jumps, high frequencies), or
        the intervals of 32 designs are as wide as a quarter of the indices, Jansen on `max_designs` or, of few
        concepts, 4096 evaluations.
    seed
        Seed of every random choice.
    n_designs
        Designs to use, by whatever method. By default 32 for Jansen (32 (k + 1) evaluations) and the published
        estimator, and as many as it takes for chaos, from 16 to `max_designs`.
    gradient
        Takes masks ``(n, k)`` and returns gradients ``(n, k)``; not needed for torch functions.
    sampler
        Design of Jansen's estimator: scrambled Halton below 128 designs and scrambled Sobol from there by default.
    confidence
        Coverage that each interval aims at.
    tolerance
        Total-variation distance at which two successive fits of the chaos agree.
    max_designs
        Where the doubling of the chaos ends, and what ``"auto"`` spends on a function that neither settles.

    Returns
    -------
    SobolIndices
        All zeros, with an interval of zero, where the function does not vary.

    Raises
    ------
    ValueError
        For a size below 1, an unknown method, ``method="chaos"`` without gradients, or values that are not finite or
        not one per mask.

    Examples
    --------
    >>> slope = np.array([3.0, 1.0, 0.0])
    >>> indices = total_sobol(lambda masks: masks @ slope, 3)
    >>> indices.total.round(6).tolist(), indices.method
    ([0.9, 0.1, 0.0], 'affine')
    """
    if n_concepts < 1:
        raise ValueError(f"n_concepts must be at least 1, got {n_concepts}")
    validate_method(method, n_designs, confidence)
    masked = MaskFunction(function, n_concepts, gradient)
    if method in ("auto", "affine"):
        slope = affine_slope(masked, seed=seed, check=method == "auto")
        if slope is not None:
            exact = closed_form(slope)
            return SobolIndices(exact, exact, exact, masked.n_evaluations, "affine", masked.n_gradients)
    if method == "craft":
        total = craft_indices(masked.values, n_concepts, n_designs=n_designs or DEFAULT_DESIGNS)[:, 0]
        none = np.full_like(total, np.nan)
        return SobolIndices(total, none, none, masked.n_evaluations, "craft", masked.n_gradients)
    used = "chaos" if method == "chaos" or (method == "auto" and _has_gradient(masked)) else "jansen"
    if used == "chaos":
        if not _has_gradient(masked):
            raise ValueError("method='chaos' needs gradients; give gradient= or a torch function, or use 'jansen'")
        estimate = chaos_indices(
            lambda masks, _: masked.values_and_gradients(masks),
            n_concepts,
            1,
            n_designs=n_designs,
            max_designs=max_designs,
            tolerance=tolerance,
            seed=seed,
        )
    else:
        estimate = _jansen(masked, n_designs or DEFAULT_DESIGNS, sampler, seed)
    if method == "auto" and n_designs is None and _is_unsettled(estimate, confidence):
        # Halton even of many points: what is left here interacts in threes, where Sobol points err in step.
        most = max(max_designs, _LEAST_EVALUATIONS // (n_concepts + 1))
        estimate, used = _jansen(masked, most, sampler or "halton", seed), "jansen"
    return _with_interval(estimate, confidence, masked, used)


def _jansen(masked: MaskFunction, n_designs: int, sampler: Sampler | None, seed: int) -> Estimate:
    return jansen_indices(masked.values, masked.n_concepts, n_designs=n_designs, sampler=sampler, seed=seed)


def _is_unsettled(estimate: Estimate, confidence: float) -> bool:
    """Whether a surrogate misses much of the function, or the sampled intervals are wide beside the indices."""
    low, high = estimate.interval(confidence)
    is_fitted = estimate.beyond[0] > 0
    half = (high - low).sum() / 2
    return bool(estimate.beyond[0] > _MOST_BEYOND if is_fitted else half > _MOST_WIDTH * estimate.total.sum())


def closed_form(effects: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the total indices ``c_i^2 / sum_j c_j^2`` of affine functions.

    Parameters
    ----------
    effects
        ``(..., k)``: change of the output as each mask goes from 0 to 1.

    Returns
    -------
    numpy.ndarray
        ``(..., k)``; zeros where all effects are 0.

    Examples
    --------
    >>> closed_form(np.array([[3.0, -1.0], [0.0, 0.0]])).round(3).tolist()
    [[0.9, 0.1], [0.0, 0.0]]
    """
    largest = np.abs(effects).max(axis=-1, keepdims=True)
    relative = np.divide(effects, largest, out=np.zeros_like(effects, dtype=np.float64), where=largest > 0)
    squares = relative**2
    whole = squares.sum(axis=-1, keepdims=True)
    return np.divide(squares, whole, out=np.zeros_like(squares), where=whole > 0)


def affine_slope(masked: MaskFunction, *, seed: int, check: bool) -> NDArray[np.float64] | None:
    """Return the effects ``(k,)`` of an affine function, or None where it is found not to be affine.

    Three evaluations on a line through the cube unmask most functions that bend. Then the effects come from the
    corners next to the origin and must predict the function at random masks. Masks are multiples of 1/256, so that
    float32 holds them and their midpoints exactly.
    """
    rng, k = np.random.default_rng(seed), masked.n_concepts
    ends = rng.integers(0, 129, size=(2, k)) * 2 / 256
    line = np.stack([ends[0], ends[1], ends.mean(axis=0)]).astype(np.float32)
    values = masked.values(line)[:, 0]
    bend = abs(values[0] + values[1] - 2 * values[2])
    if check and bend > _AFFINE_TOLERANCE * (np.ptp(values) + np.abs(values).max() / 8):
        return None
    corners = masked.values(np.concatenate([np.zeros((1, k)), np.eye(k)]).astype(np.float32))[:, 0]
    slope = corners[1:] - corners[0]
    if is_flat(corners[:, None])[0]:
        slope = np.zeros(k)
    if check:
        rest = np.concatenate([np.ones((1, k)), rng.integers(0, 257, size=(7, k)) / 256]).astype(np.float32)
        points, found = np.concatenate([line, rest]), np.concatenate([values, masked.values(rest)[:, 0]])
        error = np.abs(corners[0] + points @ slope - found).max()
        if error > _AFFINE_TOLERANCE * (np.ptp(found) + np.abs(found).max() / 8):
            return None
    return slope


def _has_gradient(masked: MaskFunction) -> bool:
    return masked.differentiable(np.full((1, masked.n_concepts), 0.5, dtype=np.float32))


def _with_interval(estimate: Estimate, confidence: float, masked: MaskFunction, method: str) -> SobolIndices:
    low, high = estimate.interval(confidence)
    return SobolIndices(estimate.total[:, 0], low[:, 0], high[:, 0], masked.n_evaluations, method, masked.n_gradients)


def validate_method(method: str, n_designs: int | None, confidence: float) -> None:
    """Raise ``ValueError`` for a method, a number of designs or a confidence that cannot be."""
    if method not in get_args(Method):
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(get_args(Method))}")
    if n_designs is not None and n_designs < 4:
        raise ValueError(f"n_designs must be at least 4, got {n_designs}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
