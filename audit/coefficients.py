"""Coefficients of whole images: every stored position on a class's concepts, summarised per image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptatlas.audit.context import Context
from conceptatlas.concepts import nnls
from conceptatlas.extraction import Features
from conceptatlas.importance import Contributions, contributions
from conceptatlas.importance.targets import as_target

if TYPE_CHECKING:
    from conceptatlas.audit.wide import ImageWide

TOP_SHARE = 0.1


@dataclass(frozen=True)
class ImageCoefficients:
    """Coefficients of n images on k concepts.

    Attributes
    ----------
    rows
        (n,) rows of the store.
    mean
        (n, k) mean over the positions.
    score
        (n, k) mean over the tenth of the positions where the concept is strongest: how much of it the image holds,
        whatever its size.
    """

    rows: np.ndarray
    mean: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class ImageContributions:
    """Signed contributions of k concepts to one class logit: ``logit = values.sum(1) + residual + bias``."""

    values: np.ndarray
    residual: np.ndarray
    bias: np.ndarray
    logit: np.ndarray


def positions_on(features: Features, directions: torch.Tensor) -> torch.Tensor:
    """Return the coefficients (b, positions, k) of every position by non-negative least squares."""
    b, positions, p = features.positions.shape
    with torch.no_grad():
        return nnls(features.positions.reshape(-1, p), directions).reshape(b, positions, len(directions))


def top_mean(coefficients: torch.Tensor) -> torch.Tensor:
    """Return (b, k): the mean over the tenth of the positions where each concept is strongest."""
    count = max(1, round(coefficients.shape[1] * TOP_SHARE))
    return coefficients.topk(count, dim=1).values.mean(1)


def image_scores(features: Features, coefficients: torch.Tensor, wide: ImageWide | None) -> torch.Tensor:
    """Return how much of each concept images hold, (b, k): `top_mean`, and of the last ones what `wide` reads."""
    scores = top_mean(coefficients)
    if wide is None or not len(wide):
        return scores
    return torch.cat([scores[:, : -len(wide)], wide.scores(features).to(scores)], dim=1)


def measure(
    context: Context, rows: np.ndarray, directions: torch.Tensor, wide: ImageWide | None = None
) -> ImageCoefficients:
    """Return the coefficients of some stored images on a class's directions, read in blocks.

    Of the last directions, which are those of `wide`, the score is what it reads from the whole image.
    """
    means, scores = [], []
    for _, features in context.blocks(rows):
        u = positions_on(features, directions)
        means.append(u.mean(1).cpu().numpy())
        scores.append(image_scores(features, u, wide).cpu().numpy())
    k = len(directions)
    return ImageCoefficients(rows, _stack(means, k), _stack(scores, k))


def measure_class(
    context: Context, rows: np.ndarray, directions: torch.Tensor, target: int, wide: ImageWide | None = None
) -> tuple[ImageCoefficients, ImageContributions]:
    """Return coefficients and contributions to the class logit of a class's images, in one pass over the store."""
    means, scores, parts = [], [], []
    for block, features in context.blocks(rows):
        u = positions_on(features, directions)
        means.append(u.mean(1).cpu().numpy())
        scores.append(image_scores(features, u, wide).cpu().numpy())
        parts.append(contributions_of(context, block, features, u, directions, target))
    k = len(directions)
    found = ImageContributions(
        values=_stack([p.values.detach().cpu().numpy() for p in parts], k),
        residual=np.concatenate([p.residual.detach().cpu().numpy() for p in parts]).astype(np.float32),
        bias=np.concatenate([p.bias.detach().cpu().numpy() for p in parts]).astype(np.float32),
        logit=np.concatenate([p.output.detach().cpu().numpy() for p in parts]).astype(np.float32),
    )
    return ImageCoefficients(rows, _stack(means, k), _stack(scores, k)), found


def contributions_of(
    context: Context, rows: np.ndarray, features: Features, u: torch.Tensor, directions: torch.Tensor, target: int
) -> Contributions:
    """Return the contributions in some stored images, by the gradient there, or halfway to the typical activation."""
    typical = context.typical
    if typical is None:
        return contributions(context.split, features, u, directions, target)
    output = as_target(target)(u.new_tensor(context.store.logits_of(rows)))
    return contributions(
        context.split, features, u, directions, target, method="integrated", steps=1, typical=typical, output=output
    )


def _stack(parts: list[np.ndarray], k: int) -> np.ndarray:
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, k), dtype=np.float32)
