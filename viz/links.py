"""The list of classes: what stands in it, and where each class's page is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptatlas.viz.tables import known_numbers
from conceptatlas.viz.text import href, slug

if TYPE_CHECKING:
    from conceptatlas.audit import Atlas, ClassAtlas
    from conceptatlas.concepts import ConceptRecord

SUSPECT_GRADES = ("A", "B", "C")
NEAREST_WORDS = 3


@dataclass(frozen=True)
class ClassLink:
    """One line of the list of classes.

    Attributes
    ----------
    index, name, slug
        Index in the model, name, and the page's file name without its ending.
    n_images, accuracy, n_concepts
        Images predicted as the class, share that is right (None where no label is known), concepts.
    top
        (id, label) of the most important concept, None where there is none.
    grade
        Strongest grade among its suspected shortcuts, "" for none better than D.
    """

    index: int
    name: str
    slug: str
    n_images: int
    accuracy: float | None
    n_concepts: int
    top: tuple[int, str] | None
    grade: str

    @property
    def page(self) -> str:
        """Link to the class's page from the site's root."""
        return href("classes", f"{self.slug}.html")


def class_links(atlas: Atlas) -> list[ClassLink]:
    """Return the fitted classes in the model's order."""
    grades = best_grades(atlas)
    return sorted((_class_link(atlas[name], grades.get(name, "")) for name in atlas), key=lambda link: link.index)


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


def _class_link(member: ClassAtlas, grade: str) -> ClassLink:
    correct = known_numbers(member.images, "correct")
    labels = {record.id: record.label for record in member.bank.concepts}
    ids = [int(c) for c in member.concepts["concept"] if int(c) in labels]
    return ClassLink(
        index=int(member.index),
        name=str(member.name),
        slug=slug(str(member.name)),
        n_images=member.n_images,
        accuracy=float(correct.mean()) if len(correct) else None,
        n_concepts=member.n_concepts,
        top=(ids[0], labels[ids[0]]) if ids else None,
        grade=grade,
    )


def _hundredths(value: Any) -> int | None:
    return round(100 * float(value)) if value == value else None
