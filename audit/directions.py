"""The directions of one class's concepts, and how many of them: as many as the class's prediction needs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from conceptatlas.audit.coefficients import measure
from conceptatlas.audit.context import Context, Settings, sample
from conceptatlas.audit.shortcuts import TOLD, population_rows, told_within_labels
from conceptatlas.audit.wide import ImageWide, find_wide, no_properties
from conceptatlas.concepts import KChoice, choose_n_components, make_factorizer
from conceptatlas.concepts.estimator import Factorizer
from conceptatlas.concepts.quality import match_components
from conceptatlas.extraction import Features, SplitModel

CHOICE_ROWS = 8000  # rows that the number of concepts is chosen on, of whole images
CHOICE_IMAGES = 32  # at least so many images
TELLS = 0.05  # by how much a larger dictionary has to tell better what the model follows (AUC)
TOLD_IMAGES = 240  # images that it is measured on
FOLD_ROWS = 4000  # rows of each half that a concept is sought in again

_Dictionary = TypeVar("_Dictionary")


def fit_directions(context: Context, rows: np.ndarray, index: int) -> tuple[torch.Tensor, ImageWide, dict[str, Any]]:
    """Factorize the activations of a class's images.

    Returns
    -------
    directions
        (k, p); the last ones are those of what changes whole images at once, where there is any.
    wide
        What those are (`find_wide`). They are sought even where a concept of places tells what the model follows: what
        is all over an image lies in many such concepts, and an edit of one of them moves little.
    provenance
        How they were found.

    Parameters
    ----------
    context
        The run.
    rows
        Rows of the store: the images predicted as the class.
    index
        The class, whose prediction is to be kept where the number of concepts is ``"auto"``.
    """
    settings = context.settings
    activations, images = context.rows_to_fit(rows, settings.max_rows)
    signed = bool((activations < 0).any())
    provenance: dict[str, Any] = {"rows": len(activations), "images": len(rows), "signed": signed}
    n_concepts = settings.n_concepts
    if n_concepts == "auto":
        choice = choose_count(context, rows, index)
        n_concepts = choice.n_components
        provenance["n_components_curve"] = choice.curve.to_dict("records")
    automatic = settings.n_concepts == "auto"
    factorizer = _factorized(activations, int(n_concepts), signed, settings)
    if automatic:
        factorizer = telling(
            factorizer,
            len(factorizer.components_),
            max(settings.candidates),
            lambda k: _factorized(activations, k, signed, settings),
            lambda one: told_apart(context, index, one.components_),
        )
    components = np.asarray(factorizer.components_, np.float32)
    n_concepts = len(components)
    stability = fold_stability(activations, images, components, settings)
    wide = find_wide(context, index) if automatic else no_properties(components.shape[1])
    components = np.concatenate([components, wide.directions])
    stability = np.concatenate([stability, wide.stability])
    if len(wide):
        provenance["image_wide"] = {"concepts": list(range(n_concepts, len(components))), **wide.to_dict()}
    provenance |= {
        "stability": stability.tolist(),
        "factorizer": type(factorizer).__name__,
        "n_components": n_concepts,
        "reconstruction_err": float(factorizer.reconstruction_err_),
        "relative_error": float(factorizer.reconstruction_err_) / float(np.linalg.norm(activations)),
        "n_iter": int(factorizer.n_iter_),
        "converged": bool(factorizer.converged_),
    }
    return torch.as_tensor(components, device=context.split.device), wide, provenance


def _factorized(activations: np.ndarray, n_concepts: int, signed: bool, settings: Settings) -> Factorizer:
    k = int(min(n_concepts, *activations.shape))
    factorizer = make_factorizer(settings.factorizer, k, signed=signed, seed=settings.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # kept with the bank: "converged"
        return factorizer.fit(activations)


def telling(
    chosen: _Dictionary,
    size: int,
    largest: int,
    fit: Callable[[int], _Dictionary],
    tells: Callable[[_Dictionary], float],
) -> _Dictionary:
    """Return the chosen dictionary, or the largest candidate where that tells by far better what the model follows.

    The number of concepts is chosen by what explains and comes back. What misleads the model may be small and share a
    concept with something else then: nothing in the dictionary tells which images of one label are called the class
    (`told_apart`).

    Parameters
    ----------
    chosen, size
        The dictionary, and how many concepts it has.
    largest, fit
        The largest candidate, and what fits a dictionary of so many concepts.
    tells
        How well the best concept of a dictionary tells it: an AUC, NaN where nothing can be told.
    """
    told = tells(chosen)
    if largest <= size or not told < TOLD:
        return chosen
    finer = fit(largest)
    return finer if tells(finer) >= told + TELLS else chosen


def told_apart(context: Context, index: int, components: Any) -> float:
    """Return how well the best single concept tells which images of one label are predicted as the class.

    An AUC, the mean over the groups of equal label (the class, other classes, none) that have both; NaN where none has.
    """
    rows = sample(population_rows(context, index)[0], TOLD_IMAGES, context.settings.seed)
    W = torch.as_tensor(np.asarray(components, np.float32), device=context.split.device)
    label = context.images["label_index"].to_numpy(dtype=float)[rows]
    labelled = np.where(np.isnan(label), np.nan, label == index)
    predicted = context.images["predicted_index"].to_numpy()[rows] == index
    return float(told_within_labels(measure(context, rows, W).score, predicted, labelled).max())


def fold_stability(activations: np.ndarray, images: np.ndarray, components: Any, settings: Settings) -> np.ndarray:
    """Return for each concept the cosine with its match in dictionaries of other folds, (k,): the mean of two.

    The images are halved by the run's seed and each half is factorized by itself; 1: both halves have the concept.
    """
    k, signed = len(components), bool((activations < 0).any())
    names = np.unique(images)
    side = np.isin(images, np.random.default_rng(settings.seed).permutation(names)[: len(names) // 2])
    found = []
    for half in (side, ~side):
        rows = sample(np.flatnonzero(half), FOLD_ROWS, settings.seed)
        if len(rows) < k:
            return np.full(k, np.nan)
        fold = make_factorizer(settings.factorizer, k, signed=signed, seed=settings.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fold.set_params(tol=1e-3, max_iter=100).fit(activations[rows])
        found.append(match_components(components, fold.components_)[2])
    return np.mean(found, axis=0)


def choose_count(context: Context, rows: np.ndarray, index: int) -> KChoice:
    """Return how many concepts a class gets, chosen on whole images so that the prediction counts.

    What decides a class may be a small part of its activations (the ground behind an animal, a frame): a dictionary
    that explains them well can miss it. So a candidate's score is multiplied by how well the class's margin over the
    other classes, image by image, is kept when the activations are replaced by their reconstruction. Crops are not what
    the head sees; there reconstruction and stability decide alone.
    """
    settings = context.settings
    positions = context.store.grid[0] * context.store.grid[1]
    chosen = sample(rows, max(CHOICE_IMAGES, CHOICE_ROWS // positions), settings.seed)
    activations, groups = context.rows_to_fit(chosen)
    whole = context.crops is None
    return choose_n_components(
        activations,
        candidates=settings.candidates,
        seed=settings.seed,
        factorizer=settings.factorizer,
        groups=groups,
        keep=MarginKept.of(context.split, context.features(chosen), index) if whole else None,
    )


@dataclass(frozen=True)
class MarginKept:
    """How well the margin of a class is kept when whole images are reconstructed; called with their rows (n, p).

    Attributes
    ----------
    split, features, index
        The model, the images as they are, and the class.
    margin
        (b,) the class's logit over the log-sum-exp of the others, of the images as they are.
    """

    split: SplitModel
    features: Features
    index: int
    margin: np.ndarray

    @classmethod
    def of(cls, split: SplitModel, features: Features, index: int) -> MarginKept:
        """Measure the margins of some images."""
        return cls(split, features, index, _margin(split, features, index))

    def __call__(self, reconstruction: np.ndarray) -> float:
        """Return the correlation of the margins over the images, 0 where it is negative; 1 where they do not vary."""
        positions = torch.as_tensor(reconstruction).to(self.features.positions).reshape(self.features.positions.shape)
        margin = _margin(self.split, self.features.replace(positions=positions), self.index)
        if self.margin.std() <= 1e-6:
            return 1.0
        if margin.std() <= 1e-9:
            return 0.0
        return max(0.0, float(np.corrcoef(self.margin, margin)[0, 1]))


def _margin(split: SplitModel, features: Features, index: int) -> np.ndarray:
    with torch.no_grad():
        logits = split.head(features).double()
    if logits.shape[1] == 1:
        return logits[:, 0].cpu().numpy()
    others = torch.cat([logits[:, :index], logits[:, index + 1 :]], dim=1).logsumexp(1)
    return (logits[:, index] - others).cpu().numpy()
