"""Error slices: groups of images of one class on which the model fails more often, found in concept space.

Each image is described by its coefficients on the class's concepts and by the probability that the model gives the
class. Sources: Eyuboglu et al., "Domino", ICLR 2022 (mixture over representation and predictions); Yenamandra et al.,
"FACTS", ICCV 2023 (per class, class probability as a feature); d'Eon et al., "The Spotlight", FAccT 2022; Plumb et al.,
"PlaneSpot", TMLR 2023.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from conceptatlas.audit.statistics import wilson
from conceptatlas.extraction.errors import UserError
from conceptatlas.importance.tabled import Tabled

SliceMethod = Literal["facts", "domino", "spotlight", "planespot"]
MIN_IMAGES = 20
COLUMNS = [
    "slice", "n_images", "error_rate", "error_low", "error_high", "class_error_rate", "shuffled_error_rate", "concepts",
]  # fmt: skip


@dataclass(frozen=True)
class Slices(Tabled):
    """Slices of the images of one class.

    Attributes
    ----------
    membership
        (n, s) probability that an image belongs to a slice.
    table
        One row per slice, the highest error rate first: its size, its error rate with a 95 % interval, the error rate
        of the class, the highest error rate of these slices where errors are shuffled (``shuffled_error_rate``), and
        the concepts that set the slice apart as ``((concept, z), ...)``; z above 0: more of it than in the class.
    method
        How they were found.
    """

    membership: np.ndarray
    table: pd.DataFrame
    method: str

    def to_frame(self) -> pd.DataFrame:
        """Return the slices' table."""
        return self.table

    def top(self, slice_number: int, count: int = 10) -> np.ndarray:
        """Return the rows of the `count` images that most surely belong to a slice."""
        return np.argsort(-self.membership[:, slice_number], kind="stable")[:count]


def find_slices(
    coefficients: np.ndarray,
    probability: np.ndarray,
    correct: np.ndarray,
    *,
    method: SliceMethod = "facts",
    n_slices: int = 6,
    probability_weight: float = 5.0,
    seed: int = 0,
) -> Slices:
    """Return slices of the images labelled as one class.

    Parameters
    ----------
    coefficients
        (n, k) how much of each concept the images hold.
    probability
        (n,) probability that the model gives the class.
    correct
        (n,) whether the model is right.
    method
        ``"facts"``: Gaussian mixture on coefficients and probability; ``"domino"``: the same mixture with the
        prediction as a categorical variable of its own; ``"spotlight"``: the region of the highest loss, one after
        another; ``"planespot"``: mixture on a plane and the confidence.
    n_slices
        Number of slices.
    probability_weight
        Weight of the probability against one standardised coefficient.
    seed
        Seed of the mixtures.

    Raises
    ------
    UserError
        For an unknown method.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> held = rng.random((100, 4)); wrong = np.arange(100) < 10; held[wrong, 2] += 5
    >>> found = find_slices(held, np.where(wrong, 0.1, 0.9), ~wrong)
    >>> bool(wrong[found.top(0)].all())
    True
    """
    if method not in get_args(SliceMethod):
        raise UserError(f"slice method must be one of {', '.join(get_args(SliceMethod))}, not {method!r}")
    correct = np.asarray(correct, dtype=bool)
    if len(correct) < MIN_IMAGES:
        return Slices(np.zeros((len(correct), 0)), pd.DataFrame(columns=COLUMNS), method)
    standard = standardised(coefficients)
    membership = _members(method, standard, probability, correct, n_slices, probability_weight, seed)
    highest = _chance(membership, correct, seed)
    return _described(membership, standard, correct, highest, method)


def standardised(coefficients: np.ndarray) -> np.ndarray:
    """Return square roots of coefficients with mean 0 and standard deviation 1; constant columns become 0."""
    rooted = np.sqrt(np.maximum(np.asarray(coefficients, dtype=np.float64), 0))
    spread = rooted.std(0)
    return (rooted - rooted.mean(0)) / np.where(spread > 1e-12, spread, 1)


def _members(
    method: str, standard: np.ndarray, probability: np.ndarray, correct: np.ndarray, n: int, weight: float, seed: int
) -> np.ndarray:
    n = max(2, min(n, len(standard) // 8))
    confidence = np.asarray(probability, dtype=np.float64)[:, None]
    if method == "facts":
        return _mixture(np.hstack([standard, weight * _unit(confidence)]), correct, n, seed)
    if method == "domino":
        return _domino(standard, correct, n, seed)
    if method == "planespot":
        left, size, _ = np.linalg.svd(standard, full_matrices=False)
        plane = _unit(left[:, :2] * size[:2])
        return _mixture(np.hstack([plane, weight * 0.5 * _unit(confidence)]), correct, n, seed)
    loss = -np.log(np.clip(confidence[:, 0], 1e-6, 1))
    return _spotlights(standard, loss, n)


def _unit(values: np.ndarray) -> np.ndarray:
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 1e-12, spread, 1)


def _seeds(features: np.ndarray, correct: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return starting memberships: clusters of the errors and of the rest, apart ("confusion" start of DOMINO)."""
    from sklearn.cluster import KMeans

    start = np.full((len(features), n), 1e-3)
    wrong = ~correct
    for_errors = min(max(1, n // 2), int(wrong.sum()))
    for chosen, first, count in ((wrong, 0, for_errors), (correct, for_errors, n - for_errors)):
        rows = np.flatnonzero(chosen)
        count = min(count, len(rows))
        if count:
            labels = KMeans(count, n_init=2, random_state=seed).fit_predict(features[rows])
            start[rows, first + labels] += 1
    return start / start.sum(1, keepdims=True)


def _mixture(features: np.ndarray, correct: np.ndarray, n: int, seed: int) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    start = _seeds(features, correct, n, seed)
    means = (start.T @ features) / start.sum(0)[:, None]
    model = GaussianMixture(
        n, covariance_type="diag", reg_covar=1e-2, means_init=means, random_state=seed, max_iter=200
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features).predict_proba(features)


def _domino(
    features: np.ndarray, correct: np.ndarray, n: int, seed: int, *, rounds: int = 100, gamma: float = 10.0
) -> np.ndarray:
    """Return memberships of DOMINO's error-aware mixture: p(s) N(z; s) p(right | s)^gamma, by EM."""
    member = _seeds(features, correct, n, seed)
    right = correct.astype(np.float64)
    for _ in range(rounds):
        size = member.sum(0) + 1e-9
        means = (member.T @ features) / size[:, None]
        spread = (member.T @ features**2) / size[:, None] - means**2 + 1e-2
        share = np.clip((member.T @ right) / size, 1e-3, 1 - 1e-3)
        fit = -0.5 * (((features[:, None] - means) ** 2) / spread + np.log(spread)).sum(2)
        fit += np.log(size / size.sum()) + gamma * np.where(correct[:, None], np.log(share), np.log(1 - share))
        fit -= fit.max(1, keepdims=True)
        updated = np.exp(fit) / np.exp(fit).sum(1, keepdims=True)
        if np.abs(updated - member).max() < 1e-4:
            return updated
        member = updated
    return member


def _spotlights(features: np.ndarray, loss: np.ndarray, n: int, *, smallest: float = 0.05) -> np.ndarray:
    """Return memberships of balls of high mean loss that hold at least 5 % of the images, found one after another."""
    remaining, found = loss.astype(np.float64).copy(), []
    least = max(5, int(smallest * len(features)))
    squared = ((features[:, None] - features[None]) ** 2).sum(2)
    nearest = np.sort(squared, axis=1)[:, least - 1 : least] + 1e-9
    kernels = np.exp(-squared / nearest)
    for _ in range(n):
        mean_loss = (kernels @ remaining) / kernels.sum(1)
        best = int(mean_loss.argmax())
        found.append(kernels[best])
        remaining = remaining * (1 - kernels[best])
    return np.stack(found, axis=1)


def _error_rates(membership: np.ndarray, correct: np.ndarray) -> list[tuple[float, int]]:
    """Return error rate and size of each slice, an image counting for the slice that it most belongs to."""
    if membership.shape[1] == 0:
        return []
    assigned = membership.argmax(1)
    rates = []
    for s in range(membership.shape[1]):
        inside = assigned == s
        rates.append((float((~correct[inside]).mean()) if inside.any() else 0.0, int(inside.sum())))
    return rates


def _chance(membership: np.ndarray, correct: np.ndarray, seed: int, *, draws: int = 50) -> float:
    """Return the highest error rate that slices of these sizes have where errors fall at random (mean of draws)."""
    rng = np.random.default_rng(seed)
    least = max(5, len(correct) // 50)
    tops = [
        max((rate for rate, size in _error_rates(membership, rng.permutation(correct)) if size >= least), default=0.0)
        for _ in range(draws)
    ]
    return float(np.mean(tops))


def _described(
    membership: np.ndarray, standard: np.ndarray, correct: np.ndarray, shuffled: float, method: str
) -> Slices:
    rates = _error_rates(membership, correct)
    order = sorted(range(len(rates)), key=lambda s: (-rates[s][0], -rates[s][1]))
    membership = membership[:, order]
    rows = []
    for s, (rate, size) in enumerate(rates[i] for i in order):
        low, high = wilson(rate * size, size)
        weights = membership[:, s : s + 1]
        z = (standard * weights).sum(0) / max(float(weights.sum()), 1e-9)
        marks = sorted(range(len(z)), key=lambda c: -abs(z[c]))[:3]
        concepts = [[int(c), round(float(z[c]), 2)] for c in marks if abs(z[c]) > 0.5]
        rows.append((s, size, rate, low, high, float((~correct).mean()), shuffled, concepts))
    return Slices(membership, pd.DataFrame(rows, columns=COLUMNS), method)
