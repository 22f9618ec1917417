"""Rows of activations read in blocks, from an array, a tensor or a store, so that memory does not grow with n."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_BLOCK_FLOATS = 1 << 21  # 8 MB of float32: large enough for the matrix product, small beside any data set


@dataclass(frozen=True)
class Rows:
    """A matrix A (n, p) that is read in blocks of rows; every pass gives the same blocks in the same order.

    ``source`` is a tensor (n, p), or an object with ``blocks(batch)`` that yields ``(indices, features)`` with
    ``features.positions`` of shape (B, positions, p), as an activation store does.
    """

    source: Any
    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    def blocks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield ``(start, stop, block)`` with block (stop - start, p) in the computing dtype and device."""
        size = max(16, _BLOCK_FLOATS // self.shape[1])
        if isinstance(self.source, torch.Tensor):
            for start in range(0, self.shape[0], size):
                block = self.source[start : start + size]
                yield start, start + len(block), block.to(self.dtype)
            return
        start = 0
        for _, features in self.source.blocks(max(1, size // _positions(self.source))):
            block = torch.as_tensor(np.asarray(features.positions)).reshape(-1, self.shape[1]).to(self.dtype)
            yield start, start + len(block), block
            start += len(block)


def is_store(A: Any) -> bool:
    """Whether ``A`` is an activation store (it can be read in blocks) and not a matrix.

    >>> is_store(np.zeros((3, 2)))
    False
    """
    return hasattr(A, "blocks") and hasattr(A, "n_features")


def as_tensor(A: Any) -> torch.Tensor:
    """View an array as a tensor without a copy; a tensor is detached.

    >>> as_tensor(np.zeros((3, 2), np.float32)).shape
    torch.Size([3, 2])
    """
    if isinstance(A, torch.Tensor):
        return A.detach()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        array = np.asarray(A)
        return torch.from_numpy(array if all(step >= 0 for step in array.strides) else array.copy())


def as_rows(A: Any) -> Rows:
    """Wrap an array, a tensor or an activation store; float64 stays float64, all else is computed in float32.

    >>> as_rows(np.zeros((3, 2), np.float32)).shape
    (3, 2)
    """
    if is_store(A):
        return Rows(A, (len(A) * _positions(A), int(A.n_features)), torch.float32, torch.device("cpu"))
    tensor = as_tensor(A)
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return Rows(tensor, (tensor.shape[0], tensor.shape[1]), dtype, tensor.device)


def _positions(store: Any) -> int:
    grid = store.grid
    return int(grid[0] * grid[1]) if grid is not None else 1
