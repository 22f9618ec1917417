"""The intervals and corrections that the audit's evidence stands on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptatlas.audit.statistics import auc, benjamini_hochberg, bootstrap_mean, otsu, risk_difference, wilson


@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_interval_agrees_with_scipy(n, share):
    from scipy.stats import binomtest

    k = round(share * n)
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_interval_of_nothing_is_everything():
    assert wilson(0, 0) == (0.0, 1.0)


def test_risk_difference_reproduces_the_example_of_the_paper():
    assert risk_difference(56, 70, 48, 80) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@given(a=st.integers(0, 30), b=st.integers(0, 30))
def test_risk_difference_is_antisymmetric(a, b):
    value, low, high = risk_difference(a, 30, b, 30)
    other, other_low, other_high = risk_difference(b, 30, a, 30)
    assert (value, low, high) == pytest.approx((-other, -other_high, -other_low))


def test_risk_difference_with_an_empty_group_says_nothing():
    value, low, high = risk_difference(0, 0, 5, 10)
    assert np.isnan(value)
    assert (low, high) == (-1.0, 1.0)


def test_otsu_separates_two_groups():
    values = np.concatenate([np.linspace(0, 1, 50), np.linspace(8, 9, 5)])
    assert 1 <= otsu(values) <= 8


def test_otsu_of_a_constant_is_that_constant():
    assert otsu(np.full(5, 3.0)) == 3.0


def test_correction_leaves_unknown_p_values_unknown_and_uncounted():
    adjusted = benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    assert adjusted[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(adjusted[1])


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_agrees_with_counting_pairs(pairs):
    scores, positive = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    up, down = scores[positive], scores[~positive]
    if len(up) == 0 or len(down) == 0:
        assert np.isnan(auc(scores, positive))
        return
    wins = (up[:, None] > down[None]).mean() + (up[:, None] == down[None]).mean() / 2
    assert auc(scores, positive) == pytest.approx(wins)


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        low, high = bootstrap_mean(rng.normal(size=(80, 1)), seed=seed)
        covered += low[0] <= 0 <= high[0]
    assert covered >= 88
