"""Importance of concepts for a batch of images: total Sobol indices per image and for the class, and signed shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from conceptatlas.importance.chaos import chaos_indices
from conceptatlas.importance.contributions import slope
from conceptatlas.importance.intervals import jackknife_error, mean_error, student_quantile
from conceptatlas.importance.jansen import Estimate, craft_indices, jansen_indices
from conceptatlas.importance.recomposition import Decomposition, select
from conceptatlas.importance.sobol import DEFAULT_DESIGNS, Method, closed_form, validate_method
from conceptatlas.importance.tabled import Tabled
from conceptatlas.importance.targets import as_target


@dataclass(frozen=True)
class ConceptImportance(Tabled):
    """Total Sobol indices of k concepts in B images, and their mean.

    Attributes
    ----------
    local
        ``(B, k)``: per image; a row of zeros where no concept moves the target.
    total
        ``(k,)``: mean over the images.
    low, high
        ``(k,)``: interval around `total`, from the scatter of the images and the error of the designs together.
    method
        ``"affine"``, ``"chaos"``, ``"jansen"`` or ``"craft"``.
    n_evaluations
        Masked activations that went through the head, all images together; 0 for the closed form.
    local_low, local_high
        ``(B, k)``: interval around each image's index.
    n_gradients
        How many of the evaluations were differentiated as well.
    """

    local: NDArray[np.float64]
    total: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    method: str
    n_evaluations: int
    local_low: NDArray[np.float64]
    local_high: NDArray[np.float64]
    n_gradients: int = 0


def concept_importance(
    split_model: Any,
    features: Any,
    U: Any,
    W: Any,
    target: Any,
    *,
    method: Method = "auto",
    seed: int = 0,
    n_designs: int | None = None,
    confidence: float = 0.95,
    tolerance: float = 0.05,
    max_designs: int = 32,
    batch_size: int | None = None,
    typical: Any = None,
) -> ConceptImportance:
    """Return how much of the target's variance each concept takes part in, image by image and for the class.

    Masks multiply the coefficients of all positions of an image; residual and prefix tokens stay. One design serves
    all images.

    Where activations are not negative, a coefficient of 0 is what the network itself shows for what is absent. Where
    they have signs, 0 is no state of the network: with `typical`, the mean activation over the dataset, what a mask
    takes out of a position is replaced by the same share of that.

    Parameters
    ----------
    split_model, features, U, W
        The head, activations with positions ``(B, P, p)``, coefficients ``(B, P, k)`` and directions ``(k, p)``.
    target
        Class index, :func:`margin`, :func:`similarity` or a callable ``(B, n) -> (B,)``.
    method, seed, n_designs, confidence, tolerance, max_designs
        As for :func:`conceptatlas.importance.total_sobol`, but for the end of the doubling: 32 designs cost as much as
        96 forward passes an image, a ninth of what the published sampler takes for 25 concepts; what they leave open
        widens the intervals. Here ``"auto"`` trusts ``split_model.head_is_affine`` and
        takes the closed form from one gradient, without a masked evaluation.
    batch_size
        Most masked activations at once; by default as many as fit, halved where memory runs out.
    typical
        ``(p,)``: activation that takes the place of a masked concept; nothing by default.

    Returns
    -------
    ConceptImportance

    Raises
    ------
    ValueError
        For shapes that do not agree, or ``method="chaos"`` with a head that carries no gradient.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from conceptatlas.extraction.features import Features
    >>> head = SimpleNamespace(head=lambda features: features.positions.sum(1), head_is_affine=True)
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> features = Features(U @ W, None, (1, 1))
    >>> concept_importance(head, features, U, W, lambda output: output.sum(1)).total.round(2).tolist()
    [0.9, 0.1]
    """
    validate_method(method, n_designs, confidence)
    parts = Decomposition.build(split_model, features, U, W, as_target(target), batch_size=batch_size, typical=typical)
    if method == "affine" or (method == "auto" and split_model.head_is_affine and parts.target.is_affine):
        local = closed_form(affine_effects(parts).double().cpu().numpy())
        return _summary(local, local, local, np.zeros(local.shape[1]), confidence, "affine")
    counted = _Counted(parts)
    if method == "craft":
        local = counted.published(n_designs or DEFAULT_DESIGNS)
        none = np.full_like(local, np.nan)
        return _summary(local, none, none, np.full(local.shape[1], np.nan), confidence, "craft", counted)
    differentiable = method != "jansen" and parts.is_differentiable()
    if method == "chaos" and not differentiable:
        raise ValueError("method='chaos' needs a head that carries gradients; use method='jansen'")
    if not differentiable:
        estimate = counted.jansen(n_designs or DEFAULT_DESIGNS, seed)
        return _from_estimate(estimate, confidence, "jansen", counted)
    estimate = chaos_indices(
        counted.scores_and_slopes,
        parts.n_concepts,
        parts.n_images,
        n_designs=n_designs,
        max_designs=max_designs,
        tolerance=tolerance,
        seed=seed,
    )
    return _from_estimate(estimate, confidence, "chaos", counted)


def pooled(parts: Sequence[ConceptImportance], *, confidence: float = 0.95) -> ConceptImportance:
    """Return the importance over all images of several batches, each by the closed form.

    Raises
    ------
    ValueError
        A batch was estimated from designs, whose errors do not add up over batches.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from conceptatlas.extraction.features import Features
    >>> head = SimpleNamespace(head=lambda features: features.positions.sum((1, 2))[:, None], head_is_affine=True)
    >>> U, W = torch.tensor([[[3.0, 1.0]], [[1.0, 3.0]]]), torch.eye(2)
    >>> parts = [concept_importance(head, Features(u @ W, None, (1, 1)), u, W, 0) for u in U.split(1)]
    >>> pooled(parts).total.round(2).tolist()
    [0.5, 0.5]
    """
    if any(part.method != "affine" for part in parts):
        raise ValueError("only importance by the closed form is pooled over batches; pass all images at once")
    local = np.concatenate([part.local for part in parts])
    return _summary(local, local, local, np.zeros(local.shape[1]), confidence, "affine")


def affine_effects(parts: Decomposition) -> torch.Tensor:
    """Return what each concept adds to the target under an affine head, ``(B, k)``, from one image's gradient."""
    every = torch.arange(parts.n_images, device=parts.directions.device)
    return parts.along(every, slope(parts, select(parts.features, every[:1])).double())


@dataclass(frozen=True)
class Shares(Tabled):
    """Signed shares of k concepts over a set of images, with their intervals: each ``(k,)``."""

    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def signed_shares(
    values: Any,
    *,
    of: Literal["magnitude", "sum"] = "magnitude",
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Shares:
    """Return each concept's signed share of the contributions of a set of images.

    Parameters
    ----------
    values
        Contributions ``(B, k)``.
    of
        ``"magnitude"``: the mean contribution over the sum of the magnitudes of the means, in [-1, 1].
        ``"sum"``: over their sum, "the concept contributes 30 % of the sum of the logits" (Lens); the same where all
        means are positive, and without bound where they cancel.
    confidence, n_resamples, seed
        Of the percentile bootstrap over images.

    Returns
    -------
    Shares
        Zeros where nothing contributes.

    Examples
    --------
    >>> signed_shares(np.array([[3.0, -1.0], [3.0, -1.0]])).share.tolist()
    [0.75, -0.25]
    """
    given = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float64)
    if given.ndim != 2 or not len(given):
        raise ValueError(f"contributions must have shape (B, k) with B at least 1, got {given.shape}")
    n = len(given)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    means = np.concatenate([given.mean(axis=0, keepdims=True), counts @ given / n])
    whole = (np.abs(means) if of == "magnitude" else means).sum(axis=1, keepdims=True)
    shares = np.divide(means, whole, out=np.zeros_like(means), where=whole != 0)
    low, high = np.quantile(shares[1:], [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    return Shares(shares[0], np.minimum(low, shares[0]), np.maximum(high, shares[0]))


class _Counted:
    """A decomposition that counts what goes through its head."""

    def __init__(self, parts: Decomposition) -> None:
        self.parts = parts
        self.n_evaluations = 0
        self.n_gradients = 0

    def scores(self, masks: Any) -> NDArray[np.float64]:
        self.n_evaluations += len(masks) * self.parts.n_images
        return self.parts.scores(masks, np.arange(self.parts.n_images))

    def published(self, n_designs: int) -> NDArray[np.float64]:
        return craft_indices(self.scores, self.parts.n_concepts, n_designs=n_designs).T

    def jansen(self, n_designs: int, seed: int) -> Estimate:
        return jansen_indices(self.scores, self.parts.n_concepts, n_designs=n_designs, sampler=None, seed=seed)

    def scores_and_slopes(self, masks: Any, images: NDArray[np.int64]) -> tuple[Any, Any]:
        self.n_evaluations += len(masks) * len(images)
        self.n_gradients += len(masks) * len(images)
        return self.parts.scores_and_slopes(masks, images)


def _from_estimate(estimate: Estimate, confidence: float, method: str, counted: _Counted) -> ConceptImportance:
    low, high = estimate.interval(confidence)
    of_mean = jackknife_error(estimate.replicates.mean(axis=2))
    half = student_quantile(confidence, len(estimate.replicates) - 1) * of_mean + estimate.slack.mean(axis=1)
    return _summary(estimate.total.T, low.T, high.T, half, confidence, method, counted)


def _summary(
    local: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    half: NDArray[np.float64],
    confidence: float,
    method: str,
    counted: _Counted | None = None,
) -> ConceptImportance:
    """Join the designs' half-width ``(k,)`` with that of the images, in quadrature."""
    total = local.mean(axis=0)
    below, above = (np.hypot(half, images) for images in mean_error(local, confidence))
    evaluations, gradients = (counted.n_evaluations, counted.n_gradients) if counted else (0, 1)
    return ConceptImportance(
        local=local,
        total=total,
        low=np.maximum(total - below, 0.0),
        high=total + above,
        method=method,
        n_evaluations=evaluations,
        local_low=low,
        local_high=high,
        n_gradients=gradients,
    )
