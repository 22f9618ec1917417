"""A matrix compressed to a few columns by a randomized range finder, and start factors read off the compressed matrix.

Letters: A (n, p) activations, Z (p, l) orthonormal columns, C (n, l) = A Z, so that A ~ C Z^T. Products with A then
cost n*l*k instead of n*p*k. One product A Z serves the singular vectors, the start and the compressed descent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from conceptatlas.concepts.rows import Rows
from conceptatlas.extraction.errors import UserError

_OVERSAMPLING = 20  # columns beyond k, or k where that is more: what the rank of A exceeds k by is then caught at once
_FINDER_ROWS = 2_500  # about as many rows find the range; what they miss is corrected later on all of them


@dataclass(frozen=True)
class Compressed:
    """A ~ C Z^T, with Zt (l, p) = Z^T and C^T (l, n) in the first l rows of ``workspace`` (l + 2 k, n).

    ``scale`` is what A is multiplied by so that its mean square is 1; ``total`` is the sum of squares of the scaled A.
    """

    rows: Rows
    workspace: torch.Tensor
    Zt: torch.Tensor
    scale: float
    total: float

    @property
    def Ct(self) -> torch.Tensor:
        """C^T (l, n)."""
        return self.workspace[: len(self.Zt)]


def compress(rows: Rows, n_components: int, generator: torch.Generator, *, nonnegative: bool) -> Compressed:
    """Find an orthonormal basis of most of A's row space, from sums of sampled rows, and project A on it.

    Raises
    ------
    UserError
        If A holds NaN or infinite values, is all zero, or is negative somewhere and ``nonnegative`` is asked for.
    """
    n, p = rows.shape
    mean_square = check_rows(rows, nonnegative=nonnegative)
    scale = mean_square**-0.5
    width = min(n_components + max(n_components, _OVERSAMPLING), n, p)
    if width > 0.75 * p:
        Z = torch.eye(p, dtype=rows.dtype, device=rows.device)
    else:
        Z = _range_finder(rows, width, scale, generator)
    L = torch.empty((Z.shape[1] + 2 * n_components, n), dtype=rows.dtype, device=rows.device)
    Ct = L[: Z.shape[1]]
    scaled = (Z * scale).T.contiguous()
    for start, stop, block in rows.blocks():
        Ct[:, start:stop] = scaled @ block.T
    return Compressed(rows, L, Z.T.contiguous(), scale, float(n * p))


def check_rows(rows: Rows, *, nonnegative: bool) -> float:
    """Return the mean square of A, read once; refuse what cannot be factorized.

    Raises
    ------
    UserError
        NaN, infinity, only zeros, or negative entries where ``nonnegative`` is asked for.
    """
    n, p = rows.shape
    if n < 1:
        raise UserError("Found array with 0 sample(s), at least 1 row of activations is needed.")
    total, lowest = 0.0, 0.0
    for start, _, block in rows.blocks():
        squares = float(torch.linalg.vector_norm(block, dim=1).cpu().to(torch.float64).square().sum())
        if not squares < float("inf"):
            _explain_not_finite(block, start)
        total += squares
        if nonnegative:
            lowest = min(lowest, float(block.min()))
    if lowest < 0:
        raise UserError(
            f"Negative values in data passed to NMF (smallest {lowest:.4g}): NMF needs activations >= 0; "
            "use SemiNMF for signed layers, or make_factorizer('auto', signed=True)."
        )
    if total == 0.0:
        _explain_zero(rows)
    return total / (n * p)


def _explain_zero(rows: Rows) -> None:
    n, p = rows.shape
    if any(bool((block != 0).any()) for _, _, block in rows.blocks()):
        raise UserError("Activations are so small that their squares vanish (0): rescale them or use float64.")
    raise UserError(f"All {n} x {p} activations are zero: this is a dead layer; choose another layer or other images.")


def _explain_not_finite(block: torch.Tensor, start: int) -> None:
    bad = ~torch.isfinite(block).all(dim=1)
    if not bool(bad.any()):
        raise UserError("Activations are so large that their squares overflow (inf): rescale them or use float64.")
    kind = "NaN" if bool(torch.isnan(block).any()) else "infinity"
    row = start + int(torch.nonzero(bad)[0, 0])
    raise UserError(
        f"Activations contain {kind} (first in row {row}): leave these images out, and if the model runs in "
        "float16 try bfloat16 or float32."
    )


def _range_finder(rows: Rows, width: int, scale: float, generator: torch.Generator) -> torch.Tensor:
    """Return (p, width) orthonormal columns: one power iteration on a sample of rows, from random sums of its rows."""
    S = _sample(rows, max(_FINDER_ROWS, 2 * width), generator)
    weights = torch.randn((len(S), 1), generator=generator).to(S).mul_(scale)
    Zt = torch.zeros((width, S.shape[1]), dtype=S.dtype, device=S.device)
    for start in range(0, len(S) - width + 1, width):
        Zt.addcmul_(S[start : start + width], weights[start : start + width])
    Zt = ((Zt @ S.T).mul_(scale) @ S).mul_(scale)
    return torch.linalg.qr(Zt.T).Q.contiguous()


def _sample(rows: Rows, most: int, generator: torch.Generator) -> torch.Tensor:
    """Return at most ``most`` drawn rows of A, copied once: copies of this size cost as much as products with it."""
    drawn = draw_rows(rows.shape[0], most, generator).to(rows.device)
    S = torch.empty((len(drawn), rows.shape[1]), dtype=rows.dtype, device=rows.device)
    done = 0
    for start, stop, block in rows.blocks():
        here = drawn[(drawn >= start) & (drawn < stop)] - start
        torch.index_select(block, 0, here, out=S[done : done + len(here)])
        done += len(here)
    return S


def draw_rows(n: int, most: int, generator: torch.Generator) -> torch.Tensor:
    """Return the sorted indices of at most ``most`` of n rows: one drawn from each of so many equal stretches.

    A stride would do for rows without order; but rows are the positions of images, one after the other, and a stride
    that shares a factor with the number of positions sees only some columns of every image.

    >>> draw_rows(3, 5, torch.Generator()).tolist()
    [0, 1, 2]
    """
    if n <= most:
        return torch.arange(n)
    edges = (torch.arange(most) + torch.rand(most, generator=generator, dtype=torch.float64)) * (n / most)
    return edges.long().clamp(max=n - 1).unique()


def nndsvda(Ct: torch.Tensor, Zt: torch.Tensor, n_components: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Start factors (U^T (k, n), W (k, p)), non-negative, from the singular vectors of C Z^T.

    NNDSVDa of Boutsidis and Gallopoulos (Pattern Recognition 41, 2008): of every singular pair the sign with more mass;
    zeros are filled with the square root of the mean over k, so that the start scales with the data.
    """
    mean = float((Ct.sum(dim=1) @ Zt).mean()) / Ct.shape[1]
    left, values, right = _singular_triplets(Ct, Zt, n_components)
    U, W = [left[0].abs()], [right[0].abs()]
    for u, v in zip(left[1:], right[1:], strict=True):
        halves = [(u.clamp(min=0), v.clamp(min=0)), ((-u).clamp(min=0), (-v).clamp(min=0))]
        masses = [float(torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)) for a, b in halves]
        a, b = halves[0] if masses[0] >= masses[1] else halves[1]
        mass = max(masses)
        share = mass**0.5
        U.append(a * (share / max(float(torch.linalg.vector_norm(a)), 1e-30)))
        W.append(b * (share / max(float(torch.linalg.vector_norm(b)), 1e-30)))
    roots = values.sqrt()[:, None]
    fill = (max(mean, 0.0) / n_components) ** 0.5
    starts = [torch.stack(factor) * roots for factor in (U, W)]
    filled = [torch.where(start > 0, start, torch.full_like(start, fill)) for start in starts]
    return filled[0], filled[1]


def _singular_triplets(
    Ct: torch.Tensor, Zt: torch.Tensor, n_components: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (k, n) left vectors, (k,) values and (k, p) right vectors of C Z^T, largest first."""
    gram = (Ct @ Ct.T).cpu().to(torch.float64)  # on the CPU: it is small, and not every device has float64
    eigenvalues, vectors = torch.linalg.eigh(gram)
    order = torch.argsort(eigenvalues, descending=True)[:n_components]
    values = eigenvalues[order].clamp(min=0).sqrt().to(Ct)
    basis = vectors[:, order].to(Ct)
    safe = torch.where(values > values[0] * 1e-6, values, torch.full_like(values, float("inf")))
    return (basis.T @ Ct) / safe[:, None], values, basis.T @ Zt
