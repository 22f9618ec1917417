"""The layer flow of the recursion: from a class's concepts to their parts at earlier layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptatlas.concepts import ConceptNode, ConceptTree
from conceptatlas.extraction.errors import UserError
from conceptatlas.viz.canvas import base_layout
from conceptatlas.viz.concepts import concept_labels
from conceptatlas.viz.palette import OTHER, class_styles
from conceptatlas.viz.text import figure_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from conceptatlas.audit import ClassAtlas

_LINK_ALPHA = 0.35


def layer_flow(class_atlas: ClassAtlas) -> go.Figure:
    """Return the concepts that were split and their parts, layer by layer; a band is as wide as the part has places.

    Parameters
    ----------
    class_atlas
        One class of an atlas that was made with ``recursion="auto"`` or ``"all"``.

    Raises
    ------
    UserError
        Where the class has no tree, or no concept of it was split.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from conceptatlas.viz.example import example_class
    >>> root = ConceptNode(0, None, 0, 0, "layer4", (1.0,), 0.5, 80, 20)
    >>> part = ConceptNode(1, 0, 0, 1, "layer3", (1.0,), 0.2, 9, 5)
    >>> member = example_class()
    >>> member = member.with_bank(replace(member.bank, tree=ConceptTree((root, part), ("layer4", "layer3"))))
    >>> layer_flow(member).data[0].node.label
    ('stripes', 'part 1')
    """
    import plotly.graph_objects as go

    nodes = _split_nodes(class_atlas)
    place = {node.id: i for i, node in enumerate(nodes)}
    labels, styles = concept_labels(class_atlas), class_styles(class_atlas)
    roots: dict[int, int] = {}
    for node in nodes:  # parents stand before their parts
        roots[node.id] = node.id if node.parent is None else roots[node.parent]
    colours = [styles.get(roots[node.id], OTHER).colour for node in nodes]
    parts = [node for node in nodes if node.parent is not None]
    sankey = {
        "type": "sankey",
        "arrangement": "snap",
        "node": {
            "label": [_label(node, labels, nodes) for node in nodes],
            "customdata": [f"{node.layer}: {node.n_members} places in {node.n_images} images" for node in nodes],
            "hovertemplate": "%{label}<br>%{customdata}<extra></extra>",
            "color": colours,
            "pad": 14,
            "thickness": 14,
            "line": {"width": 0},
        },
        "link": {
            "source": [place[node.parent] for node in parts if node.parent is not None],
            "target": [place[node.id] for node in parts],
            "value": [max(node.n_members, 1) for node in parts],
            "color": [_faint(colours[place[node.id]]) for node in parts],
            "hovertemplate": "%{value} places<extra></extra>",
        },
    }
    layout = base_layout(height=max(320, 26 * len(nodes))) | {"margin": {"l": 16, "r": 16, "t": 16, "b": 16}}
    return go.Figure({"data": [sankey], "layout": layout})


def _split_nodes(class_atlas: ClassAtlas) -> list[ConceptNode]:
    tree = class_atlas.bank.tree
    if not isinstance(tree, ConceptTree):
        raise UserError(f"class {class_atlas.name!r} has no tree of concepts; audit with recursion='auto'")
    held = set(class_atlas.bank.ids)
    found = [node for node in tree.nodes if tree.path(node.id)[0] in held and (node.parent is not None)]
    if not found:
        raise UserError(f"no concept of class {class_atlas.name!r} was split; recursion='all' tries every one")
    split = {tree.path(node.id)[0] for node in found}
    return [*[node for node in tree.roots if node.id in split], *found]


def _label(node: ConceptNode, labels: dict[int, str], nodes: list[ConceptNode]) -> str:
    if node.parent is None:
        return figure_text(labels[node.id], 28)
    siblings = [other.id for other in nodes if other.parent == node.parent]
    return f"part {siblings.index(node.id) + 1}"


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_LINK_ALPHA})"
