"""The concept graph: which concepts rise together, how common and how reliable they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptatlas.viz.canvas import HIDDEN_AXIS, QUIET, base_layout
from conceptatlas.viz.concepts import Neighbour, concept_labels
from conceptatlas.viz.palette import AGAINST, FOR, GREY
from conceptatlas.viz.text import figure_text, known, number, percent, signed

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from conceptatlas.audit import ClassAtlas

# Reliability, low to high: dark red over sand to dark blue; lightness differs at both ends and the middle.
_SCALE = ((0.0, "#8E1B3A"), (0.5, "#D9A441"), (1.0, "#1B5E8A"))


@dataclass(frozen=True)
class Edge:
    """Two concepts of a class whose contributions go together over its images.

    Attributes
    ----------
    first, second
        Their ids.
    correlation
        Correlation of their contributions, in [-1, 1].
    """

    first: int
    second: int
    correlation: float


def concept_edges(class_atlas: ClassAtlas, *, at_least: float = 0.3) -> tuple[Edge, ...]:
    """Return pairs of concepts whose contributions correlate, the strongest first.

    Parameters
    ----------
    class_atlas
        One class of an atlas.
    at_least
        Smallest size of a correlation that makes an edge.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> all(abs(edge.correlation) >= 0.5 for edge in concept_edges(example_class(), at_least=0.5))
    True
    """
    values = class_atlas.contributions.astype(float)
    if len(values) < 3:
        return ()
    moving = np.flatnonzero(values.std(0) > 1e-9)
    together = np.corrcoef(values[:, moving], rowvar=False).reshape(len(moving), len(moving))
    edges = [
        Edge(int(moving[i]), int(moving[j]), float(together[i, j]))
        for i in range(len(moving))
        for j in range(i + 1, len(moving))
        if abs(together[i, j]) >= at_least
    ]
    return tuple(sorted(edges, key=lambda edge: -abs(edge.correlation)))


def concept_graph(
    class_atlas: ClassAtlas, *, neighbours: Sequence[tuple[int, Neighbour]] = (), at_least: float = 0.3
) -> go.Figure:
    """Return the graph of a class's concepts.

    A node's size is the concept's prevalence, its colour its reliability (grey where not known). A solid line joins
    concepts whose contributions rise together, a dashed one concepts of which one rises as the other falls; its width
    is the size of the correlation. Concepts of other classes hang on by thin dotted lines.

    Parameters
    ----------
    class_atlas
        One class of an atlas.
    neighbours
        (concept id, similar concept of another class), as `Neighbours.of` gives them.
    at_least
        Smallest size of a correlation that is drawn.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> figure = concept_graph(example_class())
    >>> [figure_text(t) for t in figure.data[-1].text]
    ['stripes', 'wing', 'meadow', 'red plate?']
    """
    import plotly.graph_objects as go

    rows = class_atlas.concepts.to_dict("records")
    place = _circle([int(row["concept"]) for row in rows])
    edges = [e for e in concept_edges(class_atlas, at_least=at_least) if e.first in place and e.second in place]
    traces = [_line(place[edge.first], place[edge.second], edge.correlation) for edge in edges]
    traces += _hanging(place, neighbours)
    traces.append(_nodes(class_atlas, rows, place))
    hidden = {**HIDDEN_AXIS, "range": [-1.55, 1.55]}
    layout = base_layout(height=460) | {"xaxis": hidden, "yaxis": {**hidden, "scaleanchor": "x"}, "showlegend": False}
    layout |= {"hovermode": "closest", "margin": {"l": 8, "r": 8, "t": 8, "b": 8}}
    return go.Figure({"data": traces, "layout": layout})


def reliability_colour(rate: float) -> str:
    """Return the colour of an accuracy in [0, 1], between those of 0, one half and 1; grey where it is not known.

    >>> reliability_colour(1.0), reliability_colour(float("nan"))
    ('#1B5E8A', '#7C7F85')
    """
    if not known(rate):
        return GREY
    below, above = (_SCALE[0], _SCALE[1]) if rate <= 0.5 else (_SCALE[1], _SCALE[2])
    share = min(1.0, max(0.0, (rate - below[0]) / 0.5))
    ends = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for _, colour in (below, above)]
    return "#" + "".join(f"{round(a + share * (b - a)):02X}" for a, b in zip(*ends, strict=True))


def _circle(concepts: list[int]) -> dict[int, tuple[float, float]]:
    """Place concepts on a circle, the first at the top, clockwise: no layout that an eye could read too much into."""
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(concepts)) / max(len(concepts), 1)
    return {c: (float(np.cos(a)), float(np.sin(a))) for c, a in zip(concepts, angle, strict=True)}


def _nodes(class_atlas: ClassAtlas, rows: list[dict], place: dict[int, tuple[float, float]]) -> dict[str, Any]:
    labels, ids = concept_labels(class_atlas), [int(row["concept"]) for row in rows]
    reliability = dict(zip(class_atlas.strategies["concept"], class_atlas.strategies["reliability"], strict=True))
    rates = [float(reliability.get(concept, np.nan)) for concept in ids]
    return {
        "type": "scatter",
        "x": [round(place[concept][0], 3) for concept in ids],
        "y": [round(place[concept][1], 3) for concept in ids],
        "mode": "markers+text",
        "text": [figure_text(labels[concept], 24) for concept in ids],
        "textposition": [_beside(*place[concept]) for concept in ids],
        "customdata": ids,
        "hovertext": [_told(row, rate) for row, rate in zip(rows, rates, strict=True)],
        "hovertemplate": "%{text}<br>%{hovertext}<extra></extra>",
        "marker": {
            "size": [round(10 + 46 * float(row["prevalence"]) ** 0.5, 1) for row in rows],
            "color": [reliability_colour(rate) for rate in rates],
            "opacity": 1,
            "line": {"color": "#ffffff", "width": 1.5},
        },
    }


def _beside(x: float, y: float) -> str:
    if abs(x) > 0.5:
        return "middle right" if x > 0 else "middle left"
    return "top center" if y >= 0 else "bottom center"


def _line(a: tuple[float, float], b: tuple[float, float], correlation: float) -> dict[str, Any]:
    rising = correlation > 0
    look = {
        "color": FOR if rising else AGAINST,
        "width": round(6 * abs(correlation), 2),
        "dash": "solid" if rising else "dash",
    }
    return {
        "type": "scatter",
        "x": [round(v, 3) for v in (a[0], (a[0] + b[0]) / 2, b[0])],
        "y": [round(v, 3) for v in (a[1], (a[1] + b[1]) / 2, b[1])],
        "mode": "lines",
        "opacity": 0.7,
        "line": look,
        "hovertemplate": f"correlation {signed(correlation)}<extra></extra>",
    }


def _hanging(
    place: dict[int, tuple[float, float]], neighbours: Sequence[tuple[int, Neighbour]]
) -> list[dict[str, Any]]:
    """Return the dotted lines to concepts of other classes, fanned out where a concept has several."""
    held: dict[int, int] = {}
    traces = []
    for concept, neighbour in neighbours:
        if concept not in place:
            continue
        turn = 0.28 + 0.22 * held.get(concept, 0)
        held[concept] = held.get(concept, 0) + 1
        x, y = place[concept]
        outer = (1.3 * (x * math.cos(turn) - y * math.sin(turn)), 1.3 * (x * math.sin(turn) + y * math.cos(turn)))
        text = f"{figure_text(neighbour.label, 24)}<br>in {figure_text(neighbour.class_name, 24)}"
        traces.append(
            {
                "type": "scatter",
                "x": [round(x, 3), round(outer[0], 3)],
                "y": [round(y, 3), round(outer[1], 3)],
                "mode": "lines+markers",
                "marker": {"size": [0, 7], "color": GREY, "symbol": "circle-open"},
                "line": {"color": QUIET, "width": 1, "dash": "dot"},
                "hovertext": text,
                "hovertemplate": f"%{{hovertext}}<br>cosine {number(neighbour.cosine)}<extra></extra>",
            }
        )
    return traces


def _told(row: dict, rate: float) -> str:
    return f"prevalence {percent(row['prevalence'])}<br>reliability {percent(rate)}"
