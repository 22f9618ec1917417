"""One extraction as a value: what to compute, so that this process or any other can compute any shard of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conceptatlas.extraction.engine import Engine, Split
from conceptatlas.extraction.filling import Filled, Filling
from conceptatlas.extraction.ledger import Ledger, spans_of
from conceptatlas.extraction.pools import Pool
from conceptatlas.extraction.reading import read_ahead
from conceptatlas.extraction.samples import ImageSource
from conceptatlas.extraction.transforms import Preprocessor

DTYPES = {"float32": np.float32, "float16": np.float16}


@dataclass(frozen=True)
class Plan:
    """What an extraction computes.

    Attributes
    ----------
    split_model, source, preprocess
        The model in two halves, the images, and what is done to them.
    folder
        Of the store.
    shard_size
        Images per shard.
    dtype
        Of the activations on disk: ``"float32"`` or ``"float16"``.
    threads
        That read images, in each process; None for one fewer than there are cores.
    options
        Of `Engine`.
    output_fn
        Takes the logits out of what the model returns.
    """

    split_model: Split
    source: ImageSource
    preprocess: Preprocessor
    folder: Path
    shard_size: int
    dtype: str
    threads: int | None
    options: Mapping[str, Any]
    output_fn: Callable[[Any], torch.Tensor] | None = None

    def run_here(self, ledger: Ledger) -> None:
        """Compute all pending shards in this process.

        Images are read ahead, also across shards; a shard is written while the next one is computed.
        """
        engine = self._engine()
        filling = self._filling(engine, fail=ledger.fail, seen=ledger.seen)
        pending = ledger.pending()
        wanted = [sample for index in pending for sample in range(*ledger.spans[index])]
        window = 2 * engine.batch_size
        reads = read_ahead(self.source, self.preprocess, wanted, threads=self.threads, window=window)
        with contextlib.closing(reads), ThreadPoolExecutor(1) as writer:
            writing: list[Future[Filled]] = []
            try:
                for index in pending:
                    shard = filling.compute(index, ledger.spans[index], reads)
                    ledger.check(shard)
                    _record(writing, ledger)
                    writing.append(writer.submit(filling.write, shard))
            finally:
                _record(writing, ledger)

    def run_in(self, pool: Pool, ledger: Ledger) -> None:
        """Compute all pending shards in other processes; only their records come back."""
        plan = replace(self, folder=self.folder.absolute(), split_model=portable(self.split_model))
        for _, filled in pool.map(partial(shard_worker, plan, pool.device), ledger.pending()):
            ledger.take_from_afar(filled)

    def _engine(self) -> Engine:
        return Engine(self.split_model, output_fn=self.output_fn, **self.options)

    def _filling(self, engine: Engine, **callbacks: Any) -> Filling:
        return Filling(self.source, engine, self.folder, DTYPES[self.dtype], **callbacks)


def _record(writing: list[Future[Filled]], ledger: Ledger) -> None:
    """Wait for the shard that is being written, if any, and record it."""
    while writing:
        ledger.take(writing.pop().result())


def shard_worker(plan: Plan, device: str) -> Callable[[int], Filled]:
    """Return a function that computes and writes the shard of an index; the model is loaded and placed once, here."""
    halves: Any = plan.split_model
    plan = replace(plan, split_model=halves.to(device) if str(halves.device) != device else halves)
    plan.split_model.model.eval()
    engine = plan._engine()
    filling = plan._filling(engine)
    spans = spans_of(len(plan.source), plan.shard_size)

    def compute(index: int) -> Filled:
        window = 2 * engine.batch_size
        samples = range(*spans[index])
        reads = read_ahead(plan.source, plan.preprocess, samples, threads=plan.threads, window=window)
        with contextlib.closing(reads):
            return filling.write(filling.compute(index, spans[index], reads))

    return compute


def portable(split_model: Any) -> Any:
    """Return a split model that a process without this device can load: itself, or its copy on the CPU."""
    if torch.device(split_model.device).type == "cpu":
        return split_model
    import copy

    return copy.deepcopy(split_model).to("cpu")
