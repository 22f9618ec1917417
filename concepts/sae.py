"""Sparse autoencoder with exactly k active codes per row, optionally with an archetypal dictionary.

TopK (Gao et al. 2024): ``u = TopK(relu(a E + b))``, reconstruction ``u W``; codes that have not fired for a while learn
what the others leave over (auxiliary loss). Archetypal (Fel et al., ICML 2025): every component is a convex combination
of k-means centroids of the data plus a bounded relaxation, which keeps the dictionary near the data and stable.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from conceptatlas.concepts.compression import check_rows
from conceptatlas.concepts.estimator import Factorizer
from conceptatlas.concepts.nmf import unit_rows
from conceptatlas.concepts.rows import Rows, as_tensor
from conceptatlas.extraction.errors import UserError

_LEARNING_RATE = 5e-3
_BATCH, _BATCHES = 512, 16  # rows of a batch, at most; batches of an epoch, at least
_PATIENCE, _CUTS = 5, 3  # epochs without gain after which the learning rate is cut to a quarter; cuts before the end
_AUXILIARY = 1 / 32
_CENTROIDS = 256


class TopKSAE(Factorizer):
    """Sparse autoencoder whose codes hold at most ``top_k`` of ``n_components`` concepts per row.

    Parameters
    ----------
    n_components
        Number of concepts k, at most min(n, p).
    top_k
        Concepts active in a row, at most ``n_components``.
    archetypal
        Whether components are convex combinations of k-means centroids of the data, plus a relaxation.
    relaxation
        Largest norm of the relaxation, in units of the data's root mean square norm.
    max_iter
        Most epochs.
    tol
        Relative decrease of the lowest loss over five epochs below which the learning rate is cut to a quarter; at the
        fourth time training stops. So it does at a relative error below it.
    random_state
        Seed of the start and of the order of rows.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.repeat(np.eye(3, 6, dtype=np.float32), 20, axis=0)
    >>> U = TopKSAE(3, top_k=1, random_state=0).fit(A).transform(A)
    >>> int((U > 0).sum(axis=1).max())
    1
    """

    def __init__(
        self,
        n_components: int,
        *,
        top_k: int = 5,
        archetypal: bool = False,
        relaxation: float = 1.0,
        max_iter: int = 100,
        tol: float = 1e-3,
        random_state: Any = None,
    ) -> None:
        super().__init__(n_components, max_iter=max_iter, tol=tol, random_state=random_state)
        self.top_k = top_k
        self.archetypal = archetypal
        self.relaxation = relaxation

    def _fit(self, rows: Rows, seed: int) -> tuple[torch.Tensor, float, int, bool]:
        if self.top_k < 1:
            raise UserError(f"top_k={self.top_k!r} must be at least 1.")
        scale = (check_rows(rows, nonnegative=False) * rows.shape[1]) ** -0.5
        A = torch.cat([block for _, _, block in rows.blocks()]) * scale
        generator = torch.Generator().manual_seed(seed)
        net = _Autoencoder(self._dictionary(A, generator)).to(A.device, A.dtype)
        k = min(self.top_k, self.n_components)
        net.fit_scale(A, k)
        n_iter, converged = _train(net, A, k, self.max_iter, self.tol, generator)
        with torch.no_grad():
            W = net.dictionary()
            self.encoder_, self.bias_ = net.encoder.detach(), net.bias.detach() / scale
            self.components_ = W
            error = float(torch.linalg.vector_norm((A / scale - self._coefficients(A / scale) @ W).to(torch.float64)))
        return W, error, n_iter, converged

    def _dictionary(self, A: torch.Tensor, generator: torch.Generator) -> nn.Module:
        from sklearn.cluster import KMeans

        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        n_points = max(self.n_components, min(_CENTROIDS, len(A) // 4)) if self.archetypal else self.n_components
        points = A.cpu().numpy()
        settings: dict[str, Any] = {"n_init": 1, "max_iter": 20, "random_state": seed}
        centres = KMeans(n_points, **settings).fit(points).cluster_centers_
        start = torch.as_tensor(centres).to(A.device, A.dtype)
        if not self.archetypal:
            return _Free(start)
        return _Archetypal(start, self.n_components, self.relaxation)

    def _coefficients(self, A: Any) -> Any:
        rows = as_tensor(A)
        encoder, bias = (x.to(rows.device, rows.dtype) for x in (self.encoder_, self.bias_))
        U = _top(torch.relu(rows @ encoder.T + bias), min(self.top_k, self.n_components))
        return U if isinstance(A, torch.Tensor) else U.numpy()


class _Free(nn.Module):
    """Components that are free parameters, kept at unit norm."""

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.W = nn.Parameter(unit_rows(start))

    def forward(self) -> torch.Tensor:
        return normalize(self.W, dim=1, eps=1e-8)


class _Archetypal(nn.Module):
    """Components ``(M C + R)`` at unit norm: M row-stochastic, C centroids of the data, rows of R bounded."""

    C: torch.Tensor

    def __init__(self, centroids: torch.Tensor, n_components: int, bound: float) -> None:
        super().__init__()
        self.register_buffer("C", centroids)
        self.M = nn.Parameter(torch.eye(n_components, len(centroids), dtype=centroids.dtype) * 4)
        self.R = nn.Parameter(torch.zeros(n_components, centroids.shape[1], dtype=centroids.dtype))
        self.bound = bound

    def forward(self) -> torch.Tensor:
        length = torch.linalg.vector_norm(self.R, dim=1, keepdim=True)
        relaxation = self.R * (self.bound / length.clamp(min=self.bound)) if self.bound > 0 else 0.0
        return normalize(torch.softmax(self.M, dim=1) @ self.C + relaxation, dim=1, eps=1e-8)


class _Autoencoder(nn.Module):
    def __init__(self, dictionary: nn.Module) -> None:
        super().__init__()
        self.dictionary = dictionary
        with torch.no_grad():
            W = dictionary()
        self.encoder = nn.Parameter(W.clone())
        self.bias = nn.Parameter(torch.zeros(len(W), dtype=W.dtype))

    def forward(self, A: torch.Tensor) -> torch.Tensor:
        return torch.relu(A @ self.encoder.T + self.bias)

    @torch.no_grad()
    def fit_scale(self, A: torch.Tensor, k: int) -> None:
        """Scale the encoder so that the codes it starts with do not add up to more than A."""
        found = _top(self(A), k) @ self.dictionary()
        self.encoder *= ((A * found).sum() / found.square().sum().clamp(min=1e-30)).clamp(min=1e-3)


def _top(codes: torch.Tensor, k: int) -> torch.Tensor:
    values, index = codes.topk(k, dim=1)
    return torch.zeros_like(codes).scatter(1, index, values)


def _train(
    net: _Autoencoder, A: torch.Tensor, k: int, epochs: int, tol: float, generator: torch.Generator
) -> tuple[int, bool]:
    """Train in shuffled batches; return epochs done and whether the loss settled."""
    optimiser = torch.optim.Adam(net.parameters(), lr=_LEARNING_RATE)
    size = max(1, min(_BATCH, len(A) // _BATCHES))
    history: list[float] = []
    silent = torch.zeros(len(net.bias), dtype=torch.bool, device=A.device)
    cuts = since = 0
    for epoch in range(1, epochs + 1):
        fired, total = torch.zeros_like(silent), 0.0
        for batch in torch.randperm(len(A), generator=generator).to(A.device).split(size):
            loss, active = _loss(net, A[batch], k, silent)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            fired |= active
            total += float(loss.detach()) * len(batch)
        silent = ~fired
        history.append(total / len(A))
        if history[-1] < tol**2:  # of A, whose rows have a mean square norm of 1
            return epoch, True
        since += 1
        if since > _PATIENCE and min(history[-_PATIENCE:]) > (1 - tol) * min(history[:-_PATIENCE]):
            if cuts == _CUTS:
                return epoch, True
            cuts, since = cuts + 1, 0
            for group in optimiser.param_groups:
                group["lr"] /= 4
    return epochs, False


def _loss(net: _Autoencoder, A: torch.Tensor, k: int, silent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared error per row, plus what silent codes make of the rest; and which codes fired."""
    W, codes = net.dictionary(), net(A)
    U = _top(codes, k)
    rest = A - U @ W
    loss = rest.square().sum(dim=1).mean()
    if bool(silent.any()):
        dead = _top(codes * silent, min(k, int(silent.sum())))
        loss = loss + _AUXILIARY * (rest.detach() - dead @ W).square().sum(dim=1).mean()
    return loss, (U > 0).any(dim=0)
