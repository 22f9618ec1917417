"""The atlas: what a model has learned, class by class, as an object that needs neither the model nor the images.

Letters: ``n`` images predicted as a class, ``k`` concepts of that class.
"""

from __future__ import annotations

import html
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from conceptatlas.audit import storage
from conceptatlas.audit.search import search
from conceptatlas.audit.statistics import holds
from conceptatlas.concepts import TextImageEncoder
from conceptatlas.concepts.bank import ConceptBank
from conceptatlas.concepts.judgement import read_edits, written_edits
from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.remote import Mirror, is_address

GRADES = ("A", "B", "C", "D")


@dataclass(frozen=True)
class ClassAtlas:
    """The concepts of one class of the model, over the images that the model predicts as it.

    Columns of the arrays stand in the order of the concept ids ``0 .. k-1``; rows of `images` and of the arrays
    agree.

    Attributes
    ----------
    index, name, slug
        The model's class index, its name, and the name of its folder and page.
    bank
        Directions and records (names, tags, notes) of the concepts.
    concepts
        One row per concept, the most important first.
    images
        One row per image: ``sample_id, row, label, correct, probability, logit, dominant, x, y, cluster, view``, and
        what it takes to decide otherwise: ``counterfactual`` (ids of the concepts whose removal lets another class
        win), ``flips_to`` (that class), ``flipped`` (False: removing them does not suffice), ``smallest`` (whether no
        smaller set exists); unknown for images that were not tried.
    coefficients
        (n, k) mean coefficient over the positions of the image, in units of the activations.
    contributions
        (n, k) signed part of the class logit that each concept brings.
    residual, bias
        (n,) what is left: ``logit = contributions.sum(1) + residual + bias``.
    strategies
        One row per concept that dominates images: prevalence and reliability.
    examples
        One row per concept and rank: view, crop box in pixels of the view, row of its map.
    maps
        (m, h, w) uint8; 255 is the 99 % quantile of the concept's maps, so that images compare.
    slices
        Groups of images with a raised error rate, in concept space. May be empty.
    text
        Free text about the class; may be empty.
    everywhere_rows, everywhere_scores
        (m,) rows of `Atlas.images` and (m, k) how much of each concept those images hold: the class's images, images
        labelled as it, and a sample of the others.
    parts
        One row per part (``node`` of ``bank.tree``) and crop; empty where concepts were not split.
    image_maps
        Where the maps of single images stand in `maps`: ``row`` (of `images`), ``concept``, ``map_row``.
    """

    index: int
    name: str
    slug: str
    bank: ConceptBank
    concepts: pd.DataFrame
    images: pd.DataFrame
    coefficients: np.ndarray
    contributions: np.ndarray
    residual: np.ndarray
    bias: np.ndarray
    strategies: pd.DataFrame
    examples: pd.DataFrame
    maps: np.ndarray
    slices: pd.DataFrame = field(default_factory=pd.DataFrame)
    text: str = ""
    everywhere_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    everywhere_scores: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    parts: pd.DataFrame = field(default_factory=pd.DataFrame)
    image_maps: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def n_images(self) -> int:
        """Number of images predicted as this class."""
        return len(self.images)

    @property
    def n_concepts(self) -> int:
        """Number of concepts."""
        return len(self.bank.concepts)

    @property
    def reference(self) -> np.ndarray:
        """(k,) mean coefficient per position over images of all classes: what mean-ablation sets a concept to."""
        return self._of_concepts("reference")

    @property
    def thresholds(self) -> np.ndarray:
        """(k,) score from which on an image is said to hold a concept."""
        return self._of_concepts("threshold")

    def _of_concepts(self, column: str) -> np.ndarray:
        return self.concepts.set_index("concept")[column].reindex(self.bank.ids).to_numpy(dtype=np.float32)

    def overlap(self, one: int, other: int) -> float:
        """Return which share of the images that hold either of two concepts holds both; NaN where that is not known."""
        if not {"concept", "threshold"} <= set(self.concepts) or max(one, other) >= self.everywhere_scores.shape[1]:
            return float("nan")
        levels = self.concepts.set_index("concept")["threshold"]
        first, second = (holds(self.everywhere_scores[:, c], levels[c]) for c in (one, other))
        either = int((first | second).sum())
        return float((first & second).sum() / either) if either else float("nan")

    def label(self, concept: int) -> str:
        """Return what to call a concept: a person's title, else its name, else its number."""
        return self.bank.concepts[self.bank.index(concept)].label

    def to_frame(self) -> pd.DataFrame:
        """Return one row per concept, the most important first, with the bank's titles, tags and notes."""
        frame = self.concepts[self.concepts["concept"].isin(self.bank.ids)].reset_index(drop=True)
        records = [self.bank.concepts[self.bank.index(int(i))] for i in frame["concept"]]
        frame["label"] = [record.label for record in records]
        frame["tag"] = [record.tag for record in records]
        frame["note"] = [record.note for record in records]
        return frame

    def with_bank(self, bank: ConceptBank) -> ClassAtlas:
        """Return the same class with another bank (a person's renames and tags)."""
        return replace(self, bank=bank)

    def _repr_html_(self) -> str:
        head = f"<h3>{html.escape(self.name)}</h3><p>{self.n_images} images, {self.n_concepts} concepts</p>"
        return head + _table(self.to_frame(), _CONCEPT_COLUMNS)


@dataclass(frozen=True)
class Atlas(Mapping[str, ClassAtlas]):
    """A mapping from class name to `ClassAtlas`, with the tables of the whole run.

    Attributes
    ----------
    run
        What was audited and how: model, layer and why, data counts, seed, versions (the content of ``run.json``).
    images
        One row per image that was used.
    skipped
        One row per image that was not, with the cause.
    classes
        One row per class that was predicted: ``index, name, n_images, fitted, reason``.
    shortcut_table
        One row per class and concept, most suspect first; see `shortcuts`.
    path
        The run's folder.
    """

    run: dict[str, Any]
    images: pd.DataFrame
    skipped: pd.DataFrame
    classes: pd.DataFrame
    shortcut_table: pd.DataFrame
    members: Mapping[str, ClassAtlas]
    path: Path
    keep_alive: object = field(default=None, repr=False, compare=False)

    def __getitem__(self, name: str) -> ClassAtlas:
        """Return the class of that name; the error lists the classes there are."""
        try:
            return self.members[name]
        except KeyError:
            raise KeyError(self._missing(name)) from None

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the fitted classes."""
        return iter(self.members)

    def __len__(self) -> int:
        """Return the number of fitted classes."""
        return len(self.members)

    def _missing(self, name: str) -> str:
        known = self.classes.loc[self.classes["name"] == name] if len(self.classes) else self.classes
        if len(known):
            return f"class {name!r} was not fitted: {known.iloc[0]['reason']}"
        shown = ", ".join(list(self)[:12])
        return f"no class {name!r} in this atlas; it holds: {shown}{', ...' if len(self) > 12 else ''}"

    def to_frame(self) -> pd.DataFrame:
        """Return the concepts of all classes, one row per class and concept."""
        frames = [self[name].to_frame().assign(**{"class": name}) for name in self]
        if not frames:
            return pd.DataFrame(columns=["class", "concept", "label"])
        frame = pd.concat(frames, ignore_index=True)
        return frame[["class", *[c for c in frame.columns if c != "class"]]]

    def shortcuts(self) -> pd.DataFrame:
        """Return the suspected shortcuts, most suspect first.

        Columns: ``class``, ``concept``, ``label``, ``name``, ``grade`` (``"A"`` strongest evidence to ``"D"`` none)
        and the evidence that led to it (see `conceptatlas.audit.shortcuts`).
        """
        frame = self.shortcut_table.copy()
        if len(frame):
            held = [int(i) in self[c].bank.ids for c, i in zip(frame["class"], frame["concept"], strict=True)]
            frame = frame[held].reset_index(drop=True)
            frame["label"] = [self[c].label(int(i)) for c, i in zip(frame["class"], frame["concept"], strict=True)]
        return frame

    def search(
        self, words: str | Sequence[str], *, encoder: TextImageEncoder | str | None = None, most: int = 20
    ) -> pd.DataFrame:
        """Return the concepts of all classes whose crops answer to some words, best first; see `audit.search`.

        Examples
        --------
        >>> atlas.search("stripes")[["class", "label", "score", "z"]]        # doctest: +SKIP
        """
        return search(self, words, encoder=encoder, most=most)

    def passed(self, *, max_grade: str = "B") -> bool:
        """Return True where no suspected shortcut is graded `max_grade` or worse ("A" is the worst).

        Concepts that a person has tagged ``core`` do not count.
        """
        if max_grade not in GRADES:
            raise UserError(f"max_grade must be one of {', '.join(GRADES)}, not {max_grade!r}")
        failing = GRADES[: GRADES.index(max_grade) + 1]
        suspects = self.shortcuts()
        suspects = suspects[suspects["grade"].isin(failing)]
        tags = [
            self[c].bank.concepts[self[c].bank.index(int(i))].tag
            for c, i in zip(suspects["class"], suspects["concept"], strict=True)
        ]
        return all(tag == "core" for tag in tags)

    def view(self, relative: str) -> Image.Image:
        """Return a stored view: what the model saw of an image (upright, cropped, RGB)."""
        with Image.open(storage.inside(self.path, relative)) as image:
            return image.convert("RGB")

    def with_bank(self, name: str, bank: ConceptBank) -> Atlas:
        """Return the atlas with another bank for one class, and write it to the run's folder."""
        member = self[name].with_bank(bank)
        storage.save_bank(self.path, member)
        return replace(self, members={**dict(self.members), name: member})

    def edits(self) -> dict[str, Any]:
        """Return what a person has said of the concepts, in the form that the site exports and `apply_edits` takes."""
        return {"edits": [edit for name in self for edit in written_edits(name, self[name].bank.concepts)]}

    def apply_edits(self, edits: dict[str, Any] | str | Path) -> Atlas:
        """Return the atlas with the renames, tags and notes exported from the site (JSON) applied and written.

        Parameters
        ----------
        edits
            What the site exported, or the path of that file, or another atlas's `edits()`.

        Raises
        ------
        UserError
            Where the edits name a class or a concept that the atlas does not have; nothing is written then.
        """
        listed = read_edits(edits)
        banks = {name: self[name].bank for name in self}
        unknown = {e.get("class") for e in listed} - set(banks)
        if unknown:
            raise UserError(f"the edits name classes that this atlas does not have: {sorted(map(str, unknown))}")
        touched = {e["class"] for e in listed}
        changed = {name: banks[name].apply_edits(listed) for name in sorted(touched)}
        atlas = self
        for name, bank in changed.items():
            atlas = atlas.with_bank(name, bank)
        return atlas

    def save(self, path: str | Path) -> Path:
        """Write the atlas (without the activation store) to a new folder, or an address, and return it.

        Raises
        ------
        UserError
            Where the folder exists and is not empty.
        """
        if is_address(path):
            mirror = Mirror(str(path))
            shutil.rmtree(mirror.path, ignore_errors=True)
            storage.copy_atlas(self.path, mirror.path)
            mirror.push()
            return mirror.path
        return storage.copy_atlas(self.path, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Atlas:
        """Open a run's folder, or a copy of what an address such as ``s3://bucket/run`` holds (less its activations).

        Classes are read when they are asked for.

        Raises
        ------
        UserError
            Where the folder holds no finished atlas, or one of a newer version.
        """
        root = Mirror(str(path)).pull(without=("activations", "crops")) if is_address(path) else Path(path)
        run = storage.read_run(root)
        tables = {name: storage.read_table(root, name) for name in ("images", "skipped", "classes", "shortcuts")}
        members = LazyClasses(root, tables["classes"])
        return cls(
            run=run,
            images=tables["images"],
            skipped=tables["skipped"],
            classes=tables["classes"],
            shortcut_table=tables["shortcuts"],
            members=members,
            path=root,
        )

    def _repr_html_(self) -> str:
        data = self.run.get("data", {})
        counts = f"{data.get('n_used', '?')} of {data.get('n_seen', '?')} images used, {len(self.skipped)} skipped"
        model = html.escape(str(self.run.get("model", {}).get("name", "model")))
        layer = html.escape(str(self.run.get("layer", {}).get("name", "?")))
        head = f"<h3>Atlas of {model} at {layer}</h3><p>{counts}; {len(self)} classes</p>"
        classes = _table(self.classes, ["name", "n_images", "fitted", "reason"])
        return head + classes + "<h4>Suspected shortcuts</h4>" + _table(self.shortcuts().head(10), _SHORTCUT_COLUMNS)


class LazyClasses(Mapping[str, ClassAtlas]):
    """The fitted classes of a run's folder, each read from disk when it is first asked for."""

    def __init__(self, root: Path, classes: pd.DataFrame) -> None:
        self._slugs = _slugs_of(classes) if len(classes) else {}
        self._root = root
        self._read: dict[str, ClassAtlas] = {}

    def __getitem__(self, name: str) -> ClassAtlas:
        if name not in self._read:
            self._read[name] = ClassAtlas(**storage.load_class(self._root, self._slugs[name]))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slugs)

    def __len__(self) -> int:
        return len(self._slugs)


def _slugs_of(classes: pd.DataFrame) -> dict[str, str]:
    """Return the folder of each fitted class by the class's name."""
    missing = {"name", "slug", "fitted"} - set(classes.columns)
    if missing:
        raise UserError(f"the table of classes has no {', '.join(sorted(missing))}; run the audit again")
    fitted = classes[classes["fitted"].fillna(False).astype(bool)]
    if not all(isinstance(text, str) for column in ("name", "slug") for text in fitted[column]):
        raise UserError("the table of classes holds names that are no text; run the audit again")
    return dict(zip(fitted["name"], fitted["slug"], strict=True))


_CONCEPT_COLUMNS = ["label", "importance", "sobol", "presence", "prevalence", "reliability", "localisation", "tag"]
_SHORTCUT_COLUMNS = ["class", "label", "grade", "suspicion", "importance", "false_positive_with", "accuracy_without"]


def _table(frame: pd.DataFrame, columns: list[str]) -> str:
    shown = frame[[c for c in columns if c in frame.columns]]
    return shown.to_html(index=False, border=0, float_format=lambda v: f"{v:.3f}", escape=True, na_rep="–")
