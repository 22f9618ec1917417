"""Designs: point sets in the unit cube at which a function of concept masks is evaluated."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Sampler = Literal["halton", "latin", "sobol", "halton-unscrambled"]
"""Names of the designs that :func:`design` knows."""

SOBOL_FROM = 128
"""Designs of fewer points than this are scrambled Halton: Sobol points need more to fill fifty dimensions."""


def design(n_points: int, dimension: int, *, sampler: Sampler, seed: int = 0) -> NDArray[np.float64]:
    """Return `n_points` masks in ``[0, 1]^dimension``.

    Parameters
    ----------
    n_points, dimension
        Both at least 1.
    sampler
        ``"halton"`` (digits scrambled by Owen's permutations), ``"latin"`` (Latin hypercube), ``"sobol"`` (scrambled
        Sobol points) or ``"halton-unscrambled"``, which degenerates into straight lines where a prime base exceeds
        `n_points` and exists for comparison alone.
    seed
        Seed of the scrambling.

    Returns
    -------
    numpy.ndarray
        ``(n_points, dimension)``, float64. Every scrambled design is uniform in each coordinate.

    Raises
    ------
    ValueError
        For a size below 1 or an unknown sampler.

    Examples
    --------
    >>> points = design(64, 3, sampler="latin", seed=0)
    >>> sorted((points[:, 0] * 64).astype(int)) == list(range(64))
    True
    """
    if n_points < 1 or dimension < 1:
        raise ValueError(f"a design needs at least one point and one dimension, got {n_points} and {dimension}")
    from scipy.stats import qmc  # takes about a second to import

    match sampler:
        case "halton":
            engine = qmc.Halton(dimension, scramble=True, seed=np.random.default_rng(seed))
        case "latin":
            engine = qmc.LatinHypercube(dimension, seed=np.random.default_rng(seed))
        case "sobol":
            engine = qmc.Sobol(dimension, scramble=True, seed=np.random.default_rng(seed))
        case "halton-unscrambled":
            engine = qmc.Halton(dimension, scramble=False)
        case _:
            raise ValueError(f"unknown sampler {sampler!r}; choose halton, latin, sobol or halton-unscrambled")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The balance properties of Sobol", category=UserWarning)
        return np.asarray(engine.random(n_points), dtype=np.float64)


def pick_freeze(n_points: int, n_concepts: int, *, sampler: Sampler | None = None, seed: int = 0) -> PickFreeze:
    """Return the two independent halves of a pick-and-freeze design.

    Parameters
    ----------
    n_points
        Rows of each half.
    n_concepts
        Columns of each half, k.
    sampler
        By default scrambled Halton below 128 points and scrambled Sobol from there.
    seed
        Seed of the scrambling.

    Returns
    -------
    PickFreeze
        The base masks and those whose columns replace the base's, one at a time.

    Examples
    --------
    >>> pick_freeze(8, 3).swapped(1).shape
    (8, 3)
    """
    chosen: Sampler = sampler or ("halton" if n_points < SOBOL_FROM else "sobol")
    points = design(n_points, 2 * n_concepts, sampler=chosen, seed=seed).astype(np.float32)
    return PickFreeze(points[:, :n_concepts], points[:, n_concepts:])


class PickFreeze:
    """Base masks ``(n, k)`` and the same with one column at a time taken from other masks."""

    def __init__(self, base: NDArray[np.float32], other: NDArray[np.float32]) -> None:
        self.base = base
        self.other = other

    @property
    def steps(self) -> NDArray[np.float64]:
        """``(n, k)``: how far each swap moves its column, base minus other."""
        return self.base.astype(np.float64) - self.other.astype(np.float64)

    def swapped(self, concept: int) -> NDArray[np.float32]:
        """Return the base masks with column `concept` taken from the others, ``(n, k)``."""
        masks = self.base.copy()
        masks[:, concept] = self.other[:, concept]
        return masks

    def rows(self) -> NDArray[np.float32]:
        """Return all masks to evaluate: the base, then each swap, ``((k + 1) n, k)``."""
        return np.concatenate([self.base, *(self.swapped(i) for i in range(self.base.shape[1]))])
