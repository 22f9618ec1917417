"""Ray: the bytes of a local run, whoever dies on the way, and an error where nothing moves."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

COMMON = """
import json, logging, os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from PIL import Image
from torch import nn
from conceptatlas.extraction import ActivationStore, Preprocess, RayEngine, UserError, extract, merge, split
FOLDER = Path(sys.argv[1])
INIT = {"num_cpus": 2, "object_store_memory": 80_000_000}

class Pictures:
    "Sixty pictures, reading one of which may kill the process or take its time, as files in the folder say."
    cheap_ids = True
    ids = [f"{i:03d}" for i in range(60)]
    labels = [None] * 60
    def __init__(self, folder): self.folder = str(folder)
    def __len__(self): return 60
    def __getitem__(self, i):
        from conceptatlas.extraction import ImageError, Sample
        fuse = Path(self.folder, f"kill-{i}")
        if fuse.exists():
            fuse.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if Path(self.folder, "slow").exists():
            time.sleep(0.1)
        if i == 33:
            raise ImageError(self.ids[i], "truncated")
        return Sample(self.ids[i], Image.new("RGB", (40, 40), (7 * i % 256, 3 * i % 256, i)))

def run(name, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 8, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    halves = split(model, "1", input_size=(32, 32))
    return extract(halves, Pictures(FOLDER), Preprocess((32, 32)), FOLDER / name, shard_size=4, batch_size=2, **options)

def content(name):
    return {path.name: path.read_bytes() for path in (FOLDER / name).iterdir()}
"""


def start(script, folder):
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
    }
    path = folder / "script.py"
    path.write_text(COMMON + script)
    return subprocess.Popen(
        [sys.executable, str(path), str(folder)], stdout=subprocess.PIPE, text=True, env=env, start_new_session=True
    )


def finish(process, timeout=900):
    """Return what a script printed last; end all that it started."""
    try:
        text = process.communicate(timeout=timeout)[0]
        assert process.returncode == 0
        return json.loads(text.splitlines()[-1])
    finally:
        end(process)


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


KILLED_ACTOR = """
run("local")
(FOLDER / "kill-21").touch()
seen = []
result = run("ray", engine=RayEngine(workers=2, cpus=1, init=INIT), progress=lambda done, total: seen.append(done))
import ray
print(json.dumps([content("ray") == content("local"), len(result.store), len(set(result.store.sample_ids)),
                  (FOLDER / "kill-21").exists(), seen, len(result.skipped), ray.is_initialized()]))
"""


def test_fault_63_killed_ray_actor_is_replaced_and_nothing_is_done_twice(tmp_path):
    equal, rows, unique, fuse, seen, skipped, running = finish(start(KILLED_ACTOR, tmp_path))
    assert equal
    assert (rows, unique, skipped) == (59, 59, 1)
    assert not fuse  # a worker did die
    assert seen == sorted(seen)
    assert seen[-1] == 60
    assert not running  # what was started was ended


def test_fault_63_killed_ray_driver_resumes_to_the_same_bytes(tmp_path):
    (tmp_path / "slow").touch()
    command = 'run("ray", engine=RayEngine(workers=1, cpus=1, init=INIT))\nprint("null")\n'
    first = start(command, tmp_path)
    manifest = tmp_path / "ray" / "manifest.jsonl"
    deadline = time.monotonic() + 900
    while not (manifest.exists() and manifest.read_bytes().count(b"\n") >= 5):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    end(first)
    recorded = manifest.read_bytes().count(b"\n")
    assert recorded < 17  # it was killed on the way
    (tmp_path / "slow").unlink()
    finish(start(command, tmp_path))
    check = 'run("local")\nprint(json.dumps(content("ray") == content("local")))\n'
    assert finish(start(check, tmp_path))


WATCHDOG = """
import ray
from functools import partial
from conceptatlas.extraction.pools import pool_of
ray.init(include_dashboard=False, log_to_driver=False, **INIT)

def sleeper(): return time.sleep

def message(units=(0.01,), recipe=sleeper, **numbers):
    began = time.monotonic()
    try:
        results = [unit for unit, _ in pool_of(RayEngine(**numbers), "cpu").map(recipe, units)]
        return f"{len(results)} done"
    except Exception as error:
        return f"{type(error).__name__}: {error} [{time.monotonic() - began < 120}]"

def broken(): raise UserError("no such layer")

@ray.remote(num_cpus=2)
class Greedy:
    def hold(self): return 1

found = [message([0.01] * 5, workers=5, cpus=1), message(cpus=3), message([1000], cpus=1, workers=1, stall_seconds=2),
         message(recipe=broken, cpus=1, workers=1)]
greedy = Greedy.remote()
ray.get(greedy.hold.remote())
found.append(message(cpus=1, start_seconds=2))
print(json.dumps([found, ray.is_initialized()]))
"""


def test_fault_64_ray_with_two_cpus_does_not_stall(tmp_path):
    (crowded, too_large, stalled, broken, nothing_free), running = finish(start(WATCHDOG, tmp_path))
    assert crowded == "5 done"  # five workers asked for, room for two
    assert "no room for a worker: each needs 3 CPU, and 2 CPU" in too_large
    assert "no unit of work was finished in" in stalled
    assert stalled.endswith("[True]")
    assert broken.startswith("UserError: no such layer")
    assert "no Ray worker has started in" in nothing_free
    assert running  # Ray was the user's, and stays
