"""The tests a word must pass, against scikit-learn, numpy and chance."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from conceptatlas.concepts.evidence import (
    mean_difference,
    null_maxima,
    outlier_null,
    outlyingness,
    p_value,
    pairwise_cosine,
    retrieval_auc,
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_sklearns_with_ties(pairs):
    scores, positive = (np.array(column) for column in zip(*pairs, strict=True))
    auc = retrieval_auc(scores.astype(float), positive)
    if positive.all() or not positive.any():
        assert math.isnan(auc)
    else:
        assert auc == pytest.approx(roc_auc_score(positive, scores))


def test_the_mean_difference_is_in_deviations_of_the_negatives_and_zero_where_they_have_none():
    scores, positive = np.array([5.0, 7.0, 1.0, 3.0]), np.array([True, True, False, False])
    assert mean_difference(scores, positive) == 4.0
    assert mean_difference(np.array([1.0, 0.0, 0.0]), np.array([True, False, False])) == 0.0
    assert math.isnan(mean_difference(scores, np.ones(4, dtype=bool)))


def test_the_null_covers_a_random_selection_but_not_a_planted_one():
    rng = np.random.default_rng(0)
    E, T = rng.standard_normal((400, 16)), rng.standard_normal((50, 16))
    null = null_maxima(E, T, 40, 200, draws=199, rng=np.random.default_rng(1))
    chance = [(E[order[:40]].mean(0) - E[order[40:240]].mean(0)) @ T.T for order in map(rng.permutation, [400] * 100)]
    p = np.array([p_value(float(scores.max()), null) for scores in chance])
    assert 0.35 < p.mean() < 0.65
    planted = np.argsort(-(E @ T[3]))
    score = float((E[planted[:40]].mean(0) - E[planted[200:]].mean(0)) @ T[3])
    assert p_value(score, null) == 1 / 200


def test_a_larger_vocabulary_makes_the_null_harder_to_beat():
    rng = np.random.default_rng(0)
    E, T = rng.standard_normal((200, 16)), rng.standard_normal((1000, 16))
    few, many = (null_maxima(E, T[:v], 20, 100, draws=50, rng=np.random.default_rng(0)).mean() for v in (10, 1000))
    assert many > few


def test_more_regions_than_there_are_are_not_drawn_twice():
    assert null_maxima(np.eye(3), np.eye(3), 9, 9, draws=4, rng=np.random.default_rng(0)).max() <= 0.5


def test_pairs_of_one_image_do_not_count():
    rng = np.random.default_rng(0)
    E, groups = rng.standard_normal((12, 5)), np.repeat([3, 1, 7, 8], 3)
    pairs = [E[i] @ E[j] for i in range(12) for j in range(12) if groups[i] != groups[j]]
    assert pairwise_cosine(E, groups) == pytest.approx(np.mean(pairs))
    assert math.isnan(pairwise_cosine(E[:3], groups[:3]))
    assert math.isnan(pairwise_cosine(E[:0], groups[:0]))


def test_words_that_mean_nothing_stand_out_as_far_as_the_null_says():
    rng = np.random.default_rng(0)
    null = outlier_null(5, 300, draws=1000, rng=rng)
    p = [p_value(float(outlyingness(rng.standard_normal((5, 300)))[0][0].max()), null) for _ in range(200)]
    assert 0.4 < np.mean(p) < 0.6
    assert np.mean(np.array(p) < 0.01) < 0.04


def test_heavy_tails_of_a_large_vocabulary_are_seen_and_widen_the_null():
    rng = np.random.default_rng(0)
    normal, heavy = rng.standard_normal((5, 2000)), rng.standard_t(5, (5, 2000))
    assert outlyingness(normal)[1] > 25
    assert 3 < outlyingness(heavy)[1] < 8
    light, wide = (outlier_null(5, 2000, draws=500, rng=rng, freedom=f) for f in (math.inf, 5.0))
    assert np.median(wide) > 1.3 * np.median(light)


def test_words_that_mean_something_are_not_taken_for_heavy_tails_in_a_vocabulary_of_some_hundreds():
    scores = np.random.default_rng(0).standard_normal((8, 300))
    scores[:, :30] *= 8
    outlying, freedom = outlyingness(scores)
    null = outlier_null(8, 300, draws=500, rng=np.random.default_rng(1), freedom=freedom)
    assert freedom == math.inf
    assert p_value(float(outlying[0].max()), null) < 0.01


def test_right_words_do_not_widen_the_spread_that_they_stand_out_of():
    scores = np.random.default_rng(0).standard_normal((4, 400))
    lifted = scores.copy()
    lifted[:, :20] += 30
    plain, more = (outlyingness(values)[0] for values in (scores, lifted))
    assert more[:, :20].min() > 20
    np.testing.assert_allclose(more[:, 20:], plain[:, 20:], atol=0.3)
    assert not outlyingness(np.ones((2, 9)))[0].any()
