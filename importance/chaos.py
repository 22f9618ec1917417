"""Quadratic Legendre chaos fitted to values and gradients: total Sobol indices from few designs.

On independent masks m, uniform on [0, 1], a function is expanded in products of orthonormal Legendre polynomials
(Sudret 2008)::

    f(m) = sum_a c_a Psi_a(m),   V(f) = sum_{a != 0} c_a^2,   V S_Ti = sum_{a: a_i > 0} c_a^2

All terms up to total degree two, and those of single concepts up to degree four, are fitted by ridge regression to the
values and the mask gradients. Squares of shrunken coefficients would be too small, so each counts with its uncertainty.
What the fit leaves of the values is the variance of effects of higher order; they are shared out as what it leaves of
the gradients says, three concepts to an effect. What is so added to the squares widens the interval by as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from conceptatlas.importance.designs import design
from conceptatlas.importance.jansen import ROUNDING, Estimate, is_flat
from conceptatlas.importance.masks import Masks, Values

FIRST_DESIGNS = 8
"""Designs of the first fit; doubled until two fits agree."""

_RIDGE = 0.3
_LEAST_SCALE = 0.05
_ROUNDS = 3
_CONCEPTS_PER_EFFECT = 3.0
_DEGREE = 4


@dataclass(frozen=True)
class Basis:
    """A constant, products of two linear Legendre terms, and single-variable terms up to degree four.

    The order is: constant, k linear, k quadratic, k cubic, k quartic and ``k (k - 1) / 2`` product terms.

    Attributes
    ----------
    n_concepts
        k.
    """

    n_concepts: int

    @property
    def size(self) -> int:
        """Number of terms."""
        return 1 + _DEGREE * self.n_concepts + self.n_concepts * (self.n_concepts - 1) // 2

    def values(self, masks: Masks) -> Values:
        """Return the terms at `masks` ``(n, k)`` as ``(n, size)``."""
        x = 2.0 * masks.astype(np.float64) - 1.0
        single = [_legendre(x, degree) for degree in range(1, _DEGREE + 1)]
        first, second = np.triu_indices(self.n_concepts, k=1)
        return np.concatenate([np.ones((len(x), 1)), *single, single[0][:, first] * single[0][:, second]], axis=1)

    def slopes(self, masks: Masks, concept: int) -> Values:
        """Return the derivatives by one concept of the terms that contain it, over sqrt(12), ``(n, k + 3)``.

        So divided, a linear effect has the same size in a value and in a derivative.
        """
        x = 2.0 * masks.astype(np.float64) - 1.0
        single = [_legendre(x[:, [concept]], degree, slope=True) / np.sqrt(3.0) for degree in range(1, _DEGREE + 1)]
        return np.concatenate([*single, np.sqrt(3.0) * np.delete(x, concept, axis=1)], axis=1)

    def containing(self, concept: int) -> NDArray[np.int64]:
        """Return the numbers of the terms that contain one concept, ``(k + 3,)``, in the order of :meth:`slopes`."""
        k = self.n_concepts
        first, second = np.triu_indices(k, k=1)
        products = np.flatnonzero((first == concept) | (second == concept))
        return np.concatenate([1 + concept + k * np.arange(_DEGREE), 1 + _DEGREE * k + products])

    def prior(self, scale: Values) -> Values:
        """Return the relative expected square of each term after the linear ones, from the scales ``(k,)``.

        A product is expected to be large where both of its concepts are, and a higher degree to be smaller.
        """
        first, second = np.triu_indices(self.n_concepts, k=1)
        single = [scale**2 / (degree - 1) ** 2 for degree in range(2, _DEGREE + 1)]
        return np.concatenate([*single, scale[first] * scale[second]])


def _legendre(x: Values, degree: int, *, slope: bool = False) -> Values:
    """Return the orthonormal Legendre polynomial at x in [-1, 1], or its derivative by x."""
    coefficients = np.sqrt(2.0 * degree + 1.0) * np.eye(degree + 1)[degree]
    return legendre.legval(x, legendre.legder(coefficients) if slope else coefficients)


def fit_chaos(masks: Masks, values: Values, gradients: Values, *, n_parts: int = 8) -> Estimate:
    """Fit the chaos of B functions to values and gradients on one design, and return its total indices.

    Parameters
    ----------
    masks
        ``(n, k)`` with n at least 2.
    values, gradients
        ``(n, B)`` and ``(n, k, B)`` at those masks.
    n_parts
        Parts of the design, each left out for one replicate.

    Returns
    -------
    Estimate

    Examples
    --------
    >>> masks = design(8, 3, sampler="sobol").astype(np.float32)
    >>> slope = np.array([2.0, 1.0, 1.0])
    >>> fit = fit_chaos(masks, (masks @ slope)[:, None], np.tile(slope, (8, 1))[:, :, None])
    >>> fit.total[:, 0].round(6).tolist()
    [0.666667, 0.166667, 0.166667]
    """
    rows = _Rows.build(masks, values, gradients)
    parts = np.array_split(np.arange(len(masks)), min(n_parts, len(masks))) if n_parts else []
    gram, right = rows.normal_equations(slice(None))
    fit = _Fit.of(rows, gram, right)
    estimates = [fit.indices(fit.coefficients)]
    for part in parts:
        part_gram, part_right = rows.normal_equations(part)
        estimates.append(fit.indices(fit.solve(gram - part_gram, right - part_right)))
    stacked = np.stack(estimates)
    stacked[..., is_flat(values) & (np.abs(gradients).max(axis=(0, 1)) <= ROUNDING * np.abs(values).max(axis=0))] = 0.0
    slack = (fit.doubt() + 1e-6) * (stacked[0] > 0)
    return Estimate(total=stacked[0], replicates=stacked[1:], slack=slack, beyond=fit.share_beyond())


@dataclass(frozen=True)
class _Rows:
    """The regression: terms and their derivatives against values and gradients, each function at unit gradient."""

    basis: Basis
    terms: Values
    slopes: tuple[Values, ...]
    where: tuple[NDArray[np.int64], ...]
    values: Values
    gradients: Values
    weight: float

    @classmethod
    def build(cls, masks: Masks, values: Values, gradients: Values) -> _Rows:
        k = masks.shape[1]
        basis, every = Basis(k), range(k)
        size = np.sqrt((gradients**2).mean(axis=(0, 1)))
        size = np.where(size > 0, size, 1.0) * np.sqrt(12.0)
        return cls(
            basis,
            terms=basis.values(masks),
            slopes=tuple(basis.slopes(masks, concept) for concept in every),
            where=tuple(basis.containing(concept) for concept in every),
            values=np.sqrt(12.0) * values / size,
            gradients=gradients / size,
            # An effect of order three disturbs every value, but only three of k derivatives.
            weight=min(1.0, 3.0 / k),
        )

    @property
    def n_designs(self) -> int:
        """Number of designs, n."""
        return len(self.terms)

    def normal_equations(self, part: slice | NDArray[np.int64]) -> tuple[Values, Values]:
        """Return ``X'X`` and ``X'y`` over some of the designs; a derivative touches only k + 3 terms."""
        terms = self.terms[part]
        gram, right = self.weight * terms.T @ terms, self.weight * terms.T @ self.values[part]
        for concept, (where, slopes) in enumerate(zip(self.where, self.slopes, strict=True)):
            some = slopes[part]
            gram[np.ix_(where, where)] += some.T @ some
            right[where] += some.T @ self.gradients[part, concept]
        return gram, right

    def left_of_values(self, coefficients: Values, inverse: Values) -> Values:
        """Return the mean square that the fit leaves of the values, had each not been fitted, ``(B,)``."""
        leverage = self.weight * ((self.terms @ inverse) * self.terms).sum(axis=1)
        left = (self.values - self.terms @ coefficients) / np.maximum(1.0 - leverage, 0.1)[:, None]
        return (left**2).mean(axis=0)

    def left_of_gradients(self, coefficients: Values) -> Values:
        """Return the mean square that the fit leaves of each derivative, ``(k, B)``."""
        fitted = [slopes @ coefficients[where] for where, slopes in zip(self.where, self.slopes, strict=True)]
        return ((self.gradients - np.stack(fitted, axis=1)) ** 2).mean(axis=0)


@dataclass(frozen=True)
class _Fit:
    """A ridge regression, and the uncertainty of what it shrinks."""

    rows: _Rows
    penalty: Values
    coefficients: Values
    beyond: Values
    uncertainty: Values

    @classmethod
    def of(cls, rows: _Rows, gram: Values, right: Values) -> _Fit:
        """Fit with the ridge that makes the size of the terms and of what is left most likely (MacKay 1992)."""
        basis, k = rows.basis, rows.basis.n_concepts
        slope_squares = (rows.gradients**2).mean(axis=(0, 2))
        scale = np.sqrt(slope_squares / max(slope_squares.mean(), 1e-300))
        prior, second = basis.prior(np.maximum(scale, _LEAST_SCALE) ** 0.5), slice(k + 1, None)
        penalty = np.full(basis.size, 1e-9 * rows.n_designs)
        ridge = 2.0 * rows.n_designs * _RIDGE
        for _ in range(_ROUNDS):
            penalty[second] = ridge / prior
            inverse = np.linalg.inv(gram + np.diag(penalty))
            coefficients = inverse @ right
            n_used = (inverse * gram).sum()
            free = 1.0 - n_used / (rows.n_designs * (k + 1))
            left = rows.left_of_gradients(coefficients) / max(free, 1.0 / rows.n_designs)
            n_second = len(prior) - (penalty[second] * np.diag(inverse)[second]).sum()
            size = (coefficients[second] ** 2 / prior[:, None]).sum() / n_second
            ridge = np.clip(left.mean(axis=0).sum() / max(size, 1e-300), 1e-6, 1e6)
        uncertainty = np.diag(inverse)[:, None] * left.mean(axis=0)
        uncertainty[: k + 1] = 0.0
        most = left.sum(axis=0) / _CONCEPTS_PER_EFFECT
        variance = np.minimum(rows.left_of_values(coefficients, inverse), most)
        beyond = left * np.divide(variance, most, out=np.zeros_like(most), where=most > 0)
        return cls(rows, penalty, coefficients, beyond, uncertainty)

    def solve(self, gram: Values, right: Values) -> Values:
        """Return the coefficients ``(size, B)`` of the same regression over other rows."""
        return np.linalg.solve(gram + np.diag(self.penalty), right)

    def indices(self, coefficients: Values) -> Values:
        """Return the total indices ``(k, B)``: expected squares of the terms, and the effects of higher order."""
        squares = coefficients**2 + self.uncertainty
        effects = np.stack([squares[where].sum(axis=0) for where in self.rows.where]) + self.beyond
        return _ratio(effects, self.variance(coefficients))

    def variance(self, coefficients: Values) -> Values:
        """Return the variance of the functions, ``(B,)``."""
        within = (coefficients**2 + self.uncertainty)[1:].sum(axis=0)
        return within + self.beyond.sum(axis=0) / _CONCEPTS_PER_EFFECT

    def share_beyond(self) -> Values:
        """Return the share of the variance that the fitted terms do not explain, ``(B,)``."""
        return _ratio(self.beyond.sum(axis=0) / _CONCEPTS_PER_EFFECT, self.variance(self.coefficients))

    def doubt(self) -> Values:
        """Return what was added to the squares by expectation alone, as part of the variance, ``(k, B)``.

        The uncertainty of the terms and the effects of higher order: a concept may have none of either.
        """
        added = np.stack([self.uncertainty[where].sum(axis=0) for where in self.rows.where]) + self.beyond
        return _ratio(added, self.variance(self.coefficients))


def _ratio(part: Values, whole: Values) -> Values:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def chaos_indices(
    evaluate: Callable[[Masks, NDArray[np.int64]], tuple[Values, Values]],
    n_concepts: int,
    n_functions: int,
    *,
    n_designs: int | None,
    max_designs: int,
    tolerance: float,
    seed: int,
) -> Estimate:
    """Double one shared design until two successive fits agree, for each of B functions.

    Parameters
    ----------
    evaluate
        Takes masks ``(n, k)`` and the numbers of the functions still open ``(b,)``; returns values ``(n, b)`` and
        gradients ``(n, k, b)``.
    n_concepts, n_functions
        k and B.
    n_designs
        A fixed size, or None to start at 8 and double at least once.
    max_designs
        Where doubling ends.
    tolerance
        Total-variation distance between the normalised indices of two fits at which they agree.
    seed
        Seed of the scrambled Sobol points.

    Returns
    -------
    Estimate
        Each function's last fit; half its distance from the fit on half of the designs widens the interval.
    """
    most = n_designs or max(max_designs, 2)
    points = design(most, n_concepts, sampler="sobol", seed=seed).astype(np.float32)
    size, active = min(FIRST_DESIGNS, most // 2) if n_designs is None else most // 2, np.arange(n_functions)
    values, gradients = evaluate(points[:size], active)
    latest = fit_chaos(points[:size], values, gradients, n_parts=0)
    replicates = np.zeros((8, *latest.total.shape))
    result = Estimate(latest.total.copy(), replicates, latest.slack.copy(), latest.beyond.copy())
    while size < most and len(active):
        reach = most if n_designs is not None else min(2 * size, most)
        more_values, more_gradients = evaluate(points[size:reach], active)
        values, gradients = np.concatenate([values, more_values]), np.concatenate([gradients, more_gradients])
        size = reach
        fit = fit_chaos(points[:size], values, gradients)
        moved = np.abs(fit.total - latest.total)
        result.total[:, active], result.replicates[..., active] = fit.total, fit.replicates
        result.slack[:, active], result.beyond[active] = fit.slack + moved / 2, fit.beyond
        open_still = distance(fit.total, latest.total) > tolerance
        values, gradients = values[:, open_still], gradients[..., open_still]
        active, latest = active[open_still], fit.select(open_still)
    return result


def distance(first: Values, second: Values) -> Values:
    """Return the total-variation distance of normalised indices ``(k, B)``, column by column, ``(B,)``.

    Examples
    --------
    >>> distance(np.array([[1.0], [0.0]]), np.array([[0.5], [0.5]])).tolist()
    [0.5]
    """
    return np.abs(_normalised(first) - _normalised(second)).sum(axis=0) / 2


def _normalised(total: Values) -> Values:
    return _ratio(total, total.sum(axis=0))
