"""What an audit is asked for, checked and made ready: the model cut in two, the images, and the run's folder."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from conceptatlas.audit import storage
from conceptatlas.audit.context import ACTIVATIONS, CROPS, Masks, Settings
from conceptatlas.audit.judgements import set_aside
from conceptatlas.audit.progress import Progress
from conceptatlas.concepts import (
    OpenClipEncoder,
    TextImageEncoder,
    WeightsUnreachable,
    check_encoder,
    load_vocabulary,
)
from conceptatlas.extraction import (
    CutPoint,
    RayEngine,
    SplitModel,
    as_preprocess,
    as_source,
    check_class_head,
    choose_device,
    class_names_of,
    load_model,
    split,
    weight_digest,
)
from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.pools import pool_of
from conceptatlas.extraction.remote import Mirror, is_address

logger = logging.getLogger(__name__)

PROBE_IMAGES = 64


@dataclass(frozen=True)
class Subject:
    """What is audited: the model cut in two, and the images as the model wants them."""

    split: SplitModel
    source: Any
    preprocess: Any
    class_names: list[str]
    name: str
    weights: str


@dataclass(frozen=True)
class Request:
    """What `audit` was asked for; the fields are its parameters."""

    model: nn.Module | str
    images: Any
    out: str | Path | None
    preprocess: Any
    class_names: Sequence[str] | None
    labels: Mapping[str, str | int] | None
    layer: str | CutPoint
    unit: str
    n_concepts: int | Literal["auto"]
    classes: Sequence[str | int] | None
    factorizer: str
    encoder: TextImageEncoder | str | None
    vocabulary: Any
    engine: str | RayEngine
    device: str
    seed: int
    resume: bool
    on_error: str
    progress: bool | Callable[[str, int, int], None]
    checkpoint: str | Path | None
    batch_size: int | None
    min_images: int
    max_error_rate: float
    recursion: Literal["off", "auto", "all"]
    masks: Masks | None
    settings: Settings | None


@dataclass(frozen=True)
class Run:
    """An audit that has loaded its model and taken its folder."""

    request: Request
    subject: Subject
    settings: Settings
    encoder: TextImageEncoder | None
    words: Any
    run_dir: Path
    key: dict[str, Any]
    bars: Progress
    keep_alive: object
    mirror: Mirror | None = None

    def keep(self) -> None:
        """Write what is done to the address of the run, where it has one."""
        if self.mirror is not None:
            self.mirror.push()


def begin(request: Request) -> Run:
    """Check the request, load the model, and take the run's folder."""
    _validate(request.unit, request.on_error, request.recursion)
    settings = replace(
        request.settings or Settings(),
        n_concepts=request.n_concepts,
        factorizer=request.factorizer,
        seed=request.seed,
        min_images=request.min_images,
    )
    settings = settings if request.recursion == "off" else replace(settings, recursion=request.recursion)
    source = as_source(request.images)
    _check_not_empty(source, request.images)
    pool_of(request.engine, "cpu")
    encoder = _encoder(request.encoder, request.device)
    words = load_vocabulary(request.vocabulary) if encoder is not None else None
    subject = _subject(
        request.model,
        source,
        request.checkpoint,
        request.preprocess,
        request.class_names,
        request.layer,
        request.device,
    )
    mirror = _mirror(request)
    run_dir, keep_alive = _run_dir(request.out if mirror is None else mirror.path)
    key = _run_key(subject, settings, encoder, words, request)
    _claim(run_dir, key, request.resume)
    return Run(request, subject, settings, encoder, words, run_dir, key, Progress(request.progress), keep_alive, mirror)


def _mirror(request: Request) -> Mirror | None:
    """Return the folder of this machine that stands for an address, with what lies there; None for a plain folder."""
    if not is_address(request.out):
        return None
    if request.engine != "local":
        raise UserError(f"engine={request.engine!r} needs a folder that all machines see as out=, not {request.out!r}")
    mirror = Mirror(str(request.out))
    if request.resume:
        mirror.pull()
    return mirror


def _validate(unit: str, on_error: str, recursion: str) -> None:
    for value, known, what in (
        (unit, ("auto", "position", "crop"), "unit"),
        (on_error, ("warn", "raise", "skip"), "on_error"),
        (recursion, ("off", "auto", "all"), "recursion"),
    ):
        if value not in known:
            raise UserError(f"{what} must be one of {', '.join(known)}, not {value!r}")


def _check_not_empty(source: Any, images: Any) -> None:
    if len(source) == 0:
        raise UserError(f"no image found in {str(images)!r}; give a folder that holds images or folders of images")


def _encoder(encoder: TextImageEncoder | str | None, device: str) -> TextImageEncoder | None:
    """Return the encoder; None where its weights did not come over the network, so that the audit goes on unnamed."""
    if encoder is None:
        return None
    if not isinstance(encoder, str):
        return check_encoder(encoder)
    try:
        return OpenClipEncoder(encoder, device=device)
    except WeightsUnreachable as error:
        logger.warning("%s The audit goes on without names.", error)
        return None


def _subject(
    model: nn.Module | str,
    source: Any,
    checkpoint: str | Path | None,
    preprocess: Any,
    class_names: Sequence[str] | None,
    layer: str | CutPoint,
    device: str,
) -> Subject:
    net = load_model(model, checkpoint=checkpoint)
    check_class_head(net)
    transform = as_preprocess(preprocess, model=net)
    where = choose_device(device)
    size = getattr(transform, "size", None)
    probe = _probe(source, transform).to(where) if layer == "auto" else None
    cut = split(net.to(where), layer, input_size=size, probe=probe)
    name = (
        model
        if isinstance(model, str)
        else str(getattr(net, "pretrained_cfg", {}).get("architecture") or type(net).__name__)
    )
    return Subject(cut, source, transform, _class_names(net, cut, class_names), name, weight_digest(net))


def _probe(source: Any, transform: Any) -> torch.Tensor:
    """Return up to 64 readable images, spread over the source, as one batch."""
    tensors = []
    for i in np.linspace(0, len(source) - 1, min(len(source), 2 * PROBE_IMAGES)).astype(int):
        try:
            tensors.append(transform(source[int(i)].image))
        except UserError:
            raise
        except Exception as error:  # the user's preprocessing; extraction skips such an image and records it
            logger.debug("image %d is left out of the probe: %s", i, error)
            continue
        if len(tensors) == PROBE_IMAGES:
            break
    if not tensors:
        raise UserError("none of the images that were tried can be read; check that the folder holds photographs")
    sizes = {tuple(tensor.shape) for tensor in tensors}
    if len(sizes) > 1:
        raise UserError(f"the preprocessing gives images of different sizes ({sorted(sizes)}): resize them to one")
    return torch.stack(tensors)


def _class_names(net: nn.Module, cut: SplitModel, given: Sequence[str] | None) -> list[str]:
    n = cut.n_classes
    if given is not None and len(given) != n:
        raise UserError(f"class_names holds {len(given)} names, but the model has {n} outputs")
    names = list(given) if given is not None else class_names_of(net, n)
    names = names or [f"class {i}" for i in range(n)]
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < n else set()
    return [f"{name} ({i})" if name in repeated else name for i, name in enumerate(names)]


class _TemporaryFolder:
    """A folder that goes when the last atlas that lives in it goes."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="conceptatlas-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _run_dir(out: str | Path | None) -> tuple[Path, object]:
    if out is None:
        temporary = _TemporaryFolder()
        return temporary.path, temporary
    path = Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another job of an array may have removed it
    except OSError as error:
        raise UserError(f"cannot write to {str(path)!r} ({error.strerror}); give another folder with out=") from None
    return path, None


def _run_key(subject: Subject, settings: Settings, encoder: Any, words: Any, request: Request) -> dict[str, Any]:
    """Return what makes two audits the same; another value in the run's folder is refused."""
    labels, classes = request.labels, request.classes
    return {
        "weights": subject.weights,
        "layer": subject.split.layer.name,
        "preprocess": subject.preprocess.digest,
        "unit": "crop" if request.unit == "crop" else "position",
        "settings": asdict(settings),
        "encoder": getattr(encoder, "id", None),
        "vocabulary": words.digest if words is not None else None,
        "labels": sorted((str(k), str(v)) for k, v in labels.items()) if labels else None,
        "classes": [str(c) for c in classes] if classes is not None else None,
        "ids": hashlib.sha256("\n".join(map(str, subject.source.ids)).encode()).hexdigest()[:16],
    }


def _claim(run_dir: Path, key: dict[str, Any], resume: bool) -> None:
    """Take the run's folder: resume the same audit, start in an empty one, refuse any other."""
    path = run_dir / "run.json"
    key = json.loads(json.dumps(key, default=str))
    if path.exists() and resume:
        try:
            held = json.loads(path.read_text(encoding="utf-8")).get("key", {})
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
            held = {}
        differing = sorted(k for k in key if held.get(k) != key[k])
        if differing:
            raise UserError(
                f"{str(run_dir)!r} holds another audit (different {', '.join(differing)}); "
                "give a new folder, or resume=False to start afresh in it"
            )
    elif path.exists() or (not resume and any(run_dir.iterdir())):
        set_aside(run_dir)
        for name in (ACTIVATIONS, CROPS, "concepts", "views", "tables"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
    storage.write_json(path, {"schema": storage.SCHEMA, "key": key, "finished": False})
