"""Bars: the importance of a class's concepts, and the waterfall that adds one image's score up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from conceptatlas.extraction.errors import UserError
from conceptatlas.viz.canvas import QUIET, axis, base_layout
from conceptatlas.viz.concepts import concept_labels
from conceptatlas.viz.palette import AGAINST, FOR, GREY
from conceptatlas.viz.text import figure_text, signed

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from conceptatlas.audit import ClassAtlas


def importance_bars(class_atlas: ClassAtlas, *, most: int = 16) -> go.Figure:
    """Return the signed importance of a class's concepts with 95 % intervals, the most important on top.

    Parameters
    ----------
    class_atlas
        One class of an atlas.
    most
        Bars drawn.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> list(importance_bars(example_class()).data[0].y)[-1]
    'stripes'
    """
    import plotly.graph_objects as go

    rows = class_atlas.concepts.head(most).iloc[::-1]
    labels = concept_labels(class_atlas)
    value = rows["importance"].to_numpy(dtype=float)
    bars = {
        "type": "bar",
        "x": value.round(4).tolist(),
        "y": [_distinct(labels, int(c)) for c in rows["concept"]],
        "orientation": "h",
        "marker": {"color": [FOR if v >= 0 else AGAINST for v in value]},
        "error_x": _whiskers(rows, value),
        "hovertemplate": "%{y}: %{x:+.0%}<extra></extra>",
    }
    across = axis("signed share of what moves the score", tickformat="+.0%", zeroline=True, zerolinecolor=QUIET)
    layout = base_layout(height=80 + 26 * len(rows)) | {"xaxis": across, "yaxis": axis("", showgrid=False)}
    layout |= {"showlegend": False, "bargap": 0.35, "margin": {"l": 16, "r": 16, "t": 16, "b": 48}}
    return go.Figure({"data": [bars], "layout": layout})


def waterfall(class_atlas: ClassAtlas, row: int | str, *, most: int = 12) -> go.Figure:
    """Return how one image's score comes about: bias + contributions of the concepts + residual = logit.

    Parameters
    ----------
    class_atlas
        The class that the image was predicted as.
    row
        Its row in ``class_atlas.images``, or its ``sample_id``.
    most
        Concepts drawn one by one, those that contribute most; the others are added up.

    Raises
    ------
    UserError
        Where the class has no such image.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> figure = waterfall(example_class(), "bee/000.jpg")
    >>> figure.data[0].x[0], figure.data[0].measure[-1]
    ('bias', 'total')
    """
    import plotly.graph_objects as go

    at = image_row(class_atlas, row)
    steps = waterfall_steps(class_atlas, at, most=most)
    score = float(class_atlas.images["logit"].iloc[at])
    fall = {
        "type": "waterfall",
        "x": [name for name, _ in steps] + ["score"],
        "y": [round(value, 4) for _, value in steps] + [round(score, 4)],
        "measure": ["relative"] * len(steps) + ["total"],
        "text": [signed(value) for _, value in steps] + [signed(score)],
        "textposition": "outside",
        "increasing": {"marker": {"color": FOR}},
        "decreasing": {"marker": {"color": AGAINST}},
        "totals": {"marker": {"color": GREY}},
        "connector": {"line": {"color": QUIET, "width": 0.5}},
        "hovertemplate": "%{x}: %{text}<extra></extra>",
    }
    layout = base_layout() | {"xaxis": axis("", showgrid=False, tickangle=-35), "showlegend": False}
    layout |= {"yaxis": axis("score (logit)", zeroline=True, zerolinecolor=QUIET)}
    return go.Figure({"data": [fall], "layout": layout})


def waterfall_steps(class_atlas: ClassAtlas, row: int, *, most: int = 12) -> list[tuple[str, float]]:
    """Return the parts of an image's score as (name, value); their sum is the score.

    >>> from conceptatlas.viz.example import example_class
    >>> example = example_class()
    >>> bool(np.isclose(sum(v for _, v in waterfall_steps(example, 3)), example.images["logit"][3], atol=1e-5))
    True
    """
    labels, values = concept_labels(class_atlas), class_atlas.contributions[row].astype(float)
    order = np.argsort(-np.abs(values), kind="stable")
    steps = [("bias", float(class_atlas.bias[row]))]
    steps += [(_distinct(labels, int(c)), float(values[c])) for c in order[:most]]
    if len(order) > most:
        steps.append((f"{len(order) - most} other concepts", float(values[order[most:]].sum())))
    return [*steps, ("residual", float(class_atlas.residual[row]))]


def image_row(class_atlas: ClassAtlas, row: int | str) -> int:
    """Return an image's row by its row or its ``sample_id``.

    >>> from conceptatlas.viz.example import example_class
    >>> image_row(example_class(), "bee/007.jpg")
    7
    """
    if isinstance(row, str):
        found = np.flatnonzero(class_atlas.images["sample_id"].to_numpy() == row)
        if not len(found):
            raise UserError(f"no image {row!r} among the {class_atlas.n_images} images of class {class_atlas.name!r}")
        return int(found[0])
    if not 0 <= row < class_atlas.n_images:
        raise UserError(f"class {class_atlas.name!r} has rows 0 to {class_atlas.n_images - 1}, not {row}")
    return int(row)


def _whiskers(rows: pd.DataFrame, value: np.ndarray) -> dict[str, Any] | None:
    if not {"importance_low", "importance_high"} <= set(rows.columns):
        return None
    up = (rows["importance_high"].to_numpy(dtype=float) - value).round(4).tolist()
    down = (value - rows["importance_low"].to_numpy(dtype=float)).round(4).tolist()
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": QUIET, "width": 0}


def _distinct(labels: dict[int, str], concept: int) -> str:
    """Return a concept's label; two concepts of one label are told apart by their numbers."""
    text = figure_text(labels[concept], 28)
    twins = sum(label == labels[concept] for label in labels.values())
    return f"{text} ({concept})" if twins > 1 else text
