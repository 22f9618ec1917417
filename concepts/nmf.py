"""Non-negative matrix factorization of activations, compressed and extrapolated."""

from __future__ import annotations

from typing import Any

import torch

from conceptatlas.concepts.compression import compress
from conceptatlas.concepts.descent import N_SWEEPS, Descent, Objective, descend
from conceptatlas.concepts.estimator import Factorizer
from conceptatlas.concepts.face import Head, keep_predictions
from conceptatlas.concepts.rows import Rows
from conceptatlas.concepts.starts import best_start
from conceptatlas.concepts.sweeps import sweep
from conceptatlas.extraction.errors import UserError


class NMF(Factorizer):
    """Non-negative matrix factorization: ``min |A - U W|^2`` over U, W >= 0, for activations A >= 0.

    A randomized range finder compresses A to ``2 * n_components`` columns (at least ``n_components + 20``);
    extrapolated HALS descends on the compressed matrix, from the best of an NNDSVDa and up to seven random starts
    (told apart by a few steps on a sample of rows and columns), and is corrected by exact products with A, which is
    read a few times in blocks of rows. Errors are accumulated in float64. One seed on one machine gives the same bits;
    scaling A changes nothing but the coefficients.

    Parameters
    ----------
    n_components
        Number of concepts k, at most min(n, p).
    max_iter
        Most steps (updates of both factors), and as many again of the refinement with ``keep_predictions``.
    tol
        Relative decrease of |A - U W| over a round of steps below which the fit stops; rounds end after 15 steps, or
        where five lower it by less than that.
    random_state
        Seed of the range finder and of the random starts.
    keep_predictions
        Weight of FACE's term, the divergence of the head's predictions on U W from those on A; 0 leaves it out.
        With it A is held in memory as a whole.
    head
        Differentiable map from activations (n, p), rows in their order, to logits; needed with ``keep_predictions``.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.array([[1.0, 0.0, 1.0], [0.0, 2.0, 0.0], [2.0, 0.0, 2.0]])
    >>> model = NMF(2, random_state=0).fit(A)
    >>> np.round(model.components_[model.components_[:, 1].argsort()], 2)
    array([[0.71, 0.  , 0.71],
           [0.  , 1.  , 0.  ]])
    >>> np.allclose(model.transform(A) @ model.components_, A, atol=1e-3)
    True
    """

    _signed = False

    def __init__(
        self,
        n_components: int,
        *,
        max_iter: int = 200,
        tol: float = 5e-4,
        random_state: Any = None,
        keep_predictions: float = 0.0,
        head: Head | None = None,
    ) -> None:
        super().__init__(n_components, max_iter=max_iter, tol=tol, random_state=random_state)
        self.keep_predictions = keep_predictions
        self.head = head

    def _fit(self, rows: Rows, seed: int) -> tuple[torch.Tensor, float, int, bool]:
        if not 0 <= self.keep_predictions < float("inf"):
            raise UserError(f"keep_predictions={self.keep_predictions!r} must be a weight of at least 0.")
        generator = torch.Generator().manual_seed(seed)
        data = compress(rows, self.n_components, generator, nonnegative=True)
        objective = Objective(_sweep_components, True)
        start = best_start(data, self.n_components, generator)
        found = descend(data, start, objective, max_iter=self.max_iter, tol=self.tol)
        if self.keep_predictions > 0:
            return self._refine(rows, found, data.scale)
        return unit_rows(found.W), found.relative_error * data.total**0.5 / data.scale, found.n_iter, found.converged

    def _refine(self, rows: Rows, found: Descent, scale: float) -> tuple[torch.Tensor, float, int, bool]:
        if self.head is None:
            raise UserError(
                f"keep_predictions={self.keep_predictions} needs head=..., a map from activations to logits."
            )
        A = torch.cat([block for _, _, block in rows.blocks()])
        U, W, n_steps = keep_predictions(
            A,
            found.Ut.T / scale,
            found.W,
            self.head,
            weight=self.keep_predictions,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        settled = found.converged and n_steps < self.max_iter
        error = float(torch.linalg.vector_norm((A - U @ W).to(torch.float64)))
        return unit_rows(W), error, found.n_iter + n_steps, settled


def _sweep_components(W: torch.Tensor, Q: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    return sweep(W, Q, H, N_SWEEPS)


def unit_rows(W: torch.Tensor) -> torch.Tensor:
    """Scale rows to unit norm; a row that died (a concept that no row uses) becomes the flat direction.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.7071, 0.7071]])
    """
    norms = torch.linalg.vector_norm(W, dim=1, keepdim=True)
    flat = torch.full_like(W, W.shape[1] ** -0.5)
    return torch.where(norms > 0, W / torch.where(norms > 0, norms, 1.0), flat)
