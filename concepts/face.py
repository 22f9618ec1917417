"""Refine an NMF so that reconstructed activations keep the model's predictions (FACE).

``|A - U W|^2 / |A|^2 + weight * KL(softmax h(A) || softmax h(U W))``, Adam on U and W jointly, clamped at zero, from
the plain solution (arXiv 2510.11675, NeurIPS 2025). ``|p - q|_1 <= sqrt(2 KL)`` bounds what a prediction can lose.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import kl_div, log_softmax

from conceptatlas.extraction.errors import UserError

Head = Callable[[torch.Tensor], torch.Tensor]
_LEARNING_RATE = 2e-3  # in units of the root mean square of each factor
_PATIENCE = 10


def prediction_divergence(head: Head, A: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """Mean ``KL(softmax h(A) || softmax h(A^))`` over the outputs of ``head``, in nats; lower is better, 0 when equal.

    >>> A = torch.eye(2)
    >>> float(prediction_divergence(lambda x: x, A, A))
    0.0
    """
    with torch.no_grad():
        truth = log_softmax(head(A), dim=-1)
    found = log_softmax(head(reconstruction), dim=-1)
    return kl_div(found, truth, reduction="batchmean", log_target=True)


def keep_predictions(
    A: torch.Tensor, U: torch.Tensor, W: torch.Tensor, head: Head, *, weight: float, tol: float, max_iter: int = 300
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return U (n, k), W (k, p) >= 0 that also keep the head's predictions, and the number of Adam steps taken.

    Parameters
    ----------
    A, U, W
        Activations (n, p) and their factorization to start from.
    head
        Differentiable map from activations (n, p) to logits (m, classes); rows keep their order, so that a head may
        pool the positions of an image.
    weight
        Weight of the divergence against the relative squared error.
    tol
        Relative decrease of the loss over ten steps below which the refinement stops.
    max_iter
        Most steps.

    Raises
    ------
    UserError
        If the head's logits do not depend on the activations by autograd, or are NaN or infinite.

    Examples
    --------
    >>> A = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    >>> U, W, _ = keep_predictions(A, A[:, :2].clone(), torch.eye(3)[:2], lambda x: x, weight=0.1, tol=1e-4)
    >>> bool((A - U @ W).norm() < (A - A[:, :2] @ torch.eye(3)[:2]).norm())
    True
    """
    total = A.square().sum()
    sizes = [factor.square().mean().sqrt().clamp(min=1e-12) for factor in (U, W)]
    unit = [(factor / size).clone().requires_grad_(True) for factor, size in zip((U, W), sizes, strict=True)]
    optimiser = torch.optim.Adam(unit, lr=_LEARNING_RATE)
    losses: list[float] = []
    for _ in range(max_iter):
        found = (unit[0] * sizes[0]) @ (unit[1] * sizes[1])
        divergence = prediction_divergence(head, A, found)
        if not divergence.requires_grad:
            raise UserError("keep_predictions needs a head that is differentiable: its logits have no gradient.")
        loss = (A - found).square().sum() / total + weight * divergence
        if not bool(torch.isfinite(loss)):
            raise UserError("keep_predictions needs finite logits: the head gives NaN or infinity on activations.")
        gradients = torch.autograd.grad(loss, unit)  # of these alone: the head's parameters stay as they are
        for factor, gradient in zip(unit, gradients, strict=True):
            factor.grad = gradient
        optimiser.step()
        with torch.no_grad():
            for factor in unit:
                factor.clamp_(min=0)
        losses.append(float(loss.detach()))
        if len(losses) > _PATIENCE and losses[-1 - _PATIENCE] - losses[-1] < tol * abs(losses[-1]):
            break
    return (unit[0] * sizes[0]).detach(), (unit[1] * sizes[1]).detach(), len(losses)
