"""Faithfulness: does the target move as the importances say? Beside what random importances and random concepts reach.

All metrics remove concepts from the coefficients and keep the residual and the prefix tokens, so that nothing leaves
the model's own activations but the concepts themselves. What takes their place is nothing, or the typical activation:
importances are judged by the absence that they were told against.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from conceptatlas.importance.contributions import contributions
from conceptatlas.importance.intervals import mean_error
from conceptatlas.importance.recomposition import Decomposition
from conceptatlas.importance.tabled import Tabled
from conceptatlas.importance.targets import as_target

if TYPE_CHECKING:
    import pandas as pd

N_SHUFFLES = 5
"""Shuffles of the importances that the row of random importances averages."""


@dataclass(frozen=True)
class FaithfulnessRow:
    """One metric of one set of importances.

    Attributes
    ----------
    name
        ``"concepts"``, ``"random importance"`` or ``"random concepts"``.
    score, low, high
        Mean over the images with its interval.
    values
        ``(B,)``: per image.
    curve
        ``(k + 1,)``: mean target after 0, 1, ... k steps; None for metrics that are no curve.
    """

    name: str
    score: float
    low: float
    high: float
    values: NDArray[np.float64]
    curve: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Faithfulness(Tabled):
    """A metric of the concepts' importances, with the two rows that show what chance reaches.

    Attributes
    ----------
    metric
        ``"C-deletion"``, ``"C-insertion"``, ``"C-muFidelity"``, ``"SURF MAE"`` or ``"SURF EMD"``.
    higher_is_better
        Direction of the metric.
    concepts, random_importance, random_concepts
        The importances given, the same shuffled, and importances of random directions.
    """

    metric: str
    higher_is_better: bool
    concepts: FaithfulnessRow
    random_importance: FaithfulnessRow
    random_concepts: FaithfulnessRow

    @property
    def rows(self) -> tuple[FaithfulnessRow, FaithfulnessRow, FaithfulnessRow]:
        """The three rows."""
        return self.concepts, self.random_importance, self.random_concepts

    @property
    def score(self) -> float:
        """The score of the concepts."""
        return self.concepts.score

    def to_frame(self) -> pd.DataFrame:
        """Return a table with the columns metric, row, score, low, high and higher_is_better."""
        import pandas as pd

        columns = ["metric", "row", "score", "low", "high", "higher_is_better"]
        rows = [(self.metric, row.name, row.score, row.low, row.high, self.higher_is_better) for row in self.rows]
        return pd.DataFrame(rows, columns=columns)


def c_deletion(
    split_model: Any,
    features: Any,
    U: Any,
    W: Any,
    importance: Any,
    target: Any,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    batch_size: int | None = None,
    typical: Any = None,
) -> Faithfulness:
    """Return the area under the target as concepts are removed, the most important first: lower is better.

    Parameters
    ----------
    split_model, features, U, W
        The head, activations with positions ``(B, P, p)``, coefficients ``(B, P, k)`` and directions ``(k, p)``.
    importance
        ``(B, k)`` per image or ``(k,)`` for all; signed ones rank evidence against the target last.
    target
        Class index, :func:`margin`, :func:`similarity` or a callable ``(B, n) -> (B,)``.
    seed
        Seed of the shuffles and of the random directions.
    confidence
        Of the intervals over images.
    batch_size
        Most masked activations at once; by default as many as fit.
    typical
        ``(p,)``: activation that takes the place of a removed concept, as for :func:`concept_importance`; nothing by
        default.

    Returns
    -------
    Faithfulness
        Areas are means of the target over the ``k + 1`` steps, by the trapezoidal rule.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from conceptatlas.extraction.features import Features
    >>> head = SimpleNamespace(head=lambda features: features.positions.sum((1, 2))[:, None], head_is_affine=True)
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> found = c_deletion(head, Features(U @ W, None, (1, 1)), U, W, np.array([3.0, 1.0]), 0)
    >>> found.concepts.curve.tolist()
    [4.0, 1.0, 0.0]
    """
    parts = Decomposition.build(split_model, features, U, W, as_target(target), batch_size=batch_size, typical=typical)
    return _curve_metric("C-deletion", parts, _per_image(importance, parts), seed, confidence)


def c_insertion(
    split_model: Any,
    features: Any,
    U: Any,
    W: Any,
    importance: Any,
    target: Any,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    batch_size: int | None = None,
    typical: Any = None,
) -> Faithfulness:
    """Return the area under the target as concepts are added to none, the most important first: higher is better.

    Parameters and result are those of :func:`c_deletion`.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from conceptatlas.extraction.features import Features
    >>> head = SimpleNamespace(head=lambda features: features.positions.sum((1, 2))[:, None], head_is_affine=True)
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> found = c_insertion(head, Features(U @ W, None, (1, 1)), U, W, np.array([3.0, 1.0]), 0)
    >>> found.concepts.curve.tolist()
    [0.0, 3.0, 4.0]
    """
    parts = Decomposition.build(split_model, features, U, W, as_target(target), batch_size=batch_size, typical=typical)
    return _curve_metric("C-insertion", parts, _per_image(importance, parts), seed, confidence)


def c_mufidelity(
    split_model: Any,
    features: Any,
    U: Any,
    W: Any,
    importance: Any,
    target: Any,
    *,
    n_subsets: int = 64,
    seed: int = 0,
    confidence: float = 0.95,
    batch_size: int | None = None,
    typical: Any = None,
) -> Faithfulness:
    """Return how well sums of importances predict the drop as random subsets are removed: higher is better.

    The score of an image is Spearman's correlation over `n_subsets` subsets of random size; 0 where either side does
    not vary. Other parameters and the result are those of :func:`c_deletion`.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from conceptatlas.extraction.features import Features
    >>> head = SimpleNamespace(head=lambda features: features.positions.sum(1), head_is_affine=True)
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> features = Features(U @ W, None, (1, 1))
    >>> found = c_mufidelity(head, features, U, W, np.array([3.0, 1.0]), lambda output: output.sum(1))
    >>> round(found.score, 3)
    1.0
    """
    parts = Decomposition.build(split_model, features, U, W, as_target(target), batch_size=batch_size, typical=typical)
    rng = np.random.default_rng(seed)

    def correlations(given: Decomposition, importances: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        removed = _subsets(rng, n_subsets, given.n_concepts)
        masks = np.concatenate([np.ones((1, given.n_concepts)), 1.0 - removed]).astype(np.float32)
        scores = given.scores(masks, np.arange(given.n_images))
        drops = scores[0] - scores[1:]
        return [_spearman(removed @ importance.T, drops) for importance in importances]

    given = _per_image(importance, parts)
    real, *shuffled = correlations(parts, [given, *_shuffles(given, rng)])
    random_parts, random_importance = _random_concepts(parts, seed)
    (chance,) = correlations(random_parts, [random_importance])
    scores = (real, np.mean(shuffled, axis=0), chance)
    rows = [summarise(name, values, confidence) for name, values in zip(_NAMES, scores, strict=True)]
    return Faithfulness("C-muFidelity", True, *rows)


_NAMES = ("concepts", "random importance", "random concepts")


def _curve_metric(
    metric: str, parts: Decomposition, importance: NDArray[np.float64], seed: int, confidence: float
) -> Faithfulness:
    """Score a curve of the target for the given, the shuffled and the random importances."""
    removing = metric == "C-deletion"
    shuffles = [_curves(parts, each, removing) for each in _shuffles(importance, np.random.default_rng(seed))]
    curves = (
        _curves(parts, importance, removing),
        np.mean(shuffles, axis=0),
        _curves(*_random_concepts(parts, seed), removing),
    )
    areas = [(curve.sum(axis=1) - (curve[:, 0] + curve[:, -1]) / 2) / (curve.shape[1] - 1) for curve in curves]
    rows = [
        replace(summarise(name, area, confidence), curve=curve.mean(axis=0))
        for name, area, curve in zip(_NAMES, areas, curves, strict=True)
    ]
    return Faithfulness(metric, not removing, *rows)


def _curves(parts: Decomposition, importance: NDArray[np.float64], removing: bool) -> NDArray[np.float64]:
    """Return the target after each step for every image, ``(B, k + 1)``."""
    n, k = importance.shape
    rank = np.argsort(np.argsort(-importance, axis=1, kind="stable"), axis=1)
    step = np.arange(k + 1)[None, :, None]
    masks = (rank[:, None, :] >= step) if removing else (rank[:, None, :] < step)
    images = torch.arange(n, device=parts.directions.device).repeat_interleave(k + 1)
    outputs = parts.outputs(images, torch.as_tensor(masks.reshape(-1, k), dtype=parts.directions.dtype))
    return parts.target(outputs).double().cpu().numpy().reshape(n, k + 1)


def _shuffles(importance: NDArray[np.float64], rng: np.random.Generator) -> list[NDArray[np.float64]]:
    return [rng.permuted(importance, axis=1) for _ in range(N_SHUFFLES)]


def random_directions(directions: torch.Tensor, seed: int) -> torch.Tensor:
    """Return as many random unit directions ``(k, p)``, non-negative where the given ones are."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(directions.shape, generator=generator).to(directions)
    return torch.nn.functional.normalize(normal.abs() if (directions >= 0).all() else normal, dim=1)


def _random_concepts(parts: Decomposition, seed: int) -> tuple[Decomposition, NDArray[np.float64]]:
    """Return the decomposition on random directions, and its contributions as importances ``(B, k)``."""
    from conceptatlas.concepts.nnls import nnls

    directions = random_directions(parts.directions, seed)
    coefficients = nnls(parts.features.positions, directions)
    other = replace(parts, coefficients=coefficients, directions=directions)
    weighed = (parts.split_model, parts.features, coefficients, directions, parts.target)
    found = contributions(*weighed, typical=parts.typical, batch_size=parts.batch_size)
    return other, found.values.double().cpu().numpy()


def _per_image(importance: Any, parts: Decomposition) -> NDArray[np.float64]:
    given = importance.detach().cpu() if isinstance(importance, torch.Tensor) else importance
    values = np.asarray(given, dtype=np.float64)
    shape = (parts.n_images, parts.n_concepts)
    if values.shape not in (shape, shape[1:]):
        raise ValueError(f"importance must have shape {shape} or {shape[1:]}, got {values.shape}")
    return np.broadcast_to(values, shape)


def _subsets(rng: np.random.Generator, n_subsets: int, n_concepts: int) -> NDArray[np.float64]:
    """Return ``(n_subsets, k)``: 1 for the members of subsets of uniformly random size, 1 to k - 1."""
    sizes = rng.integers(1, max(n_concepts, 2), size=(n_subsets, 1))
    ranks = rng.permuted(np.tile(np.arange(n_concepts), (n_subsets, 1)), axis=1)
    return (ranks < sizes).astype(np.float64)


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank correlation of the columns, ``(B,)``; 0 where one does not vary."""
    from scipy.stats import rankdata

    a, b = (rankdata(each, axis=0) for each in (first, second))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), size, out=np.zeros(a.shape[1]), where=size > 0)


def summarise(name: str, values: NDArray[np.float64], confidence: float) -> FaithfulnessRow:
    """Return the row of a metric's values per image ``(B,)``: their mean and its interval."""
    below, above = mean_error(values[:, None], confidence)
    score = float(values.mean())
    return FaithfulnessRow(name, score, score - float(below[0]), score + float(above[0]), values)
