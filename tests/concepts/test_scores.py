"""Scores: equal to their plain definitions, right on planted regions, and what each of them is known for."""

import numpy as np
import pytest

from conceptatlas.concepts.scores import (
    SCORES,
    concept_contrasts,
    contrast,
    correlation,
    cos_cubed,
    fit_words,
    otsu_thresholds,
    presence_masks,
    raw_mean,
    score_words,
    soft_wpmi,
    sparse_words,
    word_dictionary,
)
from conceptatlas.extraction.errors import UserError

WORDS = ("stripes", "spots", "wing", "tag", "snow")


@pytest.fixture
def problem(planted_regions):
    regions = planted_regions(WORDS)
    return regions, regions.encoder.encode_texts(WORDS)


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("name", SCORES)
def test_every_score_finds_the_planted_word(problem, name):
    regions, T = problem
    scores = score_words(name, regions.embeddings, regions.presence, T)
    assert scores.shape == (5, 5)
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3, 4]


def test_correlation_is_pearsons(problem):
    regions, T = problem
    similarity = regions.embeddings @ T.T
    expected = np.corrcoef(regions.presence.T, similarity.T)[:5, 5:]
    np.testing.assert_allclose(correlation(regions.embeddings, regions.presence, T), expected, atol=1e-4)


def test_cos_cubed_is_its_definition(problem):
    regions, T = problem
    similarity = regions.embeddings @ T.T
    a, b = ((x - x.mean(axis=0)) ** 3 for x in (regions.presence, similarity))
    expected = (a / np.linalg.norm(a, axis=0)).T @ (b / np.linalg.norm(b, axis=0))
    np.testing.assert_allclose(cos_cubed(regions.embeddings, regions.presence, T), expected, atol=1e-4)


def test_cos_cubed_is_the_same_in_blocks(problem, monkeypatch):
    from conceptatlas.concepts import scores

    regions, T = problem
    whole = cos_cubed(regions.embeddings, regions.presence, T)
    monkeypatch.setattr(scores, "_BLOCK", 2)
    np.testing.assert_allclose(cos_cubed(regions.embeddings, regions.presence, T), whole, atol=1e-6)


def test_soft_wpmi_is_its_definition(problem):
    regions, T = problem
    top, logs = 20, []
    for k in range(5):
        rows = np.argsort(-regions.presence[:, k], kind="stable")[:top]
        p = np.exp(10.0 * (regions.embeddings[rows] @ T.T).astype(float))
        p /= p.sum(axis=1, keepdims=True)
        logs.append(np.log(1 + np.linspace(0.998, 0.97, top)[:, None] * (p - 1) + 1e-7).sum(axis=0))
    expected = np.array(logs) - np.log(np.exp(logs).mean(axis=0))
    np.testing.assert_allclose(soft_wpmi(regions.embeddings, regions.presence, T, top=top), expected, rtol=1e-3)


def test_contrast_cancels_what_every_region_shares():
    rng = np.random.default_rng(0)
    has = np.arange(40) < 10
    E = _unit(3 * np.eye(4)[0] + has[:, None] * np.eye(4)[1] + 0.05 * rng.standard_normal((40, 4)))
    presence = has[:, None].astype(float)
    assert raw_mean(E, presence, np.eye(4)[:2]).argmax() == 0
    assert contrast(E, presence, np.eye(4)[:2]).argmax() == 1


def test_contrast_does_not_lift_a_word_of_small_spread_as_correlation_does():
    has = np.arange(40) < 10
    E = np.column_stack([np.ones(40), has + 0.3 * np.sin(np.arange(40)), 0.01 * has])
    presence, T = has[:, None].astype(float), np.eye(3)[1:]
    assert correlation(E, presence, T).argmax() == 1
    assert contrast(E, presence, T).argmax() == 0


def test_the_masks_split_a_presence_of_two_humps_wherever_the_split_lies():
    for share in (0.05, 0.2, 0.5, 0.8):
        has = np.arange(200) < 200 * share
        presence = np.where(has, 1.0, 0.0) + 0.1 * np.sin(np.arange(200.0))
        present, absent = presence_masks(presence[:, None])
        assert present[:, 0].any()
        assert absent[:, 0].any()
        assert not (present[:, 0] & ~has).any()
        assert not (absent[:, 0] & has).any()


def test_a_presence_that_never_changes_has_neither_side():
    for constant in (0.0, 1.0, -1.0):
        present, absent = presence_masks(np.full((9, 1), constant))
        assert not present.any()
        assert not absent.any()
        assert not concept_contrasts(np.eye(9), np.full((9, 1), constant)).any()


def test_otsu_is_the_split_of_least_variance_within():
    values = np.random.default_rng(0).gamma(1.0, size=(60, 3))

    def within(column, threshold):
        parts = column[column <= threshold], column[column > threshold]
        return sum(len(part) * part.var() for part in parts)

    for column, threshold in zip(values.T, otsu_thresholds(values), strict=True):
        assert within(column, threshold) == pytest.approx(min(within(column, t) for t in np.sort(column)[:-1]))


def test_an_unknown_score_lists_the_known_ones(problem):
    regions, T = problem
    with pytest.raises(UserError, match="'magic'.*contrast, correlation"):
        score_words("magic", regions.embeddings, regions.presence, T)


def test_sparse_words_find_the_words_that_a_vector_is_made_of():
    rng = np.random.default_rng(0)
    dictionary = word_dictionary(rng.standard_normal((500, 64)))
    vector = 2 * dictionary[7] + dictionary[90] + 0.5 * dictionary[333]
    words, cosine = sparse_words(vector, dictionary, 3)
    assert words == [7, 90, 333]
    assert cosine == pytest.approx(1, abs=1e-5)


def test_sparse_words_take_no_word_that_points_away():
    assert sparse_words(-np.eye(3)[0], np.eye(3), 3) == ([], 0.0)
    assert sparse_words(np.zeros(3), np.eye(3), 3) == ([], 0.0)


def test_fit_words_weights_are_never_negative():
    weights, cosine = fit_words(np.array([1.0, -1.0]), np.eye(2))
    assert weights.tolist() == pytest.approx([0.5**0.5, 0.0])
    assert cosine == pytest.approx(0.5**0.5)


def test_one_word_is_a_dictionary_too():
    assert word_dictionary(np.array([[0.0, 2.0]])).tolist() == [[0.0, 1.0]]
