"""Strategies by how common they are and how often they are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptatlas.viz.arrangement import Box, least_covered
from conceptatlas.viz.canvas import QUIET, axis, base_layout
from conceptatlas.viz.concepts import concept_labels
from conceptatlas.viz.palette import OTHER, Style, class_styles
from conceptatlas.viz.tables import numbers_of, rows_of
from conceptatlas.viz.text import figure_text, percent

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from conceptatlas.audit import ClassAtlas

_NOTE = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 1.0, "showarrow": False, "font": {"color": QUIET}}


def prevalence_reliability(class_atlas: ClassAtlas) -> go.Figure:
    """Return prevalence (share of images a concept dominates) against reliability (accuracy on those images).

    Bars are 95 % intervals of the accuracy; the marker's area follows the concept's importance. Strategies whose
    images have no label are left out, and the figure says how many.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> prevalence_reliability(example_class()).layout.xaxis.tickformat
    '.0%'
    """
    import plotly.graph_objects as go

    labels, styles = concept_labels(class_atlas), class_styles(class_atlas)
    weights = np.nan_to_num(np.abs(numbers_of(class_atlas.concepts, "importance")))
    importance = dict(zip(class_atlas.concepts["concept"], weights, strict=True))
    labelled = rows_of(class_atlas.strategies, np.isfinite(numbers_of(class_atlas.strategies, "reliability")))
    widest = max((float(row["prevalence"]) for row in labelled), default=1.0)
    sides = _label_sides([row for row in labelled if int(row["concept"]) in styles], labels, widest)
    traces = [
        _strategy(
            row,
            labels,
            styles.get(int(row["concept"]), OTHER),
            float(importance.get(row["concept"], 0)),
            sides.get(int(row["concept"]), "middle right"),
        )
        for row in labelled
    ]
    hidden = len(class_atlas.strategies) - len(labelled)
    note = "no image has a label" if not labelled else f"{hidden} without labels not shown"
    layout = base_layout(height=480) | {
        "xaxis": axis("prevalence", tickformat=".0%", range=[-0.04 * widest, 1.12 * widest]),
        "yaxis": axis("reliability", tickformat=".0%", range=[-0.04, 1.06]),
        "annotations": [{**_NOTE, "text": note}] if hidden or not labelled else [],
        "showlegend": False,
        "margin": {"l": 52, "r": 12, "t": 12, "b": 56},
    }
    return go.Figure({"data": traces, "layout": layout})


def _label_sides(rows: list[dict[str, Any]], labels: Mapping[int, str], widest: float) -> dict[int, str]:
    """Return on which side of its marker each strategy's label hides the least, in a figure of 330 by 400 pixels."""
    at = {int(row["concept"]): (300 * row["prevalence"] / widest, 370 * row["reliability"]) for row in rows}
    taken: list[Box] = [(x - 8, y - 8, x + 8, y + 8) for x, y in at.values()]
    taken += [(330, -1e3, 1e3, 1e3), (-1e3, -1e3, 0, 1e3)]  # beyond the figure's edges
    sides = {}
    for concept, (x, y) in at.items():
        width = 6.5 * len(figure_text(labels.get(concept, ""), 18))
        boxes = {
            "middle right": (x + 10, y - 7, x + 10 + width, y + 7),
            "middle left": (x - 10 - width, y - 7, x - 10, y + 7),
            "bottom center": (x - width / 2, y - 26, x + width / 2, y - 12),
            "top center": (x - width / 2, y + 12, x + width / 2, y + 26),
        }
        inwards = sorted(boxes, key=lambda side: (side == "middle left") != (x > 180))  # a narrow figure cuts less
        box = least_covered([boxes[side] for side in inwards], taken)
        sides[concept] = next(side for side, found in boxes.items() if found == box)
        taken.append(box)
    return sides


def _strategy(
    row: Mapping[Any, Any], labels: Mapping[int, str], style: Style, importance: float, side: str
) -> dict[str, Any]:
    concept, prevalence, reliability = int(row["concept"]), float(row["prevalence"]), float(row["reliability"])
    name = figure_text(labels.get(concept, f"concept {concept}"), 32)
    text = f"<b>{name}</b><br>dominates {percent(prevalence)} of the images<br>accuracy {percent(reliability)}"
    return {
        "type": "scatter",
        "x": [round(prevalence, 4)],
        "y": [round(reliability, 4)],
        "mode": "markers+text" if style.coloured else "markers",
        "name": name,
        "text": [figure_text(labels.get(concept, ""), 18)],
        "textposition": side,
        "hovertext": [text],
        "customdata": [concept],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"color": style.colour, "symbol": style.symbol, "size": round(9 + 22 * min(importance, 1) ** 0.5, 1)},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [round(float(row["reliability_high"]) - reliability, 4)],
            "arrayminus": [round(reliability - float(row["reliability_low"]), 4)],
            "color": _faded(style.colour),
            "thickness": 2,
            "width": 0,
        },
    }


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.45)"
