"""Top-k sparse autoencoder: sparsity, recovery of a planted sparse dictionary, archetypal components near the data."""

import numpy as np
import pytest

from conceptatlas.concepts import match_components
from conceptatlas.concepts.sae import TopKSAE
from conceptatlas.extraction.errors import UserError


def _sparse(n=1500, p=40, k=8, seed=0):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(k, p))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    U = rng.uniform(0.5, 1.5, size=(n, k)) * (rng.random((n, k)) < 0.2)
    return (U @ W + 0.01 * rng.normal(size=(n, p))).astype(np.float32), W


def test_a_planted_sparse_dictionary_is_recovered():
    A, W = _sparse()
    model = TopKSAE(8, top_k=3, random_state=0).fit(A)
    assert match_components(model.components_, W)[2].mean() > 0.9


@pytest.mark.parametrize("archetypal", [False, True])
def test_codes_that_may_all_be_active_reconstruct_what_is_of_their_rank(archetypal):
    rng = np.random.default_rng(0)
    A = (rng.gamma(0.5, size=(800, 10)) @ rng.gamma(0.5, size=(10, 60))).astype(np.float32)
    model = TopKSAE(10, top_k=10, archetypal=archetypal, max_iter=300, tol=0.02, random_state=0).fit(A)
    assert model.reconstruction_err_ < 0.1 * np.linalg.norm(A)


def test_more_active_codes_never_reconstruct_worse():
    A, _ = _sparse()
    errors = [
        TopKSAE(8, top_k=k, max_iter=300, tol=0.01, random_state=0).fit(A).reconstruction_err_ for k in (1, 2, 4, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


def test_at_most_top_k_codes_are_active_and_none_is_negative():
    A, _ = _sparse()
    U = TopKSAE(8, top_k=2, max_iter=30, tol=0.02, random_state=0).fit(A).transform(A)
    assert (U > 0).sum(axis=1).max() == 2
    assert U.min() >= 0


def test_archetypal_components_without_relaxation_lie_in_the_cone_of_the_data():
    rng = np.random.default_rng(0)
    A = rng.random((600, 10)).astype(np.float32)
    model = TopKSAE(4, top_k=2, archetypal=True, relaxation=0.0, max_iter=200, tol=0.01, random_state=0).fit(A)
    assert model.components_.min() >= 0
    assert model.inverse_transform(model.transform(A)).shape == A.shape


def test_a_bad_top_k_is_refused():
    with pytest.raises(UserError, match="top_k=0"):
        TopKSAE(3, top_k=0).fit(np.ones((10, 5), np.float32))
