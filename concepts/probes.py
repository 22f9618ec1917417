"""Quality measured by small classifiers: how learnable concepts are, and how much they say about predictions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from conceptatlas.concepts.rows import as_tensor
from conceptatlas.extraction.errors import UserError

SPARSITY_RATIOS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 5.0)
_TEST_SHARE = 0.3


def linear_faithfulness(U: Any, predictions: Any, *, seed: int = 0) -> float:
    """Held-out accuracy of logistic regression from coefficients to predictions, in [0, 1]. Higher is better.

    PACE's linear faithfulness (Wang et al., ICML 2024). NaN where the model predicts one class only.

    Parameters
    ----------
    U
        Coefficients per image (n, k).
    predictions
        Predicted class of each image (n,).
    seed
        Seed of the split (70 % to fit, 30 % to test).

    Examples
    --------
    >>> U = np.repeat(np.eye(2), 30, axis=0)
    >>> linear_faithfulness(U, U.argmax(axis=1))
    1.0
    """
    U, y = _array(U), np.asarray(as_tensor(predictions).cpu())
    if len(np.unique(y)) < 2:
        return float("nan")
    train, test = _split(len(y), seed)
    return _accuracy(_standardised(U, train), y, train, test)


def learnability(features: Any, present: Any, *, n_positive: float | None = None, seed: int = 0) -> np.ndarray:
    """Normalised average precision (k,) of a probe for each concept, in [0, 1]. Higher: easier to learn.

    Ramaswamy et al., "Overlooked factors", CVPR 2023: L2 logistic regression, its strength chosen by validation AUC,
    precision normalised to one base rate, ``R N / (R N + false positives)`` with recall R. A concept harder to
    learn than the class it explains explains little. NaN for concepts in fewer than 2 % (or six) of rows, or in all.

    Parameters
    ----------
    features
        Representation of each image (n, d).
    present
        Whether each concept is in each image (n, k), boolean.
    n_positive
        N, the number of positives that precision is normalised to; None takes test rows / number of concepts.
    seed
        Seed of the split: 50 % to fit, 20 % to choose, 30 % to test.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 4))
    >>> bool(learnability(X, X[:, :1] > 0)[0] > 0.9)
    True
    """
    X, present = _array(features), np.asarray(as_tensor(present).cpu(), dtype=bool)
    if len(X) != len(present):
        raise UserError(f"{len(X)} rows of features for {len(present)} rows of presence: give one per image.")
    rest, test = _split(len(X), seed)
    train, check = rest[: len(rest) * 5 // 7], rest[len(rest) * 5 // 7 :]
    X = _standardised(X, train)
    n = n_positive if n_positive is not None else len(test) / present.shape[1]
    return np.array([_probe(X, y, (train, check, test), n) for y in present.T])


def iis(
    scores: Any, labels: Any, representation: Any, *, ratios: Sequence[float] = SPARSITY_RATIOS, seed: int = 0
) -> float:
    """Inherent interpretability score: accuracy that survives when only few concepts may speak. Higher is better.

    Trapezoid integral over the sparsity ratio s of accuracy(s) / accuracy of a linear probe on the representation
    (arXiv 2510.24105); about 0 to 1. Scores are normalised per row, entries below their s-quantile in size are dropped.

    Parameters
    ----------
    scores
        Concept scores per image (n, k): coefficients or projections.
    labels
        Class per image (n,).
    representation
        Activations per image (n, p), for the standard probe.
    ratios
        Sparsity ratios in [0, 1), increasing.
    seed
        Seed of the split.

    Examples
    --------
    >>> Z = np.repeat(np.eye(4), 30, axis=0)
    >>> round(iis(Z, Z.argmax(axis=1), Z), 2)
    0.98
    """
    Z, y, X = _array(scores), np.asarray(as_tensor(labels).cpu()), _array(representation)
    train, test = _split(len(y), seed)
    standard = _accuracy(_standardised(X, train), y, train, test)
    if standard == 0:
        return float("nan")
    Z = (Z - Z.mean(axis=1, keepdims=True)) / np.maximum(Z.std(axis=1, keepdims=True), 1e-12)
    kept = []
    for ratio in ratios:
        threshold = np.quantile(np.abs(Z), ratio, axis=1, keepdims=True)
        kept.append(_accuracy(np.where(np.abs(Z) >= threshold, Z, 0.0), y, train, test) / standard)
    return float(np.trapezoid(kept, ratios))


def normalised_average_precision(scores: Any, present: Any, n_positive: float) -> float:
    """Average precision with precision ``R N / (R N + FP)`` at recall R, in [0, 1]. Higher is better.

    >>> normalised_average_precision(np.array([3.0, 2.0, 1.0]), np.array([True, True, False]), 10.0)
    1.0
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    hits = np.asarray(present, dtype=bool)[order]
    recall = np.cumsum(hits) / hits.sum()
    precision = recall * n_positive / np.maximum(recall * n_positive + np.cumsum(~hits), 1e-12)
    return float((precision * hits).sum() / hits.sum())


def _probe(X: np.ndarray, y: np.ndarray, parts: tuple[np.ndarray, np.ndarray, np.ndarray], n: float) -> float:
    from sklearn.metrics import roc_auc_score

    train, check, test = parts
    enough = y.sum() >= max(6, 0.02 * len(y)) and not y.all()
    if not enough or any(len(np.unique(y[part])) < 2 for part in parts):
        return float("nan")
    fits = [_logistic(strength).fit(X[train], y[train]) for strength in _STRENGTHS]
    best = max(fits, key=lambda fit: roc_auc_score(y[check], fit.decision_function(X[check])))
    return normalised_average_precision(best.decision_function(X[test]), y[test], n)


def _accuracy(X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    if len(np.unique(y[train])) < 2:
        return float(np.mean(y[test] == y[train][0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unsettled probe is still a probe
        return float(_logistic(1.0, solver="lbfgs", max_iter=300).fit(X[train], y[train]).score(X[test], y[test]))


def _logistic(strength: float, **settings: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    chosen: dict[str, Any] = {"solver": "liblinear"} | settings
    return LogisticRegression(C=strength, **chosen)


def _split(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if n < 10:
        raise UserError(f"A probe needs at least 10 images, got {n}.")
    order = np.random.default_rng(seed).permutation(n)
    cut = n - int(np.ceil(_TEST_SHARE * n))
    return order[:cut], order[cut:]


def _standardised(X: np.ndarray, train: np.ndarray) -> np.ndarray:
    spread = X[train].std(axis=0)
    return (X - X[train].mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def _array(x: Any) -> np.ndarray:
    return as_tensor(x).cpu().numpy().astype(np.float64, copy=False)
