"""Coefficients of new rows: non-negative least squares on fixed components, exact, batched and differentiable.

``u(a) = argmin_{u >= 0} 1/2 |a - u W|^2``. On the active set S = {u > 0}, ``u_S = (W_S W_S^T)^-1 W_S a``, hence
``du_S/da = (W_S W_S^T)^-1 W_S`` and zero elsewhere: the derivative of the whole problem (its KKT system) in closed
form, wherever no coefficient is exactly at its kink.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls as scipy_nnls

from conceptatlas.concepts.rows import as_tensor
from conceptatlas.concepts.sweeps import compiled, sweep
from conceptatlas.extraction.errors import UserError

_BLOCK_FLOATS = 1 << 17  # 1 MB of float64: rows are widened and multiplied while they are in the cache
_MAX_ROUNDS = 300


def nnls(A: Any, W: Any) -> Any:
    """Return the exact non-negative least squares coefficients U (n, k) of A (n, p) on W (k, p).

    Arrays give an array, tensors a tensor on their device; the dtype is A's where it is a floating one. For tensors the
    result is differentiable in A (not in W) by the closed form on the active set. Leading dimensions are kept: (..., p)
    gives (..., k).

    Raises
    ------
    UserError
        If the numbers of features differ, there are no components, or A or W holds NaN or infinity.

    Examples
    --------
    >>> nnls(np.array([[3.0, -1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    array([[3., 0.]])
    """
    A, W = (x if isinstance(x, torch.Tensor) else np.asarray(x) for x in (A, W))
    if A.ndim < 1 or W.ndim != 2 or A.shape[-1] != W.shape[-1]:
        raise UserError(f"A of shape {tuple(A.shape)} and W of shape {tuple(W.shape)} must share their last dimension.")
    if len(W) == 0:
        raise UserError("W holds no components: give at least one direction.")
    if isinstance(A, torch.Tensor):
        A = A if A.is_floating_point() else A.float()
        components = as_tensor(W).to(A.device)
        flat: Any = _ExactCoefficients.apply(A.reshape(-1, A.shape[-1]), components)
        return flat.reshape(*A.shape[:-1], len(components))
    U = _solve(as_tensor(A.reshape(-1, A.shape[-1])), as_tensor(W)).numpy()
    dtype = A.dtype if A.dtype.kind == "f" else np.float64
    return U.astype(dtype, copy=False).reshape(*A.shape[:-1], len(W))


def nnls_sweeps(A: Any, W: Any, *, n_sweeps: int = 30) -> Any:
    """Return approximate coefficients U (n, k) after ``n_sweeps`` of coordinate descent: for quick maps on any device.

    The objective is close to the optimum; single coefficients of correlated components may be off (see `nnls`).

    Examples
    --------
    >>> nnls_sweeps(np.array([[3.0, -1.0]], np.float32), np.eye(2, dtype=np.float32))
    array([[3., 0.]], dtype=float32)
    """
    rows, components = as_tensor(A), as_tensor(W).to(as_tensor(A).device, as_tensor(A).dtype)
    P = (components @ rows.T).contiguous()
    U = sweep(torch.zeros_like(P), P, components @ components.T, n_sweeps).T.contiguous()
    return U if isinstance(A, torch.Tensor) else U.numpy()


class _ExactCoefficients(torch.autograd.Function):
    """Exact coefficients with the closed-form derivative in A."""

    @staticmethod
    def forward(ctx: Any, A: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        U = _solve(A.detach(), W).to(A.dtype)
        ctx.save_for_backward(U, W)
        return U

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        U, W = ctx.saved_tensors
        active, wide, given = U > 0, _wide(W), grad_outputs[0]
        gradient = torch.where(active, given.to(wide.dtype), 0.0)
        touched = gradient.any(dim=1).nonzero()[:, 0]
        found = given.new_zeros((len(U), W.shape[1]))
        found[touched] = (_solve_on_support(wide @ wide.T, gradient[touched], active[touched]) @ wide).to(given.dtype)
        return found, None


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.device.type == "mps" else x.to(torch.float64)


def _solve(A: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """Solve block by block, in float64; return U (n, k) in A's dtype."""
    wide = _wide(W)
    G = wide @ wide.T
    U = torch.empty((len(A), len(W)), dtype=A.dtype if A.is_floating_point() else wide.dtype, device=A.device)
    size = max(32, _BLOCK_FLOATS // max(1, A.shape[1])) if A.device.type == "cpu" else 1 << 15
    for start in range(0, len(A), size):
        B = _wide(A[start : start + size]) @ wide.T
        if not bool(torch.isfinite(B).all()):
            raise UserError(
                "Activations (or W) contain NaN or infinity: leave these images out before taking coefficients."
            )
        U[start : start + size] = _solve_block(G, B)
    return U


def _solve_block(G: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    kernels = compiled() if B.device.type == "cpu" else None
    if kernels is None:
        return _pivot(G, B)
    X = torch.empty_like(B)
    if kernels.nnls_rows(G.numpy(), B.contiguous().numpy(), X.numpy(), _MAX_ROUNDS):
        _finish(G, B, X)
    return X


def _pivot(G: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Block principal pivoting on all rows at once; rows that share a support share its factor."""
    n, k = B.shape
    active = torch.zeros((n, k), dtype=torch.bool, device=B.device)
    fewest = torch.full((n,), k + 1, device=B.device)
    patience = torch.full((n,), 3, device=B.device)
    slack = (
        1e-12 * B.abs().amax(dim=1, keepdim=True) if B.dtype == torch.float64 else 1e-6 * B.abs().amax(1, keepdim=True)
    )
    order = torch.arange(k, device=B.device)
    X = torch.zeros_like(B)
    open_rows = torch.arange(n, device=B.device)
    for _ in range(_MAX_ROUNDS):
        S = active[open_rows]
        x = _solve_on_support(G, B[open_rows], S)
        X[open_rows] = x
        wrong = torch.where(S, x < 0, x @ G - B[open_rows] < -slack[open_rows])
        count = wrong.sum(1)
        fewer = count < fewest[open_rows]
        single = ~fewer & (patience[open_rows] <= 0)
        last = torch.where(wrong, order, -1).amax(1, keepdim=True)
        flip = torch.where(single[:, None], order == last, wrong)
        patience[open_rows] = torch.where(fewer, 3, patience[open_rows] - 1)
        fewest[open_rows] = torch.minimum(fewest[open_rows], count)
        active[open_rows] = S ^ flip
        open_rows = open_rows[count > 0]
        if len(open_rows) == 0:
            return X.clamp_(min=0)
    X[open_rows, 0] = torch.nan
    _finish(G, B, X)
    return X.clamp_(min=0)


def _solve_on_support(G: torch.Tensor, B: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Solve ``x_S G_SS = b_S`` for each row of B (n, k) on its support, zero elsewhere; equal supports factor once."""
    distinct, member = torch.unique(support, dim=0, return_inverse=True)
    ridge = 1e-13 if G.dtype == torch.float64 else 1e-6
    diagonal = torch.diagonal(G)
    X = torch.empty_like(B)
    step = max(1, (1 << 22) // G.numel())
    for start in range(0, len(distinct), step):
        D = distinct[start : start + step]
        inside = D[:, :, None] & D[:, None, :]
        system = torch.where(inside, G, 0.0) + torch.diag_embed(torch.where(D, ridge * diagonal, 1.0))
        factor = torch.linalg.cholesky(system)
        chosen = torch.nonzero((member >= start) & (member < start + step))[:, 0]
        for rows in torch.split(chosen, step):
            b = torch.where(support[rows], B[rows], 0.0)
            X[rows] = torch.cholesky_solve(b[:, :, None], factor[member[rows] - start])[:, :, 0]
    return X


def _finish(G: torch.Tensor, B: torch.Tensor, X: torch.Tensor) -> None:
    """Solve the rows whose pivots went round in circles (dependent components) with scipy, on a factor of G."""
    values, vectors = np.linalg.eigh(_wide(G).cpu().numpy())
    roots = np.sqrt(np.clip(values, values.max() * 1e-14, None))
    factor = (vectors * roots).T  # factor^T factor = G
    for row in torch.nonzero(torch.isnan(X[:, 0]))[:, 0].tolist():
        target = (vectors / roots).T @ _wide(B[row]).cpu().numpy()
        X[row] = torch.as_tensor(scipy_nnls(factor, target)[0]).to(X)
