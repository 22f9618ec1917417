"""Sweeps of coordinate descent on non-negative coefficients (HALS), compiled on the CPU and in torch elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import torch

_WORTH_THREADS = 1_000_000


@cache
def compiled() -> ModuleType | None:
    """Return the module of compiled kernels, or None where numba is missing."""
    try:
        from conceptatlas.concepts import kernels
    except ImportError:
        return None
    return kernels


@contextmanager
def few_threads(numbers: int) -> Iterator[None]:
    """Run on one thread where matrices hold fewer than a million ``numbers``: threads would only wait for each other.

    >>> with few_threads(100):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    if numbers < _WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sweep(U: torch.Tensor, P: torch.Tensor, G: torch.Tensor, n_sweeps: int) -> torch.Tensor:
    """Return U after ``n_sweeps`` of coordinate descent on ``1/2 <U, G U> - <P, U>`` over U >= 0.

    Parameters
    ----------
    U, P
        Coefficients to start from and the products with the data, both (k, n) and contiguous; or (s, k, n), for s
        problems of the same size.
    G
        Gram matrix (k, k) of the other factor, or (s, k, k).
    n_sweeps
        How often each of the k coordinates is visited.

    Examples
    --------
    >>> sweep(torch.zeros(1, 2), torch.tensor([[4.0, -1.0]]), torch.tensor([[2.0]]), 1)
    tensor([[2., 0.]])
    """
    U = U.clone()
    kernels = compiled() if U.device.type == "cpu" else None
    for u, p, g in zip(U, P, G, strict=True) if U.ndim == 3 else [(U, P, G)]:
        if kernels is not None:
            kernels.hals_sweeps(u.numpy(), p.numpy(), g.numpy(), n_sweeps)
        else:
            _sweep_torch(u, p, g, n_sweeps)
    return U


def _sweep_torch(U: torch.Tensor, P: torch.Tensor, G: torch.Tensor, n_sweeps: int) -> torch.Tensor:
    diagonal = torch.diagonal(G)
    inverse = torch.where(diagonal > 0, 1 / diagonal, torch.zeros_like(diagonal))
    for _ in range(n_sweeps):
        for j in range(len(U)):
            U[j] = torch.clamp(U[j] + (P[j] - G[j] @ U) * inverse[j], min=0)
    return U
