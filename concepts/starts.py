"""Where NMF starts: the best of a deterministic and two random starts, tried on a sample of the compressed rows.

The problem has many local minima, and which one a start ends in is luck: on activations of trained networks NNDSVDa
ended up to 7 % above random starts as often as the reverse. A few steps on a sample of rows tell them apart.
"""

from __future__ import annotations

import torch

from conceptatlas.concepts.compression import Compressed, nndsvda
from conceptatlas.concepts.descent import Objective, try_steps
from conceptatlas.concepts.sweeps import sweep

_ROWS = 2_500
_STEPS = 20
_RANDOM = 2
_SWEEPS = 6
_MARGIN = 2e-3  # of the squared error: where starts meet in one minimum, rounding must not decide between them

Factors = tuple[torch.Tensor, torch.Tensor]


def best_start(data: Compressed, n_components: int, objective: Objective, generator: torch.Generator) -> Factors:
    """Return (U^T (k, n), W (k, p)) >= 0 from the start that a short descent on a sample of rows ends lowest from."""
    every = max(1, data.Ct.shape[1] // _ROWS)
    C = data.Ct[:, ::every].contiguous()
    Ut, W = nndsvda(data, n_components)
    starts = [(Ut[:, ::every].contiguous(), W)]
    starts += [_random(C, data.Zt, n_components, generator) for _ in range(_RANDOM)]
    error, Ut, W = try_steps((C, data.Zt), starts[0], objective, _STEPS)
    for start in starts[1:]:
        other = try_steps((C, data.Zt), start, objective, _STEPS)
        if other[0] < (1 - _MARGIN) * error:
            error, Ut, W = other
    if every == 1:
        return Ut, W
    Ut = torch.zeros((n_components, data.Ct.shape[1]), dtype=W.dtype, device=W.device)
    return sweep(Ut, (W @ data.Zt.T) @ data.Ct, objective.gram(W), _SWEEPS), W


def _random(C: torch.Tensor, Zt: torch.Tensor, k: int, generator: torch.Generator) -> Factors:
    """Uniform factors, scaled to the least squares of C Z^T."""
    W = torch.rand((k, Zt.shape[1]), generator=generator).to(C)
    U = torch.rand((k, C.shape[1]), generator=generator).to(C)
    fit = float((((W @ Zt.T) @ C) * U).sum()) / max(float(((W @ W.T) * (U @ U.T)).sum()), 1e-30)
    root = max(fit, 1e-12) ** 0.5
    return U * root, W * root
