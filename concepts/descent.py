"""The solver behind NMF and SemiNMF: extrapolated descent on a compressed matrix, corrected by the exact one.

A round reads A once. It takes the exact products A W0^T and U0^T A at the present factors (U0, W0), hence their exact
error, and widens the compression A ~ C Z^T by the residual R = A - C Z^T projected on the two factors,

    A ~ C Z^T + (R W0^T) V + U0 K,   V = (W0 W0^T)^-1 W0,   K = (U0^T U0)^-1 U0^T (R - R W0^T V),

which gives both products exactly at (U0, W0). The steps of the round factorize this matrix of rank l + 2 k: n*l*k
operations a step instead of n*p*k. Where a round no longer moves, the factors are stationary for A itself, however
coarse C Z^T was. That is taken to be so where a round that began from exact products settled and its error turns out to
be what it had computed within ``tol``. A round that settles within ``tol`` of the exact objective it began with is not
even worth reading A again: its steps are dropped, and the factors whose exact error is known are kept.

The steps are HALS (Cichocki and Phan 2009) with the extrapolation and restarts of Ang and Gillis (Neural Computation
2019). Coefficients are kept transposed, (k, n), so that the coefficients of one concept are contiguous.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from conceptatlas.concepts.compression import Compressed
from conceptatlas.concepts.sweeps import sweep

logger = logging.getLogger(__name__)

N_SWEEPS = 4  # one is unsafe at k = 50; two take half as many steps again; six ended in a worse minimum of one matrix
_FIRST_STEPS = {True: 60, False: 15}  # by objective.nonnegative: solved components follow faster than swept ones
_STEPS = 15
_SETTLED = {True: (3.0, 1.0), False: (0.05, 0.05)}  # shares of tol, of the first, coarse round and of later ones, by
# objective.nonnegative: penalised components start slowly
_WINDOW = 5  # steps that tell whether a round still moves
_STUCK, _ROUNDING = 4, 1e-6  # steps that went up by less than this share of |A|^2 until a round counts as settled
_DIRECT = 1e-2  # share of |A|^2 below which an error is not read off products
_RIDGE = 1e-6

UpdateComponents = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""``(W, Q, H) -> W``: lower ``1/2 <W, H W> - <Q, W>`` from W (k, p), with Q = U^T A (k, p) and H = U^T U (k, k)."""


@dataclass(frozen=True)
class Objective:
    """What a factorization minimises: ``|A - U W|^2 + exclusivity * |sum_j u_j |w_j||^2`` over U >= 0.

    Attributes
    ----------
    update
        How components follow from coefficients.
    nonnegative
        Whether components are >= 0.
    exclusivity
        Weight of the penalty on concepts that are active together, which keeps signed components from cancelling each
        other. It does not depend on the scale of A, nor on how U and W share it.
    n_sweeps
        Sweeps over the coefficients in a step.
    """

    update: UpdateComponents
    nonnegative: bool
    exclusivity: float = 0.0
    n_sweeps: int = N_SWEEPS

    def gram(self, W: torch.Tensor) -> torch.Tensor:
        """Gram matrix (k, k) that the coefficients are fitted with."""
        G = W @ W.T
        if self.exclusivity == 0.0:
            return G
        norms = torch.diagonal(G).sqrt()
        return torch.addr(G, norms, norms, alpha=self.exclusivity)

    def restart(self, point: _Point) -> _Point:
        """Return where to go on from when an extrapolated step went up, with less extrapolation.

        Swept components follow the coefficients slowly, so that U goes back to before its extrapolation; components
        that solve their least squares were fitted to the extrapolated U, and leaving it would undo them.
        """
        base = point.Ut if self.nonnegative else point.Ux
        return replace(point, Ut=base, Ux=base, Wx=point.W, cap=point.weight, weight=point.weight / 2)

    def penalty(self, Ut: torch.Tensor, W: torch.Tensor) -> float:
        """Return the penalty of a pair of factors, in squared units of the scaled A."""
        if self.exclusivity == 0.0:
            return 0.0
        together = torch.linalg.vector_norm(W, dim=1)[None] @ Ut
        return self.exclusivity * dot(together, together)


@dataclass(frozen=True)
class Descent:
    """Outcome of a fit of the scaled A: U^T (k, n), W (k, p), |A - U W| / |A|, steps done, whether it settled."""

    Ut: torch.Tensor
    W: torch.Tensor
    relative_error: float
    n_iter: int
    converged: bool


@dataclass(frozen=True)
class _Point:
    """Where the descent stands: the pair (Ux, W) whose error is known, and what the next step extrapolates from.

    W was fitted to the extrapolated Ux, which is as good a pair of coefficients as any; Ut is the last U before
    extrapolation and Wx the components after it. A step that goes up is undone.
    """

    Ut: torch.Tensor
    W: torch.Tensor
    Ux: torch.Tensor
    Wx: torch.Tensor
    weight: float = 0.5
    cap: float = 1.0


def descend(
    data: Compressed,
    start: tuple[torch.Tensor, torch.Tensor],
    objective: Objective,
    *,
    max_iter: int,
    tol: float,
) -> Descent:
    """Fit U >= 0 and W from ``start`` until a round lowers the objective by less than ``tol`` of its root.

    Parameters
    ----------
    data
        The compressed matrix; its workspace is written to.
    start
        (U^T (k, n), W (k, p)).
    objective
        What is minimised: how components follow from coefficients, and the penalty, if any.
    max_iter
        Most steps (updates of both factors) in all rounds.
    tol
        Relative decrease of |A - U W| over a round below which the fit counts as converged; so does a relative error
        below it. A penalty counts as part of the squared error.
    """
    operator, point, n_steps = (data.Ct, data.Zt), _Point(*start, *start), _FIRST_STEPS[objective.nonnegative]
    share, later = _SETTLED[objective.nonnegative]
    best, best_value, error, n_iter, converged = point, float("inf"), float("inf"), 0, False
    while n_iter < max_iter and not converged:
        n_steps = min(n_steps, max_iter - n_iter)
        known = best_value if best_value > _DIRECT * data.total else float("inf")
        point, done, expected = _steps(operator, data.total, best, objective, n_steps, share * tol, known)
        n_iter += done
        settled = done < n_steps and known < float("inf")
        if settled and 1 - (max(expected, 0.0) / known) ** 0.5 < tol:  # not worth another reading of A
            converged = True
            break
        if settled:  # as computed? One product with A tells; going on takes both
            ahead = exact_error(data, point.Ux, point.W)
            value = ahead + objective.penalty(point.Ux, point.W)
            if value <= best_value and abs(1 - (value / max(expected, 1e-30)) ** 0.5) < tol:
                best, error, converged = point, ahead, True
                break
        operator, ahead = _exact(data, point, known=settled)
        logger.debug("after %d steps: relative error %.6f", n_iter, (ahead / data.total) ** 0.5)
        value = ahead + objective.penalty(point.Ux, point.W)
        if value > best_value:  # rounding is all that can raise it: keep the better factors
            converged = True
            break
        gain = 1 - (value / best_value) ** 0.5 if best_value > 0 else 0.0
        best, best_value, error, n_steps, share = point, value, ahead, _STEPS, later
        converged = gain < tol or (ahead / data.total) ** 0.5 < tol
    return Descent(best.Ux, best.W, (error / data.total) ** 0.5, n_iter, converged)


def try_steps(
    operator: tuple[torch.Tensor, torch.Tensor], start: tuple[torch.Tensor, torch.Tensor], objective: Objective, n: int
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Take ``n`` steps on ``left^T right``, read as the whole matrix; return its objective, U^T and W there."""
    left, right = operator
    total = dot(left, (right @ right.T) @ left)
    point, _, _ = _steps(operator, total, _Point(*start, *start), objective, n, 0.0)
    Ut, W = point.Ux, point.W
    value = total - 2 * dot((W @ right.T) @ left, Ut) + dot(Ut @ Ut.T, W @ W.T) + objective.penalty(Ut, W)
    return value, Ut, W


def _exact(data: Compressed, point: _Point, *, known: bool) -> tuple[tuple[torch.Tensor, torch.Tensor], float]:
    """Read A once: widen the compression to be exact at the factors; return it with the exact squared error.

    ``known``: `exact_error` has just left A W^T in the workspace.
    """
    Ut, W, width, k = point.Ux, point.W, len(data.Zt), len(point.W)
    RW = data.workspace[width : width + k]
    data.workspace[width + k :] = Ut
    Q = torch.zeros_like(W)
    scaled = W * data.scale
    for start, stop, block in data.rows.blocks():
        if not known:
            RW[:, start:stop] = scaled @ block.T
        Q += Ut[:, start:stop] @ block
    Q *= data.scale
    G, H = W @ W.T, Ut @ Ut.T
    error = data.total - 2 * dot(Q, W) + dot(H, G)
    if error < _DIRECT * data.total:  # too little is left of the difference: take it directly
        error = squared_residual(data, Ut, W)
    RW -= (W @ data.Zt.T) @ data.Ct
    V = solve_gram(G, W)
    K = solve_gram(H, Q - (Ut @ data.Ct.T) @ data.Zt - (Ut @ RW.T) @ V)
    return (data.workspace, torch.cat([data.Zt, V, K])), error


def _steps(
    operator: tuple[torch.Tensor, torch.Tensor],
    total: float,
    point: _Point,
    objective: Objective,
    n_steps: int,
    slow: float,
    value: float = float("inf"),
) -> tuple[_Point, int, float]:
    """Take up to ``n_steps`` on the low-rank matrix ``left^T right`` from a point of objective ``value``.

    Stops early where the last five lowered the root of the objective by less than a share of ``slow`` (with solved
    components, the last five that went down), or where four went up by no more than rounding since. Returns the last
    point that went down, the steps done and the objective there, on that matrix.
    """
    left, right = operator
    values, step, reached, stuck = [value], 0, point, 0
    for step in range(1, n_steps + 1):  # noqa: B007
        P = (point.Wx @ right.T) @ left
        U = sweep(point.Ux, P, objective.gram(point.Wx), objective.n_sweeps)
        Ux = _extrapolate(U, point.Ut, point.weight, clamp=True)
        Q, H = (Ux @ left.T) @ right, Ux @ Ux.T
        W = objective.update(point.Wx, Q, H)
        error = total - 2 * dot(Q, W) + dot(H, W @ W.T) + objective.penalty(Ux, W)
        if error > values[-1] and point.weight > 0:
            point, stuck = objective.restart(point), stuck + (error - values[-1] < _ROUNDING * total)
            if objective.nonnegative:  # solved components may go up several times before they go on
                values.append(values[-1])
        else:
            Wx = _extrapolate(W, point.W, point.weight, clamp=objective.nonnegative)
            point = _Point(U, W, Ux, Wx, min(point.cap, 1.05 * point.weight), min(1.0, 1.01 * point.cap))
            reached, stuck = point, 0
            values.append(error)
        fallen = values[-1 - _WINDOW] - values[-1] if len(values) > _WINDOW else float("inf")
        if stuck == _STUCK or fallen < 2 * slow * max(values[-1], 1e-12 * total):
            break
    return _balance(reached), step, values[-1]


def _balance(point: _Point) -> _Point:
    """Give all components unit norm, the coefficients taking up the scale."""
    norms = torch.linalg.vector_norm(point.W, dim=1)[:, None]
    norms = torch.where(norms > 0, norms, torch.ones_like(norms))
    return replace(point, Ut=point.Ut * norms, W=point.W / norms, Ux=point.Ux * norms, Wx=point.Wx / norms)


def _extrapolate(new: torch.Tensor, old: torch.Tensor, weight: float, *, clamp: bool) -> torch.Tensor:
    ahead = torch.lerp(old, new, 1 + weight)
    return ahead.clamp_(min=0) if clamp else ahead


def solve_gram(G: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Return ``(G + ridge)^-1 B`` for a Gram matrix G (k, k) that may be singular; in float64 where there is one."""
    wide = G if G.device.type == "mps" else G.to(torch.float64)
    ridge = _RIDGE * torch.diagonal(wide).mean().clamp(min=1e-30)
    return torch.linalg.solve(wide + ridge * torch.eye(len(G), dtype=wide.dtype, device=G.device), B.to(wide.dtype)).to(
        B.dtype
    )


def dot(X: torch.Tensor, Y: torch.Tensor) -> float:
    """Inner product of two matrices (k, m), accumulated in float64 over rows and blocks of 4096 columns.

    >>> dot(torch.ones(2, 3), torch.ones(2, 3))
    6.0
    """
    total = 0.0
    for start in range(0, X.shape[1], 4096):
        piece = X[:, start : start + 4096] * Y[:, start : start + 4096]
        total += float(piece.sum(dim=1).cpu().to(torch.float64).sum())
    return total


def exact_error(data: Compressed, Ut: torch.Tensor, W: torch.Tensor) -> float:
    """Sum of squares of the scaled ``A - U W``, from one product with A, A W^T; it is left in the workspace."""
    AW, scaled = data.workspace[len(data.Zt) : len(data.Zt) + len(W)], W * data.scale
    for start, stop, block in data.rows.blocks():
        AW[:, start:stop] = scaled @ block.T
    error = data.total - 2 * dot(AW, Ut) + dot(Ut @ Ut.T, W @ W.T)
    return error if error >= _DIRECT * data.total else squared_residual(data, Ut, W)


def squared_residual(data: Compressed, Ut: torch.Tensor, W: torch.Tensor) -> float:
    """Sum of squares of the scaled ``A - U W``, read in blocks and accumulated in float64."""
    total = 0.0
    for start, stop, block in data.rows.blocks():
        residual = block * data.scale - Ut[:, start:stop].T @ W
        total += float(torch.linalg.vector_norm(residual, dim=1).cpu().to(torch.float64).square().sum())
    return total
