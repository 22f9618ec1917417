"""A run's folder on disk: atomic writes, one folder per class, paths that cannot leave the run.

::

    run.json  images.parquet  skipped.parquet  activations/  views/*.webp
    tables/classes.parquet  tables/shortcuts.parquet
    concepts/<class>/  bank/  concepts.parquet images.parquet strategies.parquet examples.parquet
                       slices.parquet parts.parquet image_maps.parquet evidence.parquet
                       arrays.safetensors  class.json
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from conceptatlas.concepts.bank import ConceptBank
from conceptatlas.extraction.errors import UserError

if TYPE_CHECKING:
    from conceptatlas.audit.atlas import ClassAtlas

SCHEMA = 1
_PLACES = {"images": ".", "skipped": ".", "classes": "tables", "shortcuts": "tables"}
_CLASS_TABLES = ("concepts", "images", "strategies", "examples", "slices", "parts", "image_maps")
_LATER_TABLES = ("parts", "image_maps")  # runs of earlier versions lack them
_CLASS_ARRAYS = (
    "coefficients", "contributions", "residual", "bias", "maps", "everywhere_rows", "everywhere_scores",
)  # fmt: skip


def slug_of(index: int, name: str) -> str:
    """Return a folder name for a class: its index, which is unique, and what of its name is safe anywhere.

    >>> slug_of(7, "Black Widow / spider")
    '0007-black-widow-spider'
    """
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")[:40].strip("-")
    return f"{index:04d}-{words or hashlib.sha256(name.encode()).hexdigest()[:8]}"


def inside(root: Path, relative: str) -> Path:
    """Return ``root / relative`` where it lies in `root`; refuse paths that lead out of it."""
    base = root.resolve()
    try:
        target = (base / relative).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # no path at all, such as one with a null byte
        raise UserError(f"{relative!r} is no path in the run's folder {str(root)!r} ({error})") from None
    if base != target and base not in target.parents:
        raise UserError(f"{relative!r} leads out of the run's folder {str(root)!r}; the run has been tampered with")
    return target


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False, default=_plain)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _plain(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (Path, tuple, set)):
        return str(value) if isinstance(value, Path) else list(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def read_run(root: Path) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    path = root / "run.json"
    if not path.is_file():
        raise UserError(f"{str(root)!r} holds no atlas (no run.json); give the folder that `audit` wrote")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{str(path)!r} is not readable JSON ({error}); run the audit again") from None
    if not isinstance(run, dict) or not isinstance(run.get("schema"), int):
        raise UserError(f"{str(path)!r} is not an atlas' run.json (no schema number)")
    if run["schema"] > SCHEMA:
        raise UserError(
            f"{str(root)!r} was written by a newer conceptatlas (schema {run['schema']}); update to read it"
        )
    if not run.get("finished", False):
        raise UserError(f"the audit in {str(root)!r} is not finished; run the same audit again and it resumes")
    return run


def write_table(root: Path, name: str, frame: pd.DataFrame) -> None:
    """Write one of the run's tables."""
    folder = root / _PLACES[name]
    folder.mkdir(parents=True, exist_ok=True)
    _write_parquet(folder / f"{name}.parquet", frame)


def read_table(root: Path, name: str) -> pd.DataFrame:
    """Read one of the run's tables."""
    return _read_parquet(root / _PLACES[name] / f"{name}.parquet")


def _write_parquet(path: Path, frame: pd.DataFrame) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    frame.to_parquet(temporary, index=False, write_page_checksum=True)
    temporary.replace(path)


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read a table whose bytes are as written, where it has checksums, and whose values are what their types say."""
    from pyarrow import parquet

    try:
        parquet.read_table(path, page_checksum_verification=True, partitioning=None).validate(full=True)
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{str(path)!r} is missing; run the audit again, it redoes what is missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is not a readable table ({error}); run the audit again") from None


def class_folder(root: Path, slug: str) -> Path:
    """Return the folder of a class."""
    return inside(root, f"concepts/{slug}")


def save_class(root: Path, member: ClassAtlas, proof: pd.DataFrame) -> Path:
    """Write a class and its evidence whole or not at all: into a side folder that is renamed when it is complete."""
    folder = class_folder(root, member.slug)
    side = folder.with_name(f".{member.slug}.{os.getpid()}")
    for left in folder.parent.glob(f".{glob.escape(member.slug)}.*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    side.mkdir(parents=True)
    member.bank.save(side / "bank")
    for name in _CLASS_TABLES:
        _write_parquet(side / f"{name}.parquet", getattr(member, name))
    save_file({n: np.ascontiguousarray(getattr(member, n)) for n in _CLASS_ARRAYS}, side / "arrays.safetensors")
    _write_parquet(side / "evidence.parquet", proof)
    head = {"schema": SCHEMA, "index": member.index, "name": member.name, "slug": member.slug, "text": member.text}
    write_json(side / "class.json", head)
    if folder.exists():
        shutil.rmtree(folder)
    side.rename(folder)
    return folder


def save_bank(root: Path, member: ClassAtlas) -> None:
    """Write a class's bank again, after a person's edits."""
    member.bank.save(class_folder(root, member.slug) / "bank")


def load_class(root: Path, slug: str) -> dict[str, Any]:
    """Return the fields of a `ClassAtlas` as read from its folder."""
    folder = class_folder(root, slug)
    try:
        head = json.loads((folder / "class.json").read_text(encoding="utf-8"))
        arrays = load_file(folder / "arrays.safetensors")
        fields = {name: arrays[name] for name in _CLASS_ARRAYS}
        fields |= {key: head[key] for key in ("index", "name", "slug", "text")}
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError, KeyError, TypeError) as error:
        raise UserError(
            f"the class folder {str(folder)!r} is torn ({error}); run the audit again to rebuild it"
        ) from None
    tables = [t for t in _CLASS_TABLES if t not in _LATER_TABLES or (folder / f"{t}.parquet").is_file()]
    fields |= {name: _read_parquet(folder / f"{name}.parquet") for name in tables}
    rows = {len(fields[name]) for name in ("images", "coefficients", "contributions", "residual", "bias")}
    if len(rows) > 1 or fields["coefficients"].shape != fields["contributions"].shape:
        raise UserError(f"the tables and arrays in {str(folder)!r} differ in length; run the audit again to rebuild it")
    return {**fields, "bank": ConceptBank.load(folder / "bank")}


def read_evidence(root: Path, slug: str) -> tuple[pd.DataFrame, str]:
    """Return a class's rows of evidence and the map method that it was drawn with."""
    folder = class_folder(root, slug)
    return _read_parquet(folder / "evidence.parquet"), str(_read_parquet(folder / "concepts.parquet")["map"].iloc[0])


def has_class(root: Path, slug: str) -> bool:
    """Return whether a class was written completely."""
    return (class_folder(root, slug) / "class.json").is_file()


def copy_atlas(source: Path, target: Path) -> Path:
    """Copy a run without its activations into a new or empty folder."""
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{str(target)!r} is not empty; give a new folder")
    side = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(side, ignore_errors=True)
    shutil.copytree(source, side, ignore=shutil.ignore_patterns("activations", "crops", ".*"))
    if target.exists():
        target.rmdir()
    side.rename(target)
    return target
