"""What the encoder is shown of a class, and the names that come of it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conceptatlas.audit.examples import make_pool
from conceptatlas.audit.words import class_regions, name_class
from conceptatlas.concepts import embed_words, load_vocabulary

COLOURS = {"red thing": (255, 0, 0), "green thing": (0, 255, 0), "blue thing": (0, 0, 255), "grey thing": (90, 90, 90)}


class ColourEncoder:
    """A stub that knows colours and no other word."""

    id, dim, templates = "colours", 4, ("{}",)

    def encode_images(self, images):
        means = np.stack([np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) for image in images])
        return _unit(np.concatenate([means - 90, np.full((len(means), 1), 40.0)], axis=1))

    def encode_texts(self, texts):
        known = [[*np.subtract(COLOURS[t], 90), 40.0] if t in COLOURS else [0, 0, 0, 1.0] for t in texts]
        return _unit(np.array(known, dtype=np.float32))


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def pool():
    """Grey images with a red square in some and a green one in others; a map of each, and one of nothing."""
    rng = np.random.default_rng(0)
    views, maps = [], rng.uniform(0, 0.05, (40, 3, 8, 8)).astype(np.float32)
    for i in range(40):
        pixels = np.full((64, 64, 3), 90, np.uint8)
        for k, colour in enumerate(list(COLOURS.values())[:2]):
            if rng.random() < 0.5:
                y, x = rng.integers(0, 6, 2)
                pixels[8 * y : 8 * y + 24, 8 * x : 8 * x + 24] = colour
                maps[i, k, y : y + 3, x : x + 3] += 1
        views.append(Image.fromarray(pixels))
    return make_pool(np.arange(40) + 100, views, maps)


def context_of(vocabulary):
    encoder = ColourEncoder()
    predicted = {"predicted_index": np.concatenate([np.zeros(100, int), np.ones(40, int)])}
    return SimpleNamespace(
        encoder=encoder,
        vocabulary=vocabulary,
        word_embeddings=embed_words(encoder, vocabulary.words),
        settings=SimpleNamespace(seed=0),
        class_names=["first", "second"],
        images=pd.DataFrame(predicted),
    )


def test_regions_are_where_a_map_is_strongest_and_random_places_of_the_same_sizes(pool):
    regions = class_regions(pool, seed=0)
    assert len(regions.crops) == len(regions.places) == len(regions.presence) == len(regions.groups)
    assert set(regions.groups) == set(pool.rows)
    sides = np.array([box[2] - box[0] for _, box in regions.places])
    assert sides.min() >= 16
    assert sides.max() <= 39
    strongest = regions.presence[:, 0].argmax()
    assert np.asarray(regions.crops[strongest])[..., 0].mean() > 150


def test_the_strongest_images_are_told_apart_above_the_scale_at_which_maps_are_cut(pool):
    maps = pool.raw.copy()
    maps[7, 0, 2, 2] = 50.0
    regions = class_regions(make_pool(pool.rows, pool.views, maps), seed=0)
    assert regions.groups[0] == pool.rows[7]


def test_a_concept_gets_the_word_that_retrieves_its_regions_and_noise_gets_none(pool):
    names = name_class(context_of(load_vocabulary([*COLOURS, "sky", "dog"])), pool).names
    assert [name.text for name in names] == ["red thing", "green thing", ""]


def test_words_that_the_encoder_does_not_know_name_nothing(pool):
    names = name_class(context_of(load_vocabulary(["sky", "dog", "wing", "paw", "tree"])), pool).names
    assert all(name.status == "unnamed" for name in names)


def test_descriptors_name_the_concepts_of_their_class_alone(pool):
    words = ["blue thing", "grey thing", "sky", "dog", "green thing"]
    own = load_vocabulary(words, descriptors={"second": ["red thing"]})
    other = load_vocabulary(words, descriptors={"first": ["red thing"]})
    assert name_class(context_of(own), pool).names[0].text == "red thing"
    assert name_class(context_of(other), pool).names[0].text != "red thing"
