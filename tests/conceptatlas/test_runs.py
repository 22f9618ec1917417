"""The command line over runs that are shared among jobs, or stopped on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from conceptatlas.cli import main
from conceptatlas.extraction import ActivationStore

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def command(tmp_path):
    """Return the arguments of an audit of a hundred and forty pictures with an untrained model."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (140, 16, 16, 3), dtype=np.uint8)):
        Image.fromarray(pixels).resize((160, 160)).save(tmp_path / "images" / f"{i:03d}.png")
    weights = ["--model", "test_resnet", "--checkpoint", str(tmp_path / "weights.safetensors")]
    return ["audit", *weights, "--images", str(tmp_path / "images"), "--out", str(tmp_path / "run"), "-q"]


def leave_with(arguments):
    """Return the exit code of the command line."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


def test_jobs_of_an_array_share_the_activations_and_are_merged(command, tmp_path, capsys):
    assert leave_with(["merge", str(tmp_path / "run")]) == 2
    for part in ("1/2", "0/2"):
        assert leave_with([*command, "--shard", part]) == 0
        assert f"Part {part} of the activations is done." in capsys.readouterr().out
    assert leave_with(command) == 2
    assert "conceptatlas merge" in capsys.readouterr().err
    assert leave_with(["merge", str(tmp_path / "run")]) == 0
    assert "140 images in 3 shards, 0 skipped" in capsys.readouterr().out
    assert ActivationStore(tmp_path / "run" / "activations").complete


@pytest.mark.parametrize("part", ["2/2", "first"])
def test_a_part_that_is_none_is_the_users_mistake(part, command, tmp_path, capsys):
    assert leave_with([*command, "--shard", part]) == 2
    assert "i/n" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unknown_engine_is_the_users_mistake(command, capsys):
    assert leave_with([*command, "--engine", "steam"]) == 2
    assert "local, ray" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_fault_61_a_stopped_audit_says_so_and_leaves_a_valid_store(number, code, command, tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "conceptatlas", *command], env=ENVIRONMENT)
    manifest = tmp_path / "run" / "activations" / "manifest.jsonl"
    deadline = time.monotonic() + 300
    while not (manifest.exists() and manifest.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(300) == code
    assert ActivationStore(manifest.parent).verify() == []
    assert not (manifest.parent / "lock").exists()
