"""Names for a class's concepts: which regions of images the encoder is shown, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from conceptatlas.audit.context import Context
from conceptatlas.audit.examples import Box, Pool, crop_box, mean_in_box
from conceptatlas.concepts import Name, concept_contrasts, name_concepts

CROPS_PER_CONCEPT = 20
RANDOM_CROPS_PER_IMAGE = 3


@dataclass(frozen=True)
class Naming:
    """Names of a class's concepts, and each concept's direction in the encoder's space, (k, d), for search by text."""

    names: list[Name | None]
    contrasts: np.ndarray | None = None


def name_class(context: Context, pool: Pool) -> Naming:
    """Return a name, or the refusal of one, for each concept of a class; Nones where no encoder is given.

    The encoder sees crops: where each concept's map is strongest in the images that hold most of it, and random
    places of the same sizes. All crops are scored for all concepts by the mean of the maps inside them.
    """
    k = pool.maps.shape[1]
    if context.encoder is None or context.vocabulary is None or context.word_embeddings is None or len(pool.rows) < 2:
        return Naming([None] * k)
    places = _concept_places(pool) + _random_places(pool, context.settings.seed)
    crops = [pool.views[i].crop(box) for i, box in places]
    presence = np.stack([mean_in_box(pool.maps[i], box, pool.views[i].size) for i, box in places])
    embeddings = context.encoder.encode_images(crops)
    groups = pool.rows[[i for i, _ in places]]
    names = name_concepts(
        embeddings, presence, groups, context.word_embeddings, context.vocabulary, seed=context.settings.seed
    )
    return Naming(list(names), concept_contrasts(embeddings, presence))


def _concept_places(pool: Pool) -> list[tuple[int, Box]]:
    places = []
    for concept in range(pool.maps.shape[1]):
        strength = pool.maps[:, concept].max(axis=(1, 2))
        best = np.argsort(-strength, kind="stable")[:CROPS_PER_CONCEPT]
        places += [(int(i), crop_box(pool.maps[i, concept], pool.views[i].size)) for i in best if strength[i] > 0]
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
