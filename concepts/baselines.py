"""Baselines under the same protocol: k-means, principal directions and random directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from conceptatlas.concepts.compression import check_rows
from conceptatlas.concepts.estimator import Factorizer
from conceptatlas.concepts.nmf import unit_rows
from conceptatlas.concepts.rows import Rows, as_tensor


class KMeans(Factorizer):
    """K-means as a dictionary, as in ACE: components are the unit-norm cluster centres, over scikit-learn's KMeans.

    A row has one coefficient, on the centre nearest to it: its projection on that direction, not below zero.

    Parameters
    ----------
    n_components
        Number of clusters k, at most min(n, p).
    max_iter, tol, random_state
        As in ``sklearn.cluster.KMeans``, with four starts.

    Examples
    --------
    >>> A = np.array([[0.0, 2.0], [0.0, 2.0], [5.0, 0.0], [5.0, 0.0]])
    >>> KMeans(2, random_state=0).fit(A).transform(A).max(axis=1)
    array([2., 2., 5., 5.])
    """

    def _fit(self, rows: Rows, seed: int) -> tuple[torch.Tensor, float, int, bool]:
        from sklearn.cluster import KMeans as ClusterKMeans

        A = _gather(rows)
        settings: dict[str, Any] = {"n_init": 4, "max_iter": self.max_iter, "tol": self.tol, "random_state": seed}
        found = ClusterKMeans(self.n_components, **settings).fit(A)
        self.centres_ = found.cluster_centers_.astype(A.dtype)
        W = unit_rows(torch.from_numpy(self.centres_))
        error = np.linalg.norm(A - _nearest(A, self.centres_, W.numpy()) @ W.numpy())
        return W.to(rows.device), float(error), int(found.n_iter_), int(found.n_iter_) < self.max_iter

    def _coefficients(self, A: Any) -> Any:
        U = _nearest(as_tensor(A).cpu().numpy(), self.centres_, self._W())
        return torch.from_numpy(U).to(A.device) if isinstance(A, torch.Tensor) else U


class PCA(Factorizer):
    """Principal directions without centring (truncated SVD): the best signed ``U W`` of its rank, over scikit-learn.

    Coefficients are signed projections. ``max_iter`` bounds the power iterations of the randomized solver at 7.

    Parameters
    ----------
    n_components
        Number of directions k, at most min(n, p).
    max_iter, tol
        Kept for the protocol; the solver always settles.
    random_state
        Seed of the randomized solver.

    Examples
    --------
    >>> A = np.array([[3.0, 4.0], [6.0, 8.0]])
    >>> np.round(PCA(1, random_state=0).fit(A).transform(A), 3)
    array([[ 5.],
           [10.]])
    """

    def _fit(self, rows: Rows, seed: int) -> tuple[torch.Tensor, float, int, bool]:
        from sklearn.utils.extmath import randomized_svd

        A = _gather(rows)
        n_iter: Any = min(7, self.max_iter)
        _, _, Vt = randomized_svd(A, self.n_components, n_iter=n_iter, random_state=seed)
        signs = np.where(Vt.sum(axis=1) < 0, -1, 1).astype(A.dtype)
        W = np.ascontiguousarray(Vt * signs[:, None], dtype=A.dtype)
        error = np.linalg.norm(A - (A @ W.T) @ W)
        return torch.from_numpy(W).to(rows.device), float(error), n_iter, True

    def _coefficients(self, A: Any) -> Any:
        if isinstance(A, torch.Tensor):
            return A @ as_tensor(self.components_).to(A.device, A.dtype).T
        return A @ self._W().T


class RandomDirections(Factorizer):
    """Random unit directions: the floor of every table of metrics. Non-negative where the activations are.

    Parameters
    ----------
    n_components
        Number of directions k, at most min(n, p).
    max_iter, tol
        Kept for the protocol; there is nothing to iterate.
    random_state
        Seed of the directions.

    Examples
    --------
    >>> RandomDirections(2, random_state=0).fit(np.ones((5, 3), np.float32)).components_.shape
    (2, 3)
    """

    def _fit(self, rows: Rows, seed: int) -> tuple[torch.Tensor, float, int, bool]:
        check_rows(rows, nonnegative=False)
        W = torch.randn((self.n_components, rows.shape[1]), generator=torch.Generator().manual_seed(seed))
        if all(bool((block >= 0).all()) for _, _, block in rows.blocks()):
            W = W.abs()
        W = unit_rows(W.to(rows.device, rows.dtype))
        total = 0.0
        self.components_ = W
        for _, _, block in rows.blocks():
            total += float((block - self._coefficients(block) @ W).to(torch.float64).square().sum())
        return W, total**0.5, 1, True


def _gather(rows: Rows) -> np.ndarray:
    """Return the whole matrix as an array, after the checks that every factorizer makes."""
    check_rows(rows, nonnegative=False)
    return torch.cat([block for _, _, block in rows.blocks()]).cpu().numpy()


def _nearest(A: np.ndarray, centres: np.ndarray, W: np.ndarray) -> np.ndarray:
    distances = (centres**2).sum(axis=1) - 2 * A @ centres.T
    member = distances.argmin(axis=1)
    U = np.zeros((len(A), len(W)), dtype=A.dtype)
    U[np.arange(len(A)), member] = np.maximum((A * W[member]).sum(axis=1), 0)
    return U
