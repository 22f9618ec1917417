"""How many concepts: held-out reconstruction, prediction kept and stability over k, and the rule that chooses."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning

from conceptatlas.concepts.estimator import Factorizer
from conceptatlas.concepts.factorizers import make_factorizer
from conceptatlas.concepts.quality import stability
from conceptatlas.concepts.rows import as_tensor
from conceptatlas.extraction.errors import UserError

logger = logging.getLogger(__name__)

CANDIDATES = (3, 5, 8, 12, 16, 20, 25, 32)
MOST_CONCEPTS = 32  # what people can take in (Ramaswamy et al., "Overlooked factors", CVPR 2023)
_MAX_ROWS = 4000
NEAR_BEST = 0.98


@dataclass(frozen=True)
class KChoice:
    """The number of concepts chosen, and the curve it was chosen from.

    ``curve`` has one row per candidate: n_components, relative_error (held out, |A - U W| / |A|), explained
    (1 - relative_error^2), stability (two disjoint halves, Hungarian cosine), kept (share of predictions, NaN without
    ``keep``) and score.
    """

    n_components: int
    curve: pd.DataFrame


def choose_n_components(
    A: Any,
    *,
    candidates: Sequence[int] = CANDIDATES,
    seed: int = 0,
    factorizer: str | Callable[[int, int], Factorizer] = "auto",
    groups: Any = None,
    keep: Callable[[np.ndarray], float] | None = None,
) -> KChoice:
    """Choose k: the smallest candidate whose score is within 2 % of the best, score = explained x stability (x kept).

    The rows (at most 4000 of them, drawn by seed) are split in two halves, whole groups together. For every candidate
    both halves are factorized; each dictionary reconstructs the half it has not seen (explained), and the two are
    matched by cosine (stability). All terms are ratios, so that the choice does not depend on the scale of A. More
    concepts reconstruct better, fewer are more stable; where the data hold k directions, the score peaks there.

    Parameters
    ----------
    A
        Activations (n, p), array or tensor.
    candidates
        Numbers of concepts to try; those above 32, above p or above the smaller half are left out.
    seed
        Seed of the draw, of the split and of the factorizers.
    factorizer
        A name for `make_factorizer`, or ``(k, seed) -> factorizer``.
    groups
        Group (image) of each row, (n,); rows of one group fall in one half.
    keep
        ``A_hat (n, p) -> share`` of predictions kept in [0, 1] when A is replaced by its held-out reconstruction.

    Raises
    ------
    UserError
        If A has fewer than two rows (or groups).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> A = rng.gamma(0.5, size=(400, 5)) @ np.kron(np.eye(5), np.ones((1, 8)))
    >>> choose_n_components(A, candidates=(2, 3, 5, 8)).n_components
    5
    """
    A = as_tensor(A).cpu().numpy()
    first, second = _halves(A, groups, seed)
    build = _builder(factorizer, A[np.concatenate([first, second])])
    usable = [k for k in sorted(set(candidates)) if 1 <= k <= min(len(first), len(second), A.shape[1], MOST_CONCEPTS)]
    rows = [_measure(A, (first, second), k, seed, build, keep) for k in usable or [1]]
    curve = pd.DataFrame(rows)
    sizes, scores = curve["n_components"].to_numpy(), curve["score"].to_numpy()
    near = scores >= NEAR_BEST * np.nanmax(scores)
    chosen = int(sizes[near].min() if near.any() else sizes.min())
    logger.info("n_components 'auto': %d of %s", chosen, list(curve["n_components"]))
    return KChoice(chosen, curve)


def _halves(A: np.ndarray, groups: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows and split them in two, whole groups together; return two sorted index arrays."""
    rng = np.random.default_rng(seed)
    group = np.arange(len(A)) if groups is None else np.asarray(groups)
    if len(group) != len(A):
        raise UserError(f"groups has {len(group)} entries for {len(A)} rows of activations: give one group per row.")
    names, member = np.unique(group, return_inverse=True)
    if len(names) < 2:
        raise UserError(f"Choosing n_components needs rows of at least 2 images, got {len(names)}: set n_components.")
    side = np.zeros(len(names), dtype=bool)
    side[rng.permutation(len(names))[: len(names) // 2]] = True
    picked = np.sort(rng.permutation(len(A))[:_MAX_ROWS])
    first, second = picked[side[member[picked]]], picked[~side[member[picked]]]
    if len(first) and len(second):
        return first, second
    return np.flatnonzero(side[member])[:_MAX_ROWS], np.flatnonzero(~side[member])[:_MAX_ROWS]


def _builder(factorizer: str | Callable[[int, int], Factorizer], A: np.ndarray) -> Callable[[int, int], Factorizer]:
    if not isinstance(factorizer, str):
        return factorizer
    signed = bool((A < 0).any())

    def build(k: int, seed: int) -> Factorizer:
        return make_factorizer(factorizer, k, signed=signed, seed=seed).set_params(tol=1e-3, max_iter=100)

    return build


def _measure(
    A: np.ndarray,
    halves: tuple[np.ndarray, np.ndarray],
    k: int,
    seed: int,
    build: Callable[[int, int], Factorizer],
    keep: Callable[[np.ndarray], float] | None,
) -> dict[str, float]:
    """Fit both halves with k concepts and measure each on the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [build(k, seed).fit(A[half]) for half in halves]
    lost = total = 0.0
    for model, unseen in zip(models, reversed(halves), strict=True):
        residual = A[unseen] - model.transform(A[unseen]) @ model.components_
        lost += float(np.square(residual, dtype=np.float64).sum())
        total += float(np.square(A[unseen], dtype=np.float64).sum())
    error = (lost / total) ** 0.5 if total > 0 else float("nan")
    explained, agreement = max(0.0, 1 - error**2), max(0.0, stability(models[0].components_, models[1].components_))
    kept = float(keep(_held_out(A, models, halves))) if keep is not None else float("nan")
    score = explained * agreement * (kept if keep is not None else 1.0)
    return {
        "n_components": k,
        "relative_error": error,
        "explained": explained,
        "stability": agreement,
        "kept": kept,
        "score": score,
    }


def _held_out(A: np.ndarray, models: list[Factorizer], halves: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Reconstruct all rows of A, each by a dictionary that has not seen it."""
    by_second = np.zeros(len(A), dtype=bool)
    by_second[halves[0]] = True
    A_hat = np.empty_like(A)
    for model, rows in ((models[0], ~by_second), (models[1], by_second)):
        A_hat[rows] = model.transform(A[rows]) @ model.components_
    return A_hat
