"""The pictures of a class page: every cell shows what it is said to show."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from conceptatlas.audit.atlas import Atlas
from conceptatlas.viz.gallery import MOST_SHOTS, Gallery, build_gallery
from conceptatlas.viz.overlays import outlined_crop


@pytest.fixture(scope="module")
def gallery(atlas: Atlas) -> Gallery:
    return build_gallery(atlas["class 0"], atlas.view)


def cell(gallery: Gallery, kind: str, index: int) -> np.ndarray:
    sheet = gallery.sheets()[kind]
    x, y = sheet.position(index)
    image = Image.open(io.BytesIO(sheet.data)).convert("RGBA" if kind == "heats" else "RGB")
    width, height = sheet.cell
    return np.asarray(image.crop((x * width, y * height, (x + 1) * width, (y + 1) * height)), int)


def test_each_concept_has_its_examples_best_first(gallery: Gallery, atlas: Atlas) -> None:
    examples = atlas["class 0"].examples
    for concept, shots in gallery.shots.items():
        wanted = examples[examples["concept"] == concept].sort_values("rank")["sample_id"].tolist()
        assert [shot.sample_id for shot in shots] == wanted[:MOST_SHOTS]


def test_a_crop_is_the_outlined_box_of_its_view(gallery: Gallery, atlas: Atlas) -> None:
    member = atlas["class 0"]
    placed = member.concepts.loc[member.concepts["place_known"], "concept"].iloc[0]
    row = member.examples[member.examples["concept"] == placed].iloc[0]
    box = (row["left"], row["top"], row["right"], row["bottom"])
    drawn = cell(gallery, "crops", gallery.shots[placed][0].crop or 0)
    wanted = np.asarray(outlined_crop(atlas.view(row["view"]), member.maps[row["map_row"]], box, size=len(drawn)), int)
    assert np.abs(drawn - wanted).mean() < 8


def test_the_view_of_an_image_is_its_own(gallery: Gallery, atlas: Atlas) -> None:
    member = atlas["class 0"]
    for row in (0, 7, 19):
        shown = cell(gallery, "views", gallery.view_of[row])
        wanted = np.asarray(atlas.view(member.images["view"][row]).resize(shown.shape[1::-1]), int)
        assert np.abs(shown - wanted).mean() < 8


def test_maps_are_drawn_only_where_the_place_is_known(gallery: Gallery, atlas: Atlas) -> None:
    table = atlas["class 0"].concepts
    known = {int(c) for c, k in zip(table["concept"], table["place_known"], strict=True) if k}
    assert {c for c, shots in gallery.shots.items() if any(s.heat is not None for s in shots)} == known
    assert 0 < len(known) < len(table)


def test_the_heat_of_a_shot_lies_in_its_crop_box(gallery: Gallery, atlas: Atlas) -> None:
    member = atlas["class 0"]
    for row in member.examples.to_dict("records"):
        shot = gallery.shots[row["concept"]][row["rank"]]
        if shot.heat is None:
            continue
        alpha = cell(gallery, "heats", shot.heat)[..., 3]
        y, x = np.argwhere(alpha <= alpha.min() + 8).mean(0)
        scale = 96 / alpha.shape[0]
        assert row["left"] <= (x + 0.5) * scale <= row["right"]
        assert row["top"] <= (y + 0.5) * scale <= row["bottom"]


def test_images_without_a_view_have_no_cell(gallery: Gallery, atlas: Atlas) -> None:
    held = atlas["class 0"].images["view"].notna().to_numpy()
    assert set(gallery.view_of) == set(np.flatnonzero(held))


def test_without_views_there_are_no_sheets(atlas: Atlas) -> None:
    member = atlas["class 0"]
    gone = {"examples": member.examples.iloc[:0], "parts": member.parts.assign(view=None)}
    bare = replace(member, images=member.images.assign(view=None), **gone)
    assert build_gallery(bare, atlas.view).sheets() == {}


def test_wide_views_keep_their_shape(make_atlas: Callable[..., Atlas]) -> None:
    atlas = make_atlas(n_classes=1, n_concepts=2, n_images=12, n_views=12)
    wide = build_gallery(atlas["class 0"], lambda path: atlas.view(path).resize((192, 96)))
    assert wide.views is not None
    assert wide.views.cell[0] == 2 * wide.views.cell[1]


def test_maps_of_images_that_are_no_examples_are_packed_too(gallery: Gallery, atlas: Atlas) -> None:
    member = atlas["class 0"]
    places = set(member.concepts.loc[member.concepts["place_known"], "concept"])
    wanted = {(int(r), int(c)) for r, c in member.image_maps[["row", "concept"]].to_numpy() if c in places}
    assert wanted <= set(gallery.heat_of)
    assert gallery.heats is not None
    assert max(gallery.heat_of.values()) == gallery.heats.count - 1


def test_each_part_has_its_crops_and_no_map_is_drawn_on_them(gallery: Gallery, atlas: Atlas) -> None:
    parts = atlas["class 0"].parts
    assert {node: len(cells) for node, cells in gallery.parts_of.items()} == parts.groupby("node").size().to_dict()
    first = parts.iloc[0]
    box = (first["left"], first["top"], first["right"], first["bottom"])
    drawn = cell(gallery, "parts", gallery.parts_of[first["node"]][0])
    wanted = np.asarray(outlined_crop(atlas.view(first["view"]), None, box, size=len(drawn)), int)
    assert np.abs(drawn - wanted).mean() < 8
