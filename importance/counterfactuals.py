"""Counterfactuals: the fewest concepts to remove, or to add, for the model to decide otherwise.

Under an affine head the effects of changes add up, so that taking the largest first is the smallest set there is for
one rival class, and the smallest of those over all rivals the smallest for any other decision. Under any other head
concepts are changed greedily with a new forward pass each, and those not needed are put back.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptatlas.importance.contributions import slope
from conceptatlas.importance.recomposition import Decomposition, in_batches, select, with_positions
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
        Label of the target, by default the margin of the predicted class over the rival for which it takes least.
    before, after
        The target without and with the change.
    flipped
        Whether it fell below the threshold.
    exact
        Whether no smaller set exists; False where it was found greedily.
    in_range
        Whether each changed coefficient, as the mean over positions, stays within what the reference images show.
    becomes
        The class that is decided for after the change; None where the target was given.
    """

    concepts: tuple[int, ...]
    change: str
    target: str
    before: float
    after: float
    flipped: bool
    exact: bool
    in_range: bool
    becomes: int | None = None


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
    typical: Any = None,
    batch_size: int | None = None,
) -> tuple[Counterfactual, ...]:
    """Return, image by image, the smallest set of concepts whose change takes the target below a threshold.

    Parameters
    ----------
    split_model, features, U, W
        The head, activations with positions ``(B, P, p)``, coefficients ``(B, P, k)`` and directions ``(k, p)``.
    target
        Class index, :func:`margin`, :func:`similarity` or a callable; by default, image by image, the margin of the
        predicted class over any other: what it takes for the class to change.
    change
        ``"remove"``: coefficients to 0 everywhere, and the typical activation in their place. ``"add"``: the mean
        coefficient up to the 95 % quantile of the reference, by the same amount at every position; concepts that are
        already there cannot be added.
    reference
        ``(n, k)`` mean coefficients of other images, such as those of the class to arrive at; by default this batch's.
    threshold
        Of the target.
    typical
        ``(p,)``: activation that takes the place of what is removed, as for :func:`contributions`.
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
    goal = as_target(0 if target is None else target)
    typical = typical if change == "remove" else None
    parts = Decomposition.build(split_model, features, U, W, goal, batch_size=batch_size, typical=typical)
    pooled = parts.coefficients.mean(dim=1)
    known = pooled if reference is None else torch.as_tensor(reference).to(pooled)
    low, high = (torch.quantile(known.float(), level, dim=0).to(pooled) for level in (0.01, 0.99))
    ceiling = torch.quantile(known.float(), 0.95, dim=0).to(pooled)
    moves = -parts.coefficients if change == "remove" else (ceiling - pooled).clamp(min=0)[:, None]
    after = pooled + moves.mean(dim=1)
    inside = ((after >= torch.minimum(low, pooled)) & (after <= torch.maximum(high, pooled))).cpu().numpy()
    if target is None and bool(split_model.head_is_affine):
        return _decided_otherwise_exactly(parts, moves.mean(dim=1), threshold, change, inside)
    all_moves = (_Moves.build(parts, image, moves[image], threshold) for image in range(parts.n_images))
    each = _decided_otherwise if target is None else _one
    return tuple(each(one, change, inside[image]) for image, one in enumerate(all_moves))


@dataclass(frozen=True)
class _Moves:
    """The changes that one image may undergo, and the target under any set of them, of which each is run once."""

    parts: Decomposition
    image: Tensor
    moves: Tensor
    target: Target
    threshold: float
    known: dict[bytes, Tensor] = field(default_factory=dict)

    @classmethod
    def build(cls, parts: Decomposition, image: int, moves: Tensor, threshold: float) -> _Moves:
        one = torch.tensor([image], device=parts.directions.device)
        spread = moves.expand(parts.features.positions.shape[1], -1)
        return cls(parts, one, spread, parts.target, threshold)

    @property
    def n_concepts(self) -> int:
        """Concepts, k."""
        return self.moves.shape[1]

    def outputs(self, chosen: NDArray[np.bool_]) -> Tensor:
        """Return the head's outputs under each set of changes ``(n, k)``, ``(n, n_classes)``."""
        new = [row for row in chosen if row.tobytes() not in self.known]
        if new:
            self.known.update(zip((row.tobytes() for row in new), self._run(np.stack(new)), strict=True))
        return torch.stack([self.known[row.tobytes()] for row in chosen])

    def _run(self, chosen: NDArray[np.bool_]) -> Tensor:
        masks = torch.as_tensor(chosen).to(self.moves)

        def some(part: slice) -> Tensor:
            repeated = select(self.parts.features, self.image.expand(len(masks[part])))
            positions = repeated.positions + self._steps(masks[part])
            with torch.no_grad():
                return self.parts.split_model.head(with_positions(repeated, positions))

        return torch.cat(list(in_batches(some, len(masks), self.parts.rows())))

    def _steps(self, masks: Tensor) -> Tensor:
        """Return how far each set of changes ``(n, k)`` moves every position, ``(n, P, p)``."""
        steps = (self.moves * masks[:, None]) @ self.parts.directions
        if self.parts.typical is None:
            return steps
        return steps + (masks @ self.parts.shares[self.image[0]].T)[..., None] * self.parts.typical

    def scores(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the target under each set of changes ``(n, k)``, ``(n,)``."""
        return self.target(self.outputs(chosen)).double().cpu().numpy()

    def effects(self) -> NDArray[np.float64]:
        """Return what each change adds to the target of an affine head, ``(k,)``."""
        gradient = slope(self.parts, select(self.parts.features, self.image)).double()
        alone = self._steps(torch.eye(self.n_concepts).to(self.moves)).double()
        return (alone * gradient).sum(dim=(1, 2)).cpu().numpy()


def _one(moves: _Moves, change: str, inside: NDArray[np.bool_]) -> Counterfactual:
    """Take a given target below the threshold."""
    before = float(moves.scores(_sets([[]], moves.n_concepts))[0])
    exact = bool(moves.parts.split_model.head_is_affine) and moves.target.is_affine
    order = _fewest(moves.effects(), before - moves.threshold) if exact else _greedy(moves, before)
    return _result(moves, order, change, inside, exact=exact, before=before)


def _decided_otherwise(moves: _Moves, change: str, inside: NDArray[np.bool_]) -> Counterfactual:
    """Let any class but the predicted one win, under a head that is not affine."""
    k = moves.n_concepts
    output = moves.outputs(_sets([[], *([concept] for concept in range(k))], k))[0]
    predicted = _predicted(output)
    moves = replace(moves, target=_lead(predicted))
    before = float(moves.target(output[None])[0])
    order = _greedy(moves, before)
    becomes = int(moves.outputs(_sets([order], k))[0].argmax())
    return _result(moves, order, change, inside, exact=False, before=before, becomes=becomes)


def _decided_otherwise_exactly(
    parts: Decomposition, sizes: Tensor, threshold: float, change: str, inside: NDArray[np.bool_]
) -> tuple[Counterfactual, ...]:
    """Let any class but the predicted one win, under an affine head and with changes of these mean sizes ``(B, k)``.

    What a change adds to every output goes with its size alone, so that a head pass for each concept serves all images.
    """
    rows = parts.rows()
    pieces = list(in_batches(lambda part: _head(parts, torch.arange(parts.n_images)[part]), parts.n_images, rows))
    gains = _gains(parts, parts.directions, sizes)
    if parts.typical is not None:
        gains = gains + parts.shares.mean(dim=1).cpu().numpy()[..., None] * _gains(parts, parts.typical[None])
    found = []
    for logits, gain, within in zip(_array(torch.cat(pieces)), gains, inside, strict=True):
        predicted = _predicted(logits)
        rival, order = _nearest_rival(gain, logits, predicted, threshold)
        after = logits + gain[order].sum(axis=0)
        lead = after[predicted] - after[rival]
        found.append(
            Counterfactual(
                concepts=tuple(order),
                change=change,
                target=margin(predicted, rival).label,
                before=float(logits[predicted] - logits[rival]),
                after=float(lead),
                flipped=bool(lead < threshold),
                exact=True,
                in_range=bool(within[order].all()),
                becomes=int(after.argmax()),
            )
        )
    return tuple(found)


def _gains(parts: Decomposition, directions: Tensor, sizes: Tensor | None = None) -> NDArray[np.float64]:
    """Return what steps along directions ``(m, p)``, of size 1 or ``(B, m)``, add to affine outputs: ``(B, m, n)``."""
    sizes = directions.new_ones(1, len(directions)) if sizes is None else sizes
    most = sizes.abs().amax(dim=0)
    steps = torch.cat([torch.zeros_like(most)[None], torch.diag(most)]) @ directions
    moved = _head(parts, torch.zeros(len(steps), dtype=torch.long), steps[:, None])
    scale = np.where(_array(most) > 0, _array(most), 1.0)
    return (_array(sizes) / scale)[..., None] * _array(moved[1:] - moved[:1])


def _head(parts: Decomposition, images: Tensor, steps: Tensor | float = 0.0) -> Tensor:
    """Return the outputs ``(n, n_classes)`` of some images, each position moved by a step."""
    features = select(parts.features, images.to(parts.directions.device))
    with torch.no_grad():
        return parts.split_model.head(with_positions(features, features.positions + steps))


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()


def _predicted(output: Tensor | NDArray[np.float64]) -> int:
    if len(output) < 2:
        raise ValueError("the model has a single output; give a target")
    return int(output.argmax())


def _result(
    moves: _Moves,
    order: list[int],
    change: str,
    inside: NDArray[np.bool_],
    *,
    exact: bool,
    before: float,
    becomes: int | None = None,
) -> Counterfactual:
    after = float(moves.scores(_sets([order], moves.n_concepts))[0])
    return Counterfactual(
        concepts=tuple(order),
        change=change,
        target=moves.target.label,
        before=before,
        after=after,
        flipped=after < moves.threshold,
        exact=exact,
        in_range=bool(inside[order].all()),
        becomes=becomes,
    )


def _fewest(effects: NDArray[np.float64], lead: float) -> list[int]:
    """Return the concepts of the most negative effects, as many as it takes for their sum to undo a lead, else all."""
    if lead < 0:
        return []
    order = np.argsort(effects, kind="stable")
    order = order[effects[order] < 0]
    enough = np.flatnonzero(np.cumsum(effects[order]) < -lead)
    return order[: enough[0] + 1 if len(enough) else None].tolist()


def _nearest_rival(
    gains: NDArray[np.float64], logits: NDArray[np.float64], predicted: int, threshold: float
) -> tuple[int, list[int]]:
    """Return the class that overtakes after the fewest changes under an affine head, and the changes.

    `gains` ``(k, n_classes)`` is what each change adds to the logits. Between classes that take as many changes, and
    where none can overtake, it is the one that gains most on the predicted class.
    """
    k = len(gains)
    effects = gains[:, [predicted]] - gains  # of each change on the lead over each class
    leads = logits[predicted] - logits - threshold
    helping = np.cumsum(np.minimum(np.sort(effects, axis=0), 0.0), axis=0)
    counts = np.where(helping[-1] < -leads, (helping >= -leads).sum(axis=0) + 1, k + 1)
    counts[leads < 0], counts[predicted] = 0, k + 2
    left = leads + helping[np.minimum(counts, k) - 1, np.arange(len(leads))]
    rival = int(np.lexsort((left, counts))[0])
    return rival, _fewest(effects[:, rival], leads[rival])


def _lead(predicted: int) -> Target:
    """Return the margin of a class over the best of all others."""

    def lead(output: Tensor) -> Tensor:
        others = output.clone()
        others[:, predicted] = -torch.inf
        return output[:, predicted] - others.amax(dim=1)

    return Target(lead, f"class {predicted} over any other")


def _greedy(moves: _Moves, before: float) -> list[int]:
    """Add the change that helps most until the target falls below, then put back what is not needed."""
    k, order, score = moves.n_concepts, [], before
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
        scores = moves.scores(_sets(without, moves.n_concepts))
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
