"""The choice of the layer: structural where nothing can be measured, measured where it can."""

import os
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.probe import kept_shares
from conceptatlas.extraction.split import split

REAL = os.environ.get("CONCEPTATLAS_REAL_DATA")


class Block(nn.Module):
    """Adds the mean of the patches to the class token, and takes it from the patches, where it ``takes``."""

    def __init__(self, takes):
        super().__init__()
        self.takes = takes
        self.scale = nn.Linear(16, 16, bias=False)
        with torch.no_grad():
            self.scale.weight.copy_(torch.eye(16))

    def forward(self, x):
        token, patches = x[:, :1], x[:, 1:]
        if self.takes:
            token, patches = token + patches.mean(1, keepdim=True), patches * 0.0
        return self.scale(torch.cat([token, patches], dim=1))


class PlantedViT(nn.Module):
    """A classifier of colour whose class token takes the image over in a block that is known."""

    def __init__(self, takes_at, depth=4):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 16, 4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.blocks = nn.Sequential(*[Block(block == takes_at) for block in range(depth)])
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.head(self.blocks(x)[:, 0])


def colours(count=40):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 1, 1, generator=generator).expand(-1, -1, 16, 16) * 3


@pytest.mark.parametrize("takes_at", [1, 2, 3])
def test_the_deepest_layer_before_the_class_token_takes_over_is_found(takes_at):
    torch.manual_seed(0)
    model = PlantedViT(takes_at).eval()
    halves = split(model, input_size=(16, 16), probe=colours())
    assert halves.layer.name == f"blocks.{takes_at - 1}"
    assert halves.layer.prefix_tokens == 1
    rows = {row["layer"]: row for row in halves.choice["table"]}
    assert halves.choice["method"] == "measured"
    assert rows[f"blocks.{takes_at}"]["prefix_replaced"] < 0.5
    assert rows[f"blocks.{takes_at}"]["positions_replaced"] == 1.0
    assert rows[f"blocks.{takes_at - 1}"]["prefix_replaced"] == 1.0
    assert rows[f"blocks.{takes_at - 1}"]["positions_replaced"] < 0.5


def test_where_the_first_block_takes_over_the_choice_says_that_no_layer_qualifies():
    torch.manual_seed(0)
    halves = split(PlantedViT(0).eval(), input_size=(16, 16), probe=colours())
    assert halves.choice["reason"].startswith("the image sits in the positions alone at no layer")


def test_without_a_probe_two_thirds_of_the_blocks_lie_before_the_cut():
    halves = split(timm.create_model("test_vit"))
    assert halves.layer.name == "blocks.3"
    assert halves.choice["method"] == "structure"
    assert "no probe images" in halves.choice["reason"]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("test_resnet", "layer4"),
        ("test_convnext", "stages.3"),
        ("test_efficientnet", "bn2"),
        ("mobilenetv3_small_050", "blocks.5"),
        ("vit_wee_patch16_reg1_gap_256", "blocks.13"),
        ("test_vit3", "blocks.5"),
    ],
)
def test_a_head_that_pools_gets_the_last_spatial_layer(name, layer):
    halves = split(timm.create_model(name))
    assert halves.layer.is_spatial
    assert halves.layer.name == layer


def test_a_layer_with_a_single_position_is_not_taken():
    assert split(timm.create_model("test_resnet"), input_size=(32, 32)).layer.name != "layer4"


def test_a_probe_that_is_no_batch_is_refused():
    with pytest.raises(UserError, match="no batch of at least two"):
        split(PlantedViT(1), input_size=(16, 16), probe=torch.zeros(1, 3, 16, 16))


def test_a_single_logit_is_kept_by_its_sign():
    torch.manual_seed(0)
    model = PlantedViT(2).eval()
    model.head = nn.Linear(16, 1)
    assert split(model, input_size=(16, 16), probe=colours()).layer.name == "blocks.1"


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="CONCEPTATLAS_REAL_DATA is not set")
def test_deit_tiny_on_bees_is_cut_where_the_class_token_has_not_taken_over():
    from PIL import Image
    from safetensors.torch import load_file

    model = timm.create_model("deit_tiny_patch16_224").eval()
    weights = load_file(Path(REAL) / "deit_tiny_patch16_224.fp16.safetensors")
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    files = sorted((Path(REAL) / "hymenoptera" / "train" / "bees").iterdir())[:100]
    probe = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    halves = split(model, probe=probe)
    layers = [halves.at(f"blocks.{block}").layer for block in (7, 8, 9, 10)]
    found = {row["layer"]: row for row in kept_shares(halves, layers, probe)}
    expected = {"blocks.7": (0.98, 0.35), "blocks.9": (0.89, 0.88), "blocks.10": (0.87, 0.02)}
    for name, (prefix, positions) in expected.items():
        assert found[name]["prefix_replaced"] == pytest.approx(prefix, abs=0.03)
        assert found[name]["positions_replaced"] == pytest.approx(positions, abs=0.1)
    assert found["blocks.9"]["positions_followed"] < 0.95 < found["blocks.8"]["positions_followed"]
    assert halves.layer.name == "blocks.8"
