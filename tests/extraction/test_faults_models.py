"""Models and checkpoints that misbehave: refused by name, or run rightly and left as they were."""

import json
import os
import pickle
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from conceptatlas.extraction import (
    CheckpointError,
    FolderSource,
    LayerError,
    Preprocess,
    StoreError,
    UserError,
    check_class_head,
    extract,
    load_model,
    match_labels,
    read_checkpoint,
    split,
)
from conceptatlas.extraction.manifest import line_of, read_manifest


def spoiled(halves, value, *, images=None):
    """Let a split model give `value` for some images of every batch (all where None)."""
    encode = halves.encode

    def encode_badly(batch):
        features = encode(batch)
        positions = features.positions.clone()
        positions[slice(None) if images is None else images, 3, 1] = value
        return features.replace(positions=positions)

    halves.encode = encode_badly
    return halves


@pytest.mark.parametrize(("value", "cause"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_fault_37_one_image_with_bad_values_is_skipped(value, cause, image_folder, tiny_split, small_input, tmp_path):
    root = image_folder(ants=5)
    result = extract(spoiled(tiny_split(), value, images=2), root, small_input, tmp_path / "s", batch_size=5)
    assert [(entry.sample_id, entry.cause, entry.stage) for entry in result.skipped] == [
        ("ants/2.jpg", cause, "forward")
    ]
    assert "'encoder'" in result.skipped[0].error
    good = extract(tiny_split(), root, small_input, tmp_path / "good", batch_size=5).store
    assert np.array_equal(result.store.features(range(4)).positions, good.features([0, 1, 3, 4]).positions)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fault_37_38_bad_values_in_all_images(value, image_folder, tiny_split, small_input, tmp_path):
    with pytest.raises(LayerError, match=r"'encoder'.*not finite.*float32 or bfloat16"):
        extract(spoiled(tiny_split(), value), image_folder(ants=4), small_input, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_fault_38_overflow_on_disk_names_the_layer(image_folder, tiny_split, small_input, tmp_path):
    root = image_folder(ants=3)
    with pytest.raises(LayerError, match="'encoder'.*65504.*float32"):
        extract(spoiled(tiny_split(), 1e5, images=1), root, small_input, tmp_path / "s", dtype="float16")
    assert len(extract(spoiled(tiny_split(), 1e5, images=1), root, small_input, tmp_path / "t").store) == 3


def test_fault_40_dead_layer(image_folder, tiny_split, small_input, tmp_path, monkeypatch):
    halves = tiny_split()
    encode = halves.encode
    monkeypatch.setattr(
        halves, "encode", lambda images: encode(images).replace(positions=torch.zeros(len(images), 16, 5))
    )
    with pytest.raises(LayerError, match="dead layer: 'encoder'"):
        extract(halves, image_folder(ants=3), small_input, tmp_path / "s")


class Output(dict):
    """Stands for the output object of Hugging Face's models."""

    @property
    def logits(self):
        return self["logits"]


@pytest.mark.parametrize(
    ("wrap", "output_fn"),
    [
        (lambda logits: (logits, None), None),
        (lambda logits: {"logits": logits}, None),
        (lambda logits: Output(logits=logits, loss=None), None),
        (lambda logits: {"a": logits, "b": logits}, lambda output: output["a"]),
    ],
    ids=["tuple", "dict", "object", "output_fn"],
)
def test_fault_43_output_that_is_no_tensor(
    wrap, output_fn, image_folder, tiny_split, small_input, tmp_path, monkeypatch
):
    root, halves = image_folder(ants=3), tiny_split()
    head = halves.head
    expected = extract(halves, root, small_input, tmp_path / "plain").store.logits
    monkeypatch.setattr(halves, "head", lambda features: wrap(head(features)))
    store = extract(halves, root, small_input, tmp_path / "s", output_fn=output_fn).store
    assert np.array_equal(store.logits, expected)


def test_fault_43_unknown_output_is_named(image_folder, tiny_split, small_input, tmp_path, monkeypatch):
    halves = tiny_split()
    monkeypatch.setattr(halves, "head", lambda features: "text")
    with pytest.raises(UserError, match=r"returns str: pass output_fn="):
        extract(halves, image_folder(ants=3), small_input, tmp_path / "s")


def test_fault_44_single_logit(image_folder, tiny_split, small_input, tmp_path, monkeypatch):
    root, halves = image_folder(ants=3), tiny_split(n_classes=1)
    store = extract(halves, root, small_input, tmp_path / "s").store
    assert store.logits.shape == (3, 1)
    head = halves.head
    monkeypatch.setattr(halves, "head", lambda features: head(features)[:, 0])
    assert np.array_equal(extract(halves, root, small_input, tmp_path / "t").store.logits, store.logits)


def test_fault_44_no_classes():
    import timm

    with pytest.raises(UserError, match="num_classes=0"):
        load_model("test_resnet", num_classes=0)
    with pytest.raises(UserError, match="num_classes=0"):
        check_class_head(timm.create_model("test_resnet", num_classes=0))


@pytest.fixture
def dropping_model():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    return nn.Sequential(
        nn.Conv2d(3, 4, 8, 8), norm, nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def cut(model):
    return split(model, "2", input_size=(32, 32))


def test_fault_46_train_mode_is_put_aside_and_restored(dropping_model, image_folder, small_input, tmp_path):
    root = image_folder(ants=4)
    dropping_model.train()
    dropping_model[1].eval()
    modes = [module.training for module in dropping_model.modules()]
    buffers = {name: value.clone() for name, value in dropping_model.named_buffers()}
    stores = [extract(cut(dropping_model), root, small_input, tmp_path / name).store for name in "ab"]
    assert [module.training for module in dropping_model.modules()] == modes
    assert all(torch.equal(value, buffers[name]) for name, value in dropping_model.named_buffers())
    for path in stores[0].path.iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_fault_47_hooks_and_modes_are_as_before_an_error(dropping_model, image_folder, small_input, tmp_path):
    halves = cut(dropping_model.train())

    def hooks():
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in dropping_model.modules())

    before = hooks()

    def stop(done, total):
        if done:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        extract(halves, image_folder(ants=4), small_input, tmp_path / "s", progress=stop)
    assert hooks() == before
    assert dropping_model.training


def test_fault_48_gradients_are_left_alone(dropping_model, image_folder, small_input, tmp_path):
    dropping_model[0].weight.requires_grad_(False)
    dropping_model[6].bias.grad = torch.ones(2)
    flags = [parameter.requires_grad for parameter in dropping_model.parameters()]
    versions = [parameter._version for parameter in dropping_model.parameters()]
    with torch.enable_grad():
        extract(cut(dropping_model), image_folder(ants=2), small_input, tmp_path / "s")
        assert torch.is_grad_enabled()
    assert [parameter.requires_grad for parameter in dropping_model.parameters()] == flags
    assert [parameter._version for parameter in dropping_model.parameters()] == versions
    assert dropping_model[6].bias.grad.tolist() == [1, 1]
    assert [p.grad is None for p in dropping_model.parameters()].count(False) == 1


def test_fault_50_input_of_another_size(image_folder, tmp_path):
    root = image_folder(ants=2)
    convolutional = split(load_model("test_resnet", pretrained=False), "auto", input_size=(64, 96))
    store = extract(convolutional, root, Preprocess((64, 96)), tmp_path / "s").store
    assert store.grid[1] > store.grid[0] > 0
    transformer = split(load_model("test_vit", pretrained=False), "blocks.1")
    with pytest.raises(UserError, match=r"\(64, 96\)"):
        extract(transformer, root, Preprocess((64, 96)), tmp_path / "t")


def test_fault_51_label_for_a_class_that_is_not_there():
    with pytest.raises(UserError, match="class 7"):
        match_labels(["a"], ["x", "y"], mapping={"a": 7})
    assert match_labels(["0", "7"], ["x", "y"]) == {"0": 0, "7": None}


def test_fault_52_out_of_memory_halves_the_batch(image_folder, tiny_split, small_input, tmp_path, caplog):
    root, halves = image_folder(ants=20), tiny_split()
    encode = halves.encode

    def encode_small(images):
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return encode(images)

    expected = extract(tiny_split(), root, small_input, tmp_path / "whole").store
    halves.encode = encode_small
    store = extract(halves, root, small_input, tmp_path / "s", batch_size=16).store
    assert max(halves.batches) <= 3
    assert np.allclose(store.rows()[0], expected.rows()[0], atol=1e-6)
    assert store.sample_ids == expected.sample_ids
    assert "going on with 2" in caplog.text


def test_fault_52_one_image_too_large_is_a_clear_error(image_folder, tiny_split, small_input, tmp_path, monkeypatch):
    halves = tiny_split()

    def fail(images):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(halves, "encode", fail)
    with pytest.raises(UserError, match="one image does not fit"):
        extract(halves, image_folder(ants=3), small_input, tmp_path / "s")


def test_fault_53_model_is_moved_to_the_device(image_folder, tiny_split, small_input, tmp_path):
    halves = tiny_split()
    halves.device = torch.device("meta")
    extract(halves, image_folder(ants=2), small_input, tmp_path / "s", device="cpu")
    assert halves.device == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_fault_53_device_that_is_not_there(image_folder, tiny_split, small_input, tmp_path):
    with pytest.raises(UserError, match="'cuda' cannot be used"):
        extract(tiny_split(), image_folder(ants=2), small_input, tmp_path / "s", device="cuda")


@pytest.mark.gpu
def test_fault_53_cpu_and_cuda_agree(dropping_model, image_folder, small_input, tmp_path):
    root = image_folder(ants=4)
    on_cpu = extract(cut(dropping_model), root, small_input, tmp_path / "a", device="cpu").store
    on_gpu = extract(cut(dropping_model), root, small_input, tmp_path / "b", device="cuda").store
    assert np.allclose(on_cpu.logits, on_gpu.logits, atol=1e-2)


class Bomb:
    """Pickles into a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_fault_54_pickle_bomb(plain_pickle, tmp_path):
    bomb = {"weight": torch.zeros(1, 1), "bias": Bomb(tmp_path / "exploded")}
    if plain_pickle:
        (tmp_path / "a.pth").write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="refused"):
        load_model(nn.Linear(1, 1), checkpoint=tmp_path / "a.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("damage", ["truncated", "huge header", "no header", "text"])
def test_fault_55_safetensors_that_are_not_whole(damage, tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(100)}, path)
    data = path.read_bytes()
    path.write_bytes(
        {
            "truncated": data[:-40],
            "huge header": struct.pack("<Q", 2**60) + data[8:],
            "no header": data[:5],
            "text": b"hello",
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"a\.safetensors' is not whole"):
        read_checkpoint(path)


def rewritten(folder, **changes):
    """Change the record of the first shard, with a checksum that fits."""
    lines = (folder / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    record = json.loads(lines[2])["record"]
    lines[2] = line_of({**record, **changes})
    (folder / "manifest.jsonl").write_bytes(b"".join(lines))


@pytest.mark.parametrize("file", ["../../x.safetensors", "/etc/passwd", "shard-00007.safetensors", "..", "a/b"])
def test_fault_56_manifest_that_leads_out_of_the_store(file, image_folder, tiny_split, small_input, tmp_path):
    root = image_folder(ants=2)
    extract(tiny_split(), root, small_input, tmp_path / "s")
    rewritten(tmp_path / "s", file=file)
    with pytest.raises(StoreError, match="not one of the store's own"):
        read_manifest(tmp_path / "s")
    with pytest.raises(StoreError, match="not one of the store's own"):
        extract(tiny_split(), root, small_input, tmp_path / "s")


def test_fault_56_shard_that_is_a_link_out_of_the_store(image_folder, tiny_split, small_input, tmp_path):
    store = extract(tiny_split(), FolderSource(image_folder(ants=2)), small_input, tmp_path / "s").store
    shard = store.path / "shard-00000.safetensors"
    shard.rename(tmp_path / "elsewhere.safetensors")
    shard.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(StoreError, match="is a link"):
        type(store)(store.path)
