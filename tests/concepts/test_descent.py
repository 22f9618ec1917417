"""The solver: its error is the exact one, it falls, and a coarse compression ends where the exact problem does."""

import numpy as np
import pytest
import torch

from conceptatlas.concepts import compression
from conceptatlas.concepts.compression import compress, nndsvda
from conceptatlas.concepts.descent import N_SWEEPS, Objective, descend, exact_error, solve_gram
from conceptatlas.concepts.rows import as_rows
from conceptatlas.concepts.sweeps import sweep


@pytest.fixture
def matrix():
    """Full rank, so that the compression leaves much out."""
    rng = np.random.default_rng(0)
    return (rng.gamma(0.5, size=(400, 30)) @ rng.gamma(0.5, size=(30, 200)) + rng.random((400, 200))).astype(np.float32)


def _fit(A, k=4, max_iter=300, tol=1e-4):
    data = compress(as_rows(A), k, torch.Generator().manual_seed(0), nonnegative=True)
    objective = Objective(lambda W, Q, H: sweep(W, Q, H, N_SWEEPS), nonnegative=True)
    return data, descend(data, nndsvda(data.Ct, data.Zt, k), objective, max_iter=max_iter, tol=tol)


def test_the_error_is_that_of_the_factors(matrix):
    data, found = _fit(matrix)
    A = matrix * data.scale
    direct = np.linalg.norm(A - (found.Ut.T @ found.W).numpy()) / np.linalg.norm(A)
    assert found.relative_error == pytest.approx(direct, rel=1e-4)


@pytest.mark.parametrize("noise", [1.0, 1e-3])
def test_the_error_of_any_factors_is_exact_also_where_it_is_small(matrix, noise):
    rng = np.random.default_rng(1)
    U, W = (rng.random(shape).astype(np.float32) for shape in ((400, 4), (4, 200)))
    A = U @ W + np.float32(noise) * matrix
    data = compress(as_rows(A), 4, torch.Generator().manual_seed(0), nonnegative=True)
    direct = np.linalg.norm(data.scale * (A - U @ W)) ** 2
    found = exact_error(data, torch.from_numpy(data.scale * U).T.contiguous(), torch.from_numpy(W))
    assert found == pytest.approx(direct, rel=1e-3)


def test_more_steps_never_end_higher(matrix):
    errors = [_fit(matrix, max_iter=steps, tol=0)[1].relative_error for steps in (5, 30, 60, 120)]
    assert all(b <= a * (1 + 1e-6) for a, b in zip(errors, errors[1:], strict=False))


def test_a_coarse_compression_ends_where_a_full_one_does(matrix, monkeypatch):
    full = _fit(matrix, max_iter=2000, tol=1e-6)[1].relative_error
    monkeypatch.setattr(compression, "_OVERSAMPLING", 0)
    assert _fit(matrix, max_iter=2000, tol=1e-6)[1].relative_error == pytest.approx(full, rel=2e-3)


def test_the_start_is_non_negative_without_zeros_and_follows_the_scale(matrix):
    starts = []
    for scale in (1.0, 16.0):
        data = compress(as_rows(matrix * np.float32(scale)), 4, torch.Generator().manual_seed(0), nonnegative=True)
        starts.append(nndsvda(data.Ct, data.Zt, 4))
    assert min(float(factor.min()) for factor in starts[0]) > 0
    assert torch.allclose(starts[0][1], starts[1][1], rtol=1e-3)


def test_a_singular_gram_matrix_is_solved_without_infinities():
    G = torch.ones(2, 2)
    assert torch.allclose(G @ solve_gram(G, torch.ones(2, 1)), torch.ones(2, 1), atol=1e-4)
