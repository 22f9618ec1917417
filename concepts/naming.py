"""Naming: the word that retrieves a concept's regions, chosen on one half of the images and tested on the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conceptatlas.concepts.evidence import (
    mean_difference,
    null_maxima,
    outlier_null,
    outlyingness,
    p_value,
    pairwise_cosine,
    retrieval_auc,
)
from conceptatlas.concepts.names import Name
from conceptatlas.concepts.naming_rules import NamingRules, judge_name
from conceptatlas.concepts.scores import (
    concept_contrasts,
    fit_words,
    presence_masks,
    score_words,
    word_dictionary,
)
from conceptatlas.concepts.vocabulary import Vocabulary
from conceptatlas.extraction.errors import UserError

_SHOWN = 8
_POOL = 256
_RIVALS = 3
_LEAST_SHARE = 0.5
_SPLITS = 64
_SPLIT_FOR = 2


@dataclass(frozen=True)
class _Half:
    """One half of the images: embeddings, and which regions surely hold each concept or surely do not."""

    E: np.ndarray
    presence: np.ndarray
    groups: np.ndarray
    present: np.ndarray
    absent: np.ndarray

    def similarities(self, concept: int, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarities of the sure regions to a direction, and which of them hold the concept."""
        rows = self.present[:, concept] | self.absent[:, concept]
        return self.E[rows] @ directions, self.present[rows, concept]


@dataclass(frozen=True)
class _Task:
    """What every concept of a call shares; rows of `E` are those of the two halves, one after the other."""

    E: np.ndarray
    groups: np.ndarray
    likeness: float
    T: np.ndarray
    words: tuple[str, ...]
    dictionary: np.ndarray
    chooser: _Half
    tester: _Half
    contrasts: np.ndarray
    ranking: np.ndarray
    contrast: np.ndarray
    outlying: np.ndarray
    freedom: float
    favourites: tuple[np.ndarray, ...]
    rules: NamingRules


def name_concepts(
    embeddings: np.ndarray,
    presence: np.ndarray,
    groups: Sequence[object] | np.ndarray,
    word_embeddings: np.ndarray,
    vocabulary: Vocabulary | Sequence[str],
    *,
    seed: int = 0,
    rules: NamingRules | None = None,
    competent: np.ndarray | None = None,
) -> list[Name]:
    """A name with its evidence for each concept, or no name.

    The images are split in two. On one half words are ranked by contrast (what the whole class shares cancels), less
    their score for the other concepts of the class; near-synonyms are merged; further words are added where they help.
    The best word's score is set against two null distributions: the best word of the whole vocabulary on random
    regions, and the best of as many words that mean nothing to the encoder, whose scores spread like the vocabulary's.
    On the other half the word must retrieve the regions that hold the concept.

    Parameters
    ----------
    embeddings : ndarray, shape (n, d)
        Image embeddings of regions (crops, or images masked by a map), all processed in the same way.
    presence : ndarray, shape (n, k)
        Presence of each concept in each region: the mean of its map there.
    groups : sequence of length n
        The image that each region comes from.
    word_embeddings : ndarray, shape (v, d)
        From `embed_words`, by the same encoder.
    vocabulary : Vocabulary or sequence of str
        The v words.
    seed : int, default 0
        Splits the images and draws random regions.
    rules : NamingRules, optional
        The thresholds.
    competent : bool ndarray, shape (v,), optional
        Words that the encoder is known to tell apart (`word_competence`); the others are left out.

    Returns
    -------
    list of Name
        One per concept. Where nothing can be said, ``unnamed`` with the reason.

    Raises
    ------
    UserError
        Where shapes do not fit, or embeddings hold NaN.

    Notes
    -----
    No test protects against a word that the encoder misunderstands in a stable way: a name is text that retrieves these
    regions, not what the concept means.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> has = rng.random((200, 2)) < 0.3
    >>> regions = has @ np.eye(2, 8) + 0.1 * rng.standard_normal((200, 8))
    >>> names = name_concepts(regions, has * 1.0, np.arange(200), np.eye(8)[:3], ["dots", "wing", "sky"])
    >>> [name.text for name in names]
    ['dots', 'wing']
    """
    rules = rules or NamingRules()
    words = tuple(vocabulary.words if isinstance(vocabulary, Vocabulary) else vocabulary)
    E, presence, T = _checked(embeddings, presence, groups, word_embeddings, words)
    if competent is not None:
        keep = np.flatnonzero(competent)
        words, T = tuple(words[i] for i in keep), T[keep]
    reasons = [_unusable(presence[:, k], len(words)) for k in range(presence.shape[1])]
    presence = np.where(np.isfinite(presence).all(axis=0), presence, 0)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1] if len(E) else np.zeros(0, dtype=int)
    if len(E) == 0 or codes.max() < 3 or not words:
        return [_no_name(reason or "regions of fewer than four images") for reason in reasons]
    task = _prepare(E, presence, codes, T, words, seed, rules)
    draws = _Draws(task, seed)
    return [
        _no_name(reason) if reason else _name_concept(task, concept, draws) for concept, reason in enumerate(reasons)
    ]


def split_groups(codes: np.ndarray, seed: int, present: np.ndarray | None = None, *, enough: int = 1) -> np.ndarray:
    """True for the rows of a random half of the groups; all rows of a group fall on one side.

    Parameters
    ----------
    codes : int ndarray, shape (n,)
        The group of each row, from 0 on.
    seed : int
        Of the random halves.
    present : bool ndarray, shape (n, k), optional
        Which rows hold each concept. Of 64 random halves the one is taken that leaves most concepts with `enough` rows
        on both sides, and as near to it as can be for the others: rare concepts would often fall on one side alone.
    enough : int, default 1
        The number of rows.

    Examples
    --------
    >>> half = split_groups(np.array([0, 0, 1, 2, 3]), seed=0)
    >>> bool(half[0] == half[1]), len(set(np.array([0, 0, 1, 2, 3])[half]))
    (True, 2)
    >>> rare = np.arange(9)[:, None] < 2
    >>> [int(split_groups(np.arange(9), seed, rare)[:2].sum()) for seed in range(5)]
    [1, 1, 1, 1, 1]
    """
    n, rng = int(codes.max()) + 1, np.random.default_rng(seed)
    if present is None:
        return np.isin(codes, rng.permutation(n)[: n // 2])
    counts = np.zeros((n, present.shape[1]))
    np.add.at(counts, codes, present)
    halves = np.stack([rng.permutation(n) < n // 2 for _ in range(_SPLITS)])
    fewest = np.minimum(halves @ counts, ~halves @ counts)
    return halves[np.minimum(fewest, enough).sum(axis=1).argmax()][codes]


def _checked(
    embeddings: np.ndarray, presence: np.ndarray, groups: Sequence[object] | np.ndarray, T: np.ndarray, words: tuple
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    E, T = (np.asarray(values, dtype=np.float32) for values in (embeddings, T))
    presence = np.asarray(presence, dtype=np.float32)
    if E.ndim != 2 or presence.ndim != 2 or T.ndim != 2:
        raise UserError(f"Embeddings, presence and words are matrices, not {E.shape}, {presence.shape}, {T.shape}.")
    if not len(E) == len(presence) == len(groups):
        raise UserError(f"{len(E)} regions need as many rows of presence and groups: {len(presence)}, {len(groups)}.")
    if len(T) != len(words) or T.shape[1] != E.shape[1]:
        raise UserError(f"{len(words)} words in the regions' space are ({len(words)}, {E.shape[1]}), not {T.shape}.")
    if not np.isfinite(E).all() or not np.isfinite(T).all():
        raise UserError("Embeddings hold NaN or infinite values; leave out the regions or words that gave them.")
    return _unit(E), presence, _unit(T)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _unusable(presence: np.ndarray, n_words: int) -> str:
    """Why a concept cannot be named whatever the words, or ""."""
    if n_words == 0:
        return "no word that the encoder knows"
    if not np.isfinite(presence).all():
        return "its presence is NaN or infinite in some regions"
    if len(presence) == 0:
        return "no regions"
    if float(np.ptp(presence)) <= 1e-6 * float(np.abs(presence).max()):
        return "its presence is the same in every region"
    return ""


def _prepare(
    E: np.ndarray, presence: np.ndarray, codes: np.ndarray, T: np.ndarray, words: tuple, seed: int, rules: NamingRules
) -> _Task:
    first = split_groups(codes, seed, presence_masks(presence)[0], enough=_SPLIT_FOR * rules.min_regions)
    chooser, tester = (
        _Half(E[rows], presence[rows], codes[rows], *presence_masks(presence[rows])) for rows in (first, ~first)
    )
    asked = dict.fromkeys((rules.score, "contrast", *rules.support))
    tables = {name: score_words(name, chooser.E, chooser.presence, T) for name in asked}
    contrasts = concept_contrasts(chooser.E, chooser.presence)
    lengths = np.linalg.norm(contrasts, axis=1, keepdims=True)
    outlying, freedom = outlyingness(tables["contrast"] / np.maximum(lengths, 1e-12))
    order = np.concatenate([np.flatnonzero(first), np.flatnonzero(~first)])
    return _Task(
        E=E[order],
        groups=codes[order],
        likeness=pairwise_cosine(E, codes),
        T=T,
        words=words,
        dictionary=word_dictionary(T),
        chooser=chooser,
        tester=tester,
        contrasts=contrasts,
        ranking=_less_rivals(tables[rules.score], rules.rivalry),
        contrast=tables["contrast"],
        outlying=outlying,
        freedom=freedom,
        favourites=tuple(tables[name].argmax(axis=1) for name in rules.support),
        rules=rules,
    )


def _less_rivals(scores: np.ndarray, rivalry: float) -> np.ndarray:
    """Each word's score less a share of the best positive score that it has for another concept of the class."""
    if len(scores) < 2 or rivalry == 0:
        return scores
    order = np.sort(scores, axis=0)
    best, second = order[-1], order[-2]
    others = np.where(scores >= best, second, best)
    return scores - rivalry * np.maximum(others, 0)


def _name_concept(task: _Task, concept: int, draws: _Draws) -> Name:
    rules = task.rules
    for half in (task.chooser, task.tester):
        for mask, what in ((half.present, "with"), (half.absent, "without")):
            if int(mask[:, concept].sum()) < rules.min_regions:
                return _no_name(f"fewer than {rules.min_regions} regions {what} it in a half of the images")
    order = np.argsort(-task.ranking[concept], kind="stable")[:_SHOWN]
    best = int(order[0])
    alike = task.T @ task.T[best] >= rules.synonym_cosine
    others = task.contrast[concept][~alike]
    chosen, direction, cosine = _compose(task, concept, best)
    scores, positive = task.tester.similarities(concept, direction)
    score = float(task.contrast[concept, best])
    name = Name(
        words=tuple(task.words[i] for i in chosen),
        status="weak",
        score=score,
        p_null=max(
            p_value(score, draws.regions(concept)),
            p_value(task.outlying[concept, best], draws.words()) if len(task.words) > _RIVALS else 0.0,
        ),
        margin=score - float(others.max()) if len(others) >= _RIVALS else math.nan,
        heldout_auc=retrieval_auc(scores, positive),
        mad=mean_difference(scores, positive),
        coherence=_coherence(task, concept),
        residual=1 - cosine,
        candidates=tuple((task.words[i], float(task.contrast[concept, i])) for i in order),
        synonyms=tuple(task.words[i] for i in np.flatnonzero(alike) if i != best)[:_SHOWN],
        agreement=sum(bool(alike[favourite[concept]]) for favourite in task.favourites),
    )
    return judge_name(name, rules)


def _compose(task: _Task, concept: int, best: int) -> tuple[list[int], np.ndarray, float]:
    """Words from `best` on that fit themselves and help to retrieve on the choosing half; direction; cosine."""
    rules, vector = task.rules, task.contrasts[concept]
    length = max(float(np.linalg.norm(vector)), 1e-12)
    pool = np.argsort(-task.contrast[concept], kind="stable")[:_POOL]
    chosen, direction = [best], task.T[best]
    auc = retrieval_auc(*task.chooser.similarities(concept, direction))
    weights, cosine = fit_words(vector, task.dictionary[chosen])
    stands_out = task.contrast[concept][pool] >= _LEAST_SHARE * task.contrast[concept, best]
    while len(chosen) < rules.max_words and auc < 1 - rules.word_gain:
        rest = vector / length - weights @ task.dictionary[chosen]
        likeness = (task.T[pool] @ task.T[chosen].T).max(axis=1)
        open_words = stands_out & (likeness < rules.synonym_cosine)
        fit = np.where(open_words, task.dictionary[pool] @ rest, -np.inf)
        if not fit.max() > 0:
            break
        more = [*chosen, int(pool[fit.argmax()])]
        weights, joint_cosine = fit_words(vector, task.dictionary[more])
        joint = (weights @ task.dictionary[more]).astype(np.float32)
        joint_auc = retrieval_auc(*task.chooser.similarities(concept, joint))
        if weights[-1] < _LEAST_SHARE * weights.max() or joint_auc < auc + rules.word_gain:
            break
        chosen, direction, cosine, auc = more, joint, joint_cosine, joint_auc
    return chosen, direction, cosine


class _Draws:
    """The two null distributions, drawn once for each size that concepts ask for."""

    def __init__(self, task: _Task, seed: int) -> None:
        self._task, self._seed = task, seed
        self._kept: dict[object, np.ndarray] = {}

    def regions(self, concept: int) -> np.ndarray:
        """For about as many random regions as the concept has: fewer, so that it is never too narrow."""
        half, rules = self._task.chooser, self._task.rules
        counts = (int(half.present[:, concept].sum()), int(half.absent[:, concept].sum()))
        level = tuple(int(2 ** (math.floor(2 * math.log2(count)) / 2)) for count in counts)
        if level not in self._kept:
            rng = np.random.default_rng((self._seed, *level))
            self._kept[level] = null_maxima(half.E, self._task.T, level[0], level[1], draws=rules.draws, rng=rng)
        return self._kept[level]

    def words(self) -> np.ndarray:
        """For a vocabulary as large as the task's of words that mean nothing."""
        shape = self._task.contrast.shape
        if shape not in self._kept:
            rng = np.random.default_rng((self._seed, *shape))
            draws, freedom = 5 * self._task.rules.draws, self._task.freedom
            self._kept[shape] = outlier_null(shape[0], shape[1], draws=draws, rng=rng, freedom=freedom)
        return self._kept[shape]


def _coherence(task: _Task, concept: int) -> float:
    """Mean cosine of the concept's regions over pairs of images, less that of all regions."""
    present = np.concatenate([half.present[:, concept] for half in (task.chooser, task.tester)])
    return pairwise_cosine(task.E[present], task.groups[present]) - task.likeness


def _no_name(reason: str) -> Name:
    return Name((), "unnamed", reason=reason)
