"""Preprocess against timm's, torchvision's and open_clip's own evaluation transforms, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from conceptatlas.extraction import CallablePreprocess, Preprocess, UserError, as_preprocess, load_model

SIZES = [(64, 48), (48, 64), (50, 50), (333, 101), (101, 334), (30, 20), (224, 224), (7, 90)]


def timm_transform(preprocess):
    return create_transform(
        input_size=(3, *preprocess.size),
        is_training=False,
        interpolation=preprocess.interpolation,
        mean=preprocess.mean,
        std=preprocess.std,
        crop_pct=preprocess.crop,
        crop_mode=preprocess.crop_mode,
    )


@pytest.mark.parametrize("source_size", SIZES)
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess((32, 32), 0.875, "bicubic"),
        Preprocess((32, 32), 0.95, "bilinear"),
        Preprocess((32, 32), 1.0, "nearest"),
        Preprocess((33, 33), 0.9, "lanczos", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        Preprocess((24, 40), 0.9, "bicubic"),
        Preprocess((40, 24), 1.0, "bilinear"),
        Preprocess((32, 32), 0.9, "bicubic", crop_mode="squash"),
        Preprocess((24, 40), 1.0, "bicubic", crop_mode="squash"),
        Preprocess((32, 32), 0.9, "bicubic", crop_mode="border"),
        Preprocess((24, 40), 1.0, "bilinear", crop_mode="border"),
    ],
    ids=lambda value: f"{value.size[0]}x{value.size[1]}-{value.crop}-{value.interpolation}-{value.crop_mode}",
)
def test_equal_to_timm_bit_for_bit(preprocess, source_size, picture):
    image = picture(*source_size)
    assert torch.equal(preprocess(image), timm_transform(preprocess)(image))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "resnet18"])
def test_for_model_equals_the_transform_timm_makes_for_the_model(name, picture):
    import timm

    model = timm.create_model(name)
    transform = create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    image = picture(333, 200)
    assert torch.equal(Preprocess.for_model(model)(image), transform(image))


def test_for_model_takes_the_size_the_model_was_built_for():
    assert Preprocess.for_model(load_model("test_vit", pretrained=False)).size == (160, 160)
    import timm

    assert Preprocess.for_model(timm.create_model("test_vit", img_size=(96, 64))).size == (96, 64)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("source_size", SIZES)
def test_for_model_equals_open_clip_bit_for_bit(resize_mode, source_size, picture):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(size=32, resize_mode=resize_mode)

    class Tower:
        preprocess_cfg = vars(config)

    class Model:
        visual = Tower()

    image = picture(*source_size)
    assert torch.equal(Preprocess.for_model(Model())(image), image_transform_v2(config, is_train=False)(image))


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "efficientnet_b1", "vit_b_16"])
def test_torchvision_preset_is_translated_bit_for_bit(name, picture):
    from torchvision.models import get_model_weights

    preset = get_model_weights(name).DEFAULT.transforms()
    preprocess = as_preprocess(preset)
    assert isinstance(preprocess, Preprocess)
    for size in [(333, 280), (200, 300)]:
        assert torch.equal(preprocess(picture(*size)), preset(picture(*size)))


def test_view_is_what_the_tensor_shows(picture):
    preprocess = Preprocess((24, 40), 0.9)
    view = preprocess.view(picture(90, 70))
    assert view.size == (40, 24)
    pixels = preprocess.tensor(view) * torch.tensor(preprocess.std)[:, None, None]
    pixels = (pixels + torch.tensor(preprocess.mean)[:, None, None]) * 255
    assert np.abs(pixels.permute(1, 2, 0).numpy() - np.asarray(view)).max() < 1e-3
    assert torch.equal(preprocess.tensor(view), preprocess(picture(90, 70)))


def test_sliver_is_resized_only_where_the_crop_is():
    stripes = np.zeros((1, 4000, 3), np.uint8)
    stripes[:, 1999:2001] = 255
    view = np.asarray(Preprocess((224, 224), 1.0, "nearest").view(Image.fromarray(stripes)))
    assert view.shape == (224, 224, 3)
    assert (view == 255).all()


def test_part_resize_agrees_with_the_whole_resize(picture, monkeypatch):
    from conceptatlas.extraction import preprocess as module

    image, preprocess = picture(400, 100), Preprocess((64, 64), 0.9)
    whole = np.asarray(preprocess.view(image)).astype(int)
    monkeypatch.setattr(module, "_WHOLE_RESIZE_PIXELS", 1)
    part = np.asarray(preprocess.view(image)).astype(int)
    assert np.abs(whole - part).max() <= 1


def test_dictionary_and_back_keep_value_and_digest():
    preprocess = Preprocess((24, 40), 0.9, "bilinear", crop_mode="border", fill=(1, 2, 3))
    copy = Preprocess.from_dict(preprocess.to_dict())
    assert copy == preprocess
    assert copy.digest == preprocess.digest
    assert Preprocess((24, 40), 0.9).digest != Preprocess((40, 24), 0.9).digest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": 0}, "crop must be"),
        ({"size": (0, 5)}, "size must be"),
        ({"interpolation": "cubic"}, "'cubic'"),
        ({"std": (1, 0, 1)}, "std without zeros"),
        ({"crop_mode": "left"}, "'left'"),
    ],
)
def test_values_out_of_range_are_named(values, message):
    with pytest.raises(UserError, match=message):
        Preprocess(**values)


def test_unknown_key_of_a_dictionary_is_named():
    with pytest.raises(UserError, match="no zoom"):
        Preprocess.from_dict({"zoom": 2})


def test_model_without_configuration_gets_the_customary_one_and_a_warning(caplog):
    assert Preprocess.for_model(torch.nn.Linear(1, 1)) == Preprocess((224, 224), 0.875, "bilinear")
    assert "does not say how" in caplog.text


def test_model_of_one_channel_is_refused():
    import timm

    with pytest.raises(UserError, match="1 channels"):
        Preprocess.for_model(
            timm.create_model("test_resnet", in_chans=1, pretrained_cfg_overlay={"input_size": (1, 64, 64)})
        )


class TestCallable:
    def test_compose_is_divided_at_the_tensor(self, picture):
        transform = timm_transform(Preprocess((32, 32), 0.9))
        wrapped = as_preprocess(transform)
        assert isinstance(wrapped, CallablePreprocess)
        image = picture(90, 70)
        assert np.array_equal(wrapped.view(image), Preprocess((32, 32), 0.9).view(image))
        assert torch.equal(wrapped.tensor(wrapped.view(image)), transform(image))
        assert torch.equal(wrapped(image), transform(image))
        assert wrapped.size == (32, 32)

    def test_opaque_function_shows_its_tensor_as_the_view(self):
        def left_half(image):
            pixels = np.asarray(image.resize((16, 8)))[:, :8].copy()
            return torch.from_numpy(pixels).permute(2, 0, 1).float()

        wrapped = as_preprocess(left_half)
        picture = Image.new("RGB", (16, 8))
        picture.paste((255, 255, 255), (4, 0, 16, 8))
        view = np.asarray(wrapped.view(picture))
        assert view.shape == (8, 8, 3)
        assert view[0, 0, 0] < 40 < 200 < view[0, 7, 0]
        with pytest.raises(UserError, match="opaque"):
            wrapped.tensor(picture)

    def test_view_of_an_opaque_function_carries_its_tensor_and_a_part_of_it_does_not(self, picture):
        wrapped = as_preprocess(lambda image: torch.from_numpy(np.array(image.resize((8, 6)))).permute(2, 0, 1) / 99.0)
        image = picture(30, 20)
        view = wrapped.view(image)
        assert torch.equal(wrapped.tensor(view), wrapped(image))
        for changed in (view.crop((0, 0, 4, 4)), view.point(lambda value: 255 - value)):
            with pytest.raises(UserError, match="opaque"):
                wrapped.tensor(changed)

    def test_random_function_is_refused(self):
        with pytest.raises(UserError, match="random"):
            as_preprocess(lambda image: torch.rand(3, 4, 4))

    def test_wrong_shape_is_refused(self):
        with pytest.raises(UserError, match=r"not \(1, 3, 4, 4\)"):
            as_preprocess(lambda image: torch.zeros(1, 3, 4, 4))

    def test_digest_tells_functions_apart_by_what_they_do(self):
        one, same, other = (as_preprocess(timm_transform(Preprocess((16, 16), crop))) for crop in (0.9, 0.9, 0.8))
        assert one.digest == same.digest != other.digest

    def test_what_is_not_callable_is_refused(self):
        with pytest.raises(UserError, match="int"):
            as_preprocess(3)
