import numpy as np
import pytest
import torch
from torch import nn

from conceptatlas.extraction import split
from conceptatlas.extraction.errors import LayerError
from conceptatlas.importance.foreground import cut_foreground, foreground_masks, foreground_share


@pytest.fixture
def noisy_object():
    """A 4 x 5 object on a 12 x 12 background, both noisy, all features positive."""
    generator = np.random.default_rng(0)
    truth = np.zeros((12, 12), dtype=bool)
    truth[3:7, 4:9] = True
    sides = np.abs(generator.normal(2.0, 0.3, size=(2, 8)))
    features = np.where(truth[..., None], sides[0] + np.eye(8)[0] * 3, sides[1] + np.eye(8)[1] * 3)
    return features + 0.3 * generator.random((12, 12, 8)), truth


def test_an_object_is_cut_out_of_positive_features(noisy_object):
    features, truth = noisy_object
    np.testing.assert_array_equal(cut_foreground(features), truth)


@pytest.mark.parametrize("side", [1, 2])
def test_the_foreground_is_the_side_that_touches_the_edge_less_however_large(noisy_object, side):
    features, truth = noisy_object
    inside = np.zeros((12, 12), dtype=bool)
    inside[side:-side, side:-side] = True
    features = np.where(inside[..., None], features[5, 5], features[0, 0])
    np.testing.assert_array_equal(cut_foreground(features), inside)


def test_only_the_component_of_the_seed_is_kept(noisy_object):
    features, truth = noisy_object
    features[10, 10] = features[5, 5]
    assert not cut_foreground(features)[10, 10]


def test_the_same_features_everywhere_have_no_foreground():
    assert not cut_foreground(np.ones((6, 6, 3))).any()


def test_masks_come_in_view_pixels_through_a_model():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AvgPool2d(4), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(36, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[:, :, None, None])
        model[0].bias.zero_()
    images = torch.zeros(2, 3, 64, 48)
    images[:, 2] = 1.0
    images[:, :, 16:40, 12:28] = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    masks = foreground_masks(split(model, "1", input_size=(64, 48)), images)
    assert masks.shape == (2, 64, 48)
    truth = torch.zeros(64, 48, dtype=torch.bool)
    truth[16:40, 12:28] = True
    assert float((masks[0] & truth).sum() / (masks[0] | truth).sum()) > 0.8
    with pytest.raises(LayerError, match="4 x 4"):
        foreground_masks(split(model, "2", input_size=(64, 48)), images)


def test_the_share_of_a_map_on_the_foreground_is_its_mass_there():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :4] = True
    maps = torch.zeros(1, 3, 8, 8)
    maps[0, 0, :4] = 1.0
    maps[0, 1, 3:5] = 1.0
    share = foreground_share(maps, mask)
    assert share[0, :2].tolist() == [1.0, 0.5]
    assert torch.isnan(share[0, 2])
