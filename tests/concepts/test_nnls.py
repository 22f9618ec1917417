"""Exact coefficients: against scipy, against finite differences, on the compiled and on the torch path."""

from importlib import import_module

import numpy as np
import pytest
import torch
from scipy.optimize import nnls as scipy_nnls

from conceptatlas.concepts import nnls, nnls_sweeps
from conceptatlas.concepts import sweeps as sweeps_module
from conceptatlas.extraction.errors import UserError


def _problem(n, p, k, seed=0):
    rng = np.random.default_rng(seed)
    W = rng.gamma(0.5, size=(k, p))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    return rng.normal(size=(n, p)) + 0.5 * rng.normal(size=(n, k)) @ W, W


@pytest.fixture(params=["compiled", "torch"])
def path(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(import_module("conceptatlas.concepts.nnls"), "compiled", lambda: None)
        monkeypatch.setattr(sweeps_module, "compiled", lambda: None)
    return request.param


@pytest.mark.parametrize(("p", "k"), [(1, 1), (40, 7), (300, 25)])
def test_agrees_with_scipy(path, p, k):
    A, W = _problem(60, p, k)
    expected = np.array([scipy_nnls(W.T, a)[0] for a in A])
    U = nnls(A, W)
    assert np.abs(U - expected).max() <= 1e-9 * expected.max()
    assert 0.1 < (U > 0).mean() < 0.9 or k == 1


def test_float32_stays_float32_and_deviates_less_than_1e_4_of_the_maximum(path):
    A, W = (x.astype(np.float32) for x in _problem(50, 200, 20))
    U = nnls(A, W)
    expected = np.array([scipy_nnls(W.T.astype(float), a.astype(float))[0] for a in A])
    assert U.dtype == np.float32
    assert np.abs(U - expected).max() < 1e-4 * expected.max()


def test_gradient_is_that_of_finite_differences(path):
    A, W = (torch.from_numpy(x) for x in _problem(6, 30, 8))
    A.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a: nnls(a, W), (A,), eps=1e-6, atol=1e-6)


def test_inactive_concepts_have_no_gradient(path):
    A, W = (torch.from_numpy(x) for x in _problem(20, 30, 8))
    A.requires_grad_(True)
    U = nnls(A, W)
    inactive = (U == 0).double()
    assert inactive.sum() > 10
    (gradient,) = torch.autograd.grad((U * inactive).sum(), A)
    assert torch.count_nonzero(gradient) == 0


def test_gradient_composes_to_the_input_of_a_network():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 12), torch.nn.ReLU()).double()
    W = torch.rand(4, 12, dtype=torch.float64)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: nnls(net(v), W), (x,), eps=1e-6, atol=1e-6)


def test_dependent_components_still_reach_the_optimum(path):
    A, W = _problem(30, 20, 4)
    W = np.concatenate([W, W[:2], W[:1] + W[1:2]])
    best = np.array([scipy_nnls(W.T, a)[1] for a in A])
    assert np.linalg.norm(A - nnls(A, W) @ W, axis=1) == pytest.approx(best, rel=1e-6)


def test_leading_dimensions_and_layout_are_kept():
    A, W = _problem(24, 30, 5)
    cube = torch.from_numpy(A).reshape(2, 3, 4, 30)
    assert torch.equal(nnls(cube, torch.from_numpy(W)), torch.from_numpy(nnls(A, W)).reshape(2, 3, 4, 5))
    assert nnls(np.asfortranarray(A), W) == pytest.approx(nnls(A, W), rel=1e-9, abs=1e-12)


def test_sweeps_approach_the_exact_solution(path):
    A, W = (x.astype(np.float32) for x in _problem(50, 100, 6))
    assert np.abs(nnls_sweeps(A, W, n_sweeps=200) - nnls(A, W)).max() < 1e-3


def test_no_rows_give_no_coefficients():
    assert nnls(np.zeros((0, 3)), np.eye(3)).shape == (0, 3)


def test_whole_numbers_and_lists_are_taken_as_floats():
    counts = torch.tensor([[3, 1], [0, 5]])
    assert torch.equal(nnls(counts, 2 * torch.eye(2)), counts / 2)
    assert nnls([[3, 1]], [[2, 0], [0, 2]]).tolist() == [[1.5, 0.5]]


def test_wrong_shapes_and_nan_are_named():
    with pytest.raises(UserError, match="no components"):
        nnls(np.zeros((2, 3)), np.zeros((0, 3)))
    with pytest.raises(UserError, match="share their last dimension"):
        nnls(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(UserError, match="NaN"):
        nnls(np.full((2, 3), np.nan), np.eye(3))
