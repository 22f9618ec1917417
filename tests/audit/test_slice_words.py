"""Words for error slices: the planted word is said, chance says none; and what a map leaves to be seen."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conceptatlas.audit import find_slices
from conceptatlas.audit.context import Settings
from conceptatlas.audit.masking import mask_with_map
from conceptatlas.audit.slice_words import bias_words, slice_words
from conceptatlas.extraction.errors import UserError

TEXTS = ["tag", "bee", "sky", "leaf", "stone"]


def embeddings(n, rng, towards=None):
    found = rng.normal(size=(n, 16))
    if towards is not None:
        found[:, towards] += 4
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_planted_word_is_said_with_its_score():
    rng = np.random.default_rng(0)
    wrong, right = embeddings(20, rng, towards=0), embeddings(30, rng)
    found = bias_words(wrong, right, np.eye(16)[:5], TEXTS)
    assert found[0].text == "tag"
    assert found[0].p_value < 0.01
    assert found[0].score == pytest.approx(100 * (wrong[:, 0].mean() - right[:, 0].mean()))


def test_chance_says_a_word_in_no_more_than_one_case_of_ten():
    said = [
        bool(bias_words(embeddings(15, rng), embeddings(25, rng), np.eye(16)[:5], TEXTS, seed=seed))
        for seed, rng in enumerate(map(np.random.default_rng, range(60)))
    ]
    assert np.mean(said) <= 0.1


def test_too_few_images_have_no_words():
    assert bias_words(np.eye(16)[:3], np.eye(16)[:9], np.eye(16)[:5], TEXTS) == []


def audit_context(n, wrong):
    """Wrong images look like the word "tag" to the encoder: an image's first pixel tells which it is."""
    views = {row: Image.new("RGB", (4, 4), (255 if wrong[row] else 0, 0, 0)) for row in range(n)}

    def encode(images):
        axes = [0 if image.getpixel((0, 0))[0] > 128 else 1 for image in images]
        return np.eye(16)[axes]

    return SimpleNamespace(
        settings=Settings(),
        encoder=SimpleNamespace(encode_images=encode),
        vocabulary=SimpleNamespace(words=tuple(TEXTS)),
        word_embeddings=np.eye(16)[:5],
        readable_views=lambda rows: {int(row): views[int(row)] for row in rows},
    )


def test_a_slice_of_failures_gets_its_word_and_the_others_none():
    n, rng = 200, np.random.default_rng(0)
    wrong = np.arange(n) < 16
    held = rng.random((n, 5))
    held[wrong] *= 0.1  # less of everything: no concept's map to look through
    found = find_slices(held, np.where(wrong, 0.1, 0.9), ~wrong)
    words = slice_words(audit_context(n, wrong), np.arange(n), found, ~wrong, None, "coefficients")
    assert words[0].startswith("tag (+100")
    assert {word for word, rate in zip(words, found.table["error_rate"], strict=True) if rate == 0} == {""}


def test_without_an_encoder_there_are_no_words():
    n, rng = 100, np.random.default_rng(0)
    wrong = np.arange(n) < 12
    found = find_slices(rng.random((n, 5)), np.where(wrong, 0.1, 0.9), ~wrong)
    context = SimpleNamespace(encoder=None, vocabulary=None, word_embeddings=None)
    assert slice_words(context, np.arange(n), found, ~wrong, None, "coefficients") == [""] * len(found.table)


@pytest.fixture
def image():
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["blur", "mean"])
def test_what_a_map_marks_stays_and_the_rest_changes(image, mode):
    concept_map = np.zeros((40, 60))
    concept_map[10:20, 20:40] = 1
    before, after = np.asarray(image), np.asarray(mask_with_map(image, concept_map, quantile=0.9, mode=mode))
    np.testing.assert_array_equal(after[10:20, 20:40], before[10:20, 20:40])
    assert (after[30:] != before[30:]).mean() > 0.9


def test_a_crop_is_taken_where_the_map_is_strongest(image):
    concept_map = np.zeros((40, 60))
    concept_map[:8, :8] = 1
    cropped = mask_with_map(image, concept_map, mode="crop")
    assert cropped.size[0] < 30
    np.testing.assert_array_equal(np.asarray(cropped)[0, 0], np.asarray(image)[0, 0])


@pytest.mark.parametrize(("options", "mentioned"), [({"mode": "hide"}, "hide"), ({"quantile": 1.5}, "1.5")])
def test_a_mistake_is_named(image, options, mentioned):
    with pytest.raises(UserError, match=mentioned):
        mask_with_map(image, np.ones((2, 2)), **options)
