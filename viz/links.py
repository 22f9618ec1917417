"""The list of classes: what stands in it, and where each class's page is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from conceptatlas.viz.tables import known_numbers, numbers_of
from conceptatlas.viz.text import href, slug, visible

if TYPE_CHECKING:
    from conceptatlas.audit import Atlas, ClassAtlas
    from conceptatlas.concepts import ConceptRecord

SUSPECT_GRADES = ("A", "B", "C")
NEAREST_WORDS = 3
MOST_TOPS, FEW_CLASSES = 3, 100  # concepts shown per line of the list of classes, and up to how many classes


@dataclass(frozen=True)
class Top:
    """A concept that counts for a class: its id, what it is called, its signed importance (None where not known)."""

    concept: int
    label: str
    importance: float | None


@dataclass(frozen=True)
class ClassLink:
    """One line of the list of classes.

    Attributes
    ----------
    index, name, slug
        Index in the model, name, and the page's file name without its ending.
    n_images, precision, recall, n_concepts
        Images predicted as the class, share of them that is right, share of the images labelled as the class that is
        recognised (None where no label is known), concepts.
    tops
        The most important concepts.
    grade
        Strongest grade among its suspected shortcuts, "" for none better than D.
    """

    index: int
    name: str
    slug: str
    n_images: int
    precision: float | None
    recall: float | None
    n_concepts: int
    tops: tuple[Top, ...]
    grade: str

    @property
    def page(self) -> str:
        """Link to the class's page from the site's root."""
        return href("classes", f"{self.slug}.html")

    @property
    def shown(self) -> str:
        """The name as a reader sees it, never empty: a link needs a text."""
        return visible(self.name).strip() or f"class {self.index}"


def class_links(atlas: Atlas) -> list[ClassLink]:
    """Return the fitted classes in the model's order."""
    grades, most = best_grades(atlas), MOST_TOPS if len(atlas) <= FEW_CLASSES else 1
    made = (_class_link(atlas[name], atlas.images, grades.get(name, ""), most) for name in atlas)
    return sorted(made, key=lambda link: link.index)


def recall_of(images: pd.DataFrame, index: int) -> float | None:
    """Return the share of the images labelled as a class that are predicted as it, None where none is labelled so.

    >>> recall_of(pd.DataFrame({"label_index": [1, 1, 0], "predicted_index": [1, 0, 1]}), 1)
    0.5
    """
    labelled = numbers_of(images, "label_index") == index
    hits = numbers_of(images, "predicted_index")[labelled] == index
    return float(hits.mean()) if len(hits) else None


def best_grades(atlas: Atlas) -> dict[str, str]:
    """Return the strongest grade of each class that has one better than D."""
    table = atlas.shortcuts()
    best: dict[str, str] = {}
    if not len(table):
        return best
    for name, grade in zip(table["class"], table["grade"], strict=True):
        if grade in SUSPECT_GRADES:
            best[str(name)] = min(str(grade), best.get(str(name), "Z"))
    return best


def index_concepts(atlas: Atlas, links: Sequence[ClassLink]) -> tuple[list[list[list[Any]]], list[str]]:
    """Return what the index's search reads, and the list of words that it refers to.

    For each class its concepts as ``[id, label, importance in percent, words]``; `words` are places in the list: the
    texts that retrieve the concept's crops best, whether or not they became its name, and a person's tag.
    """
    known: dict[str, int] = {}
    found = []
    for link in links:
        member = atlas[link.name]
        records = {record.id: record for record in member.bank.concepts}
        pairs = zip(member.concepts["concept"], member.concepts["importance"], strict=True)
        found.append(
            [
                [int(c), records[int(c)].label, _hundredths(i), _places(_words(records[int(c)]), known)]
                for c, i in pairs
                if int(c) in records
            ]
        )
    return found, list(known)


def _words(record: ConceptRecord) -> list[str]:
    nearest = [word for word, _ in record.name.candidates[:NEAREST_WORDS]] if record.name else []
    return [word for word in [*nearest, record.tag] if word and word not in record.label]


def _places(words: Sequence[str], known: dict[str, int]) -> list[int]:
    return [known.setdefault(word, len(known)) for word in words]


def _class_link(member: ClassAtlas, images: pd.DataFrame, grade: str, most: int) -> ClassLink:
    correct = known_numbers(member.images, "correct")
    return ClassLink(
        index=int(member.index),
        name=str(member.name),
        slug=slug(str(member.name)),
        n_images=member.n_images,
        precision=float(correct.mean()) if len(correct) else None,
        recall=recall_of(images, int(member.index)),
        n_concepts=member.n_concepts,
        tops=_tops(member)[:most],
        grade=grade,
    )


def _tops(member: ClassAtlas) -> tuple[Top, ...]:
    labels = {record.id: record.label for record in member.bank.concepts}
    pairs = zip(member.concepts["concept"], numbers_of(member.concepts, "importance"), strict=True)
    return tuple(Top(int(c), labels[int(c)], float(i) if i == i else None) for c, i in pairs if int(c) in labels)


def _hundredths(value: Any) -> int | None:
    return round(100 * float(value)) if value == value else None
