"""A tree of concepts: what the recursion found, kept by the bank and drawn from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from conceptatlas.extraction.errors import UserError

SCHEMA = 1


@dataclass(frozen=True)
class ConceptNode:
    """One concept of the tree.

    Attributes
    ----------
    id
        Place in the tree; concepts of the bank come first, with their own numbers.
    parent
        Id of the concept it is a part of, or None.
    concept
        Row of the dictionary it comes from.
    depth
        0 for concepts of the bank.
    layer
        Cut point of its direction.
    direction
        Unit vector (p,) at that layer.
    threshold, n_members, n_images
        Percentile of its coefficients, and how many rows (of how many images) reach it.
    examples
        Rows with the largest coefficients, largest first; row i is position i % positions of image i // positions.
    spread
        Rank-1 relative error of its members one layer earlier, None where it was not looked at.
    coherence, chance
        Mean cosine of its members' embeddings, and what random rows reach (95 % point); None where not looked at.
    reason
        Why it was not split; empty where it was, or where nobody asked.
    """

    id: int
    parent: int | None
    concept: int
    depth: int
    layer: str
    direction: tuple[float, ...]
    threshold: float
    n_members: int
    n_images: int
    examples: tuple[int, ...] = ()
    spread: float | None = None
    coherence: float | None = None
    chance: float | None = None
    reason: str = ""

    def with_findings(self, **found: Any) -> ConceptNode:
        """Return the node with what the look at its members found."""
        return replace(self, **found)


@dataclass(frozen=True)
class ConceptTree:
    """Concepts and their parts.

    Examples
    --------
    >>> root = ConceptNode(0, None, 0, 0, "late", (1.0,), 0.5, 80, 20)
    >>> part = ConceptNode(1, 0, 0, 1, "early", (1.0, 0.0), 0.2, 9, 5)
    >>> tree = ConceptTree((root, part), ("late", "early"))
    >>> [node.id for node in tree.children(0)], tree.path(1)
    ([1], (0, 1))
    """

    nodes: tuple[ConceptNode, ...]
    layers: tuple[str, ...]

    @property
    def roots(self) -> tuple[ConceptNode, ...]:
        """Concepts of the bank."""
        return tuple(node for node in self.nodes if node.parent is None)

    @property
    def leaves(self) -> tuple[ConceptNode, ...]:
        """Concepts without parts."""
        parents = {node.parent for node in self.nodes}
        return tuple(node for node in self.nodes if node.id not in parents)

    @property
    def depth(self) -> int:
        """Levels below the concepts of the bank; 0 where nothing was split."""
        return max((node.depth for node in self.nodes), default=0)

    def children(self, node: int) -> tuple[ConceptNode, ...]:
        """Parts of a concept, by its id."""
        return tuple(other for other in self.nodes if other.parent == node)

    def path(self, node: int) -> tuple[int, ...]:
        """Ids from the concept of the bank down to ``node``."""
        parent = self.nodes[node].parent
        return (*(self.path(parent) if parent is not None else ()), node)

    def to_frame(self) -> pd.DataFrame:
        """One row per node, all but its direction and examples."""
        return pd.DataFrame([asdict(node) for node in self.nodes]).drop(
            columns=["direction", "examples"], errors="ignore"
        )

    def _repr_html_(self) -> str:
        head = f"<p>{len(self.roots)} concepts, {len(self.nodes) - len(self.roots)} parts</p>"
        shown = self.to_frame()[["id", "parent", "layer", "n_members", "n_images", "spread", "reason"]]
        return head + shown.to_html(index=False, border=0, escape=True, na_rep="", float_format=lambda v: f"{v:.3g}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"schema": SCHEMA, "layers": list(self.layers), "nodes": [asdict(node) for node in self.nodes]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ConceptTree:
        """Read what `to_dict` wrote.

        Raises
        ------
        UserError
            For a schema of a later version.
        """
        if values.get("schema", 0) > SCHEMA:
            raise UserError(f"The tree of concepts has schema {values['schema']}, this version reads {SCHEMA}: update.")
        tuples = ("direction", "examples")
        nodes = [ConceptNode(**{**node, **{key: tuple(node[key]) for key in tuples}}) for node in values["nodes"]]
        return cls(tuple(nodes), tuple(values["layers"]))
