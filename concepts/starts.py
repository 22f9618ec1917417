"""Where NMF starts: the best of a deterministic and some random starts, tried on a sample of rows and columns.

The problem has many local minima, and which one a start ends in is luck: on activations of trained networks NNDSVDa
ended up to 7 % above random starts as often as the reverse. A few steps on a sample tell them apart, and some more
the two that are lowest by then. The starts take their steps side by side: on so few numbers, products of all at once
cost little more than those of one.

The tries sweep less than the descent does: on the demo's CNN two random tries of twelve ended in a worse minimum with
two sweeps a step, five of twelve with four. With 10 concepts, one fit in 72 still ended 6 % above the others (one to
three in 24 with four starts, two or three in 72 where eight take fewer steps). With many concepts starts differ less
and cost more: fewer are tried, and from 41 on NNDSVDa alone.
"""

from __future__ import annotations

import torch

from conceptatlas.concepts.compression import Compressed, draw_rows, nndsvda
from conceptatlas.concepts.descent import dot
from conceptatlas.concepts.sweeps import sweep

_ROWS = 1_500
_COLUMNS = 512
_STEPS, _FINALISTS = (12, 8), 2
_MOST_STARTS, _MOST_CONCEPTS = 8, 80  # starts tried, and the concepts that all of them may hold together
_TRY_SWEEPS = 2
_SWEEPS = 6  # of the factors that the sample left out
_MARGIN = 2e-3  # of the squared error: where starts meet in one minimum, rounding must not decide between them

Factors = tuple[torch.Tensor, torch.Tensor]


def best_start(data: Compressed, n_components: int, generator: torch.Generator) -> Factors:
    """Return (U^T (k, n), W (k, p)) >= 0 from the start that a short descent on a sample ends lowest from."""
    k, (n, p) = n_components, (data.Ct.shape[1], data.Zt.shape[1])
    rows, columns = draw_rows(n, _ROWS, generator).to(data.Ct.device), slice(None, None, max(1, p // _COLUMNS))
    C, Zt = data.Ct[:, rows], data.Zt[:, columns].contiguous()
    Ut, W = nndsvda(C, data.Zt, k)
    starts = [(Ut, W[:, columns])]
    starts += [_random(C, Zt, k, generator) for _ in range(min(_MOST_STARTS, _MOST_CONCEPTS // k) - 1)]
    U, W = (torch.stack(factors) for factors in zip(*starts, strict=True))
    errors, U, W = try_all(C, Zt, U, W, _STEPS[0])
    lowest = errors.argsort()[:_FINALISTS].sort().values
    errors, U, W = try_all(C, Zt, U[lowest], W[lowest], _STEPS[1])
    errors += dot(C, (Zt @ Zt.T) @ C)
    best = int((errors <= errors.min() + _MARGIN * errors.min().abs()).int().argmax())
    Ut, W = U[best], W[best]
    if columns.step > 1:
        W = sweep(W.new_zeros((k, p)), (Ut @ C.T) @ data.Zt, Ut @ Ut.T, _SWEEPS)
    if len(rows) < n:
        Ut = sweep(Ut.new_zeros((k, n)), (W @ data.Zt.T) @ data.Ct, W @ W.T, _SWEEPS)
    return Ut, W


def try_all(
    C: torch.Tensor, Zt: torch.Tensor, U: torch.Tensor, W: torch.Tensor, n_steps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take ``n_steps`` of extrapolated HALS on C^T Zt from several starts at once, U (s, k, n) and W (s, k, p).

    The steps are those of `descent`: a start whose step goes up is put back to before its extrapolation, with less of
    it from then on. Returns the squared errors (s,), less the constant |C^T Zt|^2, and the factors.
    """
    Ux, Wx, errors = U, W, W.new_full((len(W),), float("inf"))
    weight, cap = W.new_full((len(W), 1, 1), 0.5), W.new_ones((len(W), 1, 1))
    for _ in range(n_steps):
        V = sweep(Ux, (Wx @ Zt.T) @ C, Wx @ Wx.mT, _TRY_SWEEPS)
        Vx = torch.lerp(U, V, 1 + weight).clamp_(min=0)
        Q, H = (Vx @ C.T) @ Zt, Vx @ Vx.mT
        X = sweep(Wx, Q, H, _TRY_SWEEPS)
        reached = ((H @ X - 2 * Q) * X).sum(dim=(1, 2))
        Xx = torch.lerp(W, X, 1 + weight).clamp_(min=0)
        up, longer = reached > errors, torch.minimum(cap, 1.05 * weight)
        if bool(up.any()):
            V[up], Vx[up], X[up], Xx[up] = U[up], U[up], W[up], W[up]
        U, Ux, W, Wx, errors = V, Vx, X, Xx, torch.minimum(errors, reached)
        cap = torch.where(up[:, None, None], weight, (1.01 * cap).clamp(max=1))
        weight = torch.where(up[:, None, None], weight / 2, longer)
    return errors, U, W


def _random(C: torch.Tensor, Zt: torch.Tensor, k: int, generator: torch.Generator) -> Factors:
    """Uniform factors, scaled to the least squares of C Z^T."""
    W = torch.rand((k, Zt.shape[1]), generator=generator).to(C)
    U = torch.rand((k, C.shape[1]), generator=generator).to(C)
    fit = float((((W @ Zt.T) @ C) * U).sum()) / max(float(((W @ W.T) * (U @ U.T)).sum()), 1e-30)
    root = max(fit, 1e-12) ** 0.5
    return U * root, W * root
