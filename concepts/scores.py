"""How well each word fits each concept: scores of text against the image regions that a concept fires in.

Letters: ``E`` (n, d) unit-norm region embeddings, ``presence`` (n, k) of each concept in each region, ``T`` (v, d)
unit-norm word embeddings. Every score is (k, v) and higher is better. Only the three that need single regions
(SoftWPMI, cosine-cubed) touch the (n, v) matrix of similarities, and those in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.optimize import nnls

from conceptatlas.extraction.errors import UserError

_BLOCK = 1024
_TINY = 1e-12
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def otsu_thresholds(presence: np.ndarray) -> np.ndarray:
    """For each column the value that splits it into two groups with the largest variance between them.

    Parameters
    ----------
    presence : ndarray, shape (n, k)
        Values of k concepts in n regions.

    Returns
    -------
    ndarray, shape (k,)
        The midpoint of the best split (Otsu 1979); the value itself where a column is constant.

    Examples
    --------
    >>> otsu_thresholds(np.array([[0.0], [0.1], [0.0], [0.9], [1.0]])).tolist()
    [0.5]
    """
    ordered = np.sort(presence, axis=0).astype(np.float64)
    n = len(ordered)
    if n < 2:
        return ordered.mean(axis=0)
    left = np.arange(1, n)[:, None]
    below = np.cumsum(ordered, axis=0)[:-1]
    gap = below / left - (ordered.sum(axis=0) - below) / (n - left)
    best = np.argmax(left * (n - left) * gap**2, axis=0)
    columns = np.arange(ordered.shape[1])
    return (ordered[best, columns] + ordered[best + 1, columns]) / 2


def presence_masks(presence: np.ndarray, quantile: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Which regions surely hold a concept and which surely do not; the grey zone between is neither.

    A region holds the concept where its presence is above zero, not below the `quantile` and above Otsu's threshold.
    It does not where its presence is at most the median and below Otsu's threshold.

    Parameters
    ----------
    presence : ndarray, shape (n, k)
        Presence of k concepts in n regions.
    quantile : float, default 0.8
        The share of regions that are not the concept's strongest.

    Returns
    -------
    present, absent : bool ndarrays, shape (n, k)

    Examples
    --------
    >>> present, absent = presence_masks(np.array([[0.0], [0.1], [0.2], [0.5], [1.0]]))
    >>> present[:, 0].tolist(), absent[:, 0].tolist()
    ([False, False, False, False, True], [True, True, True, False, False])
    """
    split = otsu_thresholds(presence)
    high, middle = np.quantile(presence, [quantile, 0.5], axis=0)
    present = (presence > 0) & (presence >= high) & (presence > split)
    absent = (presence <= np.minimum(middle, split)) & (presence < split)
    return present, absent


def concept_contrasts(E: np.ndarray, presence: np.ndarray, *, quantile: float = 0.8) -> np.ndarray:
    """Each concept's contrast (k, d): mean embedding of the regions with it minus that of the regions without it.

    A word's contrast score is its dot product with this vector, so it is also what a search by text needs to keep
    (`ConceptBank.embeddings`). Zero where a concept has no regions on one of the sides.

    Examples
    --------
    >>> E, presence = np.eye(2)[[0, 0, 1, 1]], np.array([[0.9], [1.0], [0.0], [0.1]])
    >>> concept_contrasts(E, presence, quantile=0.5).tolist()
    [[1.0, -1.0]]
    """
    present, absent = presence_masks(presence, quantile)
    difference = _mean_rows(E, present) - _mean_rows(E, absent)
    both = present.any(axis=0) & absent.any(axis=0)
    return np.where(both[:, None], difference, 0).astype(np.float32)


def contrast(E: np.ndarray, presence: np.ndarray, T: np.ndarray) -> np.ndarray:
    """Mean similarity of a word to the regions with the concept minus that to the regions without (DOMINO's describer).

    The regions come from images of one class, so what the whole class shares cancels, and so does what raises a word
    everywhere. Nothing is divided by a word's spread: words that an encoder does not know have little of it and
    would win.

    Examples
    --------
    >>> E, presence = np.eye(2)[[0, 0, 1, 1]], np.array([[0.9], [1.0], [0.0], [0.1]])
    >>> contrast(E, presence, np.eye(2)).tolist()
    [[1.0, -1.0]]
    """
    return concept_contrasts(E, presence) @ T.T


def raw_mean(E: np.ndarray, presence: np.ndarray, T: np.ndarray) -> np.ndarray:
    """Mean similarity of a word to the regions with the concept.

    Examples
    --------
    >>> E, presence = np.eye(2)[[0, 0, 1, 1]], np.array([[0.9], [1.0], [0.0], [0.1]])
    >>> raw_mean(E, presence, np.eye(2)).tolist()
    [[1.0, 0.0]]
    """
    return _mean_rows(E, presence_masks(presence)[0]) @ T.T


def correlation(E: np.ndarray, presence: np.ndarray, T: np.ndarray) -> np.ndarray:
    """Pearson correlation over regions between a concept's presence and a word's similarity, in [-1, 1].

    Computed from the (d, d) covariance of the embeddings, without the (n, v) similarities. Zero where either is
    constant.

    Examples
    --------
    >>> E, presence = np.eye(2)[[0, 0, 1, 1]], np.array([[1.0], [1.0], [0.0], [0.0]])
    >>> correlation(E, presence, np.eye(2)).round(3).tolist()
    [[1.0, -1.0]]
    """
    centred, moved = E - E.mean(axis=0), presence - presence.mean(axis=0)
    joint = (moved.T @ centred) @ T.T
    spread = np.sqrt(np.maximum(np.einsum("vd,vd->v", T @ (centred.T @ centred), T), 0))
    scale = np.linalg.norm(moved, axis=0)[:, None] * spread[None, :]
    return np.where(scale > 1e-7 * len(E), joint / np.maximum(scale, _TINY), 0).astype(np.float32)


def soft_wpmi(
    E: np.ndarray, presence: np.ndarray, T: np.ndarray, *, temperature: float = 10.0, top: int = 100, lam: float = 1.0
) -> np.ndarray:
    """SoftWPMI of CLIP-Dissect (Oikarinen and Weng 2023): log p(word | concept) minus `lam` times log p(word).

    ``p(word | region)`` is a softmax over the vocabulary at `temperature`. Membership in the concept falls from .998 to
    .97 over its `top` strongest regions. The prior is the mean over all concepts, so with few of them a word that two
    share is punished.

    Examples
    --------
    >>> E, presence = np.eye(2)[[0, 0, 1, 1]], np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> soft_wpmi(E, presence, np.eye(2), top=2).argmax(axis=1).tolist()
    [0, 1]
    """
    top = min(top, len(E))
    member = np.linspace(0.998, 0.97, top, dtype=np.float32)[:, None]
    order = np.argsort(-presence, axis=0, kind="stable")[:top]
    logs = np.empty((presence.shape[1], len(T)), dtype=np.float32)
    for concept in range(presence.shape[1]):
        logits = temperature * (E[order[:, concept]] @ T.T)
        chance = np.exp(logits - logits.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        logs[concept] = np.log1p(member * (chance - 1) + 1e-7).sum(axis=0)
    peak = logs.max(axis=0)
    prior = peak + np.log(np.exp(logs - peak).mean(axis=0))
    return logs - lam * prior


def cos_cubed(E: np.ndarray, presence: np.ndarray, T: np.ndarray) -> np.ndarray:
    """Cosine between the cubes of the centred presence and of the centred similarity, in [-1, 1] (CLIP-Dissect).

    Examples
    --------
    >>> E, presence = np.eye(2)[[0, 0, 1, 1]], np.array([[1.0], [1.0], [0.0], [0.0]])
    >>> cos_cubed(E, presence, np.eye(2)).round(3).tolist()
    [[1.0, -1.0]]
    """
    centred, moved = E - E.mean(axis=0), (presence - presence.mean(axis=0)) ** 3
    moved = moved / np.maximum(np.linalg.norm(moved, axis=0), _TINY)
    scores = np.empty((presence.shape[1], len(T)), dtype=np.float32)
    for start in range(0, len(T), _BLOCK):
        cubes = (centred @ T[start : start + _BLOCK].T) ** 3
        norms = np.linalg.norm(cubes, axis=0)
        scores[:, start : start + _BLOCK] = (moved.T @ cubes) / np.maximum(norms, _TINY)
    return scores


SCORES: Mapping[str, Score] = {
    "contrast": contrast,
    "correlation": correlation,
    "raw_mean": raw_mean,
    "soft_wpmi": soft_wpmi,
    "cos_cubed": cos_cubed,
}
"""The scores by name."""


def score_words(name: str, E: np.ndarray, presence: np.ndarray, T: np.ndarray) -> np.ndarray:
    """The score called `name` of every word for every concept, (k, v).

    Raises
    ------
    UserError
        Where there is no score of that name; the message lists them.
    """
    if name not in SCORES:
        raise UserError(f"There is no score {name!r} for names; choose one of {', '.join(SCORES)}.")
    return SCORES[name](E, presence, T)


def word_dictionary(T: np.ndarray) -> np.ndarray:
    """The words less their mean, at unit norm: the dictionary of SpLiCE (Bhalla et al. 2024).

    Examples
    --------
    >>> word_dictionary(np.array([[2.0, 0.0], [0.0, 0.0]])).tolist()
    [[1.0, 0.0], [-1.0, 0.0]]
    """
    centred = T - T.mean(axis=0) if len(T) > 1 else T
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, centred / np.maximum(lengths, 1e-6), 0).astype(np.float32)


def fit_words(vector: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """The non-negative weights of a few words that come nearest to a direction, and the cosine that they reach.

    Parameters
    ----------
    vector : ndarray, shape (d,)
        What to decompose, such as a row of `concept_contrasts`.
    rows : ndarray, shape (m, d)
        Rows of `word_dictionary`.

    Returns
    -------
    weights : ndarray, shape (m,)
        For the vector at unit norm.
    cosine : float
        In [0, 1]; 1 minus it is what the words leave unsaid.

    Examples
    --------
    >>> weights, cosine = fit_words(np.array([3.0, 4.0, 0.0]), np.eye(3)[:2])
    >>> weights.round(2).tolist(), round(cosine, 2)
    ([0.6, 0.8], 1.0)
    """
    length = float(np.linalg.norm(vector))
    if length < 1e-9 or not len(rows):
        return np.zeros(len(rows)), 0.0
    target = vector.astype(np.float64) / length
    weights, _ = nnls(rows.T.astype(np.float64), target)
    rebuilt = weights @ rows
    size = float(np.linalg.norm(rebuilt))
    return weights, float(rebuilt @ target) / size if size > 0 else 0.0


def sparse_words(vector: np.ndarray, dictionary: np.ndarray, max_words: int = 3) -> tuple[list[int], float]:
    """A direction as a non-negative sum of few words, after SpLiCE.

    In place of the Lasso, non-negative orthogonal matching pursuit, which takes the number of words itself.

    Parameters
    ----------
    vector : ndarray, shape (d,)
        What to decompose.
    dictionary : ndarray, shape (v, d)
        Unit-norm rows, from `word_dictionary`.
    max_words : int, default 3
        The most words.

    Returns
    -------
    words : list of int
        Rows of the dictionary in the order they were taken.
    cosine : float
        Between their sum and the vector, in [0, 1].

    Examples
    --------
    >>> sparse_words(np.array([2.0, 1.0, 0.0]), np.eye(3), 2)
    ([0, 1], 1.0)
    """
    taken: list[int] = []
    rest, cosine = vector / max(float(np.linalg.norm(vector)), _TINY), 0.0
    target = rest
    for _ in range(min(max_words, len(dictionary))):
        best = int(np.argmax(dictionary @ rest))
        if best in taken or float(dictionary[best] @ rest) < 1e-6:
            break
        taken.append(best)
        weights, cosine = fit_words(vector, dictionary[taken])
        rest = (target - weights @ dictionary[taken]).astype(dictionary.dtype)
    return taken, round(cosine, 12)


def _mean_rows(E: np.ndarray, mask: np.ndarray) -> np.ndarray:
    weights = mask / np.maximum(mask.sum(axis=0), 1)
    return weights.T.astype(E.dtype) @ E
