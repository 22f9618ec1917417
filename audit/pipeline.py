"""`audit`: a model and a folder of images go in, an atlas comes out. It connects the packages and adds nothing."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import platform
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from conceptatlas.audit import storage
from conceptatlas.audit.atlas import Atlas
from conceptatlas.audit.context import Context, Masks, Settings
from conceptatlas.audit.engines import ClassWork, proofs_of
from conceptatlas.audit.inventory import empty_folders, inventory
from conceptatlas.audit.judgements import restore, set_aside
from conceptatlas.audit.progress import Progress
from conceptatlas.audit.shortcuts import finish
from conceptatlas.concepts import (
    CachedEncoder,
    OpenClipEncoder,
    TextImageEncoder,
    WeightsUnreachable,
    embed_words,
    load_vocabulary,
)
from conceptatlas.extraction import (
    ActivationStore,
    CutPoint,
    ExtractionResult,
    ImageError,
    RayEngine,
    SplitModel,
    as_preprocess,
    as_source,
    check_class_head,
    choose_device,
    class_names_of,
    class_synonyms_of,
    extract,
    has_store,
    load_model,
    match_labels,
    split,
    weight_digest,
)
from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.parts import check_shard
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


def audit(
    model: nn.Module | str,
    images: Any,
    *,
    out: str | Path | None = None,
    preprocess: Any = None,
    class_names: Sequence[str] | None = None,
    labels: Mapping[str, str | int] | None = None,
    layer: str | CutPoint = "auto",
    unit: Literal["auto", "position"] = "auto",
    n_concepts: int | Literal["auto"] = "auto",
    classes: Sequence[str | int] | None = None,
    factorizer: str = "auto",
    encoder: TextImageEncoder | str | None = None,
    vocabulary: Any = None,
    engine: str | RayEngine = "local",
    device: str = "auto",
    seed: int = 0,
    resume: bool = True,
    on_error: Literal["warn", "raise", "skip"] = "warn",
    progress: bool | Callable[[str, int, int], None] = True,
    checkpoint: str | Path | None = None,
    batch_size: int | None = None,
    min_images: int = 20,
    max_error_rate: float = 0.05,
    recursion: Literal["off", "auto", "all"] = "off",
    masks: Masks | None = None,
    settings: Settings | None = None,
) -> Atlas:
    """Audit a model on images and return its atlas.

    Parameters
    ----------
    model
        A classifier as ``nn.Module``, or the name of a timm or torchvision model.
    images
        A folder (of class folders, or flat), a list of paths, a dataset, or a source (see `as_source`).
    out
        The run's folder. Run the same call again and it resumes. Without it the atlas lives in a temporary folder. An
        address such as ``s3://bucket/run`` is worked on in a folder of this machine (`Mirror`), and written when the
        activations are done and when all is.
    preprocess
        A `Preprocess` or a callable ``PIL -> tensor``; the model's own configuration where None.
    class_names
        Names of the model's classes, in order; ImageNet's where the model says so, else ``"class 3"``.
    labels
        Maps folder names (or a dataset's labels) to class names or indices where the names do not match.
    layer
        Name of a cut point, or ``"auto"`` for the measured choice.
    unit
        What a row of activations is: every position of whole images.
    n_concepts
        Concepts per class, or ``"auto"``.
    classes
        Only these classes (names or indices); all that the model predicts often enough where None.
    factorizer
        ``"auto"``: NMF for non-negative activations, SemiNMF for signed ones.
    encoder, vocabulary
        A text-image encoder (or the name of an open_clip model, ``"local-dir:/path"``) and the words that concepts may
        be named by. No encoder: no names; nor where its weights cannot be fetched, which is said.
    engine
        ``"local"``, or ``"ray"`` (a `RayEngine` where it needs numbers): shards of images and classes are computed by
        the workers of a Ray cluster that sees the images and `out` under the same paths; the results are the same.
    device, seed, batch_size
        How it is computed.
    resume
        Go on with what `out` holds. False starts afresh; a person's titles, tags and notes stay with the same concepts.
    on_error, max_error_rate
        What an unreadable image does: ``"warn"`` skips, logs and lists it; ``"skip"`` skips and lists it; ``"raise"``
        stops. More than this share of unreadable images stops the audit.
    progress
        True for progress bars, or a callable ``(stage, done, total)``.
    checkpoint
        Weights for a model given by name: safetensors, or a torch file that holds tensors only.
    min_images
        Classes that the model predicts for fewer images are listed and not fitted.
    recursion
        Whether concepts are split into their parts at earlier layers: ``"off"``, ``"auto"`` (those that are not one
        thing there) or ``"all"`` (every one is tried). The tree stands in ``atlas[name].bank.tree``.
    masks
        Where the object is: sample id -> (h, w) booleans in the pixels of the image or of what the model sees of it,
        or a callable that gives them (None: not known). Without masks the object is guessed from the model's features.
    settings
        All numbers at once; `n_concepts`, `factorizer`, `seed` and `min_images` above override it, and `recursion`
        where it is not ``"off"``.

    Returns
    -------
    Atlas
        Also written to `out`.

    Raises
    ------
    UserError
        One sentence about what was wrong with the input and what to do; nothing is half-written.
    """
    request = Request(
        model=model,
        images=images,
        out=out,
        preprocess=preprocess,
        class_names=class_names,
        labels=labels,
        layer=layer,
        unit=unit,
        n_concepts=n_concepts,
        classes=classes,
        factorizer=factorizer,
        encoder=encoder,
        vocabulary=vocabulary,
        engine=engine,
        device=device,
        seed=seed,
        resume=resume,
        on_error=on_error,
        progress=progress,
        checkpoint=checkpoint,
        batch_size=batch_size,
        min_images=min_images,
        max_error_rate=max_error_rate,
        recursion=recursion,
        masks=masks,
        settings=settings,
    )
    run = _begin(request)
    result = _extract(run)
    run.keep()
    table = _image_table(run.subject, result, labels)
    empty = _empty_classes(run.subject, run.request.labels)
    listing = class_listing(table, run.subject.class_names, run.settings.min_images, classes, empty)
    work = _class_work(run, result, table, listing)
    with run.bars.stage("concepts", len(work.classes)) as tick:
        context = work.run(tick)
    shortcuts = finish(proofs_of(context, work.classes))
    found = _describe(run.subject, result, context, run.key, len(run.subject.source))
    found["names"]["source"] = encoder if isinstance(encoder, str) else None
    _write_tables(run.run_dir, table, result, listing, shortcuts)
    storage.write_json(run.run_dir / "run.json", {**found, "finished": True})
    atlas = restore(Atlas.load(run.run_dir))
    run.keep()
    return replace(atlas, keep_alive=run.keep_alive)


def audit_shard(model: nn.Module | str, images: Any, *, out: str | Path, shard: tuple[int, int], **options: Any) -> str:
    """Do one of n parts of an audit's work, for job arrays without any engine.

    All jobs are given the same model, images, `out` and options, and each its own `shard`. A first round computes
    activations; `merge` on the run's folder joins them; a second round of the same jobs fits the classes, each job its
    own (it may be left out); then `audit` with the same options does what is left, and returns the atlas.

    Parameters
    ----------
    model, images, out
        As for `audit`; `out` is one folder that all jobs see.
    shard
        (i, n): part i, from 0, of n.
    options
        Those of `audit`.

    Returns
    -------
    str
        What was done: ``"activations"`` or ``"classes"``.

    Raises
    ------
    UserError
        As for `audit`; or the shard or an option is none.

    Examples
    --------
    >>> audit_shard("resnet18", ".", out="run", shard=(3, 3))
    Traceback (most recent call last):
    conceptatlas.extraction.errors.UserError: shard must be (i, n) with 0 <= i < n, such as (0, 3), not (3, 3).
    """
    index, count = check_shard(shard)
    try:
        bound = inspect.signature(audit).bind(model, images, out=out, **options)
    except TypeError as error:
        raise UserError(f"{error}: audit_shard takes the options of audit") from None
    bound.apply_defaults()
    run = _begin(Request(**bound.arguments))
    folder = run.run_dir / "activations"
    if not has_store(folder) or not ActivationStore(folder).complete:
        _extract(run, (index, count))
        run.keep()
        return "activations"
    result = _extract(run)
    table = _image_table(run.subject, result, run.request.labels)
    empty = _empty_classes(run.subject, run.request.labels)
    listing = class_listing(table, run.subject.class_names, run.settings.min_images, run.request.classes, empty)
    work = _class_work(run, result, table, listing)
    with run.bars.stage("concepts", len(work.classes[index::count])) as tick:
        work.run_part(index, count, tick)
    run.keep()
    return "classes"


def _begin(request: Request) -> Run:
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
    key = _run_key(subject, settings, encoder, words, request.labels, request.classes)
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


def _extract(run: Run, shard: tuple[int, int] | None = None) -> ExtractionResult:
    request = run.request
    with run.bars.stage("activations", len(run.subject.source)) as tick:
        return extract(
            run.subject.split,
            run.subject.source,
            run.subject.preprocess,
            run.run_dir / "activations",
            on_error=request.on_error,
            max_error_rate=request.max_error_rate,
            resume=request.resume,
            engine=request.engine,
            shard=shard,
            progress=tick,
            **({} if request.batch_size is None else {"batch_size": request.batch_size}),
        )


def _class_work(run: Run, result: ExtractionResult, table: pd.DataFrame, listing: pd.DataFrame) -> ClassWork:
    cached = CachedEncoder(run.encoder, run.run_dir / "embeddings") if run.encoder is not None else None
    words = run.words
    context = Context(
        split=run.subject.split,
        store=result.store,
        source=run.subject.source,
        preprocess=run.subject.preprocess,
        images=table,
        class_names=run.subject.class_names,
        run_dir=run.run_dir,
        settings=run.settings,
        encoder=cached,
        vocabulary=words,
        word_embeddings=embed_words(cached, words.words) if cached is not None and words is not None else None,
        masks=run.request.masks,
    )
    fitted = listing[listing["fitted"]]
    classes = [(int(index), str(slug)) for index, slug in zip(fitted["index"], fitted["slug"], strict=True)]
    pool = pool_of(run.request.engine, run.subject.split.device)
    return ClassWork(context, run.request.encoder, classes, pool)


def _validate(unit: str, on_error: str, recursion: str) -> None:
    for value, known, what in (
        (unit, ("auto", "position"), "unit"),
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
    if not isinstance(encoder, str):
        return encoder
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
        except (ImageError, OSError):
            continue
        if len(tensors) == PROBE_IMAGES:
            break
    if not tensors:
        raise UserError("none of the images that were tried can be read; check that the folder holds photographs")
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


def _run_key(
    subject: Subject, settings: Settings, encoder: Any, words: Any, labels: Any, classes: Any
) -> dict[str, Any]:
    """Return what makes two audits the same; another value in the run's folder is refused."""
    return {
        "weights": subject.weights,
        "layer": subject.split.layer.name,
        "preprocess": subject.preprocess.digest,
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
        for name in ("activations", "concepts", "views", "tables"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
    storage.write_json(path, {"schema": storage.SCHEMA, "key": key, "finished": False})


def _image_table(subject: Subject, result: ExtractionResult, labels: Mapping[str, str | int] | None) -> pd.DataFrame:
    probability, predicted = _predictions(result.store)
    position = {str(s): i for i, s in enumerate(subject.source.ids)}
    source_index = np.array([position[str(s)] for s in result.store.sample_ids], dtype=int)
    given = [subject.source.labels[i] for i in source_index]
    label_index = _label_indices(subject, given, labels)
    correct = np.where(np.isnan(label_index), np.nan, (label_index == predicted).astype(float))
    return pd.DataFrame(
        {
            "sample_id": [str(s) for s in result.store.sample_ids],
            "source_index": source_index,
            "label": [None if g is None else str(g) for g in given],
            "label_index": label_index,
            "predicted": [subject.class_names[i] for i in predicted.tolist()],
            "predicted_index": predicted,
            "probability": probability,
            "correct": correct,
        }
    )


def _predictions(store: ActivationStore) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of the predicted class, and its index, of every sample, read in blocks."""
    probabilities, indices = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    for block in store.logit_blocks():
        logits = torch.as_tensor(block)
        if logits.shape[1] == 1:
            probability, predicted = torch.sigmoid(logits[:, 0]), torch.zeros(len(logits), dtype=torch.long)
        else:
            probability, predicted = torch.softmax(logits, 1).max(1)
        probabilities.append(probability.numpy())
        indices.append(predicted.numpy())
    return np.concatenate(probabilities), np.concatenate(indices)


def _label_indices(subject: Subject, given: list[Any], labels: Mapping[str, str | int] | None) -> np.ndarray:
    """Return the class index of each image's label, NaN where it has none that the model knows."""
    if any(isinstance(g, (int, np.integer)) and not isinstance(g, bool) for g in given) and not labels:
        inside = [g if g is not None and 0 <= int(g) < len(subject.class_names) else None for g in given]
        return np.array([np.nan if g is None else float(g) for g in inside])
    folders = sorted({str(g) for g in given if g is not None})
    synonyms = class_synonyms_of(subject.split.model, len(subject.class_names))
    matched = match_labels(folders, subject.class_names, synonyms=synonyms, mapping=dict(labels) if labels else None)
    indices = [None if g is None else matched.get(str(g)) for g in given]
    return np.array([np.nan if i is None else float(i) for i in indices])


def _empty_classes(subject: Subject, labels: Mapping[str, str | int] | None) -> set[int]:
    """Return the classes whose folders hold no image."""
    folders = empty_folders(subject.source)
    if not folders:
        return set()
    synonyms = class_synonyms_of(subject.split.model, len(subject.class_names))
    mapping = {str(k): v for k, v in labels.items() if str(k) in folders} if labels else None
    found = match_labels(folders, subject.class_names, synonyms=synonyms, mapping=mapping)
    return {index for index in found.values() if index is not None}


def class_listing(
    images: pd.DataFrame,
    class_names: list[str],
    min_images: int,
    wanted: Sequence[str | int] | None,
    empty: AbstractSet[int] = frozenset(),
) -> pd.DataFrame:
    """Return one row per class that is predicted, labelled, asked for or has an empty folder: whether it is fitted.

    Raises
    ------
    UserError
        Where an asked-for class is none of the model's.
    """
    chosen = None if wanted is None else {_class_index(c, class_names) for c in wanted}
    predicted = images["predicted_index"].value_counts()
    labelled = set(images["label_index"].dropna().astype(int))
    rows = []
    for index in sorted(set(predicted.index) | labelled | (chosen or set()) | set(empty)):
        n = int(predicted.get(index, 0))
        reason = None
        if chosen is not None and index not in chosen:
            reason = "not asked for"
        elif n < min_images:
            reason = f"{n} images are predicted as it, {min_images} are needed"
        name = class_names[index]
        rows.append((int(index), name, n, reason is None, reason or "", storage.slug_of(int(index), name)))
    listing = pd.DataFrame(rows, columns=["index", "name", "n_images", "fitted", "reason", "slug"])
    return listing.sort_values(["fitted", "n_images", "index"], ascending=[False, False, True], ignore_index=True)


def _class_index(wanted: str | int, class_names: list[str]) -> int:
    if isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool):
        if 0 <= wanted < len(class_names):
            return int(wanted)
        raise UserError(f"class index {wanted} is out of range: the model has {len(class_names)} classes")
    if wanted in class_names:
        return class_names.index(wanted)
    from difflib import get_close_matches

    near = ", ".join(get_close_matches(str(wanted), class_names, n=3, cutoff=0.4)) or ", ".join(class_names[:5])
    raise UserError(f"the model has no class {wanted!r}; the nearest names are: {near}")


def _write_tables(
    run_dir: Path, table: pd.DataFrame, result: ExtractionResult, listing: pd.DataFrame, shortcuts: pd.DataFrame
) -> None:
    skipped = pd.DataFrame(
        [asdict(s) for s in result.skipped], columns=["sample_id", "path", "cause", "error", "stage"]
    )
    storage.write_table(run_dir, "images", table)
    storage.write_table(run_dir, "skipped", skipped.astype(str))
    storage.write_table(run_dir, "classes", listing)
    storage.write_table(run_dir, "shortcuts", shortcuts)


def _describe(
    subject: Subject, result: ExtractionResult, context: Context, key: dict[str, Any], n_seen: int
) -> dict[str, Any]:
    layer = subject.split.layer
    known = context.images["correct"].dropna()
    return {
        "schema": storage.SCHEMA,
        "key": key,
        "model": {"name": subject.name, "weights": subject.weights, "n_classes": len(subject.class_names)},
        "layer": {
            "name": layer.name,
            "grid": list(result.store.grid),
            "n_features": result.store.n_features,
            "prefix_tokens": layer.prefix_tokens,
            "head_is_affine": subject.split.head_is_affine,
            "choice": subject.split.choice,
        },
        "class_names": subject.class_names,
        "unit": "position",
        "preprocess": subject.preprocess.to_dict(),
        "data": {
            "n_seen": n_seen,
            "n_used": len(context.images),
            "n_skipped": len(result.skipped),
            "n_labelled": len(known),
            "accuracy": float(known.mean()) if len(known) else None,
            **inventory(subject.source),
        },
        "map": context.map_method,
        "names": {
            "encoder": getattr(context.encoder, "id", None),
            "words": len(context.vocabulary.words) if context.vocabulary is not None else 0,
        },
        "settings": asdict(context.settings),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("conceptatlas", "torch", "timm", "scikit-learn", "open-clip-torch", "umap-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
