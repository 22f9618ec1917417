"""The strategic cluster graph as a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

from conceptatlas.audit.atlas import Atlas, ClassAtlas
from conceptatlas.viz import strategic_cluster_graph
from conceptatlas.viz.example import example_class
from conceptatlas.viz.palette import GREY
from conceptatlas.viz.strategies import padded_hull, top_contributions


def test_every_image_is_one_point(class_atlas: ClassAtlas) -> None:
    figure = strategic_cluster_graph(class_atlas)
    rows = [row for trace in figure.data for row in trace.customdata]
    assert sorted(rows) == list(range(class_atlas.n_images))


def drawn_places(member: ClassAtlas) -> np.ndarray:
    places = np.full((member.n_images, 2), np.nan)
    for trace in strategic_cluster_graph(member).data:
        places[list(trace.customdata)] = np.column_stack([trace.x, trace.y])
    return places


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def test_points_keep_the_distances_of_the_atlas_up_to_a_few_percent_of_the_plane(class_atlas: ClassAtlas) -> None:
    atlas_places = class_atlas.images[["x", "y"]].to_numpy()
    span = np.ptp(atlas_places, axis=0).max()
    assert np.abs(distances(drawn_places(class_atlas)) - distances(atlas_places)).max() < 0.1 * span


def test_no_point_hides_another(class_atlas: ClassAtlas) -> None:
    on_one_spot = replace(class_atlas, images=class_atlas.images.assign(x=class_atlas.images["dominant"], y=0.0))
    gaps = distances(drawn_places(on_one_spot)) + 1e9 * np.eye(on_one_spot.n_images)
    assert gaps.min() > 0.01 * np.ptp(drawn_places(on_one_spot)[:, 0])


def test_clusters_of_one_dominant_concept_are_told_apart_by_a_second() -> None:
    example = example_class()
    values = np.zeros_like(example.contributions)
    values[:, 0], values[:24, 1], values[24:, 2] = 3, 1, 1
    images = example.images.assign(dominant=0, cluster=[0] * 24 + [1] * 24)
    figure = strategic_cluster_graph(replace(example, images=images, contributions=values))
    assert {a.text for a in figure.layout.annotations} == {"stripes, wing", "stripes, meadow"}


def test_each_trace_holds_the_images_that_its_concept_dominates(class_atlas: ClassAtlas) -> None:
    dominant = class_atlas.images["dominant"].to_numpy()
    for trace in strategic_cluster_graph(class_atlas).data[:-1]:
        assert len(trace.x) >= 10
        assert len(set(dominant[list(trace.customdata)])) == 1


def test_rare_concepts_share_one_grey_trace() -> None:
    last = strategic_cluster_graph(example_class()).data[-1]
    assert last.marker.color == GREY
    assert last.name == "fewer than 10 images each"


def test_colour_is_never_the_only_difference(class_atlas: ClassAtlas) -> None:
    markers = [trace.marker for trace in strategic_cluster_graph(class_atlas).data]
    assert len({m.symbol for m in markers}) == len({m.color for m in markers}) == len(markers)


def test_wrong_predictions_have_a_heavy_ring() -> None:
    example = example_class()
    wrong = set(np.flatnonzero(~example.images["correct"].to_numpy(dtype=bool)))
    for trace in strategic_cluster_graph(example).data:
        heavy = {r for r, width in zip(trace.customdata, trace.marker.line.width, strict=True) if width == 2}
        assert heavy == wrong & set(trace.customdata)


def test_clusters_are_outlined_and_named_after_their_concept() -> None:
    figure = strategic_cluster_graph(example_class())
    assert {a.text for a in figure.layout.annotations} == {"stripes", "wing", "meadow", "red plate?"}
    assert len(figure.layout.shapes) == 4


def test_with_views_each_cluster_shows_its_crop(atlas: Atlas) -> None:
    figure = strategic_cluster_graph(atlas["class 0"], view=atlas.view)
    assert len(figure.layout.images) == len(figure.layout.annotations)
    assert all(image.source.startswith("data:image/webp;base64,") for image in figure.layout.images)


def crowded_class(atlas: Atlas) -> ClassAtlas:
    """Four clusters in a row, as near to one another as a label is long."""
    member = atlas["class 0"]
    cluster = np.arange(member.n_images) % 4
    spread = np.random.default_rng(0).uniform(0, 0.6, (member.n_images, 2))
    x, y = cluster + spread[:, 0], 0.1 * cluster + spread[:, 1]
    return replace(member, images=member.images.assign(cluster=cluster, dominant=cluster, x=x, y=y))


def test_crops_and_labels_of_crowded_clusters_do_not_hide_one_another(atlas: Atlas) -> None:
    layout = strategic_cluster_graph(crowded_class(atlas), view=atlas.view).layout
    span = np.ptp(layout.xaxis.range)
    boxes = [(i.x, i.y - i.sizey / 2, i.x + i.sizex, i.y + i.sizey / 2) for i in layout.images]
    for note in layout.annotations:
        half = 0.004 * len(note.text) * span
        boxes.append((note.x - half, note.y, note.x + half, note.y + 0.02 * span))
    assert len(boxes) == 8
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1]), (a, b)


def test_axis_ranges_hold_points_labels_and_crops(atlas: Atlas) -> None:
    layout = strategic_cluster_graph(atlas["class 0"], view=atlas.view).layout
    low, high = layout.xaxis.range
    assert all(low <= image.x and image.x + image.sizex <= high for image in layout.images)


def test_hover_lists_the_three_strongest_concepts_with_sign() -> None:
    text = strategic_cluster_graph(example_class()).data[0].text[0]
    assert text.count("<br>") == 4
    assert "+" in text


def test_names_are_shown_as_text_not_as_markup(hostile_atlas: Atlas) -> None:
    for member in hostile_atlas.values():
        figure = strategic_cluster_graph(member)
        names = [t.name for t in figure.data] + [a.text for a in figure.layout.annotations]
        assert not any("<" in name for name in names)


def test_many_images_are_drawn_with_webgl(make_atlas: Callable[..., Atlas]) -> None:
    member = make_atlas(n_classes=1, n_images=3100, n_views=4)["class 0"]
    assert {trace.type for trace in strategic_cluster_graph(member, hover=False).data} == {"scattergl"}


@pytest.mark.parametrize("n", [0, 1, 2])
def test_classes_with_hardly_any_image_still_give_a_figure(n: int) -> None:
    example = example_class()
    few = replace(
        example,
        images=example.images.head(n),
        contributions=example.contributions[:n],
        residual=example.residual[:n],
        bias=example.bias[:n],
    )
    assert isinstance(strategic_cluster_graph(few), go.Figure)


def test_figures_survive_a_round_trip_through_json(class_atlas: ClassAtlas) -> None:
    figure = strategic_cluster_graph(class_atlas)
    assert go.Figure(__import__("json").loads(figure.to_json())).to_json() == figure.to_json()


def test_top_contributions_are_ordered_by_size() -> None:
    sizes = [abs(value) for _, value in top_contributions(example_class(), 5, n=4)]
    assert sizes == sorted(sizes, reverse=True)


def test_the_padded_hull_holds_every_point_with_its_margin() -> None:
    points = np.random.default_rng(0).normal(size=(30, 2))
    border = padded_hull(points, 0.1, corners=64)
    edges = np.roll(border, -1, axis=0) - border
    offset = points[:, None] - border[None]
    cross = edges[None, :, 0] * offset[..., 1] - edges[None, :, 1] * offset[..., 0]
    distance = cross / np.linalg.norm(edges, axis=1)
    assert distance.min() > 0.098
