"""The tests that a word must pass before a concept bears it: retrieval, two null distributions, coherence."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit
from scipy.stats import rankdata

_MANY_SCORES = 2000
_WORDS_FOR_TAILS = 1000


def retrieval_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve of `scores` for `positive` in [0, 1]; ties count half; NaN where one side is empty.

    Parameters
    ----------
    scores : ndarray, shape (n,)
        Higher should mean positive.
    positive : bool ndarray, shape (n,)
        The truth.

    Examples
    --------
    >>> retrieval_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    n_positive = int(np.count_nonzero(positive))
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return math.nan
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def mean_difference(scores: np.ndarray, positive: np.ndarray) -> float:
    """CoSy's MAD: (mean of positives - mean of negatives) / standard deviation of the negatives; 0 where that is 0.

    Examples
    --------
    >>> mean_difference(np.array([3.0, 1.0, -1.0]), np.array([True, False, False]))
    3.0
    """
    if not positive.any() or positive.all():
        return math.nan
    spread = float(np.std(scores[~positive]))
    gap = float(scores[positive].mean() - scores[~positive].mean())
    return gap / spread if spread > 1e-12 else 0.0


def null_maxima(
    E: np.ndarray, T: np.ndarray, n_present: int, n_absent: int, *, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """The best contrast that any word of the vocabulary has with regions drawn at random.

    Taking the maximum over the words in each draw corrects for the size of the vocabulary.

    Parameters
    ----------
    E : ndarray, shape (n, d)
        Embeddings of the regions to draw from.
    T : ndarray, shape (v, d)
        Word embeddings.
    n_present, n_absent : int
        How many regions stand for "with the concept" and "without", drawn apart from each other.
    draws : int
        The number of draws.
    rng : numpy Generator
        Where the randomness comes from.

    Returns
    -------
    ndarray, shape (draws,)

    Examples
    --------
    >>> null_maxima(np.ones((9, 2)), np.eye(2), 2, 2, draws=3, rng=np.random.default_rng(0)).tolist()
    [0.0, 0.0, 0.0]
    """
    n_present = max(1, min(n_present, len(E) - 1))
    n_absent = max(1, min(n_absent, len(E) - n_present))
    weights = np.zeros((draws, len(E)), dtype=np.float32)
    for row in weights:
        order = rng.permutation(len(E))
        row[order[:n_present]] = 1 / n_present
        row[order[n_present : n_present + n_absent]] = -1 / n_absent
    return ((weights @ E) @ T.T).max(axis=1)


def outlyingness(scores: np.ndarray) -> tuple[np.ndarray, float]:
    """How far each word's score for each concept stands out from those of the other words.

    The distance from the concept's median word, in the spread below the median, pooled over the concepts: words that
    are right for a concept lie above its median and do not widen it.

    Parameters
    ----------
    scores : ndarray, shape (k, v)
        Scores of v words for k concepts, on one scale.

    Returns
    -------
    outlying : ndarray, shape (k, v)
        Zero everywhere where the words do not differ.
    freedom : float
        How heavy the tails of words are that mean nothing, as degrees of freedom of Student's t: from the ratio of two
        quantiles below the median; infinite, that is normal, for fewer than 1000 words, many of which may mean
        something.

    Examples
    --------
    >>> outlying, freedom = outlyingness(np.array([[-2.0, -1.0, 0.0, 1.0, 9.0]]))
    >>> outlying.round(1).tolist(), freedom
    ([[-1.5, -0.8, 0.0, 0.8, 7.0]], inf)
    """
    away = scores - np.median(scores, axis=1, keepdims=True)
    below = -away[away <= 0].astype(np.float64)
    spread = float(np.sqrt(np.mean(below**2))) if below.size else 0.0
    if spread < 1e-12:
        return np.zeros_like(away), math.inf
    return away / spread, _freedom(below) if scores.shape[1] >= _WORDS_FOR_TAILS else math.inf


def _freedom(deviations: np.ndarray) -> float:
    """Degrees of freedom of the Student's t whose quantiles have the ratio that those of the deviations have."""
    middle, far = np.quantile(deviations, [0.5, 0.975])
    grid = np.array([3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 30.0, 100.0])
    ratios = stdtrit(grid, 0.9875) / stdtrit(grid, 0.75)
    ratio = far / max(middle, 1e-12)
    return math.inf if ratio < ratios[-1] else float(np.interp(ratio, ratios[::-1], grid[::-1]))


def outlier_null(
    n_concepts: int, n_words: int, *, draws: int, rng: np.random.Generator, freedom: float = math.inf
) -> np.ndarray:
    """The `outlyingness` of the best of `n_words` words that all mean nothing to the encoder.

    Words whose embeddings have no part in what sets the regions apart score like draws from one distribution; the best
    of many of them is far out, and passes every test on regions. This is how far.

    Parameters
    ----------
    n_concepts, n_words : int
        The shape of the scores.
    draws : int
        The least number of draws.
    rng : numpy Generator
        Where the randomness comes from.
    freedom : float, default infinity
        Degrees of freedom of the distribution, Student's t; normal where infinite.

    Returns
    -------
    ndarray, shape (at least draws,)

    Examples
    --------
    >>> null = outlier_null(5, 1000, draws=200, rng=np.random.default_rng(0))
    >>> bool(3.0 < np.median(null) < 3.6)
    True
    """
    freedom = min(freedom, 1e6)
    if n_words * n_concepts > _MANY_SCORES:  # median and spread of so many are all but known
        best = rng.random(draws) ** (1 / n_words)
        return stdtrit(freedom, best) * math.sqrt((freedom - 2) / freedom)
    tables = (rng.standard_t(freedom, (n_concepts, n_words)) for _ in range(math.ceil(draws / n_concepts)))
    return np.concatenate([outlyingness(table)[0].max(axis=1) for table in tables])


def p_value(score: float, null: np.ndarray) -> float:
    """Share of draws that reach `score`, the observed one counted in, in (0, 1].

    Examples
    --------
    >>> p_value(0.5, np.array([0.1, 0.6, 0.2]))
    0.5
    """
    return float((1 + np.count_nonzero(null >= score)) / (1 + len(null)))


def pairwise_cosine(E: np.ndarray, groups: np.ndarray) -> float:
    """Mean cosine over the pairs of rows that come from different groups; NaN where there is none.

    Regions of one image overlap, so only pairs across images tell whether a concept is one thing.

    Examples
    --------
    >>> pairwise_cosine(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 1]))
    0.5
    """
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return math.nan
    starts = np.cumsum(sizes) - sizes
    sums = np.add.reduceat(E[np.argsort(codes, kind="stable")], starts, axis=0).astype(np.float64)
    total = sums.sum(axis=0)
    pairs = len(E) ** 2 - int((sizes**2).sum())
    return float((total @ total - (sums**2).sum()) / pairs)
