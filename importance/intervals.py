"""Intervals: of estimates from parts of a design, and of means over images."""

from __future__ import annotations

import numpy as np

from conceptatlas.importance.masks import Values

_RESAMPLES = 1000


def jackknife_error(replicates: Values) -> Values:
    """Return the standard error from leave-one-part-out replicates ``(R, ...)``."""
    n_parts = len(replicates)
    centred = replicates - replicates.mean(axis=0)
    return np.sqrt((n_parts - 1) / n_parts * (centred**2).sum(axis=0))


def student_quantile(confidence: float, degrees: int) -> float:
    """Return the two-sided quantile of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(0.5 + confidence / 2, degrees))


def mean_error(samples: Values, confidence: float) -> tuple[Values, Values]:
    """Return how far the mean over images may lie above and below the truth, each ``(k,)``.

    Student's half-width, and above it that of the studentised bootstrap where that is larger (at most four times):
    indices are skewed, and the mean of a few images is more often too low than too high.
    """
    n, k = samples.shape
    if n == 1:
        return np.zeros(k), np.zeros(k)
    error = samples.std(axis=0, ddof=1) / np.sqrt(n)
    student = student_quantile(confidence, n - 1)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    means, squares = counts @ samples / n, counts @ samples**2 / n
    errors = np.sqrt(np.maximum(squares - means**2, 0.0) / (n - 1))
    ratios = np.divide(means - samples.mean(axis=0), errors, out=np.zeros_like(means), where=errors > 1e-3 * error)
    skewed = -np.quantile(ratios, 0.5 - confidence / 2, axis=0)
    return student * error, np.clip(skewed, student, 4 * student) * error
