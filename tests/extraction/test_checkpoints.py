"""Which files are read as weights, and what is said of those that are not."""

import argparse

import pytest
import safetensors.torch
import torch
from torch import nn

from conceptatlas.extraction import CheckpointError, load_weights, read_checkpoint


@pytest.fixture
def weights():
    return {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([1.0, 2.0])}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_safetensors_and_torch_files_give_the_same(weights, tmp_path):
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    safetensors.torch.save_file(weights, tmp_path / "no_ending")
    torch.save(weights, tmp_path / "a.pt")
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "no_ending", "a.pt", "old.pth"):
        assert same(read_checkpoint(tmp_path / name), weights), name


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict"])
def test_wrappers_are_opened(wrapper, weights, tmp_path):
    torch.save({wrapper: weights, "epoch": 3, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pt")
    assert same(read_checkpoint(tmp_path / "a.pt"), weights)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_prefixes_of_every_name_are_taken_off(prefix, weights, tmp_path):
    torch.save({prefix + name: value for name, value in weights.items()}, tmp_path / "a.pt")
    assert same(read_checkpoint(tmp_path / "a.pt"), weights)


def test_prefix_of_some_names_stays(weights, tmp_path):
    torch.save({"module.weight": weights["weight"], "bias": weights["bias"]}, tmp_path / "a.pt")
    assert set(read_checkpoint(tmp_path / "a.pt")) == {"module.weight", "bias"}


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"model": {"a": 1}}])
def test_file_without_weights_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not weights"):
        read_checkpoint(tmp_path / "a.pt")


def test_folder_and_missing_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a file"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_checkpoint(tmp_path / "none.pt")


def test_text_file_is_refused(tmp_path):
    (tmp_path / "a.pt").write_text("hello, this is not a checkpoint")
    with pytest.raises(CheckpointError, match="not a checkpoint|not whole"):
        read_checkpoint(tmp_path / "a.pt")


def test_torn_torch_file_is_refused(weights, tmp_path):
    torch.save(weights, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="not whole"):
        read_checkpoint(tmp_path / "a.pt")


def test_whole_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"refused.*state_dict"):
        read_checkpoint(tmp_path / "a.pt")


def test_half_precision_weights_are_cast(weights):
    model = load_weights(nn.Linear(3, 2), {name: value.half() for name, value in weights.items()})
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight, weights["weight"])


def test_misfit_names_the_first_keys_and_leaves_the_model(weights):
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    wrong = {"weight": torch.zeros(4, 3), **{f"extra{i}": torch.zeros(1) for i in range(5)}}
    expected = (
        r"'a.pt' does not fit Linear: missing bias; unexpected extra0, extra1, extra2 and 2 more; "
        r"weight is \(4, 3\) instead of \(2, 3\)\."
    )
    with pytest.raises(CheckpointError, match=expected):
        load_weights(model, wrong, "a.pt")
    assert torch.equal(model.weight, before)


def test_missing_batch_counter_is_no_misfit():
    norm = nn.BatchNorm1d(2)
    state = {name: value + 1 for name, value in norm.state_dict().items() if not name.endswith("tracked")}
    assert load_weights(norm, state).running_mean.tolist() == [1, 1]


def test_published_layout_is_translated_by_the_models_own_module():
    import timm

    torch.manual_seed(0)
    model, empty = (timm.create_model("convnext_atto", num_classes=4) for _ in range(2))
    official = {}
    for name, value in model.state_dict().items():
        name = name.replace("stages.", "stages.", 1)
        official["norm.weight" if name == "head.norm.weight" else name] = value
    official["norm.bias"] = official.pop("head.norm.bias")
    official["head.weight"], official["head.bias"] = official.pop("head.fc.weight"), official.pop("head.fc.bias")
    official["downsample_layers.0.0.weight"] = official.pop("stem.0.weight")
    official["downsample_layers.0.0.bias"] = official.pop("stem.0.bias")
    official["downsample_layers.0.1.weight"] = official.pop("stem.1.weight")
    official["downsample_layers.0.1.bias"] = official.pop("stem.1.bias")
    load_weights(empty, official)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in empty.state_dict().items())
