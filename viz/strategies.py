"""Strategies as figures: images placed by the concepts that decided them, and how often each strategy is right."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptatlas.viz.arrangement import Cluster, clusters_of, places_of
from conceptatlas.viz.canvas import HIDDEN_AXIS, QUIET, axis, base_layout
from conceptatlas.viz.concepts import concept_labels
from conceptatlas.viz.overlays import crop, fitted
from conceptatlas.viz.palette import OTHER, Style, class_styles
from conceptatlas.viz.tables import numbers_of, rows_of
from conceptatlas.viz.text import figure_text, number, percent, signed, verdict

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from PIL import Image

    from conceptatlas.audit import ClassAtlas

WRONG_EDGE = "#111111"
View = Callable[[str], "Image.Image"]
_MOST_LABELS, _EXEMPLAR, _TILE = 8, 0.085, 44  # labelled clusters; a crop's side, of the graph's and in pixels
_CLUSTER = {
    "type": "path",
    "layer": "below",
    "fillcolor": "rgba(124,127,133,0.07)",
    "line": {"color": "rgba(124,127,133,0.55)", "width": 1, "dash": "dot"},
}
_LABEL = {"showarrow": False, "yanchor": "bottom", "font": {"size": 12}}
_NOTE = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 1.0, "showarrow": False, "font": {"color": QUIET}}
_PICTURE = {"xref": "x", "yref": "y", "xanchor": "left", "yanchor": "middle", "layer": "below"}
_SVG_LIMIT = 3000  # above this many points WebGL draws more smoothly than SVG; below, SVG prints and zooms sharply


def strategic_cluster_graph(class_atlas: ClassAtlas, *, view: View | None = None, hover: bool = True) -> go.Figure:
    """Return the strategic cluster graph of a class: one point per image, near those decided for the same concepts.

    Colour and symbol say which concept dominates the image; concepts that dominate fewer than ten images are grey.
    Clusters are outlined and carry the name of the concept that dominates most of their images and, where several
    clusters share it, of the concept that sets each apart. Each point's ``customdata`` is its row in
    ``class_atlas.images``. The atlas's plane is turned so that its longer side lies across, and points that would hide
    one another are moved apart.

    Parameters
    ----------
    class_atlas
        One class of an atlas.
    view
        Opens a stored view (``atlas.view``); with it every cluster shows its concept's best crop.
    hover
        Attach the image's name, probability and three strongest concepts to each point.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> [trace.name for trace in strategic_cluster_graph(example_class()).data]
    ['stripes', 'wing', 'fewer than 10 images each']
    """
    import plotly.graph_objects as go

    images, labels, styles = class_atlas.images, concept_labels(class_atlas), class_styles(class_atlas)
    texts = _hover_texts(class_atlas, labels) if hover else None
    dominant, places = images["dominant"].to_numpy(dtype=int), places_of(class_atlas)
    traces = []
    for concept, style in [*styles.items(), (-1, OTHER)]:
        rows = np.flatnonzero(dominant == concept if concept >= 0 else ~np.isin(dominant, list(styles)))
        if len(rows):
            name = labels.get(concept, f"concept {concept}") if concept >= 0 else "fewer than 10 images each"
            traces.append(_points(class_atlas, places, rows, style, name, texts))
    layout = {**base_layout(height=480), **_draw_clusters(class_atlas, places, labels, view), "hovermode": "closest"}
    margin = {"l": 8, "r": 8, "t": 8, "b": 8}
    return go.Figure({"data": traces, "layout": {**layout, "margin": margin, "dragmode": "pan"}})


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
    importance = dict(zip(class_atlas.concepts["concept"], class_atlas.concepts["importance"].abs(), strict=True))
    labelled = rows_of(class_atlas.strategies, np.isfinite(numbers_of(class_atlas.strategies, "reliability")))
    widest = max((float(row["prevalence"]) for row in labelled), default=1.0)
    traces = [
        _strategy(row, labels, styles.get(int(row["concept"]), OTHER), float(importance.get(row["concept"], 0)), widest)
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


def top_contributions(class_atlas: ClassAtlas, row: int, n: int = 3) -> list[tuple[int, float]]:
    """Return the `n` concepts that moved an image's logit most, with their signed contributions.

    >>> from conceptatlas.viz.example import example_class
    >>> [concept for concept, _ in top_contributions(example_class(), 0, n=2)]
    [0, 1]
    """
    values = class_atlas.contributions[row]
    order = np.argsort(-np.abs(values), kind="stable")[:n]
    return [(int(i), float(values[i])) for i in order]


def _points(
    atlas: ClassAtlas, places: np.ndarray, rows: np.ndarray, style: Style, name: str, texts: list[str] | None
) -> dict[str, Any]:
    wrong = [verdict(value) is False for value in atlas.images["correct"].astype(object).to_numpy()[rows]]
    told = (
        {"text": [texts[r] for r in rows], "hovertemplate": "%{text}<extra></extra>"}
        if texts
        else {"hoverinfo": "none"}
    )
    return {
        "type": "scatter" if len(atlas.images) <= _SVG_LIMIT else "scattergl",
        "x": _rounded(places[rows, 0]),
        "y": _rounded(places[rows, 1]),
        "mode": "markers",
        "name": figure_text(name, 32),
        "customdata": [int(r) for r in rows],
        **told,
        "marker": {
            "color": style.colour,
            "symbol": style.symbol,
            "size": 9 if style.coloured else 7,
            "opacity": 0.9,
            "line": {"width": [2 if w else 1 for w in wrong], "color": [_edge(w, style) for w in wrong]},
        },
    }


def _edge(wrong: bool, style: Style) -> str:
    if wrong:
        return WRONG_EDGE
    return "rgba(255,255,255,0.7)" if style.coloured else style.colour


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(v), 3) for v in values]


def _hover_texts(atlas: ClassAtlas, labels: Mapping[int, str]) -> list[str]:
    texts = []
    for i, (sample, probability) in enumerate(zip(atlas.images["sample_id"], atlas.images["probability"], strict=True)):
        parts = [f"{signed(value)}  {figure_text(labels[c], 30)}" for c, value in top_contributions(atlas, i)]
        texts.append("<br>".join([f"<b>{figure_text(sample, 48)}</b>", f"probability {number(probability)}", *parts]))
    return texts


def _strategy(
    row: Mapping[Any, Any], labels: Mapping[int, str], style: Style, importance: float, widest: float
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
        "textposition": "middle right" if prevalence < 0.6 * widest else "middle left",
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


def _draw_clusters(
    atlas: ClassAtlas, places: np.ndarray, labels: Mapping[int, str], view: View | None
) -> dict[str, Any]:
    """Return the layout's shapes, labels and crops of the clusters, and axis ranges that hold them all."""
    span = max(float(np.ptp(places, axis=0).max()), 1e-6) if len(places) else 1.0
    corners = [places - 0.05 * span, places + 0.05 * span] if len(places) else [np.array([(-1.0, -1.0), (1.0, 1.0)])]
    shapes, annotations, pictures = [], [], []
    for rank, cluster in enumerate(clusters_of(atlas)):
        border = padded_hull(places[cluster.rows], 0.03 * span)
        shapes.append({**_CLUSTER, "path": _path(border)})
        corners.append(border)
        if rank >= _MOST_LABELS:
            continue
        text, x, y = figure_text(cluster.label(labels), 34), float(border[:, 0].mean()), float(border[:, 1].max())
        annotations.append({**_LABEL, "x": round(x, 3), "y": round(y, 3), "text": text})
        corners.append(np.array([(x - 0.005 * len(text) * span, y), (x + 0.005 * len(text) * span, y + 0.05 * span)]))
        place = (float(border[:, 0].max()), float(border[:, 1].mean()), _EXEMPLAR * span)
        picture = _exemplar(atlas, cluster, view, place)
        if picture is not None:
            pictures.append(picture)
            (x, y, side) = place
            corners.append(np.array([(x, y - side / 2), (x + 1.1 * side, y + side / 2)]))
    everything = np.concatenate(corners)
    low, high = everything.min(0).round(3).tolist(), everything.max(0).round(3).tolist()
    return {
        "shapes": shapes,
        "annotations": annotations,
        "images": pictures,
        "xaxis": {**HIDDEN_AXIS, "range": [low[0], high[0]]},
        "yaxis": {**HIDDEN_AXIS, "range": [low[1], high[1]], "scaleanchor": "x"},
    }


def _exemplar(
    atlas: ClassAtlas, cluster: Cluster, view: View | None, place: tuple[float, float, float]
) -> dict[str, Any] | None:
    """Return the layout's image of a cluster at (x, y, side): the best crop of its concept from one of its images.

    Where none of its images is among the concept's examples, an image of the cluster is shown whole.
    """
    if view is None:
        return None
    try:
        tile = _crop_of(atlas, cluster, view)
    except (OSError, ValueError):
        return None
    if tile is None:
        return None
    x, y, side = (round(value, 3) for value in place)
    return {**_PICTURE, "source": _data_uri(tile), "x": x, "y": y, "sizex": side, "sizey": side}


def _crop_of(atlas: ClassAtlas, cluster: Cluster, view: View) -> Image.Image | None:
    members = atlas.images.iloc[cluster.rows]
    samples = set(members["sample_id"])
    for row in rows_of(atlas.examples, numbers_of(atlas.examples, "concept") == cluster.concept):
        if row["sample_id"] in samples:
            return crop(view(str(row["view"])), (row["left"], row["top"], row["right"], row["bottom"]), size=_TILE)
    held = [path for path in members["view"] if isinstance(path, str)]
    return fitted(view(held[0]), (_TILE, _TILE)) if held else None


def _data_uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=70, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def padded_hull(points: np.ndarray, margin: float, corners: int = 12) -> np.ndarray:
    """Return the convex hull (m, 2), anticlockwise, of discs of radius `margin` around `points` (n, 2).

    >>> padded_hull(np.zeros((1, 2)), 1.0, corners=4).round(6).tolist()
    [[-1.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    angle = np.arange(corners) / corners * 2 * np.pi
    disc = margin * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    cloud = np.unique((points[:, None] + disc[None]).reshape(-1, 2).round(9), axis=0) + 0.0
    lower, upper = _chain(cloud), _chain(cloud[::-1])
    return np.array(lower[:-1] + upper[:-1])


def _chain(points: np.ndarray) -> list[np.ndarray]:
    chain: list[np.ndarray] = []
    for p in points:
        while len(chain) > 1 and _turn(chain[-2], chain[-1], p) <= 0:
            chain.pop()
        chain.append(p)
    return chain


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _path(border: np.ndarray) -> str:
    return "M " + " L ".join(f"{x:.3f} {y:.3f}" for x, y in border) + " Z"
