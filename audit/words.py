"""Names for a class's concepts: which regions of images the encoder is shown, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from conceptatlas.audit.context import Context
from conceptatlas.audit.examples import Box, Pool, crop_box, mean_in_box
from conceptatlas.concepts import Name, TextImageEncoder, Vocabulary, concept_contrasts, embed_words, name_concepts

CROPS_PER_CONCEPT = 20
RANDOM_CROPS_PER_IMAGE = 3


@dataclass(frozen=True)
class Naming:
    """Names of a class's concepts, and each concept's direction in the encoder's space, (k, d), for search by text."""

    names: list[Name | None]
    contrasts: np.ndarray | None = None


@dataclass(frozen=True)
class Regions:
    """Regions of a class's images that stand for its concepts.

    Attributes
    ----------
    crops
        What the encoder is shown, n of them.
    places
        For each the image's place in the pool, and the box in pixels of its view.
    presence
        (n, k) mean of each concept's map in each region.
    groups
        (n,) row of the store that each region comes from.
    """

    crops: list[Image.Image]
    places: list[tuple[int, Box]]
    presence: np.ndarray
    groups: np.ndarray


def name_class(context: Context, pool: Pool) -> Naming:
    """Return a name, or the refusal of one, for each concept of a class; Nones where no encoder is given.

    The encoder sees `class_regions`. The words are those of the vocabulary, and the descriptors that it holds for the
    class.
    """
    k = pool.raw.shape[1]
    if context.encoder is None or context.vocabulary is None or context.word_embeddings is None or len(pool.rows) < 2:
        return Naming([None] * k)
    regions = class_regions(pool, seed=context.settings.seed)
    embeddings = context.encoder.encode_images(regions.crops)
    index = int(context.images["predicted_index"].iloc[pool.rows[0]])
    words, vectors = _words_for(
        context.class_names[index], context.vocabulary, context.word_embeddings, context.encoder
    )
    names = name_concepts(embeddings, regions.presence, regions.groups, vectors, words, seed=context.settings.seed)
    return Naming(list(names), concept_contrasts(embeddings, regions.presence))


def _words_for(
    class_name: str, vocabulary: Vocabulary, vectors: np.ndarray, encoder: TextImageEncoder
) -> tuple[Vocabulary, np.ndarray]:
    """Return the vocabulary of a class with its descriptors, and its words' embeddings."""
    words = vocabulary.for_class(class_name)
    more = words.words[len(vocabulary) :]
    return words, np.concatenate([vectors, embed_words(encoder, more)]) if more else vectors


def class_regions(pool: Pool, *, seed: int) -> Regions:
    """Return where each concept's map is strongest in the images that hold most of it, and random places.

    Random places have the sizes that the others have, and are cut out in the same way. All regions are scored for all
    concepts, by the mean of the maps inside them.
    """
    places = _concept_places(pool) + _random_places(pool, seed)
    return Regions(
        crops=[pool.views[i].crop(box) for i, box in places],
        places=places,
        presence=np.stack([mean_in_box(pool.raw[i], box, pool.views[i].size) for i, box in places]),
        groups=pool.rows[[i for i, _ in places]],
    )


def _concept_places(pool: Pool) -> list[tuple[int, Box]]:
    places = []
    for concept in range(pool.raw.shape[1]):
        strength = pool.raw[:, concept].max(axis=(1, 2))
        best = np.argsort(-strength, kind="stable")[:CROPS_PER_CONCEPT]
        places += [(int(i), crop_box(pool.raw[i, concept], pool.views[i].size)) for i in best if strength[i] > 0]
    return list(dict.fromkeys(places))


def _random_places(pool: Pool, seed: int) -> list[tuple[int, Box]]:
    rng = np.random.default_rng(seed)
    places = []
    for i, view in enumerate(pool.views):
        shorter = min(view.size)
        for share in rng.uniform(0.25, 0.6, size=RANDOM_CROPS_PER_IMAGE):
            side = max(1, int(share * shorter))
            left = int(rng.integers(0, view.size[0] - side + 1))
            top = int(rng.integers(0, view.size[1] - side + 1))
            places.append((i, (left, top, left + side, top + side)))
    return places
