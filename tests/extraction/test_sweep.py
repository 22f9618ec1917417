"""The sweep: one model of each of timm's model modules, twenty of torchvision's and three of open_clip's image towers.

Each is cut at an early, a middle and the last spatial layer, and the two halves must give what the model gives. The
models are the smallest of their module (of those with a small image where there is a choice), with random weights.
A table of what was found is written to ``tests/reports/``, which git ignores.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from timm.models import _registry

from conceptatlas.extraction.split import split

pytestmark = pytest.mark.slow

REPORT = Path(__file__).parents[1] / "reports" / "sweep.md"
TOLERANCE = 1e-5

TIMM = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_1024_20_ks9_p14",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_maxvit",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_small_cls",
    "naflexvit": "naflexvit_base_patch16_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_distilled_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
SHRUNK = {  # giants and large images: fewer blocks, a smaller image; the module's code is the same
    "beit": {"depth": 4},
    "csatv2": {"input_size": (3, 256, 256)},
    "deepseek_vit": {"depth": 2, "input_size": (3, 224, 224)},
    "gemma4_vit": {"depth": 4, "input_size": (3, 384, 384)},
    "hieradet_sam2": {"input_size": (3, 256, 256)},
    "naflexvit": {"depth": 4},
    "qwen3_vit": {"depth": 4, "input_size": (3, 256, 256)},
    "tnt": {"depth": 4},
    "vision_transformer_sam": {"depth": 4, "global_attn_indexes": (1, 3)},
    "nasnet": {"input_size": (3, 160, 160)},
    "pnasnet": {"input_size": (3, 160, 160)},
}
WHOLE_ENCODERS = ["gemma4_vit", "crossvit"]  # control flow on values; two branches side by side to the very end
GIANTS = ["vit_giant_patch14_clip_224", "eva_giant_patch14_224", "convnext_xxlarge", "vit_7b_patch16_dinov3",
          "deepseek_vit_412m", "swinv2_cr_giant_224"]  # fmt: skip

TORCHVISION = [
    *("alexnet", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "googlenet"),
    *("inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_1"),
    *("efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t", "swin_v2_t"),
    "maxvit_t",
]


@dataclass(frozen=True)
class Row:
    """What was found of one model."""

    family: str
    model: str
    method: str
    n_cuts: int
    layers: tuple[str, ...]
    error: float
    auto: str
    affine: bool
    seconds: float


HEADER = "family | model | method | cuts | cut at | largest relative error | auto | affine head | seconds"


@pytest.fixture(scope="module", autouse=True)
def report():
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(f"| {HEADER} |\n|{' --- |' * len(HEADER.split('|'))}\n")


def note(row):
    affine = "yes" if row.affine else "no"
    cells = [row.family, row.model, row.method, row.n_cuts, ", ".join(row.layers), f"{row.error:.1e}", row.auto, affine]
    with REPORT.open("a") as file:
        file.write(f"| {' | '.join(map(str, cells))} | {row.seconds:.1f} |\n")


@torch.no_grad()
def enliven(model):
    """Give weights to what starts at (nearly) nothing, heads and layer scales: an error there would not show."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.ndim > 0 and float(parameter.abs().max()) < 1e-3:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@torch.no_grad()
def sweep(family, name, model, input_size=None):
    """Cut the model at three layers and hold the halves against the whole; note and return what was found."""
    started = time.process_time()
    halves = split(model, input_size=input_size)
    spatial = [point for point in halves.cut_points if point.is_spatial] or halves.cut_points
    layers = list({point.name: point for point in (spatial[0], spatial[len(spatial) // 2], spatial[-1])}.values())
    images = torch.randn(2, 3, *halves.input_size, generator=torch.Generator().manual_seed(1))
    expected = model(images)
    errors = []
    for point in layers:
        at = halves.at(point)
        features = at.encode(images)
        assert point.grid is None or features.positions.shape[1] == point.grid[0] * point.grid[1]
        errors.append(relative(at.head(features), expected))
    second = features.replace(
        positions=features.positions[1:], prefix=None if features.prefix is None else features.prefix[1:]
    )
    one = relative(at.head(second), expected[1:])
    assert one < 1e-4, "another batch size"
    names = tuple(point.name for point in layers)
    seconds = time.process_time() - started
    method, cuts = halves._anatomy.method, len(halves.cut_points)
    row = Row(family, name, method, cuts, names, max(errors), halves.layer.name, halves.head_is_affine, seconds)
    note(row)
    return row


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("module", sorted(_registry._module_to_models))
def test_timm_module(module):
    name = TIMM.get(module) or min(_registry._module_to_models[module])
    options = dict(SHRUNK.get(module, {}))
    input_size = options.pop("input_size", None)
    model = enliven(timm.create_model(name, **options))
    row = sweep(module, name, model, input_size)
    assert row.error < TOLERANCE
    if module not in WHOLE_ENCODERS:
        assert row.method == "traced"
        assert row.n_cuts >= 3


@pytest.mark.parametrize("name", GIANTS)
def test_giant_is_traced_without_its_weights(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    halves = split(model.eval())
    assert halves._anatomy.method == "traced"
    assert halves.layer.is_spatial


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_model(name):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = enliven(torchvision.models.get_model(name, weights=None, **options))
    assert sweep("torchvision", name, model).error < TOLERANCE


@pytest.mark.parametrize("tower", ["vit", "timm", "resnet"])
def test_open_clip_image_tower(tower):
    model, size = open_clip_tower(tower)
    assert sweep("open_clip", tower, enliven(model), size).error < TOLERANCE


def open_clip_tower(kind):
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    config = {
        "vit": CLIPVisionCfg(layers=4, width=128, head_width=32, patch_size=16, image_size=96),
        "resnet": CLIPVisionCfg(layers=[1, 1, 1, 1], width=16, image_size=96),
        "timm": CLIPVisionCfg(timm_model_name="test_vit", timm_model_pretrained=False, timm_pool="", image_size=160,
                              timm_proj="linear"),
    }[kind]  # fmt: skip
    return _build_vision_tower(embed_dim=64, vision_cfg=config), config.image_size
