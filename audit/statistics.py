"""Small statistics that the audit states its evidence with."""

from __future__ import annotations

from typing import Any

import numpy as np

_Z95 = 1.959963984540054


def wilson(successes: float, n: int, *, z: float = _Z95) -> tuple[float, float]:
    """Return Wilson's score interval of a share (95 % by default); ``(0, 1)`` where there is nothing to count.

    Source: Wilson, JASA 22 (1927), 209-212.

    >>> low, high = wilson(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = float(centre - half) if successes > 0 else 0.0  # exactly, not but for rounding
    high = float(centre + half) if successes < n else 1.0
    return low, high


def risk_difference(a: int, n_a: int, b: int, n_b: int) -> tuple[float, float, float]:
    """Return ``a/n_a - b/n_b`` with Newcombe's hybrid score interval; ``(nan, -1, 1)`` where a group is empty.

    Source: Newcombe, Statistics in Medicine 17 (1998), 873-890, method 10.

    >>> value, low, high = risk_difference(56, 70, 48, 80)
    >>> round(value, 4), round(low, 4), round(high, 4)
    (0.2, 0.0524, 0.3339)
    """
    if n_a == 0 or n_b == 0:
        return float("nan"), -1.0, 1.0
    p, q = a / n_a, b / n_b
    (low_a, high_a), (low_b, high_b) = wilson(a, n_a), wilson(b, n_b)
    value = p - q
    low = value - np.hypot(p - low_a, high_b - q)
    high = value + np.hypot(high_a - p, q - low_b)
    return float(value), float(low), float(high)


def otsu(values: np.ndarray, *, bins: int = 256) -> float:
    """Return the threshold that splits values into two classes of least inner variance.

    Source: Otsu, IEEE Trans. SMC 9 (1979), 62-66. Constant values give that constant.

    >>> 1.0 <= otsu(np.array([0.0, 0.1, 0.2, 5.0, 5.1])) <= 5.0
    True
    """
    values = np.asarray(values, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return low
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2
    best = np.flatnonzero(between == between.max())
    return float(edges[1:-1][best].mean())


def otsu_of_three(values: np.ndarray, *, bins: int = 128) -> tuple[float, float]:
    """Return the two thresholds that split values into three classes of least inner variance.

    Source: Otsu, IEEE Trans. SMC 9 (1979), 62-66, section on multithresholding. Constant values give that constant.

    >>> low, high = otsu_of_three(np.array([0.0, 0.1, 2.0, 2.1, 5.0, 5.1]))
    >>> bool(0.1 <= low <= 2.0), bool(2.1 <= high <= 5.0)
    (True, True)
    """
    values = np.asarray(values, dtype=np.float64)
    if not values.max() > values.min():
        return float(values.min()), float(values.min())
    counts, edges = np.histogram(values - values.mean(), bins=bins)
    n = np.append(0, np.cumsum(counts))
    total = np.append(0, np.cumsum(counts * (edges[1:] + edges[:-1]) / 2))

    def between(first: Any, last: Any) -> np.ndarray:
        return (total[last] - total[first]) ** 2 / np.maximum(n[last] - n[first], 1)

    low, high = np.triu_indices(bins - 1, k=1)
    low, high = low + 1, high + 1
    explained = between(0, low) + between(low, high) + between(high, bins)
    best = explained >= explained.max() * (1 - 1e-12)
    return tuple(float(edges[cut[best]].mean() + values.mean()) for cut in (low, high))  # type: ignore[return-value]


def explained_by(values: np.ndarray, threshold: float) -> float:
    """Return the share of the values' variance that lies between those below a threshold and the others.

    >>> explained_by(np.array([0.0, 0.0, 1.0, 1.0]), 0.5)
    1.0
    """
    values = np.asarray(values, dtype=np.float64)
    above, total = values >= threshold, values.var()
    if total <= 0:
        return 1.0
    share = above.mean()
    if share in (0.0, 1.0):
        return 0.0
    return float(share * (1 - share) * (values[above].mean() - values[~above].mean()) ** 2 / total)


def holds(score: np.ndarray, threshold: Any) -> np.ndarray:
    """Return whether images hold a concept, by the score of each: from the threshold on, and never where it is 0.

    >>> holds(np.array([0.0, 0.2, 0.6]), 0.5).tolist(), holds(np.array([0.0, 0.2]), 0.0).tolist()
    ([False, False, True], [False, True])
    """
    return score >= np.maximum(threshold, np.finfo(np.float32).tiny)


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """Return p-values adjusted for the false discovery rate over all tests; NaN stays NaN and does not count.

    Source: Benjamini and Hochberg, JRSS B 57 (1995), 289-300.

    >>> benjamini_hochberg(np.array([0.01, 0.02, np.nan, 0.03])).round(3).tolist()
    [0.03, 0.03, nan, 0.03]
    """
    from scipy.stats import false_discovery_control

    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    if known.any():
        adjusted[known] = false_discovery_control(p[known])
    return adjusted


def bootstrap_mean(values: np.ndarray, *, draws: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % percentile bootstrap interval of the column means of (n, k) values."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing.copy()
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws) / n
    means = weights @ values
    return np.quantile(means, 0.025, axis=0), np.quantile(means, 0.975, axis=0)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve (ties count half); NaN where one side is empty.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    positive = np.asarray(positive, dtype=bool)
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if n_pos == 0 or n_neg == 0:
        return float("nan")
    from scipy.stats import rankdata

    return float((rankdata(scores)[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))
