"""The protocol that all factorizers keep, and scikit-learn's own conformance suite."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from conceptatlas.concepts import FACTORIZERS, make_factorizer, nnls
from conceptatlas.extraction.errors import UserError

ALL = sorted(FACTORIZERS)
LOOSE = {"random", "topksae"}  # directions by chance, and by stochastic descent


def _matrix(n=120, p=30, k=4, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.gamma(0.5, size=(n, k)) @ rng.gamma(0.5, size=(k, p)) + 0.05 * rng.random((n, p))).astype(np.float32)


def _fitted(name, A, k=4):
    return FACTORIZERS[name](k, max_iter=2000, tol=1e-3, random_state=0).fit(A)


@pytest.mark.parametrize("name", ALL)
def test_components_have_unit_norm_and_the_input_dtype(name):
    for dtype in (np.float32, np.float64):
        model = _fitted(name, _matrix().astype(dtype))
        assert model.components_.shape == (4, 30)
        assert model.components_.dtype == dtype
        assert np.linalg.norm(model.components_, axis=1) == pytest.approx(1, abs=1e-5)
        assert model.transform(_matrix().astype(dtype)).dtype == dtype


@pytest.mark.parametrize("name", ALL)
def test_two_runs_with_one_seed_are_bit_equal(name):
    first, second = (_fitted(name, _matrix()) for _ in range(2))
    assert np.array_equal(first.components_, second.components_)
    assert np.array_equal(first.transform(_matrix()), second.transform(_matrix()))


@pytest.mark.parametrize("name", ALL)
def test_fit_transform_is_fit_then_transform(name):
    A = _matrix()
    model = make_factorizer(name, 4, signed=False, seed=0).set_params(max_iter=2000, tol=1e-3)
    assert np.array_equal(model.fit_transform(A), model.transform(A))


@pytest.mark.parametrize("name", ALL)
def test_reconstruction_error_is_the_norm_of_what_is_left(name):
    A = _matrix()
    model = _fitted(name, A)
    left = np.linalg.norm(A - model.inverse_transform(model.transform(A)))
    assert left <= model.reconstruction_err_ * (1 + 1e-4)
    if name != "seminmf":
        assert left == pytest.approx(model.reconstruction_err_, rel=0.05)


@pytest.mark.parametrize("name", ALL)
def test_a_tensor_gives_what_its_array_gives(name):
    A = _matrix()
    model = _fitted(name, torch.from_numpy(A))
    assert isinstance(model.components_, torch.Tensor)
    assert isinstance(model.transform(torch.from_numpy(A)), torch.Tensor)
    assert np.array_equal(model.components_.numpy(), _fitted(name, A).components_)


@pytest.mark.parametrize("name", ALL)
def test_fault_37_nan_is_refused_with_its_row(name):
    A = _matrix()
    A[7, 3] = np.nan
    with pytest.raises(UserError, match=r"NaN.*row 7"):
        _fitted(name, A)


@pytest.mark.parametrize("name", ALL)
def test_fault_38_infinity_is_refused_with_a_hint(name):
    A = _matrix()
    A[5, 0] = np.inf
    with pytest.raises(UserError, match=r"infinity.*row 5.*float16"):
        _fitted(name, A)


@pytest.mark.parametrize("name", ALL)
def test_fault_40_an_all_zero_layer_is_called_dead(name):
    with pytest.raises(UserError, match="dead layer"):
        _fitted(name, np.zeros((20, 6), np.float32))


def test_activations_whose_squares_vanish_are_not_called_dead():
    with pytest.raises(UserError, match="so small"):
        _fitted("nmf", _matrix() * np.float32(1e-30))


@pytest.mark.parametrize("name", ALL)
def test_whole_numbers_in_a_tensor_give_the_coefficients_of_their_floats(name):
    counts = torch.from_numpy(np.round(10 * _matrix())).long()
    model = _fitted(name, counts)
    U = model.transform(counts)
    assert U.dtype == torch.float32
    assert torch.equal(U, model.transform(counts.float()))


@pytest.mark.parametrize("name", ALL)
def test_fault_41_more_concepts_than_rows_or_features_is_refused(name):
    for A in (_matrix(n=3), _matrix(p=3)):
        with pytest.raises(UserError, match=r"n_components=4 exceeds min\(n_samples=\d+, n_features=\d+\)"):
            _fitted(name, A)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("name", ALL)
def test_fault_42_constant_activations_give_finite_results(name):
    model = _fitted(name, np.ones((20, 6), np.float32), k=2)
    assert np.isfinite(model.components_).all()
    assert np.linalg.norm(model.components_, axis=1) == pytest.approx(1, abs=1e-5)
    if name not in LOOSE:
        assert model.reconstruction_err_ < 1e-2


@pytest.mark.parametrize("name", ALL)
def test_a_single_row_is_its_own_concept(name):
    row = np.array([[1.0, 2.0, 2.0]])
    model = _fitted(name, row, k=1)
    if name not in LOOSE:
        assert model.components_ == pytest.approx(row / 3, abs=1e-6)
        assert model.transform(row) == pytest.approx(3, abs=1e-5)


def test_auto_follows_the_sign_of_the_layer(caplog):
    with caplog.at_level("INFO"):
        assert type(make_factorizer("auto", 3, signed=True)).__name__ == "SemiNMF"
        assert type(make_factorizer("auto", 3, signed=False)).__name__ == "NMF"
    assert "signed" in caplog.text


def test_unknown_names_and_nmf_on_signed_layers_are_refused():
    with pytest.raises(UserError, match="no factorizer 'ica'"):
        make_factorizer("ica", 3, signed=False)
    with pytest.raises(UserError, match="seminmf"):
        make_factorizer("NMF", 3, signed=True)


def test_coefficients_are_the_exact_ones():
    A = _matrix()
    for name in ("nmf", "seminmf", "random"):
        model = _fitted(name, A)
        assert np.array_equal(model.transform(A), nnls(A, model.components_))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ALL)
def test_scikit_learn_conformance(name):
    estimator = FACTORIZERS[name](2, random_state=0)
    failed = [
        f"{result['check_name']}: {result['exception']}"
        for result in check_estimator(estimator, on_fail=None, on_skip=None)
        if result["status"] == "failed"
    ]
    assert failed == []


def test_reaching_the_cap_warns_and_is_recorded():
    rng = np.random.default_rng(0)
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        model = make_factorizer("nmf", 8, signed=False).set_params(max_iter=2, tol=0).fit(rng.random((200, 60)))
    assert not model.converged_
    assert model.n_iter_ == 2
