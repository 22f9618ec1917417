"""What the pages and figures ask of a class's concepts: labels, records, and who resembles whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from conceptatlas.audit import Atlas, ClassAtlas
    from conceptatlas.concepts import ConceptRecord


def records_of(class_atlas: ClassAtlas) -> dict[int, ConceptRecord]:
    """Return the bank's records by concept id.

    >>> from conceptatlas.viz.example import example_class
    >>> sorted(records_of(example_class()))
    [0, 1, 2, 3]
    """
    return {record.id: record for record in class_atlas.bank.concepts}


def concept_labels(class_atlas: ClassAtlas) -> dict[int, str]:
    """Return what to call each concept that has contributions; dropped ones keep their number.

    >>> from conceptatlas.viz.example import example_class
    >>> concept_labels(example_class())[0]
    'stripes'
    """
    labels = {i: f"concept {i} (dropped)" for i in range(class_atlas.contributions.shape[1])}
    return labels | {i: record.label for i, record in records_of(class_atlas).items()}


@dataclass(frozen=True)
class Neighbour:
    """A concept of another class that points in nearly the same direction.

    Attributes
    ----------
    class_name : str
        The other class.
    concept : int
        Its concept's id.
    label : str
        What that concept is called.
    cosine : float
        Cosine of the two directions, in [-1, 1].
    """

    class_name: str
    concept: int
    label: str
    cosine: float


class Neighbours:
    """Cosines between the directions of all classes of one layer, asked for one class at a time.

    Parameters
    ----------
    atlas
        The atlas; banks of other layers or widths are not compared.
    at_least
        Cosine from which two concepts count as similar.
    most
        Neighbours returned per concept.
    """

    def __init__(self, atlas: Atlas, *, at_least: float = 0.6, most: int = 5) -> None:
        self._at_least, self._most = at_least, most
        self._owners: dict[tuple[str, int], list[tuple[str, int, str]]] = {}
        stacks: dict[tuple[str, int], list[np.ndarray]] = {}
        for name in atlas:
            bank = atlas[name].bank
            key = (bank.layer, bank.directions.shape[1])
            stacks.setdefault(key, []).append(_unit(bank.directions))
            self._owners.setdefault(key, []).extend((name, r.id, r.label) for r in bank.concepts)
        self._directions = {key: np.concatenate(parts) for key, parts in stacks.items()}

    def of(self, class_atlas: ClassAtlas) -> Mapping[int, tuple[Neighbour, ...]]:
        """Return the similar concepts of other classes, nearest first, by concept id."""
        bank = class_atlas.bank
        key = (bank.layer, bank.directions.shape[1])
        if key not in self._directions:
            return {}
        owners, cosines = self._owners[key], _unit(bank.directions) @ self._directions[key].T
        foreign = np.array([owner[0] != class_atlas.name for owner in owners])
        cosines = np.where(foreign[None], cosines, -2.0)
        return {r.id: self._nearest(owners, row) for r, row in zip(bank.concepts, cosines, strict=True)}

    def _nearest(self, owners: list[tuple[str, int, str]], row: np.ndarray) -> tuple[Neighbour, ...]:
        order = np.argsort(-row, kind="stable")[: self._most]
        return tuple(Neighbour(*owners[i], cosine=float(row[i])) for i in order if row[i] >= self._at_least)


def _unit(directions: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    return np.divide(directions, length, out=np.zeros_like(directions), where=length > 0)
