"""Where NMF starts: the best of a deterministic and some random starts, tried on a sample of rows and columns.

The problem has many local minima, and which one a start ends in is luck: on activations of trained networks NNDSVDa
ended up to 7 % above random starts as often as the reverse. A few steps on a sample tell them apart, and some more
the two that are lowest by then.

The tries sweep less than the descent does: on the demo's CNN two random tries of twelve ended in a worse minimum with
two sweeps a step, five of twelve with four. With 10 concepts, one fit in 36 still ended 6 % above the others (one to
three in 24 with four starts). With many concepts starts differ less and cost more: fewer are tried, and from 41 on
NNDSVDa alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from conceptatlas.concepts.compression import Compressed, draw_rows, nndsvda
from conceptatlas.concepts.descent import Objective, try_steps
from conceptatlas.concepts.sweeps import sweep

_ROWS = 1_500
_COLUMNS = 512
_STEPS, _FINALISTS = (12, 8), 2
_MOST_STARTS, _MOST_CONCEPTS = 8, 80  # starts tried, and the concepts that all of them may hold together
_TRY_SWEEPS = 2
_SWEEPS = 6  # of the factors that the sample left out
_MARGIN = 2e-3  # of the squared error: where starts meet in one minimum, rounding must not decide between them

Factors = tuple[torch.Tensor, torch.Tensor]


def best_start(data: Compressed, n_components: int, objective: Objective, generator: torch.Generator) -> Factors:
    """Return (U^T (k, n), W (k, p)) >= 0 from the start that a short descent on a sample ends lowest from."""
    k, (n, p) = n_components, (data.Ct.shape[1], data.Zt.shape[1])
    rows, columns = draw_rows(n, _ROWS, generator).to(data.Ct.device), slice(None, None, max(1, p // _COLUMNS))
    C, Zt = data.Ct[:, rows], data.Zt[:, columns].contiguous()
    gentle = replace(objective, update=partial(sweep, n_sweeps=_TRY_SWEEPS), n_sweeps=_TRY_SWEEPS)
    Ut, W = nndsvda(data, k)
    starts = [(Ut[:, rows], W[:, columns].contiguous())]
    starts += [_random(C, Zt, k, generator) for _ in range(min(_MOST_STARTS, _MOST_CONCEPTS // k) - 1)]
    tried = [try_steps((C, Zt), start, gentle, _STEPS[0]) for start in starts]
    lowest = sorted(range(len(tried)), key=lambda i: tried[i][0])[:_FINALISTS]
    tried = [try_steps((C, Zt), tried[i][1:], gentle, _STEPS[1]) for i in sorted(lowest)]
    best = min(error for error, _, _ in tried)
    _, Ut, W = next(one for one in tried if one[0] <= best + _MARGIN * abs(best))
    if columns.step > 1:
        W = sweep(W.new_zeros((k, p)), (Ut @ C.T) @ data.Zt, Ut @ Ut.T, _SWEEPS)
    if len(rows) < n:
        Ut = sweep(Ut.new_zeros((k, n)), (W @ data.Zt.T) @ data.Ct, objective.gram(W), _SWEEPS)
    return Ut, W


def _random(C: torch.Tensor, Zt: torch.Tensor, k: int, generator: torch.Generator) -> Factors:
    """Uniform factors, scaled to the least squares of C Z^T."""
    W = torch.rand((k, Zt.shape[1]), generator=generator).to(C)
    U = torch.rand((k, C.shape[1]), generator=generator).to(C)
    fit = float((((W @ Zt.T) @ C) * U).sum()) / max(float(((W @ W.T) * (U @ U.T)).sum()), 1e-30)
    root = max(fit, 1e-12) ** 0.5
    return U * root, W * root
