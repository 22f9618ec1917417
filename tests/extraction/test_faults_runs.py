"""Runs that are killed, disturbed or repeated: the store stays valid, and ends with the same bytes."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conceptatlas.extraction import ActivationStore, StoreError, extract
from conceptatlas.extraction import writer as writer_module
from conceptatlas.extraction.writer import StoreWriter

ROOT = Path(__file__).parents[2]


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def run(image_folder, tiny_split, small_input, tmp_path):
    """Return a function that extracts eight images in shards of two, into a folder of that name."""
    root = image_folder(ants=8)

    def extract_into(name, *, split_model=None, **options):
        options = {"shard_size": 2, "batch_size": 2, **options}
        return extract(split_model or tiny_split(), root, small_input, tmp_path / name, **options)

    return extract_into


def stop_after(count, action):
    def progress(done, total):
        if done >= count:
            action()

    return progress


def fail(error):
    raise error


def test_fault_34_disk_full_while_writing_a_shard(run, tmp_path):
    size = run("whole").store.shards[0].size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 100, limits[1]))

    try:
        with pytest.raises(StoreError, match="free space"):
            run("s", progress=stop_after(6, fill_disk))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store = ActivationStore(tmp_path / "s")
    assert len(store) in (2, 4)  # the second shard was being written
    assert store.verify() == []
    run("s")
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")


def test_what_is_being_written_is_kept_when_the_next_shard_fails(run, tmp_path):
    with pytest.raises(RuntimeError):
        run("s", progress=stop_after(4, lambda: fail(RuntimeError())))
    assert len(ActivationStore(tmp_path / "s")) == 2


def test_fault_34_failed_write_leaves_no_temporary_file(run, tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "save_file", lambda tensors, path: fail(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(StoreError, match="No space left"):
        run("s")
    assert not list(tmp_path.glob("s/*.tmp"))


@pytest.mark.parametrize("place", ["file/store", "file"])
def test_fault_35_folder_that_cannot_be_made(place, run, tiny_split, tmp_path):
    (tmp_path / "file").write_text("x")
    halves = tiny_split()
    with pytest.raises(StoreError, match="cannot be written"):
        run(place, split_model=halves)
    assert halves.batches == []


def test_fault_35_folder_without_permission(run, tiny_split, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", lambda *args, **options: fail(PermissionError(13, "Permission denied")))
    halves = tiny_split()
    with pytest.raises(StoreError, match="PermissionError"):
        run("s", split_model=halves)
    assert halves.batches == []


def test_fault_36_store_of_another_model(run, tiny_split):
    run("s")
    with pytest.raises(StoreError, match=r"another run: its weights is .*resume=False"):
        run("s", split_model=tiny_split(seed=1))
    assert len(run("s", split_model=tiny_split(seed=1), resume=False).store) == 8


def test_fault_57_torn_temporary_file_is_redone(run, tmp_path):
    run("whole")
    with pytest.raises(RuntimeError):
        run("s", progress=stop_after(4, lambda: fail(RuntimeError())))
    (tmp_path / "s" / "shard-00002.safetensors.tmp").write_bytes(b"half a sh")
    (tmp_path / "s" / "lock").write_text("999999999")
    run("s")
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")


def test_fault_58_shard_without_a_record_is_redone(run, tmp_path, monkeypatch):
    run("whole")
    append = StoreWriter._append

    def die_before_recording(self, record):
        if record.get("index") == 1:
            raise RuntimeError("killed")
        append(self, record)

    monkeypatch.setattr(StoreWriter, "_append", die_before_recording)
    with pytest.raises(RuntimeError, match="killed"):
        run("s")
    monkeypatch.undo()
    orphan = tmp_path / "s" / "shard-00001.safetensors"
    orphan.write_bytes(orphan.read_bytes()[:-1] + b"\xff")
    assert len(ActivationStore(tmp_path / "s")) == 2
    run("s")
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("position", [5, 200, -3])
def test_fault_59_flipped_byte_is_found_and_repaired(position, run, tiny_split, tmp_path):
    store = run("s").store
    before = bytes_of(tmp_path / "s")
    path = tmp_path / "s" / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    assert store.verify() == [1]
    fresh = ActivationStore(tmp_path / "s")
    with pytest.raises(StoreError, match=r"shard-00001.*damaged.*verify=True"):
        fresh.rows()
    halves = tiny_split()
    assert run("s", split_model=halves, verify=True).store.verify() == []
    assert halves.batches == [2]
    assert bytes_of(tmp_path / "s") == before


def test_fault_59_missing_and_short_shards_are_redone_without_asking(run, tmp_path):
    run("s")
    before = bytes_of(tmp_path / "s")
    (tmp_path / "s" / "shard-00000.safetensors").unlink()
    (tmp_path / "s" / "shard-00002.safetensors").write_bytes(b"")
    assert ActivationStore(tmp_path / "s").verify() == [0, 2]
    run("s")
    assert bytes_of(tmp_path / "s") == before


def test_fault_60_second_writer_in_the_same_process(run, tmp_path):
    def second():
        with pytest.raises(StoreError, match=f"being written by process {os.getpid()}"):
            run("s")

    assert len(run("s", progress=stop_after(2, second)).store) == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fault_60_second_process(run, tmp_path):
    here, there = multiprocessing.get_context("fork").Pipe()
    child = os.fork()
    if not child:
        with StoreWriter(tmp_path / "s", {"layer": "x"}):
            there.send("locked")
            there.recv()
        os._exit(0)
    try:
        assert here.poll(20)
        with pytest.raises(StoreError, match=f"being written by process {child}"):
            run("s")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (tmp_path / "s" / "lock").exists()
    assert len(run("s").store) == 8  # the dead process's lock is taken over
    assert not (tmp_path / "s" / "lock").exists()


@pytest.mark.parametrize(
    ("stop", "error"),
    [
        (lambda: fail(KeyboardInterrupt()), KeyboardInterrupt),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), SystemExit),
    ],
    ids=["ctrl-c", "sigterm"],
)
def test_fault_61_interrupted_run_leaves_a_valid_store(stop, error, run, tmp_path):
    run("whole")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(error) as caught:
        run("s", progress=stop_after(4, stop))
    if error is SystemExit:
        assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not (tmp_path / "s" / "lock").exists()
    store = ActivationStore(tmp_path / "s")
    assert store.verify() == []
    assert 2 <= len(store) < 8
    run("s")
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")


def test_fault_57_killed_while_a_shard_is_written_nothing_of_it_stays(run, tmp_path, monkeypatch):
    def killed(tensors, path):
        (Path(path).parent / ".tmpAbCdEf").write_bytes(b"half")  # as safetensors does, under a name of its own choice
        raise KeyboardInterrupt

    run("whole")
    with monkeypatch.context() as patched:
        patched.setattr(writer_module, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            run("s")
    run("s")
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")


KILLED = """
import json, os, pathlib, random, shutil, signal, sys, time
sys.path[:0] = [{root!r}]
import torch
torch.set_num_threads(1)
from PIL import Image
from conceptatlas.extraction import Preprocess, extract, split
from torch import nn
folder = {folder!r}
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 8, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
halves = split(model, "1", input_size=(32, 32))
images = [Image.new("RGB", (40, 40), (7 * i % 256, 3 * i % 256, i)) for i in range(60)]
run = lambda name: extract(halves, images, Preprocess((32, 32)), folder + "/" + name, shard_size=2, batch_size=2)
content = lambda name: {{path.name: path.read_bytes() for path in pathlib.Path(folder, name).iterdir()}}
start = time.perf_counter(); run("whole"); duration = time.perf_counter() - start
whole, rng, shards, killed, equal = content("whole"), random.Random(0), [], 0, 0
while killed < 30:
    child = os.fork()
    if not child:
        run("s")
        os._exit(0)
    time.sleep(rng.uniform(0, duration))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        killed += 1
        shards.append(len(os.listdir(folder + "/s")) if os.path.exists(folder + "/s") else 0)
        run("s")
        equal += content("s") == whole
    shutil.rmtree(folder + "/s")
print(json.dumps([killed, equal, shards]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fault_57_killed_at_thirty_random_moments(tmp_path):
    script = KILLED.format(root=str(ROOT), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=500, check=True)
    killed, equal, files = json.loads(done.stdout.splitlines()[-1])
    assert (killed, equal) == (30, 30)
    assert len(set(files)) > 5  # the moments were spread over the run
