"""The command line. Heavy imports happen inside the commands, so that help and errors answer at once."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import conceptatlas

if TYPE_CHECKING:
    import pandas as pd

    from conceptatlas.audit import Atlas

app = typer.Typer(
    name="conceptatlas",
    help="Find the concepts that a vision model has learned, where they are, what they may be called, "
    "and which of them look like shortcuts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelArgument = Annotated[str, typer.Argument(help="Name of a timm or torchvision model.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Weights: safetensors, or a torch file that holds tensors only.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and log messages.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Options that stand before the command."""
    if version:
        typer.echo(conceptatlas.__version__)
        raise typer.Exit
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the images, the run and the site.")] = Path("atlas-demo"),
    model: Annotated[str, typer.Option(help="Which of the shipped models: cnn or vit.")] = "cnn",
    images_per_class: Annotated[int, typer.Option(min=5, help="Scenes to draw for each class.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the scenes and of the audit.")] = 0,
    recursion: Annotated[str, typer.Option(help="Split concepts into parts: off, auto or all.")] = "off",
    quiet: Quiet = False,
) -> None:
    """Audit a shipped model on planted scenes, with a shortcut to find, and build its site."""
    from conceptatlas.audit import audit as run_audit
    from conceptatlas.demo import demo_encoder_path, demo_vocabulary, load_demo_model, write_demo_images

    if model not in ("cnn", "vit"):
        _fail(f"--model must be cnn or vit, not {model!r}")
    images = out / "images"
    if not images.is_dir():
        write_demo_images(images, n_per_class=images_per_class, seed=seed)
    atlas = run_audit(
        load_demo_model(model),
        images,
        out=out / f"run-{model}",
        encoder=demo_encoder_path(),
        vocabulary=demo_vocabulary(),
        seed=seed,
        recursion=recursion,  # type: ignore[arg-type]
        progress=not quiet,
    )
    _finish(atlas, out / f"site-{model}")


@app.command()
def layers(
    model: ModelArgument,
    size: Annotated[str | None, typer.Option(help="Input size: 224, or 224x160 (height x width).")] = None,
    checkpoint: Checkpoint = None,
    all_points: Annotated[bool, typer.Option("--all", help="List every place, not only those with a grid.")] = False,
) -> None:
    """List the places where a model can be cut, and mark the one that an audit would take."""
    from rich.console import Console
    from rich.table import Table

    from conceptatlas.extraction import load_model
    from conceptatlas.extraction.layers import HEADER, layers_table

    whole = model if checkpoint is None else load_model(model, checkpoint=checkpoint)
    rows = layers_table(whole, input_size=_size(size))
    table = Table(title=f"Cut points of {model}")
    for column in ("", *HEADER):
        table.add_column(column, justify="right" if column in ("prefix tokens", "depth") else "left")
    for row in rows:
        if row.point.is_spatial or all_points:
            table.add_row("*" if row.auto else "", *row.cells)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    typer.echo("* what layer='auto' takes without images; an audit measures the choice on a probe batch")


@app.command()
def audit(
    model: Annotated[str, typer.Option(help="Name of a timm or torchvision model.")],
    images: Annotated[str, typer.Option(help="Folder (or address) of images, or of class folders.")],
    out: Annotated[str, typer.Option(help="Folder (or address) of the run; run again to resume.")],
    checkpoint: Checkpoint = None,
    layer: Annotated[str, typer.Option(help="Name of a cut point (see `layers`), or auto.")] = "auto",
    unit: Annotated[str, typer.Option(help="Fit concepts on each position, or on each crop (as CRAFT does).")] = "auto",
    n_concepts: Annotated[str, typer.Option(help="Concepts per class, or auto.")] = "auto",
    classes: Annotated[list[str] | None, typer.Option("--class", help="Only this class; may be repeated.")] = None,
    class_names: Annotated[Path | None, typer.Option(help="Text file: one class name per line, in order.")] = None,
    labels: Annotated[Path | None, typer.Option(help="JSON file that maps folder names to class names.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="open_clip model for names: NAME, local-dir:/path or hf-hub:org/name.")
    ] = None,
    vocabulary: Annotated[Path | None, typer.Option(help="Words that concepts may be named by, one per line.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    min_images: Annotated[int, typer.Option(min=2, help="Fewer predicted images: the class is not fitted.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    on_error: Annotated[str, typer.Option(help="Unreadable images: warn, skip or raise.")] = "warn",
    max_error_rate: Annotated[float, typer.Option(min=0, max=1, help="Stop where more images fail.")] = 0.05,
    recursion: Annotated[
        str, typer.Option(help="Split concepts into parts at earlier layers: off, auto or all.")
    ] = "off",
    engine: Annotated[str, typer.Option(help="local, or ray: the workers of a Ray cluster.")] = "local",
    shard: Annotated[
        str | None, typer.Option(help="i/n: do only part i (from 0) of n, as one job of an array; see `merge`.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start afresh in the folder.")] = False,
    fail_on: Annotated[
        str | None, typer.Option(help="Exit with 1 where a shortcut has this grade (A to D) or worse.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Audit a model on a folder of images and write the atlas."""
    if fail_on is not None and fail_on not in tuple("ABCD"):
        _fail(f"--fail-on must be A, B, C or D, not {fail_on!r}")
    if n_concepts != "auto" and not (n_concepts.isdigit() and int(n_concepts) > 0):
        _fail(f"--n-concepts must be a positive number or auto, not {n_concepts!r}")
    names, mapping = _lines(class_names), _json(labels)
    from conceptatlas.audit import audit as run_audit
    from conceptatlas.audit import audit_shard
    from conceptatlas.extraction import parse_shard

    run = run_audit if shard is None else partial(audit_shard, shard=parse_shard(shard))
    atlas: Any = run(
        model,
        images,
        out=out,
        checkpoint=checkpoint,
        layer=layer,
        unit=unit,  # type: ignore[arg-type]
        n_concepts="auto" if n_concepts == "auto" else int(n_concepts),
        classes=classes,
        class_names=names,
        labels=mapping,
        encoder=encoder,
        vocabulary=vocabulary,
        device=device,
        min_images=min_images,
        seed=seed,
        on_error=on_error,  # type: ignore[arg-type]
        max_error_rate=max_error_rate,
        recursion=recursion,  # type: ignore[arg-type]
        engine=engine,
        resume=not restart,
        progress=not quiet,
    )
    if shard is not None:
        typer.echo(f"Part {shard} of the {atlas} is done.")
        return
    _summarise(atlas)
    typer.echo(f"Atlas: {out}")
    if fail_on is not None and not atlas.passed(max_grade=fail_on):
        typer.echo(f"A suspected shortcut has grade {fail_on} or worse.", err=True)
        raise typer.Exit(1)


@app.command()
def merge(run: Annotated[Path, typer.Argument(help="Folder of the run whose parts are done.")]) -> None:
    """Join the activations that `audit --shard i/n` computed; then run the audit again, with or without --shard."""
    from conceptatlas.extraction import merge as merge_parts

    store = merge_parts(run / "activations")
    if (run / "crops").is_dir():
        merge_parts(run / "crops")
    typer.echo(f"{len(store)} images in {len(store.shards)} shards, {len(store.skipped)} skipped: {run}")


@app.command()
def site(
    run: Annotated[Path, typer.Argument(help="Folder of a finished audit.")],
    out: Annotated[Path, typer.Argument(help="Folder for the pages.")],
    single_file: Annotated[bool, typer.Option("--single-file", help="One HTML file that holds everything.")] = False,
) -> None:
    """Build the static site of an atlas; it opens from the disk, without a server."""
    from conceptatlas.audit import Atlas
    from conceptatlas.viz import export_site

    typer.echo(f"Open {export_site(Atlas.load(run), out, single_file=single_file)}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished audit.")],
    out: Annotated[Path, typer.Argument(help="Folder for the report and its tables.")],
) -> None:
    """Write the bias report: one page with the evidence of each suspected shortcut, and its tables."""
    from conceptatlas.audit import Atlas
    from conceptatlas.viz import bias_report

    typer.echo(f"Open {bias_report(Atlas.load(run), out)}")


@app.command()
def search(
    run: Annotated[Path, typer.Argument(help="Folder of a finished audit that had an encoder.")],
    words: Annotated[list[str], typer.Argument(help="What to look for; of several, the best answer counts.")],
    encoder: Annotated[
        str | None, typer.Option(help="open_clip model of the audit; by default the recorded one.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Concepts listed.")] = 12,
) -> None:
    """List the concepts of all classes whose crops answer to some words."""
    from rich.console import Console
    from rich.table import Table

    from conceptatlas.audit import Atlas

    found = Atlas.load(run).search(words, encoder=encoder, most=most)
    table = Table("class", "concept", "label", "score", "z")
    for _, row in found.iterrows():
        table.add_row(row["class"], str(row["concept"]), row["label"], f"{row['score']:.3f}", f"{row['z']:.1f}")
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)
    typer.echo(
        "score: the words' mean cosine with its crops less that with the class's others; z: how far it stands out"
    )


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a finished audit: the model before, or the other one.")],
    second: Annotated[Path, typer.Argument(help="Folder of a finished audit of the model after.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pages: the second run's site, with the comparison.")
    ] = None,
) -> None:
    """Compare two audits: concepts kept, lost and gained, shortcuts fixed and new."""
    from conceptatlas.audit import Atlas
    from conceptatlas.audit import compare as run_comparison
    from conceptatlas.viz import export_site

    before, atlas = Atlas.load(first), Atlas.load(second)
    found = run_comparison(before, atlas)
    typer.echo(f"Concepts: {_statuses(found.concepts)}. Suspected shortcuts: {_statuses(found.shortcuts)}.")
    for _, row in found.shortcuts.iterrows():
        label = row["label_a"] if row["status"] == "fixed" else row["label_b"]
        typer.echo(f"Shortcut {row['status']}: {label} in class {row['class']}")
    if out is not None:
        typer.echo(f"Open {export_site(atlas, out, comparison=found).with_name('comparison.html')}")


def _statuses(frame: pd.DataFrame) -> str:
    held = frame["status"].value_counts() if len(frame) else {}
    return ", ".join(f"{n} {status}" for status, n in held.items()) or "none"


def _finish(atlas: Atlas, out: Path) -> None:
    from conceptatlas.viz import export_site

    index = export_site(atlas, out)
    _summarise(atlas)
    typer.echo(f"Open {Path(index).resolve()}")


def _summarise(atlas: Atlas) -> None:
    data = atlas.run["data"]
    fitted, listed = len(atlas), len(atlas.classes)
    typer.echo(
        f"{data['n_used']} of {data['n_seen']} images used, {data['n_skipped']} skipped; "
        f"{fitted} of {listed} classes fitted at {atlas.run['layer']['name']}."
    )
    suspects = atlas.shortcuts()
    graded = suspects[suspects["grade"].isin(["A", "B"])]
    alike = graded.groupby(["grade", "label", "class"], sort=False).size().head(5)
    for (grade, label, name), count in alike.items():  # type: ignore[misc]
        several = f" ({count} concepts)" if count > 1 else ""
        typer.echo(f"Suspected shortcut ({grade}): {label} in class {name}{several}")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isdigit() and int(p) > 0 for p in parts):
        _fail(f"--size must look like 224 or 224x160, not {text!r}")
    return int(parts[0]), int(parts[-1])


def _lines(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"{str(path)!r} is not a readable text file ({error})")


def _json(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        _fail(f"{str(path)!r} is not a readable JSON file ({error})")
    if not isinstance(value, dict):
        _fail(f"{str(path)!r} must hold an object that maps folder names to class names, not a {type(value).__name__}")
    return value


def _fail(message: str) -> NoReturn:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(2)


def _interrupted(_signal: int, _frame: object) -> NoReturn:
    sys.exit(143)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line: exit code 0 (done), 1 (a gate failed), 2 (the user's mistake), 130 and 143 (stopped)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read as torch loads: threads that wait take no processor time
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        sys.exit(app(arguments, standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("Stopped; run the same command again and it resumes.", err=True)
        sys.exit(130)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        sys.exit(_explain(error, verbose="-v" in arguments or "--verbose" in arguments))


def _explain(error: Exception, *, verbose: bool) -> int:
    """Print what went wrong in one sentence and return the exit code: 2 for the user's mistake, 3 for ours."""
    if verbose:
        traceback.print_exception(error)
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # a usage error of click, which typer may carry inside
        error.show()
        return error.exit_code
    if _is_users(error):
        typer.echo(f"Error: {error}", err=True)
        return 2
    typer.echo(f"Error: {type(error).__name__}: {error} (run with -v for the traceback)", err=True)
    return 3


def _is_users(error: Exception) -> bool:
    if "conceptatlas.extraction.errors" not in sys.modules:
        return False
    from conceptatlas.extraction.errors import ImageError, UserError

    return isinstance(error, (UserError, ImageError))
