import numpy as np
import pytest
import torch
from torch import nn

from conceptatlas.concepts import nnls
from conceptatlas.extraction import split
from conceptatlas.extraction.errors import LayerError, UserError
from conceptatlas.importance.implicit import aligned, gradients_of, joined
from conceptatlas.importance.maps import (
    concept_maps,
    earlier_cuts,
    map_methods,
    map_scale,
    nnls_transform,
    outline_level,
    paired_maps,
    peak,
    upsample,
)

SIZE = 32


class Roll(nn.Module):
    """Reads everything half an image away from where it lies."""

    def forward(self, x):
        return torch.roll(x, (x.shape[2] // 2, x.shape[3] // 2), (2, 3))


class Colours(nn.Module):
    """Two detectors, of red and of green, on a grid of 16, read on a displaced grid of 8; then mean and linear."""

    def __init__(self):
        super().__init__()
        self.detect = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.AvgPool2d(2))
        self.read = nn.Sequential(Roll(), nn.AvgPool2d(2))
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.detect[0].weight.copy_(torch.tensor([[1.0, -1, 0], [-1, 1, 0]])[:, :, None, None])

    def forward(self, x):
        return self.fc(self.read(self.detect(x)).mean((2, 3)))


@pytest.fixture
def colours():
    return split(Colours().eval(), "read.1", input_size=(SIZE, SIZE))


@pytest.fixture
def squares():
    """Six images with one square each: red at an even place, green at an odd one; with the squares' corners."""
    images, corners = torch.zeros(6, 3, SIZE, SIZE), []
    for i in range(6):
        row, column = (4, 20) if i % 3 else (16, 8)
        images[i, i % 2, row : row + 8, column : column + 8] = 1.0
        corners.append((row, column))
    return images, corners


W = torch.eye(2)


def on_square(place, corner):
    return all(0 <= at - low < 8 for at, low in zip(place.tolist(), corner, strict=True))


def test_the_coefficient_map_shows_where_the_layer_reads_and_the_implicit_map_where_the_thing_lies(colours, squares):
    images, corners = squares
    direct = peak(concept_maps(colours, W, images), (SIZE, SIZE))
    implicit = peak(concept_maps(colours, W, images, method="layercam@detect.2"), (SIZE, SIZE))
    for i, corner in enumerate(corners):
        assert not on_square(direct[i, i % 2], corner)
        assert on_square(implicit[i, i % 2], corner)


@pytest.mark.parametrize("method", ["gradxact@detect.2", "layercam@detect.2", "gradxact@detect.1", "gradxact@input"])
@pytest.mark.parametrize("mixing", [[[1.0, 0], [0, 1]], [[0.8, 0.6], [0.6, 0.8]]])
def test_gradient_times_activation_hands_out_exactly_the_pooled_coefficient(colours, squares, method, mixing):
    """Without biases the coefficient is homogeneous, so the parts must sum to it (Euler), correlated W or not."""
    images, _ = squares
    directions = torch.tensor(mixing)
    A = colours.encode(images).positions
    pooled = nnls(A.flatten(0, 1), directions).reshape(6, -1, 2).mean(dim=1)
    maps = concept_maps(colours, directions, images, method=method)
    torch.testing.assert_close(maps.sum(dim=(2, 3)), pooled, atol=1e-6, rtol=1e-4)


def test_the_gradient_respects_the_active_set(colours, squares):
    """With W = (red, red + green) a pure red image has no second concept: its map is zero, not the pseudo-inverse's."""
    images, _ = squares
    directions = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    maps = concept_maps(colours, directions, images, method="normgrad@detect.2")
    red = torch.arange(6) % 2 == 0
    assert float(maps[red, 1].max()) == 0.0
    assert float(maps[~red, 1].amax(dim=(1, 2)).min()) > 0.0


def test_the_gradient_agrees_with_finite_differences_of_another_solver():
    """On a network that bends: d (pooled coefficient) / d (activation two blocks earlier), through scipy's nnls."""
    import timm
    from scipy.optimize import nnls as reference

    torch.manual_seed(0)
    model, image = timm.create_model("test_resnet", num_classes=3).eval(), torch.randn(1, 3, 48, 32)
    cut = split(model, "layer3", input_size=(48, 32))
    A = cut.encode(image).positions.detach()[0]
    directions = nn.functional.normalize(A[[0, 3, 5]] + 0.1 * A.mean(0), dim=1)
    with joined(cut, image, nnls_transform(directions, "cpu"), ["gradxact@layer2"]) as (U, ends):
        gradient = gradients_of(U[..., 1].mean(dim=1).sum(), ends, keep=False)["layer2"][0].T
    kept = {}
    handle = model.layer2.register_forward_hook(lambda m, a, out: kept.update(out=out.detach().double()))
    model(image)
    handle.remove()
    model.double()

    def pooled(activations):
        rows = model.layer3(activations).detach()[0].flatten(1).T.numpy()
        return np.mean([reference(directions.double().numpy().T, row)[0][1] for row in rows])

    generator, step = np.random.default_rng(0), 1e-6
    for _ in range(6):
        place = tuple(generator.integers(0, n) for n in kept["out"].shape)
        change = torch.zeros_like(kept["out"])
        change[place] = step
        slope = (pooled(kept["out"] + change) - pooled(kept["out"] - change)) / (2 * step)
        found = gradient.reshape(kept["out"].shape)[place].item()
        assert found == pytest.approx(slope, abs=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("method", ["coefficients", "layercam@detect.2", "normgrad@detect.2", "occlusion"])
def test_maps_are_non_negative_and_an_image_without_the_concept_has_an_empty_one(colours, squares, method):
    images, _ = squares
    maps = concept_maps(colours, W, images, method=method)
    assert maps.shape[:2] == (6, 2)
    assert float(maps.min()) >= 0.0
    assert float(maps[0, 1].max()) == 0.0
    assert float(maps[0, 0].max()) > 0.0


@pytest.mark.parametrize("method", ["coefficients", "gradxact@detect.2", "occlusion"])
def test_neither_the_batch_size_nor_the_choice_of_concepts_changes_a_map(colours, squares, method):
    images, _ = squares
    everything = concept_maps(colours, W, images, method=method)
    some = concept_maps(colours, W, images, method=method, concepts=[1], batch_size=2)
    torch.testing.assert_close(some[:, 0], everything[:, 1])


def test_paired_maps_are_the_same_maps(colours, squares):
    images, _ = squares
    methods = map_methods(colours)
    concepts = torch.arange(6) % 2
    paired = paired_maps(colours, images, concepts, nnls_transform(W, "cpu"), methods=methods, batch_size=4)
    assert set(paired) == set(methods)
    for method in methods:
        whole = concept_maps(colours, W, images, method=method)
        torch.testing.assert_close(paired[method], whole[torch.arange(6), concepts])


def test_weights_and_images_come_back_as_they_were(colours, squares):
    images, _ = squares
    before = [(p.requires_grad, p.grad) for p in colours.model.parameters()]
    maps = concept_maps(colours, W, images, method="layercam@detect.2")
    assert [(p.requires_grad, p.grad) for p in colours.model.parameters()] == before
    assert not maps.requires_grad
    assert not images.requires_grad


def test_it_works_where_the_caller_has_turned_gradients_off(colours, squares):
    images, _ = squares
    with torch.no_grad():
        maps = concept_maps(colours, W, images, method="layercam@detect.2")
    assert float(maps.max()) > 0.0


def test_a_users_own_method_is_taken(colours, squares):
    images, _ = squares
    maps = concept_maps(colours, W, images, method=lambda x: x[:, :2], concepts=[1])
    torch.testing.assert_close(maps[:, 0], images[:, 1])
    with pytest.raises(ValueError, match="map function"):
        concept_maps(colours, W, images, method=lambda x: x[0])


def test_unknown_methods_and_cut_points_are_named_with_what_would_do(colours, squares):
    images, _ = squares
    with pytest.raises(UserError, match="gradcam.*layercam@"):
        concept_maps(colours, W, images, method="gradcam")
    with pytest.raises(LayerError, match=r"nowhere.*detect\.2"):
        concept_maps(colours, W, images, method="layercam@nowhere")
    with pytest.raises(LayerError, match="fc"):
        concept_maps(colours, W, images, method="layercam@fc")


def test_earlier_cuts_of_a_cnn_are_block_ends_on_distinct_grids():
    import timm

    model = split(timm.create_model("resnet10t", pretrained=False), "layer4", input_size=(128, 128))
    names = [cut.name for cut in earlier_cuts(model, limit=3)]
    grids = [cut.grid for cut in earlier_cuts(model, limit=3)]
    assert grids == [(8, 8), (16, 16), (32, 32)]
    assert names[:2] == ["layer3", "layer2"]


def test_earlier_cuts_of_a_vit_are_spread_over_its_depth():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, depth=8)
    cut = split(model, "blocks.7", input_size=(64, 64))
    depths = [c.depth for c in earlier_cuts(cut, limit=4)]
    assert depths == sorted(depths, reverse=True)
    assert len(depths) == 4
    assert max(np.diff([*depths[::-1], cut.layer.depth])) < 0.45


def test_the_first_layer_has_only_its_coefficient_map():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    assert map_methods(split(model, "0", input_size=(8, 8))) == ["coefficients"]


@pytest.mark.parametrize("grid", [(7, 7), (4, 6)])
def test_upsampling_keeps_a_cell_over_its_pixels(grid):
    size = (grid[0] * 16, grid[1] * 16)
    for row in range(grid[0]):
        for column in range(grid[1]):
            maps = torch.zeros(1, 1, *grid)
            maps[0, 0, row, column] = 1.0
            assert upsample(maps, size).shape[-2:] == size
            at = peak(maps, size)[0, 0]
            assert (at // 16).tolist() == [row, column]


def test_one_scale_per_concept_over_all_images():
    maps = torch.zeros(4, 3, 5, 5)
    maps[0, 0], maps[2, 1, 0] = 2.0, 7.0
    assert map_scale(maps).tolist() == [2.0, 7.0, 1.0]


def test_the_outline_is_the_ninetieth_percentile_of_the_probe_set():
    maps = torch.arange(1000.0).reshape(10, 1, 10, 10)
    assert float((maps > outline_level(maps)[0]).float().mean()) == pytest.approx(0.1)


def test_cells_that_read_a_whole_cell_beside_their_places_are_moved_by_one():
    maps = torch.rand(2, 3, 20, 20)
    moved = aligned(maps, (1.0, -1.0))
    assert moved.shape == maps.shape
    assert torch.allclose(moved[..., 1:, :-1], maps[..., :-1, 1:], atol=1e-5)


def test_a_map_is_drawn_finer_before_it_is_moved_by_part_of_a_cell():
    maps = torch.zeros(1, 1, 7, 7)
    maps[0, 0, 3, 3] = 1.0
    moved = aligned(maps, (-0.5, -0.5))
    assert moved.shape == (1, 1, 14, 14)
    where = torch.nonzero(moved[0, 0] == moved.max()).float().mean(0)
    assert where.tolist() == [5.5, 5.5]  # the corner where four cells of 7 x 7 meet, between cells 5 and 6 of 14 x 14


def test_a_peak_between_two_cells_stays_a_peak_when_the_map_is_moved():
    columns = torch.arange(12.0) + 0.5
    true = 6.0  # the edge between cells 5 and 6, of which neither holds the peak's height
    maps = torch.exp(-(((columns - true) / 1.0) ** 2)).expand(1, 1, 12, 12)
    moved = aligned(maps, (0.0, -0.5))[0, 0, 6]
    places = (torch.arange(24.0) + 0.5) / 2
    assert float(places[moved.argmax()]) == pytest.approx(true - 0.5, abs=0.26)
    assert float(moved.max()) > float(maps.max()) * 1.05


def test_maps_that_are_moved_get_no_values_below_their_own():
    maps = torch.zeros(2, 1, 7, 7)
    maps[0, 0, 3, 3], maps[1] = 1.0, torch.rand(1, 7, 7) + 2
    moved = aligned(maps, (-0.4, -0.4))
    assert float(moved[0].min()) == 0.0
    assert float(moved[1].min()) >= float(maps[1].min())


def test_a_map_of_cells_that_read_at_their_places_is_left_alone():
    maps = torch.rand(2, 7, 7)
    assert aligned(maps, (0.0, 0.0)) is maps
