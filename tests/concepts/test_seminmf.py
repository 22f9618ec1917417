"""SemiNMF: against the textbook multiplicative update, and what it must keep."""

import numpy as np
import pytest
from sklearn.cluster import KMeans as ClusterKMeans

from conceptatlas.concepts import PCA, SemiNMF


def _signed(n=600, p=80, k=6, seed=0):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(k, p))
    U = rng.gamma(1.0, size=(n, k)) * (rng.random((n, k)) < 0.4)
    return (U @ W + 0.3 * rng.normal(size=(n, p))).astype(np.float32)


def _textbook_error(A, k, n_iter=200):
    """Ding, Li and Jordan (2010): k-means start, multiplicative update of U, least squares for W."""
    U = np.eye(k)[ClusterKMeans(k, n_init=1, random_state=0).fit_predict(A)] + 0.2
    W = np.linalg.lstsq(U, A, rcond=None)[0]
    for _ in range(n_iter):
        P, G = A @ W.T, W @ W.T
        up = np.maximum(P, 0) + U @ np.maximum(-G, 0)
        down = np.maximum(-P, 0) + U @ np.maximum(G, 0)
        U *= np.sqrt(up / np.maximum(down, 1e-12))
        W = np.linalg.lstsq(U, A, rcond=None)[0]
    return np.linalg.norm(A - U @ W)


def test_error_is_not_above_that_of_the_textbook_update():
    A = _signed()
    model = SemiNMF(6, random_state=0, max_iter=500).fit(A)
    assert model.reconstruction_err_ <= 1.002 * _textbook_error(A, 6)


def test_error_is_not_below_the_unconstrained_optimum():
    A = _signed()
    best = PCA(6, random_state=0).fit(A).reconstruction_err_
    assert SemiNMF(6, random_state=0, max_iter=500).fit(A).reconstruction_err_ >= best * (1 - 1e-4)


def test_coefficients_are_non_negative_and_components_signed():
    A = _signed()
    model = SemiNMF(6, random_state=0, max_iter=500).fit(A)
    assert model.transform(A).min() >= 0
    assert model.components_.min() < 0 < model.components_.max()


def test_scaling_changes_nothing():
    A = _signed()
    first = SemiNMF(4, random_state=0, max_iter=500).fit(A)
    second = SemiNMF(4, random_state=0, max_iter=500).fit(A * np.float32(128))
    assert second.reconstruction_err_ == pytest.approx(128 * first.reconstruction_err_, rel=1e-4)


def test_exclusivity_buys_components_that_do_not_cancel_for_a_little_error():
    rng = np.random.default_rng(0)
    A = _signed(n=900, k=12) + 0.5 * rng.normal(size=(900, 80)).astype(np.float32)
    plain, exclusive = (SemiNMF(8, exclusivity=e, random_state=0, max_iter=2000).fit(A) for e in (0.0, 0.05))
    cosines = [(m.components_ @ m.components_.T).min() for m in (plain, exclusive)]
    assert cosines[1] > cosines[0] + 0.1
    assert plain.reconstruction_err_ <= exclusive.reconstruction_err_ <= 1.1 * plain.reconstruction_err_
    together = [(m.transform(A) > 0).sum(axis=1).mean() for m in (plain, exclusive)]
    assert together[1] < together[0]
