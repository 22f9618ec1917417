"""Rows in blocks: the same matrix from an array, a tensor and a store."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conceptatlas.concepts import NMF
from conceptatlas.concepts.rows import as_rows, as_tensor, is_store


class Store:
    """What the solver needs of an activation store: 12 images of 2 x 3 positions with 5 features."""

    grid = (2, 3)
    n_features = 5

    def __init__(self):
        self.positions = np.random.default_rng(0).random((12, 6, 5)).astype(np.float32)
        self.largest = 0

    def __len__(self):
        return len(self.positions)

    def blocks(self, batch):
        for start in range(0, len(self), batch):
            part = self.positions[start : start + batch]
            self.largest = max(self.largest, part.size)
            yield np.arange(start, start + len(part)), SimpleNamespace(positions=part)


def _matrix(rows):
    return torch.cat([block for _, _, block in rows.blocks()])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_blocks_make_up_the_matrix_in_float32_unless_it_is_float64(monkeypatch, dtype):
    monkeypatch.setattr("conceptatlas.concepts.rows._BLOCK_FLOATS", 60)
    A = np.random.default_rng(0).random((100, 3)).astype(dtype)
    rows = as_rows(A)
    assert len(list(rows.blocks())) == 5
    assert rows.dtype == (torch.float64 if dtype == np.float64 else torch.float32)
    assert np.array_equal(_matrix(rows).numpy(), A)


def test_read_only_and_reversed_arrays_are_read():
    A = np.arange(6.0).reshape(3, 2)
    A.flags.writeable = False
    assert np.array_equal(as_tensor(A).numpy(), A)
    assert np.array_equal(as_tensor(A[::-1]).numpy(), A[::-1])


def test_a_store_is_read_in_blocks_and_gives_the_fit_of_its_matrix(monkeypatch):
    monkeypatch.setattr("conceptatlas.concepts.rows._BLOCK_FLOATS", 100)
    store = Store()
    matrix = store.positions.reshape(-1, 5)
    assert is_store(store)
    assert as_rows(store).shape == (72, 5)
    assert np.array_equal(_matrix(as_rows(store)).numpy(), matrix)
    model = NMF(2, random_state=0, max_iter=1000).fit(store)
    assert store.largest <= 100
    assert np.array_equal(model.transform(store), model.transform(matrix))
    expected = NMF(2, random_state=0, max_iter=1000).fit(matrix)
    assert model.reconstruction_err_ == pytest.approx(expected.reconstruction_err_, rel=1e-4)
