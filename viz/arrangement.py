"""Where a class's images and clusters stand on the strategic cluster graph, and what a cluster is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from conceptatlas.audit import ClassAtlas

_MOST_MOVED = 600  # beyond so many images they are drawn where they are: moving apart compares all pairs
_ROUNDS = 40


@dataclass(frozen=True)
class Cluster:
    """A group of images that were classified for the same concepts.

    Attributes
    ----------
    concept
        The concept that dominates most of them.
    second
        The concept that sets it most apart from the class's other clusters of the same dominant concept; None where
        there is no other, or nothing sets it apart.
    rows
        Their rows among the class's images.
    """

    concept: int
    second: int | None
    rows: np.ndarray

    def label(self, labels: Mapping[int, str]) -> str:
        """Return what to call the cluster.

        >>> Cluster(0, 2, np.arange(3)).label({0: "tag", 2: "grass"})
        'tag, grass'
        """
        name = labels.get(self.concept, f"concept {self.concept}")
        return name if self.second is None else f"{name}, {labels.get(self.second, f'concept {self.second}')}"


def clusters_of(class_atlas: ClassAtlas) -> list[Cluster]:
    """Return the clusters of a class, the largest first.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> [cluster.concept for cluster in clusters_of(example_class())]
    [0, 1, 2, 3]
    """
    numbers = class_atlas.images["cluster"].to_numpy(dtype=float)
    dominant = class_atlas.images["dominant"].to_numpy(dtype=int)
    groups = [np.flatnonzero(numbers == c) for c in sorted({int(c) for c in numbers[np.isfinite(numbers)] if c >= 0})]
    tops = [int(np.bincount(dominant[rows]).argmax()) for rows in groups]
    found = [
        Cluster(top, _second(class_atlas.contributions, rows, top) if tops.count(top) > 1 else None, rows)
        for top, rows in zip(tops, groups, strict=True)
    ]
    return sorted(found, key=lambda cluster: -len(cluster.rows))


Box = tuple[float, float, float, float]


def least_covered(candidates: Sequence[Box], taken: Sequence[Box]) -> Box:
    """Return the candidate (left, bottom, right, top) that overlaps the taken boxes least; the first of equals.

    >>> least_covered([(0, 0, 2, 2), (3, 0, 5, 2)], [(1, 1, 4, 1.5)])
    (0, 0, 2, 2)
    >>> least_covered([(0, 0, 2, 2), (9, 0, 11, 2)], [(1, 1, 4, 1.5)])
    (9, 0, 11, 2)
    """
    return min(candidates, key=lambda box: sum(_overlap(box, other) for other in taken))


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def places_of(class_atlas: ClassAtlas, *, apart: float = 0.024) -> np.ndarray:
    """Return where each image is drawn, (n, 2): the atlas's plane turned so that its longer side lies across.

    Turning keeps all distances; images that would hide one another are then moved just as far apart as it takes to
    see each.

    Parameters
    ----------
    class_atlas
        One class of an atlas.
    apart
        Smallest distance between two points, as a share of the longer side.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> bool(np.ptp(places_of(example_class())[:, 0]) >= np.ptp(places_of(example_class())[:, 1]))
    True
    """
    xy = turned(class_atlas.images[["x", "y"]].to_numpy(dtype=float))
    if not 1 < len(xy) <= _MOST_MOVED:
        return xy
    return moved_apart(xy, apart * max(float(np.ptp(xy, axis=0).max()), 1e-6))


def turned(xy: np.ndarray) -> np.ndarray:
    """Return points (n, 2) turned about their mean so that their longest direction is horizontal.

    >>> turned(np.array([[0.0, 0.0], [0.0, 2.0]])).round(6).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    if len(xy) < 2:
        return xy
    centred = xy - xy.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    first = axes[0] * (1 if axes[0][np.abs(axes[0]).argmax()] >= 0 else -1)  # the sign of an axis is arbitrary
    return centred @ np.array([first, (-first[1], first[0])]).T


def moved_apart(xy: np.ndarray, distance: float) -> np.ndarray:
    """Return points moved in small steps until (nearly) all are `distance` apart; points already apart stay.

    >>> moved = moved_apart(np.array([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]]), 1.0)
    >>> float(np.linalg.norm(moved[0] - moved[1]).round(2)), moved[2].tolist()
    (1.0, [9.0, 0.0])
    """
    n = len(xy)
    turn = np.arange(n) * 2.399963  # the golden angle: points on one spot part in different directions
    nudge = 1e-3 * distance * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    crowded = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + np.eye(n) * 2 * distance < distance
    moved = np.where(crowded.any(1)[:, None], xy + nudge, xy)
    for _ in range(_ROUNDS):
        offset = moved[:, None] - moved[None]
        length = np.linalg.norm(offset, axis=-1)
        overlap = np.clip(distance - length, 0, None)
        np.fill_diagonal(overlap, 0)
        if overlap.max() < 0.02 * distance:
            break
        moved = moved + (offset * (overlap / np.maximum(length, 1e-12) / 2)[..., None]).sum(1)
    return moved


def _second(contributions: np.ndarray, rows: np.ndarray, top: int) -> int | None:
    others = np.setdiff1d(np.arange(len(contributions)), rows)
    if not len(others):
        return None
    excess = contributions[rows].mean(0) - contributions[others].mean(0)
    excess[top] = -np.inf
    best = int(excess.argmax())
    return best if excess[best] > 0 else None
