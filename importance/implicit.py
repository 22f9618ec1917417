"""Implicit differentiation: from pooled concept coefficients back to the activations at earlier cut points.

The coefficients are non-negative least squares u(a) = argmin_{u >= 0} |a - W^T u|^2. On the active set S the derivative
is du_S/da = (W_S W_S^T)^-1 W_S and zero elsewhere, so that a coefficient can be differentiated like any other layer of
the network. One forward pass serves every earlier cut point and every concept; each concept costs one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from conceptatlas.extraction.errors import LayerError, UserError

if TYPE_CHECKING:
    from conceptatlas.extraction import CutPoint, SplitModel
    from conceptatlas.importance.occlusion import Transform


def _norm(x: torch.Tensor) -> torch.Tensor:
    """Over the features; several times faster than `torch.linalg.vector_norm` where these do not lie side by side."""
    return (x * x).sum(dim=-1).sqrt()


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    # activations (B, P, p) and gradients (B, P, p) at an earlier cut -> map (B, P)
    "layercam": lambda a, g: (a * g.clamp(min=0)).sum(dim=-1).clamp(min=0),
    "gradxact": lambda a, g: (a * g).sum(dim=-1).clamp(min=0),
    "normgrad": lambda a, g: _norm(a) * _norm(g),
    "gradcam": lambda a, g: (a * g.mean(dim=1, keepdim=True)).sum(dim=-1).clamp(min=0),
}
CANDIDATES = ("gradxact", "layercam", "normgrad")  # Grad-CAM is unreliable away from the last layer (NormGrad, 2020)
INPUT = "input"
FINEST = 32  # cells per side of a map that is brought to where its cells read

Ends = dict[str, tuple[torch.Tensor, tuple[int, int]]]  # cut name -> activations (B, P, p) there, joined to U, and grid


@contextmanager
def joined(
    split_model: SplitModel, images: torch.Tensor, transform: Transform, methods: Sequence[str]
) -> Iterator[tuple[torch.Tensor, Ends]]:
    """Coefficients U (B, P, k), joined by autograd to the activations at every earlier cut point that is needed."""
    cuts = list(dict.fromkeys(cut for cut in map(cut_of, methods) if cut))
    with torch.inference_mode(False), frozen(split_model.model), torch.set_grad_enabled(bool(cuts)):
        pixels = images.detach().clone().requires_grad_(INPUT in cuts)
        earlier = _earlier(split_model, [cut for cut in cuts if cut != INPUT])
        features = split_model.encode_through(pixels, earlier)
        last = features[-1]
        U = transform(last.positions.flatten(0, 1)).reshape(*last.positions.shape[:2], -1)
        ends: Ends = {"": (last.positions, last.grid)}
        for cut, found in zip(earlier, features[:-1], strict=True):
            ends |= {name: (found.positions, found.grid) for name in cuts if name in (cut.name, *cut.aliases)}
        if INPUT in cuts:
            ends[INPUT] = (pixels, (pixels.shape[-2], pixels.shape[-1]))
        yield U, ends


def gradients_of(total: torch.Tensor, ends: Ends, *, keep: bool) -> dict[str, torch.Tensor]:
    """The gradient of a sum over images at each earlier cut point; `keep` the graph for another concept."""
    wanted = {name: tensor for name, (tensor, _) in ends.items() if name}
    if not wanted:
        return {}
    found = torch.autograd.grad(total, list(wanted.values()), retain_graph=keep)
    return dict(zip(wanted, found, strict=True))


def aligned_map(
    split_model: SplitModel, method: str, spatial: torch.Tensor, ends: Ends, gradients: dict[str, torch.Tensor]
) -> torch.Tensor:
    """`pooled_map`, brought to where the cells of its layer read the image."""
    cut, found = cut_of(method), pooled_map(method, spatial, ends, gradients)
    return found if cut == INPUT else aligned(found, split_model.reading_offset(cut or None))


def pooled_map(method: str, spatial: torch.Tensor, ends: Ends, gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    """One concept's map (B, h, w) from its coefficients (B, P), or from activations and gradients at an earlier cut."""
    cut = cut_of(method)
    activations, grid = ends[cut]
    if not cut:
        return spatial.clamp(min=0).reshape(-1, *grid).float()
    gradient = gradients[cut]
    if cut == INPUT:
        activations, gradient = (t.flatten(2).transpose(1, 2) for t in (activations, gradient))
    pooled = POOLINGS[method.split("@", 1)[0]](activations.detach(), gradient)
    return pooled.reshape(-1, *grid).float()


def aligned(maps: torch.Tensor, offset: tuple[float, float]) -> torch.Tensor:
    """Maps (..., h, w) of cells that read the image beside their places, brought to where they read.

    Cubic interpolation: a peak between two cells stays a peak, where linear interpolation would level it.

    Parameters
    ----------
    maps : tensor (..., h, w)
        One value per cell.
    offset : (float, float)
        How far below and to the right of its place each cell reads, in cells (`SplitModel.reading_offset`).

    Returns
    -------
    tensor (..., h, w), or (..., 2 h, 2 w) where that is at most `FINEST`: part of a cell is not to be lost
        `maps` themselves where the offset is 0.

    Examples
    --------
    >>> aligned(torch.tensor([[0.0, 0.0, 4.0, 0.0]]), (0.0, -0.5))[0].round().tolist()
    [0.0, 0.0, 1.0, 4.0, 4.0, 1.0, 0.0, 0.0]
    """
    if offset == (0.0, 0.0):
        return maps
    h, w = maps.shape[-2:]
    finer = 2 if 2 * max(h, w) <= FINEST else 1
    sides = [
        (torch.arange(n * finer, device=maps.device) + 0.5) / finer - beside
        for n, beside in zip((h, w), offset, strict=True)
    ]
    y, x = (2.0 * side / n - 1.0 for side, n in zip(sides, (h, w), strict=True))
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None].to(maps)
    flat = maps.reshape(1, -1, h, w)
    found = F.grid_sample(flat, places, mode="bicubic", padding_mode="border", align_corners=False)
    found = found.clamp(min=flat.amin((2, 3), keepdim=True))
    return found.reshape(*maps.shape[:-2], *found.shape[-2:])


def cut_of(method: str) -> str:
    """The cut point that a method's name asks for, "" for the coefficient map."""
    pooling, _, cut = method.partition("@")
    if method == "coefficients":
        return ""
    if pooling not in POOLINGS or not cut:
        known = ["coefficients", *(f"{name}@<cut point>" for name in POOLINGS), "occlusion"]
        raise UserError(f"no concept map is called {method!r}; take one of {', '.join(known)}")
    return cut


def _earlier(split_model: SplitModel, names: Sequence[str]) -> list[CutPoint]:
    """The cut points of these names, in order of depth."""
    spatial = [c for c in split_model.cut_points if c.index < split_model.layer.index and c.grid]
    before = {name: c for c in spatial for name in (*c.aliases, c.name)}
    for name in names:
        if name not in before:
            raise LayerError(
                f"a map cannot go back from {split_model.layer.name!r} to {name!r}; "
                f"the spatial cut points before it are {', '.join(c.name for c in spatial) or 'none'}"
            )
    return sorted({before[name].index: before[name] for name in names}.values(), key=lambda c: c.index)


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """No gradients for the weights meanwhile, which halves the time of a backward pass.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 2)
    >>> with frozen(layer):
    ...     layer.weight.requires_grad
    False
    >>> layer.weight.requires_grad
    True
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
