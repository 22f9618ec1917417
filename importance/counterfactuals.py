"""Counterfactuals: the fewest concepts to remove, or to add, for the model to decide otherwise.

Under an affine head the effects of changes add up, so that taking the largest first is the smallest set there is. Under
any other head concepts are changed greedily with a new forward pass each, and those not needed are put back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptatlas.importance.contributions import slope
from conceptatlas.importance.recomposition import Decomposition, select, with_positions
from conceptatlas.importance.targets import Target, as_target, margin

Change = Literal["remove", "add"]


@dataclass(frozen=True)
class Counterfactual:
    """What it takes for one image to be decided otherwise.

    Attributes
    ----------
    concepts
        The concepts changed, the strongest first; where nothing flips the image, all that push towards it.
    change
        ``"remove"`` or ``"add"``.
    target
        Label of the target, by default the margin of the predicted class over the next.
    before, after
        The target without and with the change.
    flipped
        Whether it fell below the threshold.
    exact
        Whether no smaller set exists; False where it was found greedily.
    in_range
        Whether each changed coefficient, as the mean over positions, stays within what the reference images show.
    """

    concepts: tuple[int, ...]
    change: str
    target: str
    before: float
    after: float
    flipped: bool
    exact: bool
    in_range: bool


def counterfactual(
    split_model: Any,
    features: Any,
    U: Any,
    W: Any,
    target: Any = None,
    *,
    change: Change = "remove",
    reference: Any = None,
    threshold: float = 0.0,
    batch_size: int | None = None,
) -> tuple[Counterfactual, ...]:
    """Return, image by image, the smallest set of concepts whose change takes the target below a threshold.

    Parameters
    ----------
    split_model, features, U, W
        The head, activations with positions ``(B, P, p)``, coefficients ``(B, P, k)`` and directions ``(k, p)``.
    target
        Class index, :func:`margin`, :func:`similarity` or a callable; by default, image by image, the margin of the
        predicted class over the next.
    change
        ``"remove"``: coefficients to 0 everywhere. ``"add"``: the mean coefficient up to the 95 % quantile of the
        reference, by the same amount at every position; concepts that are already there cannot be added.
    reference
        ``(n, k)`` mean coefficients of other images, such as those of the class to arrive at; by default this batch's.
    threshold
        Of the target.
    batch_size
        Most activations at once.

    Returns
    -------
    tuple of Counterfactual
        One for each image.

    Raises
    ------
    ValueError
        For an unknown change or shapes that do not agree.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from conceptatlas.extraction.features import Features
    >>> head = SimpleNamespace(head=lambda features: features.positions.sum(1), head_is_affine=True)
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> found = counterfactual(head, Features(U @ W, None, (1, 1)), U, W)[0]
    >>> found.concepts, found.before, found.after, found.exact
    ((0,), 2.0, -1.0, True)
    """
    if change not in get_args(Change):
        raise ValueError(f"unknown change {change!r}; choose remove or add")
    parts = Decomposition.build(
        split_model, features, U, W, as_target(0 if target is None else target), batch_size=batch_size
    )
    pooled = parts.coefficients.mean(dim=1)
    known = pooled if reference is None else torch.as_tensor(reference).to(pooled)
    low, high = (torch.quantile(known.float(), level, dim=0).to(pooled) for level in (0.01, 0.99))
    ceiling = torch.quantile(known.float(), 0.95, dim=0).to(pooled)
    moves = -parts.coefficients if change == "remove" else (ceiling - pooled).clamp(min=0)[:, None]
    after = pooled + moves.mean(dim=1)
    inside = ((after >= torch.minimum(low, pooled)) & (after <= torch.maximum(high, pooled))).cpu().numpy()
    targets = [as_target(target)] * parts.n_images if target is not None else _decisions(parts)
    return tuple(
        _one(_Moves.build(parts, image, moves[image], targets[image], threshold), change, inside[image])
        for image in range(parts.n_images)
    )


@dataclass(frozen=True)
class _Moves:
    """The changes that one image may undergo, and the target under any set of them."""

    parts: Decomposition
    features: Any
    moves: Tensor
    target: Target
    threshold: float

    @classmethod
    def build(cls, parts: Decomposition, image: int, moves: Tensor, target: Target, threshold: float) -> _Moves:
        one = select(parts.features, torch.tensor([image], device=parts.directions.device))
        spread = moves.expand(one.positions.shape[1], -1)
        return cls(parts, one, spread, target, threshold)

    def scores(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the target under each set of changes ``(n, k)``, ``(n,)``."""
        masks = torch.as_tensor(chosen).to(self.moves)
        size, found = self.parts.rows(), []
        for start in range(0, len(masks), size):
            some = masks[start : start + size]
            repeated = select(self.features, torch.zeros(len(some), dtype=torch.long, device=self.moves.device))
            positions = repeated.positions + (self.moves * some[:, None]) @ self.parts.directions
            with torch.no_grad():
                changed = with_positions(repeated, positions)
                found.append(self.target(self.parts.split_model.head(changed)).double().cpu())
        return torch.cat(found).numpy()

    def effects(self) -> NDArray[np.float64]:
        """Return what each change adds to the target of an affine head, ``(k,)``."""
        parts = Decomposition(
            self.parts.split_model, self.features, self.moves[None], self.parts.directions, self.target
        )
        along = slope(parts, self.features)[0].double() @ self.parts.directions.double().T
        return (along * self.moves.double()).sum(dim=0).cpu().numpy()


def _one(moves: _Moves, change: str, inside: NDArray[np.bool_]) -> Counterfactual:
    k = moves.moves.shape[1]
    before = float(moves.scores(np.zeros((1, k), dtype=bool))[0])
    exact = bool(moves.parts.split_model.head_is_affine) and moves.target.is_affine
    order = [] if before < moves.threshold else (_exact if exact else _greedy)(moves, before)
    chosen = np.zeros((1, k), dtype=bool)
    chosen[0, order] = True
    after = float(moves.scores(chosen)[0])
    return Counterfactual(
        concepts=tuple(int(concept) for concept in order),
        change=change,
        target=moves.target.label,
        before=before,
        after=after,
        flipped=after < moves.threshold,
        exact=exact,
        in_range=bool(inside[order].all()),
    )


def _exact(moves: _Moves, before: float) -> list[int]:
    """Take the most negative effects until their sum suffices."""
    effects, total, order = moves.effects(), before, []
    for concept in np.argsort(effects):
        if total < moves.threshold or effects[concept] >= 0:
            break
        order.append(int(concept))
        total += effects[concept]
    return order


def _greedy(moves: _Moves, before: float) -> list[int]:
    """Add the change that helps most until the target falls below, then put back what is not needed."""
    k, order, score = moves.moves.shape[1], [], before
    while score >= moves.threshold and len(order) < k:
        rest = [concept for concept in range(k) if concept not in order]
        scores = moves.scores(_sets([[*order, concept] for concept in rest], k))
        best = int(scores.argmin())
        if scores[best] >= score:
            break
        order.append(rest[best])
        score = float(scores[best])
    return _pruned(moves, order) if score < moves.threshold else order


def _pruned(moves: _Moves, order: list[int]) -> list[int]:
    """Drop one change after another while the target stays below."""
    while len(order) > 1:
        without = [[kept for kept in order if kept != concept] for concept in order]
        scores = moves.scores(_sets(without, moves.moves.shape[1]))
        best = int(scores.argmin())
        if scores[best] >= moves.threshold:
            break
        order = without[best]
    return order


def _sets(members: list[list[int]], n_concepts: int) -> NDArray[np.bool_]:
    chosen = np.zeros((len(members), n_concepts), dtype=bool)
    for row, concepts in enumerate(members):
        chosen[row, concepts] = True
    return chosen


def _decisions(parts: Decomposition) -> list[Target]:
    """Return, for each image, the margin of the predicted class over the next."""
    every = torch.arange(parts.n_images, device=parts.directions.device)
    outputs = parts.outputs(every, torch.ones(parts.n_images, parts.n_concepts))
    if outputs.shape[1] < 2:
        raise ValueError("the model has a single output; give a target")
    first_two = outputs.topk(2, dim=1).indices.tolist()
    return [margin(first, second) for first, second in first_two]
