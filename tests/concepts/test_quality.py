"""Quality measures against values known in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptatlas.concepts import HIGHER_IS_BETTER, hoyer, match_components, quality, r2, relative_l2, stability
from conceptatlas.extraction.errors import UserError


def test_relative_l2_is_the_mean_over_rows_and_leaves_out_rows_of_zeros():
    A = np.array([[3.0, 4.0], [0.0, 0.0], [2.0, 0.0]])
    assert relative_l2(A, np.array([[3.0, 0.0], [1.0, 1.0], [2.0, 0.0]])) == pytest.approx(0.4)


def test_r2_is_zero_for_the_mean_and_nan_for_constant_activations():
    A = np.array([[0.0, 1.0], [2.0, 5.0]])
    assert r2(A, np.tile(A.mean(0), (2, 1))) == pytest.approx(0)
    assert np.isnan(r2(np.ones((3, 2)), np.ones((3, 2))))


@given(k=st.integers(2, 20), m=st.integers(1, 20))
def test_hoyer_of_m_equal_coefficients_in_k(k, m):
    m = min(m, k)
    u = np.zeros((1, k))
    u[0, :m] = 7.0
    assert hoyer(u) == pytest.approx((np.sqrt(k) - np.sqrt(m)) / (np.sqrt(k) - 1))


def test_stability_sees_through_order_and_scale_and_is_low_for_random_dictionaries():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(6, 200))
    assert stability(W, 3.0 * W[rng.permutation(6)]) == pytest.approx(1)
    assert stability(W, rng.normal(size=(6, 200))) < 0.3


def test_matching_is_one_to_one_and_the_best_in_total():
    W = np.array([[1.0, 0.0], [0.9, 0.1]])
    _, columns, _ = match_components(W, np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert sorted(columns.tolist()) == [0, 1]
    assert columns.tolist() == [0, 1]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="one shape"):
        relative_l2(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(UserError, match="3 and 4 features"):
        stability(np.eye(3), np.eye(4))


def test_every_measure_that_is_listed_exists():
    assert all(callable(getattr(quality, name)) for name in HIGHER_IS_BETTER)


def test_coherence_is_the_mean_pairwise_cosine():
    rng = np.random.default_rng(0)
    E, a = rng.normal(size=(7, 4)), rng.random(7)
    unit = E / np.linalg.norm(E, axis=1, keepdims=True)
    pairs = [(i, j) for i in range(7) for j in range(i)]
    expected = sum(a[i] * a[j] * unit[i] @ unit[j] for i, j in pairs) / sum(a[i] * a[j] for i, j in pairs)
    assert quality.coherence(E, a) == pytest.approx(expected)
    assert np.isnan(quality.coherence(E[:1]))


def test_a_random_concept_is_no_more_coherent_than_chance():
    rng = np.random.default_rng(0)
    E = np.repeat(np.eye(4), 40, axis=0) + 0.1 * rng.normal(size=(160, 4))
    U = np.stack([np.arange(160) < 40, rng.random(160)], axis=1)
    found = quality.coherence_against_chance(E, U, n_draws=99)
    assert found.value[0] > found.chance[0] + 0.5
    assert found.p_value[0] == pytest.approx(0.01)
    assert found.p_value[1] > 0.05


def test_frechet_distance_of_gaussians_in_closed_form():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)).T)
    y = x * [2.0, 1.0, 3.0] + [1.0, 0.0, 0.0]
    assert quality.frechet(x, y) == pytest.approx(1 + 1 + 4, rel=1e-6)
    assert quality.frechet(x, x) == pytest.approx(0, abs=1e-6)


def test_pace_sparsity_and_stability():
    assert quality.concept_sparsity(np.ones((2, 10))) == 0
    assert quality.concept_sparsity(np.eye(4)) == pytest.approx(0.75)
    assert quality.perturbation_stability(np.array([[1.0, 0.0]]), np.array([[1.0, 0.5]])) == pytest.approx(0.5)
