"""How much of a concept lies on the object, by given masks and by the model's features."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from conceptatlas.audit.context import Settings
from conceptatlas.audit.examples import make_pool
from conceptatlas.audit.foreground import foreground_of
from conceptatlas.extraction import Features, Preprocess
from conceptatlas.extraction.errors import UserError

SIDE = 8


def context(masks=None, n=3, side=SIDE, offset=0.0):
    """Images whose features set a square in the middle apart; views of 32 pixels."""
    grid = torch.zeros(n, side, side, 2)
    grid[..., 0] = 1
    grid[:, side // 4 : -side // 4, side // 4 : -side // 4] = torch.tensor([0.0, 1.0])
    return SimpleNamespace(
        masks=masks,
        settings=Settings(),
        images=pd.DataFrame({"sample_id": [f"{i}.png" for i in range(n)]}),
        preprocess=Preprocess(size=32, crop=1.0),
        split=SimpleNamespace(reading_offset=lambda grid: (offset, offset)),
        features=lambda rows: Features(grid[np.asarray(rows)].flatten(1, 2), None, (side, side)),
    )


def pool(n=3):
    """Concept 0 is inside the square, concept 1 outside, concept 2 everywhere, concept 3 nowhere."""
    maps = np.zeros((n, 4, SIDE, SIDE), np.float32)
    inside = np.zeros((SIDE, SIDE), bool)
    inside[3:5, 3:5] = True
    maps[:, 0, inside] = 1
    maps[:, 1, 0] = 1
    maps[:, 2] = 1
    return make_pool(np.arange(n), [Image.new("RGB", (32, 32))] * n, maps)


def test_features_set_the_object_apart():
    found = foreground_of(context(), pool())
    assert found.source == "features"
    assert found.share[0] > 0.9
    assert found.share[1] < 0.1
    assert found.share[2] == pytest.approx(found.area, abs=0.05)
    assert np.isnan(found.share[3])


def test_the_object_is_where_the_cells_that_show_it_read_the_image():
    found = foreground_of(context(offset=4.0), pool())
    assert found.share[0] < 0.1  # concept 0 is in the middle; what the cells show there lies in the corner


def test_given_masks_come_first_and_images_without_one_are_left_out():
    top = np.zeros((32, 32), bool)
    top[:8] = True
    found = foreground_of(context({"0.png": top}), pool())
    assert found.source == "masks"
    assert found.area == pytest.approx(0.25)
    assert found.share[1] > 0.7
    assert found.share[0] < 0.1


def test_a_mask_of_the_whole_image_is_cut_as_the_image_is():
    tall = np.zeros((128, 64), bool)
    tall[32:96] = True  # the part that a centre crop keeps
    found = foreground_of(context(lambda _: tall), pool())
    assert found.area == pytest.approx(1)


def test_a_coarse_grid_tells_nothing():
    found = foreground_of(context(side=2), pool())
    assert found.source == "none"
    assert np.isnan(found.share).all()


def test_a_mask_with_channels_is_refused():
    with pytest.raises(UserError, match=r"\(32, 32, 3\)"):
        foreground_of(context(lambda _: np.ones((32, 32, 3))), pool())
