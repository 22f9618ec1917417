"""Processes and disks that fail while images are read: the run ends with what to do, and does not hang."""

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from PIL import Image

from conceptatlas.extraction import ActivationStore, SourceError, extract, reading


def colour_of(index):
    return (index, 2 * index, 255 - index)


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


class ReadByWorkers:
    """A dataset that asks another process for its pixels, as datasets with workers do."""

    def __init__(self, fatal=None):
        self.fatal = fatal
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("fork"))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == self.fatal:
            self.pool.submit(kill_self).result()
        return Image.new("RGB", (40, 40), self.pool.submit(colour_of, index).result()), index % 2


@pytest.fixture
def run(tiny_split, small_input, tmp_path):
    def extract_into(source, **options):
        return extract(tiny_split(), source, small_input, tmp_path / "s", shard_size=2, batch_size=2, **options)

    return extract_into


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fault_62_killed_loader_worker_ends_the_run_with_a_hint(run, tmp_path):
    broken, sound = ReadByWorkers(fatal=5), ReadByWorkers()
    with pytest.raises(SourceError, match=r"process that reads the dataset has died at item 5 .*run again to go on"):
        run(broken)
    store = ActivationStore(tmp_path / "s")
    assert len(store) >= 2
    assert store.skipped == ()  # what the dead process did not read is not counted as damaged
    assert len(run(sound).store) == 8
    sound.pool.shutdown()


def test_fault_62_torch_loader_worker_killed(run):
    class Loading:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise RuntimeError("DataLoader worker (pid(s) 17) exited unexpectedly")

    with pytest.raises(SourceError, match="run again to go on"):
        run(Loading())


def test_fault_62_a_disk_that_does_not_answer_ends_the_run(run, monkeypatch):
    released = threading.Event()

    class Stuck(ReadByWorkers):
        def __init__(self):
            pass

        def __getitem__(self, index):
            if index == 3:
                released.wait(60)
            return Image.new("RGB", (40, 40), colour_of(index)), 0

    monkeypatch.setattr(reading, "READ_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"could not be read in 0.5 s.*run again"):
        run(Stuck())
    assert time.monotonic() - began < 20
    released.set()
