"""Images in, activations on disk: the one loop of extraction, which can be killed and resumed at any instant."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from conceptatlas.extraction.crops import CropSpec
from conceptatlas.extraction.engine import Split
from conceptatlas.extraction.errors import SourceError, StoreError, UserError
from conceptatlas.extraction.failures import Failures
from conceptatlas.extraction.ledger import Ledger
from conceptatlas.extraction.manifest import MANIFEST, Skipped
from conceptatlas.extraction.models import choose_device, model_id, weight_digest
from conceptatlas.extraction.parts import Part, check_shard
from conceptatlas.extraction.plan import DTYPES, Plan
from conceptatlas.extraction.pools import LocalPool, RayEngine, pool_of
from conceptatlas.extraction.samples import ImageSource
from conceptatlas.extraction.sources import as_source
from conceptatlas.extraction.store import ActivationStore
from conceptatlas.extraction.tracing import evaluated
from conceptatlas.extraction.transforms import Preprocessor, as_preprocess
from conceptatlas.extraction.writer import StoreWriter

_ON_ERROR = ("warn", "skip", "raise")


@dataclass(frozen=True)
class ExtractionResult:
    """What extraction leaves.

    Attributes
    ----------
    store
        The activations; with ``shard=(i, n)`` those of the part.
    skipped
        The images that were left out, in the order of the source.
    """

    store: ActivationStore
    skipped: list[Skipped]

    @property
    def n_seen(self) -> int:
        """Number of images looked at."""
        return len(self.store) + len(self.skipped)


def extract(
    split_model: Split,
    source: Any,
    preprocess: Any,
    store_dir: str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    crops: CropSpec | None = None,
    dtype: str = "float32",
    precision: str = "float32",
    compiled: bool = False,
    shard_size: int = 64,
    threads: int | None = None,
    on_error: str = "warn",
    max_error_rate: float = 0.05,
    resume: bool = True,
    verify: bool = False,
    output_fn: Callable[[Any], torch.Tensor] | None = None,
    engine: str | RayEngine = "local",
    shard: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExtractionResult:
    """Write the activations and logits of all images to a store, and return it opened.

    The same arguments on the same machine give the same bytes, whether or not a run was killed on the way.

    Parameters
    ----------
    split_model
        From `split`. Its model is evaluated in eval mode and gets its modes back.
    source
        Anything that `as_source` takes.
    preprocess
        Anything that `as_preprocess` takes; None for the model's own.
    store_dir
        Folder of the store. One process writes to it at a time.
    batch_size
        Images per forward pass; 16 on a CPU and 64 elsewhere by default, halved when memory runs out.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"``; None leaves the model where it is.
    crops
        Where given, rows are the mean activations of crops (as in CRAFT) and not positions. Logits are always those of
        the whole image.
    dtype
        Of the activations on disk: ``"float32"`` or ``"float16"``. Logits are always float32.
    precision
        ``"bfloat16"`` or ``"float16"`` run the model under autocast.
    compiled
        Whether to use ``torch.compile``.
    shard_size
        Images per shard: what is lost at most when a run is killed.
    threads
        Threads that read images; by default one fewer than there are cores.
    on_error
        What an image that cannot be used does: ``"warn"`` logs each cause once, ``"skip"`` is silent, ``"raise"`` ends
        the run. The first two record it.
    max_error_rate
        The run ends when more than this share of all images (and more than one image) cannot be used.
    resume
        Whether to go on with what `store_dir` holds. If not, a store there is deleted.
    verify
        Whether to compare every recorded shard's checksum first, and redo those that differ.
    output_fn
        Takes the logits out of what the model returns, where that is not a tensor, a tuple or has ``logits``.
    engine
        ``"local"`` computes here; ``"ray"``, or a `RayEngine` with numbers, on a Ray cluster, to the same bytes. All
        its machines must see `store_dir` and the images under the same paths.
    shard
        ``(i, n)``: compute only the i-th of n parts, from 0. When all parts are done, `merge` joins them.
    progress
        Called with the numbers of images done and of all.

    Raises
    ------
    SourceError
        There is no image, none can be used, or too many cannot.
    LayerError
        The layer is dead (all zero), gives no finite value, or overflows `dtype`.
    StoreError
        `store_dir` cannot be written, is in use, or belongs to another run.
    UserError
        Another argument is out of range.
    """
    _validate(on_error, max_error_rate, dtype, shard_size, batch_size)
    source = as_source(source)
    _check_ids(source)
    if device is not None:
        split_model = _moved(split_model, choose_device(device))
    preparation = as_preprocess(preprocess, model=split_model.model)
    pool = pool_of(engine, split_model.device)
    batch_size = batch_size or (16 if torch.device(pool.device).type == "cpu" else 64)
    identity = _identity(split_model, preparation, source, dtype, precision, crops, shard_size)
    part = _part(shard, len(source), shard_size)
    plan = Plan(
        split_model,
        source,
        preparation,
        Path(store_dir),
        shard_size,
        dtype,
        threads,
        {"batch_size": batch_size, "crops": crops, "precision": precision, "compiled": compiled},
        output_fn,
    )
    _check_no_whole(plan.folder, part, resume)
    with (
        StoreWriter(store_dir, identity, resume=resume, verify=verify, part=part) as writer,
        evaluated(split_model.model),
        _terminating(),
    ):
        failures = Failures(on_error, max_error_rate, len(source), str(identity["layer"]))
        shards = None if part is None else part.shards
        ledger = Ledger(source, writer, failures, shard_size, str(identity["layer"]), progress, shards)
        plan.run_here(ledger) if isinstance(pool, LocalPool) else plan.run_in(pool, ledger)
        writer.finish()
    store = ActivationStore(store_dir, part=part)
    return ExtractionResult(store, list(store.skipped))


def _part(shard: tuple[int, int] | None, n_samples: int, shard_size: int) -> Part | None:
    if shard is None:
        return None
    index, count = check_shard(shard)
    return Part(index, count, -(-n_samples // shard_size))


def _check_no_whole(folder: Path, part: Part | None, resume: bool) -> None:
    """Raise StoreError where a part is asked to start afresh beside a store that is whole."""
    if part is not None and not resume and (folder / MANIFEST).exists():
        raise StoreError(
            f"{str(folder)!r} holds a store already, which one part must not replace: remove it, or choose another."
        )


def _validate(on_error: str, max_error_rate: float, dtype: str, shard_size: int, batch_size: int | None) -> None:
    if on_error not in _ON_ERROR:
        raise UserError(f"on_error must be one of {', '.join(_ON_ERROR)}, not {on_error!r}.")
    if not 0 <= max_error_rate <= 1:
        raise UserError(f"max_error_rate must be a share in [0, 1], not {max_error_rate}.")
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    if shard_size < 1 or (batch_size is not None and batch_size < 1):
        raise UserError(f"shard_size and batch_size must be 1 or more, not {shard_size} and {batch_size}.")


def _check_ids(source: ImageSource) -> None:
    """Raise SourceError where two images of a user's own source share an id."""
    if not getattr(source, "cheap_ids", True):
        return
    name, count = Counter(source.ids).most_common(1)[0] if len(source) else ("", 0)
    if count > 1:
        raise SourceError(f"{count} images have the id {name!r}: give every image an id of its own.")


def _moved(split_model: Any, device: torch.device) -> Any:
    """Return the split model on a device."""
    return split_model if torch.device(split_model.device) == device else split_model.to(device)


def _identity(
    split_model: Split,
    preprocess: Preprocessor,
    source: ImageSource,
    dtype: str,
    precision: str,
    crops: CropSpec | None,
    shard_size: int,
) -> dict[str, Any]:
    """Return what makes two runs the same run."""
    return {
        "model": model_id(split_model.model),
        "weights": weight_digest(split_model.model),
        "layer": str(getattr(split_model.layer, "name", split_model.layer)),
        "transform": preprocess.digest,
        "preprocess": preprocess.to_dict(),
        "unit": "position" if crops is None else "crop",
        "crops": None if crops is None else crops.to_dict(),
        "dtype": dtype,
        "precision": precision,
        "shard_size": shard_size,
        "n_samples": len(source),
    }


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Let SIGTERM leave through the ``finally`` clauses, with exit code 143, where nobody else handles it."""
    usable = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not usable:
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
