"""The parts of a concept as a class page shows them: the recursion's tree, with crops of every part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptatlas.concepts import ConceptNode, ConceptTree
from conceptatlas.viz.text import count, known, number, percent

if TYPE_CHECKING:
    from conceptatlas.audit import ClassAtlas


@dataclass(frozen=True)
class Part:
    """One part of a concept.

    Attributes
    ----------
    title
        ``Part 2.1``: its place below the concept.
    layer
        Where it was found.
    size
        How many places in how many images reach it.
    cells
        Cells of the sheet of parts, strongest first.
    parts
        Its own parts.
    """

    title: str
    layer: str
    size: str
    cells: tuple[int, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Split:
    """What the recursion said of a concept: its parts, or why it stays whole."""

    parts: tuple[Part, ...]
    text: str


def splits_of(member: ClassAtlas, cells: Mapping[int, Sequence[int]]) -> dict[int, Split]:
    """Return what the recursion found for each concept, by concept id; nothing where it did not run.

    Parameters
    ----------
    member
        The class.
    cells
        Cells of the sheet of parts by node of the tree.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from conceptatlas.viz.example import example_class
    >>> root = ConceptNode(0, None, 0, 0, "late", (1.0,), 0.5, 80, 20, spread=0.7)
    >>> part = ConceptNode(1, 0, 0, 1, "early", (1.0,), 0.2, 9, 5)
    >>> member = example_class()
    >>> member = member.with_bank(replace(member.bank, tree=ConceptTree((root, part), ("late", "early"))))
    >>> split = splits_of(member, {1: [4]})[0]
    >>> split.parts[0].title, split.parts[0].size
    ('Part 1', '9 places in 5 images')
    """
    tree = member.bank.tree
    if not isinstance(tree, ConceptTree):
        return {}
    held = set(member.bank.ids)
    return {root.id: _split(tree, root, cells) for root in tree.roots if root.id in held}


def _split(tree: ConceptTree, root: ConceptNode, cells: Mapping[int, Sequence[int]]) -> Split:
    parts = _parts(tree, root, cells, "")
    spread = f" One direction leaves {percent(root.spread)} of its strongest places at that layer unexplained."
    told = spread if known(root.spread) else ""
    if parts:
        return Split(parts, f"{count(len(parts), 'part')} at {parts[0].layer}.{told}")
    return Split((), f"Not split: {_reason(root)}.")


def _parts(
    tree: ConceptTree, node: ConceptNode, cells: Mapping[int, Sequence[int]], number_above: str
) -> tuple[Part, ...]:
    found = []
    for position, child in enumerate(tree.children(node.id), start=1):
        at = f"{number_above}{position}"
        size = f"{count(child.n_members, 'place')} in {count(child.n_images, 'image')}"
        inner = _parts(tree, child, cells, f"{at}.")
        found.append(Part(f"Part {at}", child.layer, size, tuple(cells.get(child.id, ())), inner))
    return tuple(found)


def _reason(node: ConceptNode) -> str:
    if node.reason == "coherent" and known(node.spread):
        return f"its strongest places are one thing at the earlier layer (rank-1 error {number(node.spread)})"
    plain = {"coherent": "its strongest places are one thing at the earlier layer", "": "nobody asked for it"}
    return plain.get(node.reason, node.reason)
