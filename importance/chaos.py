"""Legendre chaos fitted to values and gradients: total Sobol indices from few designs.

On independent masks m, uniform on [0, 1], a function is expanded in products of orthonormal Legendre polynomials
(Sudret 2008)::

    f(m) = sum_a c_a Psi_a(m),   V(f) = sum_{a != 0} c_a^2,   V S_Ti = sum_{a: a_i > 0} c_a^2

Products of two linear terms, and single-variable terms up to degree four, are fitted to the values and the mask
gradients by Bayesian regression. How large the terms of each concept are, and how much of its derivatives and of the
values the terms cannot follow, is taken from the fit itself and the fit repeated (automatic relevance determination and
evidence, MacKay 1992): a head that saturates in one concept has derivatives of it that tell little, and those of the
others still count. Squares of shrunken coefficients would be too small, so each counts with its uncertainty. What the
fit leaves of the values is the variance of effects of higher order, three concepts to an effect; the concepts take part
in them as they do in what was found. The interval widens by the uncertainty, and by what the effects of higher order
would be if they were as what the fit leaves of the gradients says.
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

N_PARTS = 8
"""Parts of a design, each left out once: as many replicates of the indices."""

_ROUNDS = 3  # of the fit, each with what the last one says of sizes and noise
_PRODUCTS = 3.0  # expected square of a product of two linear terms, over that of the linear ones and over k
_VALUE_NOISE, _SLOPE_NOISE = 0.05, 0.2  # shares of the squares that the first round takes for noise
_LEAST = 1e-10  # noise, and squares of terms, never count as less than this share of the signal
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

    def prior(self, squares: Values) -> Values:
        """Return the expected square of each term, from the squares of the linear terms ``(k,)``.

        A product is expected to be large where both of its concepts are, and a higher degree to be smaller.
        """
        first, second = np.triu_indices(self.n_concepts, k=1)
        single = [squares / degree**2 for degree in range(1, _DEGREE + 1)]
        products = _PRODUCTS / self.n_concepts * np.sqrt(squares[first] * squares[second])
        return np.concatenate([*single, products])

    def squares(self, expected: Values) -> Values:
        """Return the squares of the linear terms ``(k,)`` that fit those of all single-variable terms."""
        single = expected[1 : 1 + _DEGREE * self.n_concepts].reshape(_DEGREE, self.n_concepts)
        return (single * (np.arange(1, _DEGREE + 1) ** 2)[:, None]).mean(axis=0)


def _legendre(x: Values, degree: int, *, slope: bool = False) -> Values:
    """Return the orthonormal Legendre polynomial at x in [-1, 1], or its derivative by x."""
    coefficients = np.sqrt(2.0 * degree + 1.0) * np.eye(degree + 1)[degree]
    return legendre.legval(x, legendre.legder(coefficients) if slope else coefficients)


def fit_chaos(masks: Masks, values: Values, gradients: Values, *, n_parts: int = N_PARTS) -> Estimate:
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
    rows = _Rows.of(masks)
    parts = np.array_split(np.arange(len(masks)), min(n_parts, len(masks))) if n_parts else []
    flat = is_flat(values) & (np.abs(gradients).max(axis=(0, 1)) <= ROUNDING * np.abs(values).max(axis=0))
    n_functions, k = values.shape[1], masks.shape[1]
    total, slack, beyond = np.zeros((k, n_functions)), np.zeros((k, n_functions)), np.zeros(n_functions)
    replicates = np.zeros((len(parts), k, n_functions))
    for one in np.flatnonzero(~flat):
        fit = _Fit.of(rows, *_scaled(values[:, one], gradients[..., one]))
        total[:, one], beyond[one] = fit.indices(fit.coefficients), fit.share_beyond()
        slack[:, one] = (fit.doubt() + 1e-6) * (total[:, one] > 0)
        for number, part in enumerate(parts):
            replicates[number, :, one] = fit.indices(fit.without(part))
    return Estimate(total=total, replicates=replicates, slack=slack, beyond=beyond)


def _scaled(values: Values, gradients: Values) -> tuple[Values, Values]:
    """Values and derivatives about the mean, in units in which a linear term counts the same in both."""
    centred, slopes = values.astype(np.float64) - values.mean(), gradients.astype(np.float64) / np.sqrt(12.0)
    size = np.sqrt(max((slopes**2).sum(axis=1).mean(), (centred**2).mean()))
    return centred / size, slopes / size


@dataclass(frozen=True)
class _Rows:
    """The regression's terms and their derivatives on one design, and their products."""

    basis: Basis
    terms: Values
    slopes: tuple[Values, ...]
    where: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, masks: Masks) -> _Rows:
        k = masks.shape[1]
        basis = Basis(k)
        return cls(
            basis,
            terms=basis.values(masks),
            slopes=tuple(basis.slopes(masks, concept) for concept in range(k)),
            where=tuple(basis.containing(concept) for concept in range(k)),
        )

    def gram(self, part: slice | NDArray[np.int64], noise: _Noise) -> Values:
        """Return ``X'X`` over the noise, for some of the designs; a derivative touches only k + 3 terms."""
        terms = self.terms[part]
        gram = terms.T @ terms / noise.values
        for where, slopes, variance in zip(self.where, self.slopes, noise.gradients, strict=True):
            gram[np.ix_(where, where)] += slopes[part].T @ slopes[part] / variance
        return gram

    def right(self, part: slice | NDArray[np.int64], values: Values, gradients: Values, noise: _Noise) -> Values:
        """Return ``X'y`` over the noise, for some of the designs."""
        right = self.terms[part].T @ values[part] / noise.values
        for concept, (where, slopes) in enumerate(zip(self.where, self.slopes, strict=True)):
            right[where] += slopes[part].T @ gradients[part, concept] / noise.gradients[concept]
        return right

    def left_of_gradients(self, gradients: Values, coefficients: Values) -> Values:
        """Return the mean square that the fit leaves of each derivative, ``(k,)``."""
        fitted = [slopes @ coefficients[where] for where, slopes in zip(self.where, self.slopes, strict=True)]
        return ((gradients - np.stack(fitted, axis=1)) ** 2).mean(axis=0)


@dataclass(frozen=True)
class _Noise:
    """Variance of what the terms cannot follow: of the values, and of each derivative ``(k,)``."""

    values: float
    gradients: Values


@dataclass(frozen=True)
class _Fit:
    """The chaos of one function, and the uncertainty of its terms."""

    rows: _Rows
    values: Values
    gradients: Values
    noise: _Noise
    prior: Values
    coefficients: Values
    uncertainty: Values
    beyond: Values

    @classmethod
    def of(cls, rows: _Rows, values: Values, gradients: Values) -> _Fit:
        """Fit, take sizes and noise from the fit, and fit again."""
        n, k = gradients.shape
        squares = np.full(k, max((values**2).mean(), _LEAST) / k)
        noise = _Noise(_VALUE_NOISE * k * squares[0], _SLOPE_NOISE * (gradients**2).mean(axis=0) + _LEAST)
        everything = slice(None)
        for _ in range(_ROUNDS):
            prior = np.concatenate([[1e6], rows.basis.prior(squares)])
            scale = np.sqrt(prior)  # the regression in units of its prior is well conditioned
            gram = scale[:, None] * rows.gram(everything, noise) * scale
            inverse = scale[:, None] * np.linalg.inv(gram + np.eye(len(gram))) * scale
            coefficients = inverse @ rows.right(everything, values, gradients, noise)
            uncertainty = np.diag(inverse).copy()
            uncertainty[0] = 0.0
            left = values - rows.terms @ coefficients
            used = ((rows.terms @ inverse) * rows.terms).sum(axis=1) / noise.values
            squares = np.maximum(rows.basis.squares(coefficients**2 + uncertainty), _LEAST)
            noise = _Noise(
                max(float((left**2).sum() / max(n - used.sum(), 1.0)), _LEAST),
                rows.left_of_gradients(gradients, coefficients) + _LEAST,
            )
        most = noise.gradients.sum() / _CONCEPTS_PER_EFFECT
        variance = min(float(((left / np.maximum(1.0 - used, 0.1)) ** 2).mean()), most)
        beyond = noise.gradients * variance / most
        return cls(rows, values, gradients, noise, prior, coefficients, uncertainty, beyond)

    def without(self, part: NDArray[np.int64]) -> Values:
        """Return the coefficients of the same regression without some of the designs."""
        rest = np.setdiff1d(np.arange(len(self.values)), part)
        scale = np.sqrt(self.prior)
        gram = scale[:, None] * self.rows.gram(rest, self.noise) * scale
        right = scale * self.rows.right(rest, self.values, self.gradients, self.noise)
        return scale * np.linalg.solve(gram + np.eye(len(gram)), right)

    def indices(self, coefficients: Values) -> Values:
        """Return the total indices ``(k,)``: expected squares of the terms, and the effects of higher order."""
        squares = coefficients**2 + self.uncertainty
        effects = np.array([squares[where].sum() for where in self.rows.where])
        return effects * (1.0 + self.beyond.sum() / effects.sum()) / self.variance(coefficients)

    def variance(self, coefficients: Values) -> float:
        """Return the variance of the function."""
        within = (coefficients**2 + self.uncertainty)[1:].sum()
        return float(within + self.beyond.sum() / _CONCEPTS_PER_EFFECT)

    def share_beyond(self) -> float:
        """Return the share of the variance that the fitted terms do not explain."""
        return float(self.beyond.sum() / _CONCEPTS_PER_EFFECT / self.variance(self.coefficients))

    def doubt(self) -> Values:
        """Return what a concept may have beside the squares of its terms, as part of the variance, ``(k,)``."""
        added = np.array([self.uncertainty[where].sum() for where in self.rows.where]) + self.beyond
        return added / self.variance(self.coefficients)


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
    replicates = np.zeros((min(N_PARTS, most), *latest.total.shape))
    result = Estimate(latest.total.copy(), replicates, latest.slack.copy(), latest.beyond.copy())
    while size < most and len(active):
        reach = most if n_designs is not None or most < 2 * FIRST_DESIGNS else min(2 * size, most)
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
