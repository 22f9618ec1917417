"""Where crops lie, and what is cut out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptatlas.extraction import CropSpec, UserError, cut_crops, position_boxes


@settings(deadline=None)
@given(
    view=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    size=st.one_of(st.integers(1, 400), st.floats(0.01, 1.0)),
    overlap=st.floats(0, 0.95),
)
def test_crops_cover_every_pixel_and_stay_inside(view, size, overlap):
    (rows, columns), boxes = CropSpec(size, overlap).boxes(view)
    assert len(boxes) == rows * columns
    assert boxes[:, :2].min() == 0
    assert boxes[:, 2].max() == view[1]
    assert boxes[:, 3].max() == view[0]
    assert len({(right - left, bottom - top) for left, top, right, bottom in boxes.tolist()}) == 1
    side = boxes[0, 2] - boxes[0, 0]
    for low, length in ((0, view[1]), (1, view[0])):
        starts = np.unique(boxes[:, low])
        covered = np.zeros(length, bool)
        for start in starts:
            covered[start : start + side] = True
        assert covered.all()


@settings(deadline=None)
@given(length=st.integers(64, 500), overlap=st.floats(0, 0.9))
def test_neighbours_overlap_by_at_least_the_share(length, overlap):
    _, boxes = CropSpec(64, overlap).boxes((64, length))
    steps = np.diff(boxes[:, 0])
    assert (64 - steps >= np.floor(64 * overlap) - 1).all()


def test_default_is_crafts_crop_with_the_border_covered():
    grid, boxes = CropSpec().boxes((224, 224))
    assert grid == (5, 5)
    assert boxes[0].tolist() == [0, 0, 64, 64]
    assert boxes[-1].tolist() == [160, 160, 224, 224]


def test_crops_hold_the_pixels_of_their_boxes():
    images = torch.arange(2 * 3 * 8 * 6.0).view(2, 3, 8, 6)
    _, boxes = CropSpec(4, 0.0).boxes((8, 6))
    crops = cut_crops(images, boxes, size=None)
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        assert torch.equal(crops[len(boxes) + number], images[1, :, top:bottom, left:right])


def test_crops_are_resized_as_in_craft():
    images = torch.rand(1, 3, 16, 16)
    _, boxes = CropSpec(8, 0.0).boxes((16, 16))
    crops = cut_crops(images, boxes, size=(16, 16))
    expected = torch.nn.functional.interpolate(images[:, :, :8, 8:], size=16, mode="bilinear", align_corners=False)
    assert torch.equal(crops[1:2], expected)


def test_cells_of_positions_tile_the_view():
    boxes = position_boxes((2, 3), (10, 30))
    assert boxes.tolist()[4] == [10, 5, 20, 10]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert areas.sum() == 300


@pytest.mark.parametrize("values", [{"size": 0}, {"size": 1.5}, {"overlap": 1.0}, {"overlap": -0.1}])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(UserError):
        CropSpec(**values)
