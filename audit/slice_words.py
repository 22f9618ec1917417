"""Words for error slices: what the failed images of a slice look more like than the class's other images do.

The score is B2T's (Kim et al., "Discovering and Mitigating Visual Biases through Keyword Explanation", CVPR 2024):
100 x (mean cosine of the word with the wrong images - with the right ones), here with a permutation p-value that is
corrected for the number of words. The encoder sees each image through the map of the concept that the slice has more
of (see `conceptatlas.audit.masking`), or whole where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image

from conceptatlas.audit.context import Context, sample
from conceptatlas.audit.masking import mask_with_map
from conceptatlas.audit.slices import Slices
from conceptatlas.importance import concept_maps

MOST_WORDS, SIGNIFICANT, PERMUTATIONS = 3, 0.05, 500
WRONG_IMAGES, RIGHT_IMAGES, FEWEST = 20, 40, 4
MARKED = 0.5  # z-score from which on a slice has more of a concept


@dataclass(frozen=True)
class Word:
    """A word, its B2T score, and the p-value of a score as high by chance of any of the words."""

    text: str
    score: float
    p_value: float


def bias_words(
    wrong: np.ndarray, right: np.ndarray, words: np.ndarray, texts: list[str], *, seed: int = 0
) -> list[Word]:
    """Return the words that wrong images resemble more than right ones do, the highest score first.

    Parameters
    ----------
    wrong, right
        (a, d) and (b, d) unit embeddings of images of one class.
    words
        (m, d) unit embeddings of the words `texts`.
    seed
        Seed of the permutations.

    Examples
    --------
    >>> axes = np.eye(3)
    >>> found = bias_words(np.tile(axes[0], (9, 1)), np.tile(axes[1], (9, 1)), axes, ["tag", "bee", "sky"])
    >>> [(word.text, round(word.score)) for word in found]
    [('tag', 100)]
    """
    if min(len(wrong), len(right)) < FEWEST:
        return []
    cosine = np.concatenate([wrong, right]) @ words.T
    side = np.arange(len(cosine)) < len(wrong)

    def scores(chosen: np.ndarray) -> np.ndarray:
        return 100 * (cosine[chosen].mean(0) - cosine[~chosen].mean(0))

    rng = np.random.default_rng(seed)
    highest = np.array([scores(rng.permutation(side)).max() for _ in range(PERMUTATIONS)])
    score = scores(side)
    p_values = (1 + (highest[:, None] >= score - 1e-9).sum(0)) / (1 + PERMUTATIONS)
    best = [i for i in np.argsort(-score, kind="stable")[:MOST_WORDS] if score[i] > 0 and p_values[i] < SIGNIFICANT]
    return [Word(texts[i], float(score[i]), float(p_values[i])) for i in best]


def slice_words(
    context: Context, rows: np.ndarray, found: Slices, correct: np.ndarray, directions: torch.Tensor, method: str
) -> list[str]:
    """Return for each slice its words with their scores, such as ``"snow (+2.1), sky (+1.4)"``; empty where none.

    Parameters
    ----------
    context
        The run; without an encoder there are no words.
    rows, correct
        (n,) rows of the store that were sliced, and whether the model is right.
    found
        Their slices.
    directions, method
        (k, p) directions of the class's concepts, and the run's concept map.
    """
    encoder, vocabulary, embeddings = context.encoder, context.vocabulary, context.word_embeddings
    if encoder is None or vocabulary is None or embeddings is None:
        return [""] * len(found.table)
    assigned = found.membership.argmax(1) if found.membership.size else np.zeros(len(rows), dtype=int)
    said = []
    for number in range(len(found.table)):
        wrong = np.flatnonzero((assigned == number) & ~correct)[:WRONG_IMAGES]
        right = sample(np.flatnonzero((assigned != number) & correct), RIGHT_IMAGES, context.settings.seed)
        if min(len(wrong), len(right)) < FEWEST or not _raised(found.table.iloc[number]):
            said.append("")
            continue
        marks = [int(concept) for concept, z in found.table["concepts"].iloc[number] if z > MARKED][:1]
        seen = [
            np.asarray(encoder.encode_images(_seen(context, rows[chosen], directions, marks, method)))
            for chosen in (wrong, right)
        ]
        words = bias_words(seen[0], seen[1], embeddings, list(vocabulary.words), seed=context.settings.seed)
        said.append(", ".join(f"{word.text} ({word.score:+.1f})" for word in words))
    return said


def _raised(row: pd.Series) -> bool:
    return bool(row["error_rate"] > max(row["class_error_rate"], row["shuffled_error_rate"]))


def _seen(
    context: Context, rows: np.ndarray, directions: torch.Tensor, concepts: list[int], method: str
) -> list[Image.Image]:
    """Return the views of some images, of which only the place of a concept can be seen where one is given."""
    views = list(context.readable_views(rows).values())
    if not concepts or not views:
        return views
    maps = concept_maps(context.split, directions, context.tensors(views), method=method, concepts=concepts)
    return [mask_with_map(view, one[0].cpu().numpy()) for view, one in zip(views, maps.detach(), strict=True)]
