"""Whether names are right: against images of the named thing, and against planted parts whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from conceptatlas.concepts.evidence import mean_difference, retrieval_auc
from conceptatlas.concepts.names import Name
from conceptatlas.extraction.errors import UserError


@dataclass(frozen=True)
class NameCheck:
    """How well a concept answers to images of the thing that it is called after (CoSy, Kopf et al. 2024).

    Parameters
    ----------
    auc : float
        ROC-AUC of the concept's activation for "an image of the thing", in [0, 1]; 0.5 is chance, higher is better.
    mad : float
        Mean activation on those images less that on the others, in standard deviations of the others.
    """

    auc: float
    mad: float


def check_name(on_thing: Sequence[float] | np.ndarray, on_others: Sequence[float] | np.ndarray) -> NameCheck:
    """AUC and MAD of a name from the concept's activations on images of the named thing and on other images.

    Parameters
    ----------
    on_thing, on_others : sequence of float
        The concept's coefficient (its mean or maximum over positions) in each image.

    Raises
    ------
    UserError
        Where one of the two is empty or holds NaN.

    Examples
    --------
    >>> check_name([3.0, 4.0], [0.0, 1.0, 2.0]).auc
    1.0
    """
    thing, others = np.asarray(on_thing, dtype=float).ravel(), np.asarray(on_others, dtype=float).ravel()
    if not len(thing) or not len(others):
        raise UserError("Checking a name needs images with the thing and images without it; one of the two is empty.")
    scores = np.concatenate([thing, others])
    if not np.isfinite(scores).all():
        raise UserError("The activations to check a name with hold NaN or infinite values.")
    positive = np.arange(len(scores)) < len(thing)
    return NameCheck(retrieval_auc(scores, positive), mean_difference(scores, positive))


def word_competence(embeddings: np.ndarray, word_embeddings: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """For each word the AUC with which its similarity tells images that hold its thing from those that do not.

    A word that the encoder cannot tell apart on labelled images (AUC below about 0.6) should not name a concept: pass
    ``word_competence(...) >= 0.6`` as ``competent`` to `name_concepts`.

    Parameters
    ----------
    embeddings : ndarray, shape (n, d)
        Images or regions with known attributes.
    word_embeddings : ndarray, shape (v, d)
        The words.
    truth : bool ndarray, shape (n, v)
        Which image holds which word's thing.

    Returns
    -------
    ndarray, shape (v,)
        NaN where a thing is in all images or in none.

    Examples
    --------
    >>> word_competence(np.eye(2)[[0, 0, 1]], np.eye(2), np.array([[1, 1], [1, 1], [0, 0]], dtype=bool)).tolist()
    [1.0, 0.0]
    """
    truth = np.asarray(truth, dtype=bool)
    if truth.shape != (len(embeddings), len(word_embeddings)):
        raise UserError(
            f"The truth is {truth.shape}, but there are {len(embeddings)} images, {len(word_embeddings)} words."
        )
    similarity = embeddings @ word_embeddings.T
    return np.array([retrieval_auc(similarity[:, j], truth[:, j]) for j in range(truth.shape[1])])


@dataclass(frozen=True)
class NamingReport:
    """Counts and rates of names on concepts whose truth is known.

    Parameters
    ----------
    n_concepts, n_clear : int
        Concepts, and those of them that match one planted part.
    n_named, n_right : int
        Concepts with status ``named``, and those of them with the planted name or a synonym.
    accuracy : float
        n_right / n_named; NaN where nothing is named. Higher is better.
    coverage : float
        Share of the clear concepts that are named, rightly. Higher is better.
    hallucination : float
        Share of all concepts that are named wrongly, or named where they match no part. Lower is better.
    """

    n_concepts: int
    n_clear: int
    n_named: int
    n_right: int
    accuracy: float
    coverage: float
    hallucination: float

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def naming_report(
    names: Sequence[Name],
    truths: Sequence[str | None],
    *,
    synonyms: Mapping[str, Collection[str]] | None = None,
    statuses: Iterable[str] = ("named",),
) -> NamingReport:
    """Accuracy, coverage and hallucination rate of names on concepts whose truth was planted.

    Parameters
    ----------
    names : sequence of Name
        One per concept.
    truths : sequence of str or None
        The planted part that each concept matches; None where it matches none clearly.
    synonyms : mapping of str to collection of str, optional
        Other words that are right for a part. Case does not count.
    statuses : iterable of str
        Which names count as given.

    Raises
    ------
    UserError
        Where the lengths differ.

    Examples
    --------
    >>> names = [Name(("tag",), "named"), Name(("wing",), "named"), Name((), "unnamed")]
    >>> report = naming_report(names, ["label", "tail", "eye"], synonyms={"label": {"tag"}})
    >>> report.accuracy, round(report.coverage, 2), round(report.hallucination, 2)
    (0.5, 0.33, 0.33)
    """
    if len(names) != len(truths):
        raise UserError(f"{len(names)} names cannot be checked against {len(truths)} truths.")
    wanted = set(statuses)
    given = [name.status in wanted and bool(name.words) for name in names]
    right = [on and is_right(name, truth, synonyms) for on, name, truth in zip(given, names, truths, strict=True)]
    n_clear = sum(truth is not None for truth in truths)
    return NamingReport(
        n_concepts=len(names),
        n_clear=n_clear,
        n_named=sum(given),
        n_right=sum(right),
        accuracy=sum(right) / sum(given) if any(given) else math.nan,
        coverage=sum(right) / n_clear if n_clear else math.nan,
        hallucination=(sum(given) - sum(right)) / len(names) if names else math.nan,
    )


def is_right(name: Name, truth: str | None, synonyms: Mapping[str, Collection[str]] | None = None) -> bool:
    """Whether the name's first word is the planted one or a listed synonym; case does not count.

    Examples
    --------
    >>> is_right(Name(("Stripes", "red"), "named"), "stripes"), is_right(Name(("tag",), "named"), None)
    (True, False)
    """
    if truth is None or not name.words:
        return False
    allowed = {truth, *(synonyms or {}).get(truth, ())}
    return name.words[0].casefold() in {word.casefold() for word in allowed}
