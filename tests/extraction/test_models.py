"""Building models, their identity, and the marks that running them leaves (none)."""

import pytest
import torch
from torch import nn

from conceptatlas.extraction import (
    CheckpointError,
    Preprocess,
    UserError,
    check_class_head,
    choose_device,
    load_model,
    model_id,
    weight_digest,
)
from conceptatlas.extraction.models import tensor_of


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    """Return a timm model of three classes and the path of its weights."""
    torch.manual_seed(0)
    model = load_model("test_resnet", pretrained=False, num_classes=3)
    path = tmp_path_factory.mktemp("weights") / "three.pt"
    torch.save(model.state_dict(), path)
    return model, path


def test_module_is_returned_itself_in_its_mode():
    module = nn.Linear(1, 1).train()
    assert load_model(module) is module
    assert module.training


def test_built_model_is_in_eval_mode():
    assert not load_model("test_resnet", pretrained=False).training


def test_number_of_classes_is_taken_from_the_checkpoint(three_classes):
    model, path = three_classes
    loaded = load_model("test_resnet", checkpoint=path)
    assert loaded.num_classes == 3
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(image), model(image))


def test_number_of_classes_that_contradicts_the_checkpoint_is_an_error(three_classes):
    with pytest.raises(CheckpointError, match=r"fc\.weight is \(3, \d+\) instead of \(5, \d+\)"):
        load_model("test_resnet", checkpoint=three_classes[1], num_classes=5)


def test_checkpoint_loads_into_a_given_module(tmp_path):
    module = nn.Linear(2, 1)
    torch.save({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, tmp_path / "a.pt")
    assert load_model(module, checkpoint=tmp_path / "a.pt") is module
    assert module.weight.tolist() == [[1, 1]]


def test_unknown_name_lists_near_matches():
    with pytest.raises(UserError, match=r"'resnet5o': did you mean .*'resnet50'"):
        load_model("resnet5o")


def test_unknown_tag_lists_the_known_ones():
    with pytest.raises(CheckpointError, match=r"resnet50\.nope.*it has: resnet50\."):
        load_model("resnet50.nope")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_weights_that_cannot_be_fetched_are_a_clear_error(library, monkeypatch):
    import timm
    import torchvision

    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(CheckpointError, match="could not be fetched.*checkpoint=PATH"):
        load_model(f"{library}/resnet18")


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18"])
def test_published_weights_of_another_number_of_classes_are_refused(name):
    with pytest.raises(UserError, match="1000 classes, not 7: pass checkpoint"):
        load_model(name, num_classes=7)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_published_weights_are_asked_for_by_name(name, monkeypatch):
    import torchvision

    asked = []

    def record(name, *, weights, **options):
        asked.append((weights, options))
        return nn.Identity()

    monkeypatch.setattr(torchvision.models, "get_model", record)
    load_model(f"torchvision/{name}")
    load_model(f"torchvision/{name}", pretrained=False)
    assert asked[0][0] is not None
    assert asked[0][1] == {}
    assert asked[1][0] is None


def test_zero_classes_are_refused():
    with pytest.raises(UserError, match="num_classes=0"):
        load_model("test_resnet", num_classes=0)


def test_other_types_are_refused_by_name():
    with pytest.raises(UserError, match="not int"):
        load_model(3)


def test_torchvision_name_carries_its_preprocessing():
    model = load_model("torchvision/squeezenet1_1", pretrained=False)
    assert type(model).__module__.startswith("torchvision")
    assert Preprocess.for_model(model) == Preprocess((224, 224), 0.875, "bilinear")


def test_shared_name_is_timm_unless_only_torchvision_fits(tmp_path):
    import torchvision

    assert type(load_model("resnet18", pretrained=False)).__module__.startswith("timm")
    path = tmp_path / "tv.pt"
    torch.save(torchvision.models.get_model("efficientnet_b0", weights=None, num_classes=4).state_dict(), path)
    model = load_model("efficientnet_b0", checkpoint=path)
    assert type(model).__module__.startswith("torchvision")
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


class TestDigest:
    def test_equal_for_equal_weights_only(self):
        torch.manual_seed(0)
        one, other = nn.Linear(3, 2), nn.Linear(3, 2)
        assert weight_digest(one) != weight_digest(other)
        other.load_state_dict(one.state_dict())
        assert weight_digest(one) == weight_digest(other)

    def test_buffers_count(self):
        norm = nn.BatchNorm1d(2)
        before = weight_digest(norm)
        norm.running_mean += 1
        assert weight_digest(norm) != before

    def test_half_precision_and_scalars_are_hashed(self):
        module = nn.BatchNorm1d(2).bfloat16()
        assert len(weight_digest(module)) == 64

    def test_transposed_weight_is_another(self):
        one, other = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        other.weight = nn.Parameter(one.weight.detach().t())
        assert weight_digest(one) != weight_digest(other)


def test_model_id_is_the_architecture_or_the_class():
    assert model_id(load_model("test_resnet", pretrained=False)) == "test_resnet"
    assert model_id(nn.Linear(1, 1)) == "torch.nn.modules.linear.Linear"


def test_auto_device_is_there():
    torch.ones(1, device=choose_device("auto"))


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_unusable_device_is_refused_by_name(name):
    with pytest.raises(UserError, match=name):
        choose_device(name)


def test_class_head_is_asked_for():
    import timm

    with pytest.raises(UserError, match="num_classes=0"):
        check_class_head(timm.create_model("test_resnet", num_classes=0))


def test_pair_of_callables_is_a_model():
    encoder, head = nn.Conv2d(3, 4, 1), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(load_model((encoder, head))(images), head(encoder(images)))
    with pytest.raises(UserError, match="pair of callables"):
        load_model((encoder, head, head))


class TestTensorOf:
    logits = torch.zeros(2, 5)

    @pytest.mark.parametrize(
        "output",
        [logits, (logits, torch.zeros(1)), [logits], {"logits": logits, "loss": 0}, {"out": logits}, [logits, logits]],
        ids=["tensor", "tuple", "list", "logits", "one tensor", "two"],
    )
    def test_logits_are_found(self, output):
        assert tensor_of(output) is self.logits

    def test_attribute_of_an_object_is_found(self):
        class Output:
            logits = self.logits

        assert tensor_of(Output()) is self.logits

    def test_output_fn_goes_first(self):
        assert tensor_of({"a": 1, "b": self.logits}, output_fn=lambda output: output["b"]) is self.logits

    def test_one_value_per_image_is_one_class(self):
        assert tensor_of(torch.zeros(4)).shape == (4, 1)

    @pytest.mark.parametrize("output", ["text", {"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)}, None, ()])
    def test_unknown_output_is_named_with_the_remedy(self, output):
        with pytest.raises(UserError, match=f"{type(output).__name__}.*output_fn"):
            tensor_of(output)

    def test_maps_and_empty_logits_are_refused(self):
        with pytest.raises(UserError, match="not logits"):
            tensor_of(torch.zeros(2, 3, 4, 4))
        with pytest.raises(UserError, match="not logits"):
            tensor_of(torch.zeros(2, 0))
