"""`audit`: a model and a folder of images go in, an atlas comes out. It connects the packages and adds nothing."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import nn

from conceptatlas.audit import storage
from conceptatlas.audit.atlas import Atlas
from conceptatlas.audit.context import ACTIVATIONS, CROPS, Context, Masks, Settings
from conceptatlas.audit.engines import ClassWork, proofs_of
from conceptatlas.audit.inventory import inventory
from conceptatlas.audit.judgements import restore
from conceptatlas.audit.request import Request, Run, Subject, begin
from conceptatlas.audit.run_tables import class_listing, empty_classes, image_table, write_tables
from conceptatlas.audit.shortcuts import finish
from conceptatlas.concepts import (
    CachedEncoder,
    TextImageEncoder,
    embed_words,
)
from conceptatlas.extraction import (
    ActivationStore,
    CropSpec,
    CutPoint,
    ExtractionResult,
    RayEngine,
    extract,
    has_store,
)
from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.parts import check_shard
from conceptatlas.extraction.pools import pool_of


def audit(
    model: nn.Module | str,
    images: Any,
    *,
    out: str | Path | None = None,
    preprocess: Any = None,
    class_names: Sequence[str] | None = None,
    labels: Mapping[str, str | int] | None = None,
    layer: str | CutPoint = "auto",
    unit: Literal["auto", "position", "crop"] = "auto",
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
        What concepts are fitted on: ``"position"`` (``"auto"`` takes it), each position of whole images, or ``"crop"``,
        the mean activations of crops resized to the model's input, as in CRAFT, at some 25 further forward passes per
        image. Either way concepts are measured and placed on the positions of whole images.
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
    run = begin(request)
    result = _extract(run)
    _extract_crops(run)
    run.keep()
    table = image_table(run.subject, result, labels)
    empty = empty_classes(run.subject, run.request.labels)
    listing = class_listing(table, run.subject.class_names, run.settings.min_images, classes, empty)
    work = _class_work(run, result, table, listing)
    with run.bars.stage("concepts", len(work.classes)) as tick:
        context = work.run(tick)
    shortcuts = finish(proofs_of(context, work.classes))
    found = _describe(run.subject, result, context, run.key, len(run.subject.source))
    found["names"]["source"] = encoder if isinstance(encoder, str) else None
    write_tables(run.run_dir, table, result, listing, shortcuts)
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
    run = begin(Request(**bound.arguments))
    folder = run.run_dir / ACTIVATIONS
    if not has_store(folder) or not ActivationStore(folder).complete:
        _extract(run, (index, count))
        _extract_crops(run, (index, count))
        run.keep()
        return "activations"
    result = _extract(run)
    _extract_crops(run)
    table = image_table(run.subject, result, run.request.labels)
    empty = empty_classes(run.subject, run.request.labels)
    listing = class_listing(table, run.subject.class_names, run.settings.min_images, run.request.classes, empty)
    work = _class_work(run, result, table, listing)
    with run.bars.stage("concepts", len(work.classes[index::count])) as tick:
        work.run_part(index, count, tick)
    run.keep()
    return "classes"


def _extract_crops(run: Run, shard: tuple[int, int] | None = None) -> None:
    """Compute the activations of crops too, where concepts are fitted on crops."""
    if run.request.unit == "crop":
        _extract(run, shard, crops=CropSpec())


def _extract(run: Run, shard: tuple[int, int] | None = None, *, crops: CropSpec | None = None) -> ExtractionResult:
    request = run.request
    stage, folder = ("activations", ACTIVATIONS) if crops is None else ("activations of crops", CROPS)
    with run.bars.stage(stage, len(run.subject.source)) as tick:
        return extract(
            run.subject.split,
            run.subject.source,
            run.subject.preprocess,
            run.run_dir / folder,
            crops=crops,
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
        crops=ActivationStore(run.run_dir / CROPS) if run.request.unit == "crop" else None,
    )
    fitted = listing[listing["fitted"]]
    classes = [(int(index), str(slug)) for index, slug in zip(fitted["index"], fitted["slug"], strict=True)]
    pool = pool_of(run.request.engine, run.subject.split.device)
    return ClassWork(context, run.request.encoder, classes, pool)


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
            "absence": "no activation" if context.typical is None else "mean activation",
            "choice": subject.split.choice,
        },
        "class_names": subject.class_names,
        "unit": "position" if context.crops is None else "crop",
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
