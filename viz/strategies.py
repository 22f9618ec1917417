"""The strategic cluster graph: images placed by the concepts that decided them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptatlas.viz.arrangement import Box, Cluster, clusters_of, least_covered, places_of
from conceptatlas.viz.canvas import HIDDEN_AXIS, base_layout
from conceptatlas.viz.concepts import concept_labels
from conceptatlas.viz.overlays import crop, fitted
from conceptatlas.viz.palette import OTHER, Style, class_styles
from conceptatlas.viz.tables import numbers_of, rows_of
from conceptatlas.viz.text import figure_text, number, signed, verdict

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from PIL import Image

    from conceptatlas.audit import ClassAtlas

WRONG_EDGE = "#111111"
View = Callable[[str], "Image.Image"]
_MOST_LABELS, _TILE = 8, 52  # labelled clusters; a crop's side in pixels
_WIDTH, _HEIGHT, _LETTER, _LINE = 620, 400, 6.3, 16  # pixels: what is left for the images; a letter, a line of a label
_CLUSTER = {
    "type": "path",
    "layer": "below",
    "fillcolor": "rgba(124,127,133,0.07)",
    "line": {"color": "rgba(124,127,133,0.55)", "width": 1, "dash": "dot"},
}
_LABEL = {"showarrow": False, "yanchor": "bottom", "font": {"size": 12}}
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


def _draw_clusters(
    atlas: ClassAtlas, places: np.ndarray, labels: Mapping[int, str], view: View | None
) -> dict[str, Any]:
    """Return the layout's shapes, labels and crops of the clusters, and axis ranges that hold them all."""
    span = max(float(np.ptp(places, axis=0).max()), 1e-6) if len(places) else 1.0
    corners = [places - 0.05 * span, places + 0.05 * span] if len(places) else [np.array([(-1.0, -1.0), (1.0, 1.0)])]
    annotations, pictures = [], []
    clusters = clusters_of(atlas)
    borders = [padded_hull(places[cluster.rows], 0.03 * span) for cluster in clusters]
    taken = [_bounds(border) for border in borders]
    pixel = max(1e-6, *(np.ptp(places, axis=0) / (_WIDTH, _HEIGHT)).tolist()) if len(places) else 1e-6
    for cluster, own in zip(clusters[:_MOST_LABELS], list(taken), strict=False):
        text = figure_text(cluster.label(labels), 34)
        box = least_covered(_label_boxes(own, _LETTER * len(text) * pixel, _LINE * pixel), taken)
        annotations.append({**_LABEL, "x": round((box[0] + box[2]) / 2, 3), "y": round(box[1], 3), "text": text})
        taken.append(box)
        box = least_covered(_crop_boxes(own, _TILE * pixel, _LINE * pixel), taken)
        picture = _exemplar(atlas, cluster, view, (box[0], (box[1] + box[3]) / 2, _TILE * pixel))
        if picture is not None:
            pictures.append(picture)
            taken.append(box)
    corners += [np.array([(left, low), (right, high)]) for left, low, right, high in taken]
    everything = np.concatenate(corners)
    low, high = (everything.min(0) - 0.01 * span).round(3).tolist(), (everything.max(0) + 0.01 * span).round(3).tolist()
    return {
        "shapes": [{**_CLUSTER, "path": _path(border)} for border in borders],
        "annotations": annotations,
        "images": pictures,
        "xaxis": {**HIDDEN_AXIS, "range": [low[0], high[0]]},
        "yaxis": {**HIDDEN_AXIS, "range": [low[1], high[1]], "scaleanchor": "x"},
    }


def _bounds(border: np.ndarray) -> Box:
    (left, low), (right, high) = border.min(0).tolist(), border.max(0).tolist()
    return left, low, right, high


def _label_boxes(own: Box, width: float, height: float) -> list[Box]:
    """Return where a cluster's label may stand: above it or below it, in its middle or out to a side."""
    left, low, right, high = own
    middle = (left + right - width) / 2
    starts = [middle, right - width / 4, left - 3 * width / 4]
    return [(x, y, x + width, y + height) for x in starts for y in (high, low - height)]


def _crop_boxes(own: Box, side: float, line: float) -> list[Box]:
    """Return where a cluster's crop may stand: on its right, its left, below it, or above it and its label."""
    left, low, right, high = own
    x, y = (left + right - side) / 2, (low + high - side) / 2
    corners = [(right, y), (left - side, y), (x, low - side), (x, high + line)]
    return [(x, y, x + side, y + side) for x, y in corners]


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
