"""The same audit computed here, by the jobs of an array, and by Ray: the same store, the same tables."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from conceptatlas.audit import Atlas, Settings, audit, audit_shard
from conceptatlas.extraction import merge
from conceptatlas.extraction.errors import UserError

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "n_concepts": 3,
    "min_images": 4,
    "progress": False,
    "settings": Settings(max_probe=4, n_examples=3, sobol_images=2, umap=False),
    "max_error_rate": 0.2,
    "class_names": ["left", "right", "other"],
}


def network():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    model.pretrained_cfg.update(input_size=(3, 32, 32), crop_pct=1.0)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for label in ("left", "right"):
        (root / label).mkdir()
        for i in range(70):
            pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            pixels[:, :16] += np.uint8(120) if label == "left" else np.uint8(0)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    (root / "left" / "broken.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    return audit(network(), folder, out=out, **OPTIONS)


def bytes_below(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def assert_same(one, other):
    """Every file of two runs has the same bytes."""
    first, second = bytes_below(Path(one)), bytes_below(Path(other))
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_jobs_of_an_array_leave_the_bytes_of_one_run(whole, folder, tmp_path):
    out = tmp_path / "run"
    rounds = [[audit_shard(network(), folder, out=out, shard=(i, 3), **OPTIONS) for i in (1, 0, 2)]]
    merge(out / "activations")
    rounds.append([audit_shard(network(), folder, out=out, shard=(i, 3), **OPTIONS) for i in (1, 0, 2)])
    assert rounds == [["activations"] * 3, ["classes"] * 3]
    written = {path: path.stat().st_mtime_ns for path in (out / "concepts").rglob("*")}
    audit(network(), folder, out=out, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in (out / "concepts").rglob("*")} == written
    assert_same(whole.path, out)


def test_the_second_round_may_be_left_out(whole, folder, tmp_path):
    for i in range(2):
        audit_shard(network(), folder, out=tmp_path / "run", shard=(i, 2), **OPTIONS)
    merge(tmp_path / "run" / "activations")
    audit(network(), folder, out=tmp_path / "run", **OPTIONS)
    assert_same(whole.path, tmp_path / "run")


def test_crops_are_computed_in_parts_too(folder, tmp_path):
    for i in range(2):
        audit_shard(network(), folder, out=tmp_path / "run", shard=(i, 2), unit="crop", **OPTIONS)
    merge(tmp_path / "run" / "activations")
    merge(tmp_path / "run" / "crops")
    whole = audit(network(), folder, out=tmp_path / "whole", unit="crop", **OPTIONS)
    audit(network(), folder, out=tmp_path / "run", unit="crop", **OPTIONS)
    assert_same(whole.path, tmp_path / "run")


def test_parts_of_an_audit_must_be_merged_first(folder, tmp_path):
    audit_shard(network(), folder, out=tmp_path / "run", shard=(0, 2), **OPTIONS)
    with pytest.raises(UserError, match="conceptatlas merge"):
        audit(network(), folder, out=tmp_path / "run", **OPTIONS)
    with pytest.raises(UserError, match="not finished"):
        Atlas.load(tmp_path / "run")


def test_an_option_that_audit_does_not_have_is_named(folder, tmp_path):
    with pytest.raises(UserError, match="n_concept'"):
        audit_shard(network(), folder, out=tmp_path / "run", shard=(0, 2), n_concept=3)


def test_a_run_at_an_address_is_written_there_and_read_from_there(whole, folder, tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("CONCEPTATLAS_MIRRORS", str(tmp_path / "here"))
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/audited/images", recursive=True)
    done = audit(network(), "memory://audited/images", out="memory://audited/run", **OPTIONS)
    assert "/audited/run/run.json" in memory.find("/audited/run")
    monkeypatch.setenv("CONCEPTATLAS_MIRRORS", str(tmp_path / "elsewhere"))
    read = Atlas.load("memory://audited/run")
    assert not (read.path / "activations").exists()
    for name in whole:
        np.testing.assert_array_equal(whole[name].bank.directions, read[name].bank.directions)
    whole.save("memory://audited/copy")
    assert list(Atlas.load("memory://audited/copy")) == list(done)
    with pytest.raises(UserError, match="all machines see"):
        audit(network(), folder, out="memory://audited/other", engine="ray", **OPTIONS)
    memory.rm("/audited", recursive=True)


ON_RAY = """
import sys, timm, torch
torch.set_num_threads(1)
from conceptatlas.audit import Settings, audit
from conceptatlas.extraction import RayEngine
torch.manual_seed(0)
model = timm.create_model("test_resnet", num_classes=3)
model.pretrained_cfg.update(input_size=(3, 32, 32), crop_pct=1.0)
options = eval(sys.argv[3])
for name, engine in (("local", "local"), ("ray", RayEngine(2, 1, init={"object_store_memory": 80_000_000}))):
    audit(model.eval(), sys.argv[1], out=f"{sys.argv[2]}/{name}", engine=engine, **options)
"""  # fmt: skip


@pytest.mark.slow
def test_fault_63_an_audit_on_ray_leaves_the_bytes_of_a_local_one(folder, tmp_path):
    pytest.importorskip("ray")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    env |= {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    command = [sys.executable, "-c", ON_RAY, str(folder), str(tmp_path), repr(OPTIONS)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "local", tmp_path / "ray")
