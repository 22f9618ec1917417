import pytest
import torch
from torch import nn

from conceptatlas.extraction import split
from conceptatlas.importance.maps import peak
from conceptatlas.importance.occlusion import cover, discs, occlusion_maps, pooled_coefficients


@pytest.fixture
def brightness():
    """A model whose one concept is the amount of light."""
    model = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.constant_(model[0].weight, 1 / 3)
    return split(model, "1", input_size=(32, 32))


@pytest.mark.parametrize("fill", ["blur", "mean"])
def test_only_the_region_changes_and_nothing_of_it_is_left(fill):
    images = torch.rand(2, 3, 32, 32)
    region = torch.zeros(2, 32, 32, dtype=torch.bool)
    region[:, 8:20, 8:20] = True
    images[:, :, 8:20, 8:20] = 50.0 if fill == "blur" else 1.0
    covered = cover(images, region, fill=fill)
    torch.testing.assert_close(covered[~region[:, None].expand_as(images)], images[~region[:, None].expand_as(images)])
    assert float(covered[region[:, None].expand_as(images)].max()) < 1.0


def test_the_mean_fill_is_the_images_own_mean_colour():
    images = torch.rand(2, 3, 16, 16)
    covered = cover(images, torch.ones(2, 16, 16, dtype=torch.bool), fill="mean")
    torch.testing.assert_close(covered, images.mean(dim=(2, 3), keepdim=True).expand_as(images))


def test_the_blur_fill_takes_the_colours_of_the_nearest_surroundings():
    images = torch.zeros(1, 3, 32, 32)
    images[:, 0, :, :16], images[:, 2, :, 16:] = 1.0, 1.0
    region = torch.zeros(1, 32, 32, dtype=torch.bool)
    region[:, 12:20, 2:8] = True
    filled = cover(images, region, fill="blur")[0, :, 12:20, 2:8].mean(dim=(1, 2))
    assert float(filled[0]) > 0.9
    assert float(filled[2]) < 0.1


def test_a_fill_over_the_whole_image_is_finite():
    images = torch.rand(1, 3, 8, 8)
    assert torch.isfinite(cover(images, torch.ones(1, 8, 8, dtype=torch.bool), fill="blur")).all()


def test_an_unknown_fill_and_a_region_that_does_not_fit_are_refused():
    images = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match="noise"):
        cover(images, torch.ones(1, 8, 8, dtype=torch.bool), fill="noise")
    with pytest.raises(ValueError, match="region"):
        cover(images, torch.ones(1, 7, 8, dtype=torch.bool))


def test_the_occlusion_map_peaks_on_the_light(brightness):
    images = torch.zeros(2, 3, 32, 32)
    images[0, :, 4:12, 20:28] = 1.0
    images[1, :, 16:24, 0:8] = 1.0
    maps = occlusion_maps(brightness, images, lambda A: A, concepts=[0])
    assert maps.shape == (2, 1, 8, 8)
    at = peak(maps, (32, 32))[:, 0].tolist()
    assert 4 <= at[0][0] < 12
    assert 20 <= at[0][1] < 28
    assert 16 <= at[1][0] < 24
    assert 0 <= at[1][1] < 8


def test_pooled_coefficients_are_the_mean_over_positions_in_any_batch_size(brightness):
    images = torch.rand(5, 3, 32, 32)
    expected = images.mean(dim=(1, 2, 3))
    for batch_size in (1, 2, 8):
        pooled = pooled_coefficients(brightness, images, lambda A: A, batch_size=batch_size)
        torch.testing.assert_close(pooled[:, 0], expected)


def test_discs_lie_on_the_centres_of_their_cells_and_have_their_size():
    places = discs(60, 100, grid=5, area=0.03)
    assert places.shape == (25, 60, 100)
    row, column = (where.float().mean() + 0.5 for where in places[7].nonzero().unbind(dim=1))
    assert (float(row), float(column)) == pytest.approx((18.0, 50.0), abs=0.1)
    assert float(places[7].float().mean()) == pytest.approx(0.03, abs=0.003)
