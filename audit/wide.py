"""What changes a whole image at once: a colour cast, dim light, blur, as a concept that dictionaries of places miss.

Such a change moves every position of an image a little, and what the image shows moves them more. A dictionary of
positions leaves it to its residual, and no leading principal component of whole images is it (measured on block 6 of
DeiT-tiny, photographs of which half have a magenta veil: who has it is told by the best of 20 concepts with an AUC of
0.75, by the best of eight components with 0.73). But it can be measured on the pixels (`photometry`), and activations
tell such measures well. The measures are weighed by how the class's margin goes with them among images of one label:
what an image's light, colours and sharpness have to do with the prediction is one number. Where the prediction follows
images that are moved along it, it is a concept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from conceptatlas.audit.context import Context, sample
from conceptatlas.audit.photometry import PROPERTIES, photometry
from conceptatlas.audit.shortcuts import population_rows
from conceptatlas.audit.statistics import otsu
from conceptatlas.concepts import ConceptBank
from conceptatlas.extraction import Features, SplitModel

IMAGES, FEWEST = 300, 24  # images whose pixels are measured; with fewer there is no such concept
PROBES = 16  # images predicted as the class, and as many others, that are moved
FOLLOWS = 0.05  # mean change of the class's probability from which on the prediction follows
STEP = 2.0  # how far an image is moved, in standard deviations
READABLE, RETURNS = 0.5, 0.3  # correlation of activations' reading with the measure; cosine of two halves' directions
RIDGE = 0.1  # on the measures' correlation matrix: brightness, highlights and contrast go together
NAMED, MOST_NAMED = 0.5, 3  # measures of at least this share of the largest weight are said, at most so many
STRENGTHS = np.logspace(-1, 3, 9)


@dataclass(frozen=True)
class ImageWide:
    """Concepts that are properties of whole images.

    Attributes
    ----------
    directions
        (m, p) of unit length: how every position moves with the property.
    readouts, offsets
        (m, p) and (m,): ``max(0, mean activation @ readout + offset)`` is how far an image lies along the direction.
    reference
        (m,) the mean of that over images, of all classes, that hold little of it (Otsu): what an edit sets it to.
    properties
        What each is, in words.
    stability
        (m,) cosine between the directions of two halves of the images.
    """

    directions: np.ndarray
    readouts: np.ndarray
    offsets: np.ndarray
    reference: np.ndarray
    properties: tuple[str, ...]
    stability: np.ndarray

    def __len__(self) -> int:
        return len(self.directions)

    def scores(self, features: Features) -> torch.Tensor:
        """Return how much of each property images hold, (b, m)."""
        readouts = torch.as_tensor(self.readouts).to(features.positions)
        return (features.positions.mean(1) @ readouts.T + torch.as_tensor(self.offsets).to(readouts)).clamp(min=0)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values, to stand in a bank's provenance; the directions are the bank's own."""
        numbers = {"readouts": self.readouts, "offsets": self.offsets, "reference": self.reference}
        return {"properties": list(self.properties)} | {
            key: [[float(f"{v:.6g}") for v in row] for row in np.atleast_2d(values)] for key, values in numbers.items()
        }


def wide_of(bank: ConceptBank) -> ImageWide:
    """Return which of a bank's concepts are properties of whole images: its last ones, as `find_wide` found them."""
    kept = bank.provenance.get("image_wide")
    if not kept:
        return no_properties(bank.directions.shape[1])
    at = kept["concepts"]
    return ImageWide(
        directions=np.asarray(bank.directions)[at],
        readouts=np.array(kept["readouts"], np.float32),
        offsets=np.array(kept["offsets"]).ravel(),
        reference=np.array(kept["reference"]).ravel(),
        properties=tuple(kept["properties"]),
        stability=np.array(bank.provenance["stability"])[at],
    )


def no_properties(n_features: int) -> ImageWide:
    """Return no concept at all."""
    nothing = np.zeros((0, n_features), np.float32)
    return ImageWide(nothing, nothing, np.zeros(0), np.zeros(0), (), np.zeros(0))


def find_wide(context: Context, index: int) -> ImageWide:
    """Return what the light, the colours and the sharpness of images do to a class, where its prediction follows it."""
    rows = sample(population_rows(context, index)[0], IMAGES, context.settings.seed)
    views = context.readable_views(rows)
    rows = np.array(sorted(views), dtype=int)
    nothing = no_properties(context.store.n_features)
    if len(rows) < FEWEST:
        return nothing
    measured = _standard(np.stack([photometry(views[int(row)]) for row in rows]))
    means = np.concatenate([f.positions.mean(1).cpu().double().numpy() for _, f in context.blocks(rows)])
    groups, probes = _groups(context, rows, index), _probes(context, rows, index)
    weights = _weights(measured, _margin(context, rows, index), groups)
    values = _standard(measured @ weights)
    direction, stability = _direction(values, means, groups, context.settings.seed)
    readout, reading = _read(means, values)
    readable = values.any() and float(np.corrcoef(reading, values)[0, 1]) >= READABLE
    if not readable or stability < max(RETURNS, 4 / means.shape[1] ** 0.5):
        return nothing
    if _follows(context.split, probes, direction, index) < FOLLOWS:
        return nothing
    length = float(np.linalg.norm(direction))
    said = means @ readout * length
    said, offset = said - said.min(), -said.min()
    return ImageWide(
        directions=(direction / length)[None].astype(np.float32),
        readouts=(readout * length)[None].astype(np.float32),
        offsets=np.array([offset]),
        reference=np.array([said[said <= otsu(said)].mean()]),
        properties=(_words(weights),),
        stability=np.array([stability]),
    )


Probes = list[tuple[Features, float]]


def _probes(context: Context, rows: np.ndarray, index: int) -> Probes:
    """Return images to move: those predicted as the class (-1: away from it), and others (1: towards it)."""
    predicted = context.images["predicted_index"].to_numpy()[rows] == index
    sides = [
        (sample(rows[side], PROBES, context.settings.seed), sign)
        for side, sign in ((predicted, -1.0), (~predicted, 1.0))
    ]
    return [(context.features(side), sign) for side, sign in sides if len(side)]


def _groups(context: Context, rows: np.ndarray, index: int) -> np.ndarray:
    """Return what sets images apart whatever their light: the label, or the prediction where there is none."""
    label = context.images["label_index"].to_numpy(dtype=float)[rows]
    predicted = context.images["predicted_index"].to_numpy()[rows] == index
    return np.where(np.isnan(label), -1.0 - predicted, label)


def _margin(context: Context, rows: np.ndarray, index: int) -> np.ndarray:
    """Return the class's logit over the log-sum-exp of the others, (n,)."""
    logits = torch.as_tensor(np.asarray(context.store.logits_of(rows), np.float64))
    others = [i for i in range(logits.shape[1]) if i != index]
    return (logits[:, index] - (logits[:, others].logsumexp(1) if others else 0.0)).numpy()


def _weights(measured: np.ndarray, margin: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return how the margin goes with each property inside the groups, the others being equal, (9,).

    What the margin's gradient says of each property was tried too. It counts what sets the classes apart beside what
    leads astray (a bee's sharp wings, on photographs half of which have a veil), and tells less well who has the veil.
    """
    inner = _centred(measured, groups)
    gram = inner.T @ inner / len(inner) + RIDGE * np.eye(inner.shape[1])
    return np.linalg.solve(gram, inner.T @ _centred(margin[:, None], groups)[:, 0] / len(inner))


def _direction(values: np.ndarray, means: np.ndarray, groups: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Return how mean activations move with a measure inside the groups, (p,), and two halves' cosine."""
    varied, inner = _centred(values[:, None], groups)[:, 0], _centred(means, groups)
    half = np.random.default_rng(seed).permutation(len(means)) % 2 == 0
    first, second = (_slope(varied[part], inner[part]) for part in (half, ~half))
    sizes = float(np.linalg.norm(first) * np.linalg.norm(second))
    return _slope(varied, inner), float(first @ second) / max(sizes, 1e-12)


def _words(weights: np.ndarray) -> str:
    """Return the properties that weigh most, each in its sense."""
    order = [i for i in np.argsort(-np.abs(weights)) if abs(weights[i]) >= NAMED * np.abs(weights).max()]
    return ", ".join(PROPERTIES[i][0 if weights[i] > 0 else 1] for i in order[:MOST_NAMED])


def _standard(values: np.ndarray) -> np.ndarray:
    """Return columns with mean 0 and standard deviation 1; constant ones become 0."""
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 1e-9, spread, np.inf)


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    centred = values.copy()
    for group in np.unique(groups):
        centred[groups == group] -= values[groups == group].mean(0)
    return centred


def _slope(values: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return how mean activations move with a property, (p,) per unit of it: regression on the property."""
    return (values @ means) / max(float(values @ values), 1e-12)


def _read(means: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights (p,) by which mean activations tell a property, and what they say of images left out (n,)."""
    from sklearn.linear_model import RidgeCV

    spread = means.std(0) + 1e-9
    standard = (means - means.mean(0)) / spread
    strengths = STRENGTHS * means.shape[1] / 10
    fitted = RidgeCV(alphas=strengths).fit(standard, values)
    left_out = _left_out(standard, values, float(fitted.alpha_))
    return np.asarray(fitted.coef_) / spread, left_out


def _left_out(standard: np.ndarray, values: np.ndarray, strength: float) -> np.ndarray:
    """Return leave-one-out predictions of ridge regression, in closed form."""
    gram = standard @ standard.T
    hat = np.linalg.solve(gram + strength * np.eye(len(gram)), gram).T + 1 / len(gram)
    return values - (values - hat @ values) / np.maximum(1 - np.diag(hat), 1e-6)


def _follows(split: SplitModel, probes: Probes, direction: np.ndarray, index: int) -> float:
    """Return how far the class's probability follows images that are moved along a direction, or against it."""
    step = torch.as_tensor(STEP * direction, dtype=torch.float32)
    return max(sign * _change(split, features, sign * step, index) for features, sign in probes)


def _change(split: SplitModel, features: Features, step: torch.Tensor, index: int) -> float:
    """Return the mean change of the class's probability when all positions of images are moved."""

    def probability(logits: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(logits[:, 0]) if logits.shape[1] == 1 else torch.softmax(logits.float(), 1)[:, index]

    with torch.no_grad():
        moved = features.replace(positions=features.positions + step.to(features.positions))
        return float((probability(split.head(moved)) - probability(split.head(features))).mean())
