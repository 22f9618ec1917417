"""Quality of a factorization A ~ U W: reconstruction, sparsity, stability, coherence. Pure functions.

Each docstring says which way is better, and `HIGHER_IS_BETTER` says it for programs, for the probes of `probes` too.
Formulas as in Fel et al., "A holistic approach to unifying automatic concept extraction", NeurIPS 2023, unless said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from conceptatlas.concepts.probes import iis, learnability, linear_faithfulness
from conceptatlas.concepts.rows import as_tensor
from conceptatlas.extraction.errors import UserError

__all__ = [
    "HIGHER_IS_BETTER",
    "Coherence",
    "coherence",
    "coherence_against_chance",
    "concept_sparsity",
    "frechet",
    "hoyer",
    "iis",
    "learnability",
    "linear_faithfulness",
    "match_components",
    "perturbation_stability",
    "r2",
    "relative_l2",
    "stability",
]

HIGHER_IS_BETTER: dict[str, bool] = {
    "relative_l2": False,
    "r2": True,
    "hoyer": True,
    "stability": True,
    "coherence": True,
    "coherence_against_chance": True,
    "frechet": False,
    "perturbation_stability": False,
    "concept_sparsity": True,
    "linear_faithfulness": True,
    "learnability": True,
    "iis": True,
}


def relative_l2(A: Any, reconstruction: Any) -> float:
    """Mean over rows of ``|a - a^| / |a|``, in [0, inf). Lower is better. Rows of zeros are left out.

    >>> relative_l2(np.array([[3.0, 4.0]]), np.array([[3.0, 0.0]]))
    0.8
    """
    A, R = _pair(A, reconstruction)
    norms = np.linalg.norm(A, axis=1)
    used = norms > 0
    if not used.any():
        return float("nan")
    return float(np.mean(np.linalg.norm(A[used] - R[used], axis=1) / norms[used]))


def r2(A: Any, reconstruction: Any) -> float:
    """Return ``1 - |A - A^|^2 / |A - mean|^2``, at most 1. Higher is better. NaN for constant activations.

    >>> r2(np.array([[0.0], [2.0]]), np.array([[0.0], [2.0]]))
    1.0
    """
    A, R = _pair(A, reconstruction)
    spread = float(np.square(A - A.mean(axis=0)).sum())
    return 1.0 - float(np.square(A - R).sum()) / spread if spread > 0 else float("nan")


def hoyer(U: Any) -> float:
    """Mean Hoyer sparsity of the rows of U (n, k), in [0, 1]: 0 when all are equal, 1 for one-hot. Higher is sparser.

    ``(sqrt(k) - |u|_1 / |u|_2) / (sqrt(k) - 1)`` (Hoyer, JMLR 2004); rows of zeros are left out, k = 1 gives 1.

    >>> hoyer(np.array([[0.0, 3.0], [0.0, 1.0]]))
    1.0
    """
    U = _array(U)
    norms = np.linalg.norm(U, axis=1)
    U, norms = U[norms > 0], norms[norms > 0]
    if not len(U):
        return float("nan")
    if U.shape[1] == 1:
        return 1.0
    root = np.sqrt(U.shape[1])
    return float(np.mean((root - np.abs(U).sum(axis=1) / norms) / (root - 1)))


def match_components(W: Any, other: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match two dictionaries one to one by greatest total cosine (Hungarian).

    Returns
    -------
    rows, columns, cosine
        Indices into ``W`` (k, p) and ``other`` (m, p), and the cosine of each of the min(k, m) pairs, in [-1, 1].

    Examples
    --------
    >>> rows, columns, cosine = match_components(np.eye(2), np.eye(2)[::-1])
    >>> columns, cosine
    (array([1, 0]), array([1., 1.]))
    """
    W, V = _unit(_array(W)), _unit(_array(other))
    if W.shape[1] != V.shape[1]:
        raise UserError(f"Dictionaries of {W.shape[1]} and {V.shape[1]} features cannot be matched by cosine.")
    cosine = W @ V.T
    rows, columns = linear_sum_assignment(-cosine)
    return rows, columns, cosine[rows, columns]


def stability(W: Any, other: Any) -> float:
    """Mean cosine of matched components of two dictionaries, in [-1, 1], 1 for the same. Higher is better.

    Fit the two on disjoint halves of the images: NMF starts from the data, so seeds alone show nothing.

    >>> round(stability(np.eye(3), np.eye(3)[[2, 0, 1]]), 6)
    1.0
    """
    return float(match_components(W, other)[2].mean())


def coherence(embeddings: Any, weights: Any = None) -> float:
    """Mean cosine over pairs of rows, weighted by the products of their weights, in [-1, 1]. Higher is better.

    ``sum_{n<m} a_n a_m cos(e_n, e_m) / sum_{n<m} a_n a_m``: the monosemanticity score of Pach et al. (2504.02821), for
    embeddings of the images (or crops) of a concept in any image encoder. NaN for fewer than two rows with weight.

    >>> coherence(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([1.0, 1.0, 0.0]))
    1.0
    """
    E = _unit(_array(embeddings))
    a = np.ones(len(E)) if weights is None else _array(weights)
    pairs = a.sum() ** 2 - np.square(a).sum()
    if pairs <= 1e-12 * max(a.sum() ** 2, 1e-300):
        return float("nan")
    together = a @ E
    return float((together @ together - np.square(a[:, None] * E).sum()) / pairs)


@dataclass(frozen=True)
class Coherence:
    """Coherence of each concept, of the same weights dealt to random rows, and the share of those at least as coherent.

    ``value``, ``chance`` (mean of the draws) and ``p_value`` are arrays (k,).
    """

    value: np.ndarray
    chance: np.ndarray
    p_value: np.ndarray


def coherence_against_chance(embeddings: Any, U: Any, *, n_draws: int = 100, seed: int = 0) -> Coherence:
    """Measure the coherence of every concept against its coefficients dealt to random rows. Above chance is better.

    Parameters
    ----------
    embeddings
        (n, d) embeddings of the rows by any image encoder, best one that is independent of the model.
    U
        Coefficients (n, k), not negative.
    n_draws
        Permutations; the p-value is at least 1 / (n_draws + 1).
    seed
        Seed of the permutations, which all concepts share.

    Examples
    --------
    >>> E = np.repeat(np.eye(2), 20, axis=0)
    >>> found = coherence_against_chance(E, np.repeat(np.eye(2)[:, :1], 20, axis=0), n_draws=99)
    >>> round(float(found.value[0]), 3), float(found.p_value[0])
    (1.0, 0.01)
    """
    E, U = _array(embeddings), _array(U)
    rng = np.random.default_rng(seed)
    value = np.array([coherence(E, u) for u in U.T])
    orders = [rng.permutation(len(E)) for _ in range(n_draws)]
    draws = np.array([[coherence(E, u[order]) for u in U.T] for order in orders])
    p_value = (1 + (draws >= value - 1e-12).sum(axis=0)) / (n_draws + 1)
    return Coherence(value, draws.mean(axis=0), p_value)


def frechet(A: Any, reconstruction: Any) -> float:
    """Frechet distance of Gaussians fitted to the rows of A and of its reconstruction, at least 0. Lower is better.

    ``|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2))``, in squared units of the activations.

    >>> frechet(np.eye(3), np.eye(3) + 1.0)
    3.0
    """
    A, R = _array(A), _array(reconstruction)
    if A.shape[1] != R.shape[1] or min(len(A), len(R)) < 2:
        raise UserError(f"Distributions of shapes {A.shape} and {R.shape} need the same features and two rows each.")
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (A, R))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)).sum()
    shift = float(np.square(A.mean(axis=0) - R.mean(axis=0)).sum())
    return max(0.0, round(shift + float(np.trace(first) + np.trace(second) - 2 * cross), 12))


def perturbation_stability(U: Any, perturbed: Any) -> float:
    """Mean over rows of ``|u - u'| / |u|`` for the same images slightly changed, in [0, inf). Lower is better.

    PACE's stability (Wang et al., ICML 2024). Rows of zeros are left out.

    >>> perturbation_stability(np.array([[3.0, 4.0]]), np.array([[3.0, 3.0]]))
    0.2
    """
    return relative_l2(U, perturbed)


def concept_sparsity(U: Any) -> float:
    """Share of concepts with less than a tenth of an equal share (0.1 / k), in [0, 1], mean of rows. Higher is better.

    PACE's sparsity: coefficients are taken by size and normalised to sum 1. Rows of zeros are left out.

    >>> concept_sparsity(np.array([[1.0, 0.0, 0.0, 0.0]]))
    0.75
    """
    U = np.abs(_array(U))
    totals = U.sum(axis=1, keepdims=True)
    U, totals = U[totals[:, 0] > 0], totals[totals[:, 0] > 0]
    return float((U / totals < 0.1 / U.shape[1]).mean()) if len(U) else float("nan")


def _array(x: Any) -> np.ndarray:
    return as_tensor(x).cpu().numpy().astype(np.float64, copy=False)


def _pair(A: Any, reconstruction: Any) -> tuple[np.ndarray, np.ndarray]:
    A, R = _array(A), _array(reconstruction)
    if A.shape != R.shape:
        raise UserError(f"Activations {A.shape} and their reconstruction {R.shape} must have one shape.")
    return A, R


def _unit(W: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(W, axis=1, keepdims=True)
    return W / np.where(norms > 0, norms, 1)
