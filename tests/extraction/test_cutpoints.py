"""Cut points: their names, what they say of the layer, and the errors for layers that are none."""

import pytest
import timm
import torch
from torch import nn

from conceptatlas.extraction.anatomy import anatomy
from conceptatlas.extraction.cutpoints import cut_points
from conceptatlas.extraction.errors import LayerError, UserError
from conceptatlas.extraction.layouts import Surroundings, is_grid, layout_of
from conceptatlas.extraction.sizes import image_shape
from conceptatlas.extraction.split import split


@pytest.fixture(scope="module")
def vit():
    return timm.create_model("test_vit").eval()


def by_name(points):
    return {point.name: point for point in points}


def test_blocks_of_a_vit_are_named_by_their_module(vit):
    points = by_name(cut_points(vit))
    assert {f"blocks.{block}" for block in range(6)} <= set(points)
    assert all(points[f"blocks.{block}"].is_block for block in range(6))
    assert not points["norm"].is_block


def test_names_are_unique_and_depth_rises(vit):
    points = cut_points(vit)
    assert len({point.name for point in points}) == len(points)
    assert [point.index for point in points] == list(range(len(points)))
    depths = [point.depth for point in points]
    assert depths == sorted(depths)
    assert 0 < depths[0] < depths[-1] <= 1


def test_stages_of_a_resnet_are_named_by_the_stage_and_found_by_the_activation():
    model = timm.create_model("test_resnet").eval()
    points = by_name(cut_points(model))
    assert points["layer4"].grid == (5, 5)
    assert points["layer4"].signed is False
    assert split(model, "layer4.0.act2").layer.name == "layer4"


def test_fault_49_prefix_tokens_come_from_the_model():
    distilled = by_name(cut_points(timm.create_model("deit_tiny_distilled_patch16_224")))["blocks.5"]
    registers = by_name(cut_points(timm.create_model("vit_wee_patch16_reg1_gap_256")))["blocks.5"]
    assert (distilled.prefix_tokens, distilled.grid, distilled.shape) == (2, (14, 14), (198, 192))
    assert (registers.prefix_tokens, registers.grid, registers.layout) == (1, (16, 16), "NLC")


def test_fault_49_channels_last_layers_have_the_right_grid():
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", depths=(1, 1), num_heads=(2, 4), embed_dim=16, img_size=56
    )
    points = by_name(cut_points(model, (56, 56)))
    assert (points["layers.1"].layout, points["layers.1"].grid, points["layers.1"].n_features) == ("NHWC", (7, 7), 32)
    features = split(model, "layers.1", input_size=(56, 56)).encode(torch.randn(2, 3, 56, 56))
    assert features.spatial.shape == (2, 7, 7, 32)


def test_fault_49_tokens_that_do_not_lie_row_by_row_have_no_grid():
    model = timm.create_model("hiera_tiny_224", stages=(1, 1, 2, 1), embed_dim=16, num_heads=1)
    points = by_name(cut_points(model))
    assert points["blocks.1"].grid is None
    assert points["blocks.4"].grid == (7, 7)


def test_fault_50_a_non_square_image_has_a_non_square_grid():
    model = timm.create_model("vit_tiny_patch16_224", img_size=(96, 160), depth=2)
    points = by_name(cut_points(model))
    assert points["blocks.1"].grid == (6, 10)
    conv = by_name(cut_points(timm.create_model("test_resnet"), (96, 160)))
    assert conv["layer4"].grid == (3, 5)


def test_fault_50_positions_are_row_by_row_on_a_non_square_grid():
    model = timm.create_model("test_resnet").eval()
    images = torch.randn(2, 3, 64, 160)
    split_model = split(model, "layer2", input_size=(64, 160))
    features = split_model.encode(images)
    stem = model.maxpool(model.act1(model.bn1(model.conv1(images))))
    expected = model.layer2(model.layer1(stem))
    assert features.grid == expected.shape[2:]
    torch.testing.assert_close(features.spatial, expected.permute(0, 2, 3, 1))


def test_fault_45_an_unknown_layer_is_answered_with_the_nearest_names(vit):
    with pytest.raises(LayerError, match=r"no layer 'block.3'.*'blocks\.3'"):
        split(vit, "block.3")


def test_fault_45_a_layer_that_fires_twice_is_refused_by_its_bare_name():
    model = torch_resnet()
    with pytest.raises(LayerError, match=r"'relu' runs 2 times.*'relu#1'"):
        split(model, "relu", input_size=(16, 16))
    assert split(model, "relu#1", input_size=(16, 16)).layer.name == "relu#1"


def test_fault_45_a_layer_that_never_fires_is_refused():
    model = torch_resnet()
    with pytest.raises(LayerError, match="'unused' does not run by itself"):
        split(model, "unused", input_size=(16, 16))


def test_fault_45_a_layer_inside_a_residual_is_refused_with_the_reason(vit):
    with pytest.raises(LayerError, match=r"cannot be cut after 'blocks.3.attn'.*'blocks\.3"):
        split(vit, "blocks.3.attn")


def test_a_layer_that_is_no_name_is_refused(vit):
    with pytest.raises(LayerError, match="layer=3"):
        split(vit, 3)


def torch_resnet():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.relu, self.unused, self.fc = nn.ReLU(), nn.ReLU(), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.relu(self.second(self.relu(self.conv(x)))).mean((2, 3)))

    return Net().eval()


def test_a_model_is_traced_once_until_it_changes(vit):
    first = anatomy(vit)
    assert anatomy(vit) is first
    assert anatomy(vit, (160, 160)) is first
    model = timm.create_model("test_resnet")
    before = anatomy(model)
    model.reset_classifier(7)
    assert anatomy(model) is not before
    assert anatomy(model).n_outputs == 7


def test_sizes_are_taken_from_the_model_or_checked():
    assert image_shape(timm.create_model("test_resnet")) == (160, 160, 3)
    assert image_shape(nn.Conv2d(1, 2, 1), 32) == (32, 32, 1)
    with pytest.raises(UserError, match="input_size=\\(3, -1\\)"):
        image_shape(nn.Conv2d(3, 2, 1), (3, -1))


@pytest.mark.parametrize(
    ("shape", "prefix", "grids", "expected"),
    [
        ((64, 56, 56), None, (), ("NCHW", (56, 56), 0)),
        ((7, 7, 768), None, (), ("NHWC", (7, 7), 0)),
        ((197, 192), 1, ((14, 14),), ("NLC", (14, 14), 1)),
        ((201, 192), 5, ((14, 14),), ("NLC", (14, 14), 5)),
        ((50, 192), None, ((7, 7),), ("NLC", (7, 7), 1)),
        ((49, 192), 1, ((14, 14),), ("NLC", (7, 7), 0)),
        ((512,), None, (), ("NC", None, 0)),
    ],
)
def test_layouts_follow_from_shapes(shape, prefix, grids, expected):
    layout = layout_of(shape, Surroundings((224, 224), prefix, grids), None)
    assert (layout.kind, layout.grid, layout.prefix_tokens) == expected


def test_attention_weights_and_windows_have_no_layout():
    around = Surroundings((224, 224), 1, ((14, 14),))
    assert layout_of((16, 196, 192), around, None) is None
    assert layout_of((4, 4, 49, 64, 2), around, None) is None


def test_a_shape_that_fits_both_ways_is_decided_by_the_operations_around_it():
    around = Surroundings((64, 64), None, ())
    assert layout_of((32, 32, 32), around, False).kind == "NCHW"
    assert layout_of((32, 32, 32), around, True).kind == "NHWC"


def test_grids_keep_the_images_proportions():
    assert is_grid(7, 10, (224, 320))
    assert not is_grid(10, 7, (224, 320))
    assert not is_grid(7, 8, (224, 224))
