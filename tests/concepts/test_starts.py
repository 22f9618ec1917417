"""Starts of NMF: the best of several on a sample of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conceptatlas.concepts.compression import compress, draw_rows, nndsvda
from conceptatlas.concepts.descent import Objective, descend
from conceptatlas.concepts.nmf import _sweep_components
from conceptatlas.concepts.rows import as_rows
from conceptatlas.concepts.starts import best_start, try_all

OBJECTIVE = Objective(_sweep_components, True)


def activations(seed: int, n: int = 3000) -> np.ndarray:
    """Rectified sums of a few signed directions: many local minima."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((14, 60), dtype=np.float32)
    U = rng.gamma(0.3, size=(n, 14)).astype(np.float32)
    return np.maximum(U @ W, 0)


def errors(seed: int) -> tuple[float, float]:
    """Relative errors from the chosen start and from NNDSVDa."""
    found = []
    for choose in (True, False):
        generator = torch.Generator().manual_seed(0)
        data = compress(as_rows(activations(seed)), 10, generator, nonnegative=True)
        start = best_start(data, 10, generator) if choose else nndsvda(data.Ct, data.Zt, 10)
        found.append(descend(data, start, OBJECTIVE, max_iter=200, tol=5e-4).relative_error)
    return found[0], found[1]


def test_the_chosen_start_ends_lower_than_nndsvda_on_the_whole():
    ratios = [chosen / plain for chosen, plain in map(errors, range(8))]
    assert np.mean(ratios) < 1.0
    assert max(ratios) < 1.01


@pytest.mark.parametrize("n", [40, 3000, 6000])
def test_a_start_is_non_negative_and_has_a_row_of_coefficients_for_every_row(n: int):
    generator = torch.Generator().manual_seed(0)
    data = compress(as_rows(activations(0, n)), 10, generator, nonnegative=True)
    Ut, W = best_start(data, 10, generator)
    assert Ut.shape == (10, n)
    assert W.shape == (10, 60)
    assert min(float(Ut.min()), float(W.min())) >= 0


def test_starts_tried_side_by_side_end_as_each_alone_and_lower():
    generator = torch.Generator().manual_seed(0)
    data = compress(as_rows(activations(0)), 10, generator, nonnegative=True)
    U, W = torch.rand(3, 10, 3000, generator=generator), torch.rand(3, 10, 60, generator=generator)
    before, _, _ = try_all(data.Ct, data.Zt, U, W, 1)
    errors, Ut, Wt = try_all(data.Ct, data.Zt, U, W, 10)
    assert (errors < before).all()
    for i in range(3):
        error, u, w = try_all(data.Ct, data.Zt, U[i : i + 1], W[i : i + 1], 10)
        assert float(error) == pytest.approx(float(errors[i]), rel=1e-3)
        assert torch.allclose(u[0], Ut[i], rtol=0.05, atol=0.05)
        assert torch.allclose(w[0], Wt[i], rtol=0.05, atol=0.05)


def test_drawn_rows_are_distinct_and_see_every_position_of_a_grid():
    """A stride of 100 images x 49 positions over 700 rows would be 7, and see seven of the 49 positions."""
    rows = draw_rows(4900, 700, torch.Generator().manual_seed(0))
    assert len(rows) == len(set(rows.tolist())) == 700
    assert (rows.diff() > 0).all()
    assert len(set((rows % 49).tolist())) == 49
