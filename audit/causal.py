"""What happens to the prediction when a concept is taken out of images, or put into others.

All measured in activation space, with the part of the activations that the concepts do not explain kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptatlas.audit.coefficients import positions_on
from conceptatlas.extraction import Features, SplitModel

if TYPE_CHECKING:
    from conceptatlas.audit.wide import ImageWide


@dataclass(frozen=True)
class Effect:
    """Effect of an edit on the probability of a class.

    Attributes
    ----------
    change
        Mean change of the class's probability, in [-1, 1].
    flipped
        Share of the images whose predicted class changed (removal) or became the class (addition).
    n
        Number of images.
    """

    change: float
    flipped: float
    n: int


NOTHING = Effect(float("nan"), float("nan"), 0)


@dataclass(frozen=True)
class Probe:
    """Images on which edits are tried, with all that the edits need computed once.

    Attributes
    ----------
    rows
        (b,) rows of the store.
    features, coefficients
        Their stored features, and the coefficients (b, positions, k) of every position.
    logits
        (b, n_classes) of the unedited activations.
    places
        How many of the k concepts have a place; the last ones are properties of whole images.
    """

    rows: np.ndarray
    features: Features
    coefficients: torch.Tensor
    logits: torch.Tensor
    places: int

    @classmethod
    def build(
        cls,
        split: SplitModel,
        rows: np.ndarray,
        features: Features,
        directions: torch.Tensor,
        wide: ImageWide | None = None,
        *,
        logits: torch.Tensor | None = None,
    ) -> Probe:
        """Compute coefficients and logits of some images, these only where they are not at hand.

        The coefficients of the last directions, which are those of `wide`, are the same at every position.
        """
        with torch.no_grad():
            if logits is None:
                logits = split.head(features) if len(rows) else features.positions.new_zeros(0, split.n_classes)
            u = positions_on(features, directions)
            if wide is not None and len(wide):
                u[..., -len(wide) :] = wide.scores(features).to(u)[:, None]
            return cls(rows, features, u, logits, len(directions) - (0 if wide is None else len(wide)))

    def select(self, chosen: np.ndarray) -> Probe:
        """Return the probe of some of the images."""
        at = torch.as_tensor(np.asarray(chosen), device=self.logits.device)
        prefix = None if self.features.prefix is None else self.features.prefix[at]
        features = self.features.replace(positions=self.features.positions[at], prefix=prefix)
        return Probe(self.rows[chosen], features, self.coefficients[at], self.logits[at], self.places)


def removal_effect(
    split: SplitModel, probe: Probe, directions: torch.Tensor, concept: int, target: int, reference: torch.Tensor
) -> Effect:
    """Return what taking a concept out does to images that are predicted as the target class.

    Where an image has more of it than the mean, the excess is taken off along the concept's direction; nothing is added
    where it has less. To set every position to the mean would spread over the whole image what is taken from one place.

    Parameters
    ----------
    split, probe
        The model and images that hold the concept.
    directions
        (k, p) concept directions.
    concept, target
        Concept and class index.
    reference
        (k,) mean coefficient of each concept over a probe set: what it is lowered to.
    """
    if len(probe.rows) == 0:
        return NOTHING
    with torch.no_grad():
        excess = (probe.coefficients[..., concept] - reference[concept]).clamp(min=0)
        after = split.head(_moved(probe.features, -excess, directions[concept]))
        change = _probability(after, target) - _probability(probe.logits, target)
        flipped = (_predicted(after) != _predicted(probe.logits)).float().mean()
    return Effect(float(change.mean()), float(flipped), len(probe.rows))


def addition_effect(
    split: SplitModel, probe: Probe, donors: Probe, directions: torch.Tensor, concept: int, target: int
) -> Effect:
    """Return what putting a concept into images of other classes does: how many become the target class.

    Each image takes the concept from a donor that holds it, place by place: where the donor has more of it, the
    difference is put in along the concept's direction, in place of as large a share of what was there as it has of the
    donor's place. (A plate hides what is behind it; added on top of that, it is no plate to a network that
    normalises each position.) The effect is what the concept does beyond hiding: against the image in which that share
    is only taken away.
    """
    if len(probe.rows) == 0 or len(donors.rows) == 0:
        return NOTHING
    with torch.no_grad():
        taken = torch.arange(len(probe.rows), device=probe.logits.device) % len(donors.rows)
        given = donors.coefficients[taken, :, concept]
        added = (given - probe.coefficients[..., concept]).clamp(min=0)
        share = _share_of_place(donors, directions, concept)[taken] * added / given.clamp(min=1e-12)
        hidden = probe.features.replace(positions=(1 - share.unsqueeze(-1)) * probe.features.positions)
        before, after = split.head(hidden), split.head(_moved(hidden, added, directions[concept]))
        change = _probability(after, target) - _probability(before, target)
        became = (_is(after, target) & ~_is(before, target)).float().mean()
    return Effect(float(change.mean()), float(became), len(probe.rows))


def _share_of_place(probe: Probe, directions: torch.Tensor, concept: int) -> torch.Tensor:
    """Return the share that a concept has of all concepts at each position, (b, positions); 0 of a whole image's."""
    if concept >= probe.places:
        return torch.zeros_like(probe.coefficients[..., concept])
    sizes = probe.coefficients[..., : probe.places] * directions[: probe.places].norm(dim=1)
    return sizes[..., concept] / sizes.sum(-1).clamp(min=1e-12)


def _moved(features: Features, amounts: torch.Tensor, direction: torch.Tensor) -> Features:
    """Return features whose positions are moved along a direction by an amount each, (b, positions)."""
    return features.replace(positions=features.positions + amounts.unsqueeze(-1) * direction)


def _predicted(logits: torch.Tensor) -> torch.Tensor:
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def _is(logits: torch.Tensor, target: int) -> torch.Tensor:
    return logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1) == target


def _probability(logits: torch.Tensor, target: int) -> torch.Tensor:
    if logits.shape[1] == 1:
        return torch.sigmoid(logits[:, 0])
    return torch.softmax(logits.float(), dim=1)[:, target]
