"""Maps on views: lit where the map is, the outline encloses its top tenth, crops stay inside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conceptatlas.extraction.errors import UserError
from conceptatlas.viz.overlays import (
    crop,
    fitted,
    heat_layer,
    outline,
    outlined_crop,
    overlay,
    region,
    scaled_map,
    square_box,
)

GREY = Image.new("RGB", (80, 60), (128, 128, 128))


def bump(row: int, column: int, grid: int = 8) -> np.ndarray:
    heat = np.zeros((grid, grid), dtype=np.uint8)
    heat[row, column] = 255
    return heat


def test_overlay_keeps_pixels_where_the_map_is_and_darkens_the_others() -> None:
    changed = np.abs(np.asarray(overlay(GREY, bump(1, 1)), int) - 128).sum(-1)
    assert changed[:20, :20].min() == 0
    assert changed[35:, 40:].min() > 60


def test_an_empty_map_leaves_the_view_as_it_is() -> None:
    assert np.array_equal(np.asarray(overlay(GREY, np.zeros((4, 4)))), np.asarray(GREY))
    assert np.array_equal(np.asarray(outline(GREY, np.zeros((4, 4)))), np.asarray(GREY))


def test_bytes_and_floats_give_the_same_map() -> None:
    heat = bump(3, 4)
    assert np.allclose(scaled_map(heat, (16, 16)), scaled_map(heat / 255.0, (16, 16)), atol=1e-6)


def test_region_is_a_tenth_of_the_view() -> None:
    y, x = np.mgrid[:16, :16]
    heat = np.exp(-((x - 5) ** 2 + (y - 9) ** 2) / 60)
    assert region(heat, (80, 80)).mean() == pytest.approx(0.1, abs=0.01)


def test_a_map_with_fewer_than_a_tenth_of_positive_pixels_outlines_only_those() -> None:
    assert 0 < region(bump(4, 4, grid=16), (64, 64)).mean() < 0.05


def test_noise_around_a_narrow_peak_is_not_outlined() -> None:
    heat = np.random.default_rng(0).uniform(0, 0.08, (48, 48))
    heat[20:24, 30:34] = 1
    inside = region(heat, (96, 96))
    assert inside[36:52, 56:72].any()
    inside[36:52, 56:72] = False
    assert not inside.any()


def test_outline_is_seen_on_black_and_on_white() -> None:
    for ground in ("black", "white"):
        drawn = np.asarray(outline(Image.new("RGB", (64, 64), ground), bump(4, 4)))
        assert drawn.min() < 40
        assert drawn.max() > 220


def test_the_layer_is_transparent_where_the_map_is_and_dark_where_it_is_zero() -> None:
    layer = np.asarray(heat_layer(bump(0, 0), (64, 64)), int)
    assert layer[:6, :6, 3].min() == 0
    assert layer[40:, 40:, 3].min() > 150
    assert layer[..., :3].max() < 40


def test_the_stronger_the_map_the_less_is_darkened() -> None:
    alpha = np.asarray(heat_layer(np.tile(np.linspace(0, 1, 32), (4, 1)), (32, 4)), int)[2, 2:-2, 3]
    assert (np.diff(alpha) <= 0).all()
    assert len(set(alpha)) > 16


def test_what_a_map_marks_keeps_its_colours() -> None:
    view = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    heat = np.zeros((8, 8))
    heat[2:6, 2:6] = 1
    shown = np.asarray(overlay(view, heat))
    assert np.array_equal(shown[24:40, 24:40], np.asarray(view)[24:40, 24:40])


@settings(deadline=None, max_examples=60)
@given(st.tuples(*[st.floats(-50, 150)] * 4), st.integers(1, 120), st.integers(1, 120))
def test_crop_boxes_are_squares_inside_the_view(box: tuple[float, ...], width: int, height: int) -> None:
    left, top, right, bottom = square_box(box, (width, height))  # type: ignore[arg-type]
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert right - left == bottom - top


def test_a_crop_shows_what_is_in_the_box() -> None:
    view = Image.new("RGB", (60, 60), "black")
    view.paste((255, 0, 0), (20, 20, 40, 40))
    assert np.asarray(crop(view, (20, 20, 40, 40), size=10)).mean((0, 1)).tolist() == [255, 0, 0]


def test_the_outline_of_a_crop_lies_where_the_map_is() -> None:
    view = Image.new("RGB", (64, 64), (128, 128, 128))
    tile = np.asarray(outlined_crop(view, bump(2, 2), (0, 0, 32, 32), size=64), int)
    changed = np.abs(tile - 128).sum(-1) > 100
    ys, xs = np.nonzero(changed)
    assert 30 < ys.mean() < 50
    assert 30 < xs.mean() < 50


def test_a_crop_without_a_map_has_no_outline() -> None:
    assert np.ptp(np.asarray(outlined_crop(GREY, None, (0, 0, 30, 30), size=40))) == 0


def test_fitting_keeps_the_shape_of_what_is_shown() -> None:
    tall = fitted(Image.new("RGB", (10, 40), "white"), (40, 40))
    assert (np.asarray(tall)[20] == 255).all(-1).sum() == 10


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (0, 3)])
def test_a_map_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="two axes"):
        overlay(GREY, np.zeros(shape))
