"""NMF: planted dictionaries, invariances, the faults, and scikit-learn as oracle of the error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import NMF as SklearnNMF
from sklearn.exceptions import ConvergenceWarning

from conceptatlas.concepts import NMF, match_components
from conceptatlas.concepts import sweeps as sweeps_module
from conceptatlas.extraction.errors import UserError


def _planted(n, p, k, noise=0.05, seed=0):
    """A = U W + noise with sparse coefficients and components that overlap; returns A and W (unit rows)."""
    rng = np.random.default_rng(seed)
    W = rng.gamma(0.5, size=(k, p)) * (rng.random((k, p)) < 0.5)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    U = rng.gamma(1.0, size=(n, k)) * (rng.random((n, k)) < 0.3)
    A = U @ W
    return (A + noise * A.std() * np.abs(rng.normal(size=A.shape))).astype(np.float32), W


@pytest.mark.parametrize("k", [8, 25])
def test_a_planted_dictionary_is_recovered(k):
    A, W = _planted(1500, 300, k)
    assert match_components(NMF(k, random_state=0).fit(A).components_, W)[2].mean() >= 0.95


@pytest.mark.parametrize(("n", "p", "k"), [(300, 40, 5), (800, 600, 12)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_error_is_not_above_that_of_scikit_learn(n, p, k):
    A, _ = _planted(n, p, 2 * k, noise=0.5)
    other = SklearnNMF(k, init="nndsvda", random_state=0).fit(A)
    assert NMF(k, random_state=0).fit(A).reconstruction_err_ <= 1.005 * other.reconstruction_err_


def test_components_and_coefficients_are_non_negative():
    A, _ = _planted(200, 50, 6)
    model = NMF(6, random_state=0).fit(A)
    assert model.components_.min() >= 0
    assert model.transform(A).min() >= 0
    assert model.converged_


@pytest.mark.parametrize("scale", [100.0, 0.01, 1e-12, 1e12])
def test_scaling_changes_nothing_but_the_coefficients(scale):
    A, _ = _planted(300, 60, 5)
    plain, scaled = NMF(5, random_state=0).fit(A), NMF(5, random_state=0).fit(A * np.float32(scale))
    assert match_components(plain.components_, scaled.components_)[2].min() > 1 - 1e-3
    assert scaled.reconstruction_err_ == pytest.approx(plain.reconstruction_err_ * scale, rel=1e-3)
    U, V = plain.transform(A), scaled.transform(A * np.float32(scale)) / np.float32(scale)
    assert np.linalg.norm(U - V) < 0.02 * np.linalg.norm(U)


def test_the_torch_path_reaches_the_same_error(monkeypatch):
    A, _ = _planted(300, 60, 5)
    expected = NMF(5, random_state=0).fit(A)
    monkeypatch.setattr(sweeps_module, "compiled", lambda: None)
    found = NMF(5, random_state=0).fit(A)
    assert found.reconstruction_err_ == pytest.approx(expected.reconstruction_err_, rel=1e-4)


def test_more_rows_than_one_block_give_the_same_fit(monkeypatch):
    A, _ = _planted(700, 60, 5)
    expected = NMF(5, random_state=0).fit(A)
    monkeypatch.setattr("conceptatlas.concepts.rows._BLOCK_FLOATS", 6000)
    found = NMF(5, random_state=0).fit(A)
    assert match_components(found.components_, expected.components_)[2].min() > 0.9999


def test_fault_39_negative_activations_are_refused_and_seminmf_is_named():
    A, _ = _planted(50, 10, 3)
    A[4, 4] = -1.0
    with pytest.raises(UserError, match=r"smallest -1.*SemiNMF"):
        NMF(3).fit(A)


def test_an_exact_factorization_is_found_and_reported_as_such():
    rng = np.random.default_rng(0)
    A = rng.random((100, 3)) @ np.kron(np.eye(3), np.ones((1, 10)))
    model = NMF(3, random_state=0, tol=1e-6, max_iter=1000).fit(A)
    assert model.reconstruction_err_ < 1e-3 * np.linalg.norm(A)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 30), p=st.integers(2, 30), seed=st.integers(0, 1000), data=st.data())
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_any_non_negative_matrix_gets_a_finite_fit_no_worse_than_nothing(n, p, seed, data):
    rng = np.random.default_rng(seed)
    A = rng.random((n, p)) * (rng.random((n, p)) < 0.5)
    A[0, 0] = 1.0
    model = NMF(data.draw(st.integers(1, min(n, p))), random_state=0).fit(A)
    assert np.isfinite(model.components_).all()
    assert np.linalg.norm(model.components_, axis=1) == pytest.approx(1, abs=1e-5)
    assert model.reconstruction_err_ <= np.linalg.norm(A) * (1 + 1e-6)


def test_sparse_input_and_bad_parameters_are_refused():
    A, _ = _planted(20, 10, 3)
    for parameters in ({"n_components": 0}, {"n_components": 2, "max_iter": 0}, {"n_components": 2, "tol": -1.0}):
        with pytest.raises(UserError):
            NMF(**parameters).fit(A)


def test_convergence_warning_is_that_of_scikit_learn():
    A, _ = _planted(100, 40, 12, noise=1.0)
    with pytest.warns(ConvergenceWarning):
        NMF(6, max_iter=3, tol=0.0, random_state=0).fit(A)
