"""Probes on data whose answer is known."""

import numpy as np
import pytest
from scipy.linalg import hadamard

from conceptatlas.concepts import quality
from conceptatlas.concepts.probes import iis, learnability, linear_faithfulness, normalised_average_precision
from conceptatlas.extraction.errors import UserError


def test_coefficients_that_decide_the_prediction_are_faithful_and_noise_is_at_chance():
    rng = np.random.default_rng(0)
    U = rng.random((400, 5))
    assert linear_faithfulness(U, U.argmax(axis=1)) > 0.9
    assert linear_faithfulness(rng.random((400, 5)), U.argmax(axis=1)) < 0.4
    assert np.isnan(linear_faithfulness(U, np.zeros(400)))


def test_a_linear_concept_is_learnable_and_a_random_one_is_not():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 10))
    present = np.stack([X[:, 0] > 0, rng.random(600) < 0.5, np.zeros(600, bool)], axis=1)
    scores = learnability(X, present)
    assert scores[0] > 0.9
    assert scores[1] < scores[0] - 0.2
    assert np.isnan(scores[2])


def test_normalised_precision_does_not_depend_on_the_base_rate():
    rng = np.random.default_rng(0)
    values = []
    for negatives in (300, 3000):
        present = np.r_[np.ones(300, bool), np.zeros(negatives, bool)]
        scores = rng.normal(size=len(present)) + 2 * present
        values.append(normalised_average_precision(scores, present, n_positive=negatives))
    assert values[0] == pytest.approx(values[1], abs=0.04)


def test_iis_is_higher_where_few_concepts_suffice():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 16, 800)
    sparse = np.eye(16)[labels] + 0.05 * rng.normal(size=(800, 16))
    spread = sparse @ hadamard(16) / 4
    assert iis(sparse, labels, sparse) > iis(spread, labels, sparse) + 0.05
    assert 0.9 < iis(sparse, labels, sparse) <= 1.0


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match="at least 10"):
        quality.iis(np.eye(3), np.arange(3), np.eye(3))
