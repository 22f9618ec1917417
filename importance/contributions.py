"""Signed contributions: how far each concept pushes the target up or down, and what the concepts leave unexplained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from conceptatlas.importance.recomposition import Decomposition, differentiated, in_batches, select, with_positions
from conceptatlas.importance.targets import as_target

ContributionMethod = Literal["gradient", "integrated", "occlusion"]


@dataclass(frozen=True)
class Contributions:
    """What adds up to the target: ``values.sum(1) + residual + bias == output``.

    Attributes
    ----------
    values
        ``(B, k)``: of each concept, with its sign.
    residual
        ``(B,)``: of the part of the activations that the concepts do not reconstruct.
    bias
        ``(B,)``: the rest. For affine heads and for integrated gradients it is the output without any activation, or
        for the typical one.
    output
        ``(B,)``: the target.
    method
        How the contributions were computed.
    """

    values: Tensor
    residual: Tensor
    bias: Tensor
    output: Tensor
    method: str = "gradient"

    @property
    def completeness(self) -> Tensor:
        """Share of what the activations do to the target that goes through concepts, ``(B,)``.

        In [0, 1]: concepts' magnitude over that of concepts and residual together; 1 where both are 0.
        """
        concepts, rest = self.values.sum(dim=1).abs(), self.residual.abs()
        return torch.where(concepts + rest > 0, concepts / (concepts + rest), torch.ones_like(rest))


def contributions(
    split_model: Any,
    features: Any,
    U: Any,
    W: Any,
    target: Any,
    *,
    method: ContributionMethod = "gradient",
    steps: int = 32,
    typical: Any = None,
    output: Any = None,
    batch_size: int | None = None,
) -> Contributions:
    """Return the signed contribution of each concept to the target, image by image.

    What a concept brings is told against its absence. Where activations are not negative, that is no activation. Where
    they have signs, that is no state of the network; with `typical` a concept is held against the same share of the
    typical activation in its place.

    Parameters
    ----------
    split_model, features, U, W
        The head, activations with positions ``(B, P, p)``, coefficients ``(B, P, k)`` and directions ``(k, p)``.
    target
        Class index, :func:`margin`, :func:`similarity` or a callable ``(B, n) -> (B,)``.
    method
        ``"gradient"``: gradient times input; exact, and optimal for concept deletion and insertion, where the head is
        affine. ``"integrated"``: integrated gradients from no activation at all, or the typical one; complete for any
        head. ``"occlusion"``: the change as the concept alone is removed.
    steps
        Points of the integral, Gauss-Legendre. A single one, the gradient halfway, costs no more than the gradient at
        the activations, where heads saturate.
    typical
        ``(p,)``: mean activation over many images, for layers whose activations have signs; nothing by default.
    output
        ``(B,)``: the target, where it is at hand: a head pass less for integrated gradients.
    batch_size
        Most images at once; by default as many as fit.

    Returns
    -------
    Contributions
        Complete by construction: what neither concepts nor residual explain is the bias.

    Raises
    ------
    ValueError
        For shapes that do not agree or an unknown method.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from conceptatlas.extraction.features import Features
    >>> head = SimpleNamespace(head=lambda features: features.positions.sum(1), head_is_affine=True)
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> features = Features(U @ W, None, (1, 1))
    >>> contributions(head, features, U, W, 0).values.tolist()
    [[3.0, 0.0]]
    """
    if method not in get_args(ContributionMethod):
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(get_args(ContributionMethod))}")
    parts = Decomposition.build(split_model, features, U, W, as_target(target), batch_size=batch_size, typical=typical)
    known = None if output is None else torch.as_tensor(output).to(parts.directions)
    by_method: dict[str, Callable[[Decomposition, Tensor], tuple[Tensor, Tensor, Tensor]]] = {
        "gradient": lambda parts, images: _integrated(parts, images, known, torch.ones(1), torch.ones(1)),
        "integrated": lambda parts, images: _integrated(parts, images, known, *_gauss_legendre(steps)),
        "occlusion": _occlusion,
    }
    every = torch.arange(parts.n_images, device=parts.directions.device)
    pieces = list(in_batches(lambda part: by_method[method](parts, every[part]), parts.n_images, parts.rows()))
    values, residual, found = (torch.cat(piece) for piece in zip(*pieces, strict=True))
    return Contributions(values, residual, found - values.sum(dim=1) - residual, found, method)


def _integrated(
    parts: Decomposition, images: Tensor, known: Tensor | None, nodes: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Average the gradient along the line from the start, and multiply it by concepts and residual."""
    features = select(parts.features, images)
    start = 0.0 if parts.typical is None else parts.typical
    way = features.positions - start
    total, output = torch.zeros_like(way), None if known is None else known[images]
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        value, gradient = value_and_slope(parts, with_positions(features, start + node * way))
        total += weight * gradient
        output = value if node == 1.0 else output  # the activations themselves: their output need not be computed again
    if output is None:
        with torch.no_grad():
            output = parts.target(parts.split_model.head(features))
    values = parts.along(images, total)
    return values, (total * way).sum(dim=(1, 2)) - values.sum(dim=1), output


def _occlusion(parts: Decomposition, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Remove each concept alone, and the residual alone."""
    k = parts.n_concepts
    masks = torch.cat([torch.ones(1, k), 1.0 - torch.eye(k)]).to(parts.directions)
    outputs = parts.outputs(images.repeat_interleave(k + 1), masks.repeat(len(images), 1))
    scores = parts.target(outputs).reshape(len(images), k + 1)
    features = select(parts.features, images)
    with torch.no_grad():
        without = with_positions(features, features.positions - parts.residual(images))
        rest = scores[:, 0] - parts.target(parts.split_model.head(without))
    return scores[:, :1] - scores[:, 1:], rest, scores[:, 0]


def slope(parts: Decomposition, features: Any) -> Tensor:
    """Return the gradient of the target by the positions, ``(B, P, p)``."""
    return value_and_slope(parts, features)[1]


def value_and_slope(parts: Decomposition, features: Any) -> tuple[Tensor, Tensor]:
    """Return the target ``(B,)`` and its gradient by the positions, ``(B, P, p)``, from one pass."""
    with differentiated(parts.split_model):
        leaf = features.positions.detach().clone().requires_grad_()
        value = parts.target(parts.split_model.head(with_positions(features, leaf)))
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def _gauss_legendre(steps: int) -> tuple[Tensor, Tensor]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
