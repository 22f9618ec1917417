"""Jansen's estimator of total Sobol indices, for functions that cannot be differentiated.

With base masks A and C(i), which is A with column i redrawn, the total index is (Jansen 1999)::

    S_Ti = E[(f(A) - f(C(i)))^2] / (2 V(f))

Both expectations are estimated with the linear part of f as a control: where f is affine the estimate is exact at any
size, and elsewhere only what is not linear is left to chance. The masks B, from which the redrawn columns come, are
never evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conceptatlas.importance.designs import PickFreeze, Sampler, design, pick_freeze
from conceptatlas.importance.intervals import jackknife_error, student_quantile
from conceptatlas.importance.masks import Masks, Values

_UNIFORM_VARIANCE = 1.0 / 12.0
ROUNDING = 2.0**-20
"""Spread below this share of a function's size is the rounding of float32, not an effect."""

_MOST_PARTS = 64


@dataclass(frozen=True)
class Estimate:
    """Total indices of B functions, and what they would have been without each part of the design.

    Attributes
    ----------
    total
        ``(k, B)``.
    replicates
        ``(R, k, B)``: the same with one of R parts of the design left out.
    slack
        ``(k, B)``: half-width that is added to the interval for what leaving out parts cannot show.
    beyond
        ``(B,)``: share of the variance that a fitted surrogate does not explain and is shared out by a guess.
    """

    total: Values
    replicates: Values
    slack: Values
    beyond: Values

    def select(self, columns: NDArray[np.bool_]) -> Estimate:
        """Return the estimate of some of the functions."""
        return Estimate(
            self.total[:, columns], self.replicates[..., columns], self.slack[:, columns], self.beyond[columns]
        )

    def standard_error(self) -> Values:
        """Return the jackknife standard error, ``(k, B)``."""
        return jackknife_error(self.replicates)

    def interval(self, confidence: float) -> tuple[Values, Values]:
        """Return the lower and upper ends ``(k, B)`` of an interval around the estimate, within [0, 1].

        Student's on the scale of the index below it and on that of its logarithm above: the estimates are skewed, more
        often too low than too high.
        """
        half = student_quantile(confidence, len(self.replicates) - 1) * self.standard_error()
        relative = np.divide(half, self.total, out=np.zeros_like(half), where=self.total > 0)
        above = self.total * np.exp(np.minimum(relative, 3.0)) + self.slack
        return np.maximum(self.total - half - self.slack, 0.0), np.maximum(np.minimum(above, 1.0), self.total)


def is_flat(values: Values) -> NDArray[np.bool_]:
    """Say which columns of values ``(n, B)`` do not vary beyond the rounding of float32, ``(B,)``."""
    return np.ptp(values, axis=0) <= ROUNDING * np.abs(values).max(axis=0)


def jansen_indices(
    function: Callable[[Masks], Values], n_concepts: int, *, n_designs: int, sampler: Sampler | None, seed: int
) -> Estimate:
    """Estimate the total indices of B functions on one design.

    Parameters
    ----------
    function
        Takes masks ``(n, k)`` and returns values ``(n, B)``; called with all ``n_designs (k + 1)`` masks at once.
    n_concepts, n_designs
        k, and the number of base masks; at least 4.
    sampler, seed
        As for :func:`conceptatlas.importance.designs.pick_freeze`.

    Returns
    -------
    Estimate
        With a replicate per base mask, or per part of the design where there are more than 64.

    Examples
    --------
    >>> estimate = jansen_indices(lambda masks: masks.sum(1, keepdims=True), 4, n_designs=8, sampler=None, seed=0)
    >>> estimate.total[:, 0].round(3).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    if n_designs < 4:
        raise ValueError(f"Jansen's estimator needs at least 4 designs, got {n_designs}")
    points = pick_freeze(n_designs, n_concepts, sampler=sampler, seed=seed)
    values = function(points.rows())
    n_parts = min(n_designs, _MOST_PARTS)
    kept = np.concatenate([np.ones((1, n_designs)), np.arange(n_parts)[:, None] != np.arange(n_designs) % n_parts])
    estimates = _controlled(points, values, kept / kept.sum(axis=1, keepdims=True))
    estimates[..., is_flat(values)] = 0.0
    total = estimates[0]
    return Estimate(total, replicates=estimates[1:], slack=1e-6 * (total > 0), beyond=np.zeros(total.shape[1]))


def _controlled(points: PickFreeze, values: Values, weights: Values) -> Values:
    """Return the estimates under each row of `weights` ``(R, n)`` over the base masks, ``(R, k, B)``."""
    n, k = points.base.shape
    base, swapped = values[:n], values[n:].reshape(k, n, -1).swapaxes(0, 1)
    change, step = base[:, None] - swapped, points.steps[:, :, None]

    def mean(rows: Values) -> Values:
        return np.tensordot(weights, rows, axes=1)

    slope = mean(change * step) / mean(step**2)
    effect = _partial_variance(change, step, mean)
    position = points.base.astype(np.float64) - 0.5
    left = base[None] - np.einsum("nk,rkb->rnb", position, slope)
    left = left - np.einsum("rn,rnb->rb", weights, left)[:, None]
    size = 1.0 / (weights**2).sum(axis=1, keepdims=True)
    beyond = np.einsum("rn,rnb->rb", weights, left**2) * size / (size - 1.0)
    variance = (slope**2).sum(axis=1) * _UNIFORM_VARIANCE + beyond
    return np.divide(effect, variance[:, None], out=np.zeros_like(effect), where=variance[:, None] > 0)


def _partial_variance(change: Values, step: Values, mean: Callable[[Values], Values]) -> Values:
    """Return half the mean squared change, with the squared step (mean 1/6) as control variate, ``(R, k, B)``."""
    half_change, half_step = change**2 / 2, step**2 / 2
    change_mean, step_mean = mean(half_change), mean(half_step)
    step_variance = mean(half_step**2) - step_mean**2
    covariance = mean(half_change * half_step) - change_mean * step_mean
    return np.maximum(change_mean - covariance / step_variance * (step_mean - _UNIFORM_VARIANCE), 0.0)


def craft_indices(function: Callable[[Masks], Values], n_concepts: int, *, n_designs: int) -> Values:
    """Return the total indices ``(k, B)`` as the published CRAFT code estimates them.

    Unscrambled Halton points in 2k dimensions, Jansen's formula, sample variance; the masks B are evaluated and not
    used, as there. For comparison alone: beyond about ten concepts the result depends on the concept's number.

    Examples
    --------
    >>> total = craft_indices(lambda masks: masks.sum(1, keepdims=True), 25, n_designs=32)[:, 0]
    >>> bool(total.max() / total.min() > 10)  # although all 25 are equal
    True
    """
    points = design(n_designs, 2 * n_concepts, sampler="halton-unscrambled").astype(np.float32)
    halves = PickFreeze(points[:, :n_concepts], points[:, n_concepts:])
    rows = halves.rows()
    values = function(np.concatenate([rows, halves.other]))[: len(rows)]
    base = values[:n_designs]
    change = base[None] - values[n_designs:].reshape(n_concepts, n_designs, -1)
    variance = base.var(axis=0, ddof=1)
    variance[is_flat(values)] = np.inf
    return (change**2).mean(axis=1) / (2 * variance)
