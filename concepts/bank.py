"""`ConceptBank`: the concepts of one class at one layer, with what is known and what a person said of each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conceptatlas.concepts import bank_file
from conceptatlas.concepts.judgement import (
    check_text,
    matched_rows,
    merge_weights,
    merged_record,
    read_edits,
    survivor,
    unit_rows,
)
from conceptatlas.concepts.names import Name
from conceptatlas.concepts.records import ConceptRecord, Edit, check_tag
from conceptatlas.concepts.tree import ConceptTree
from conceptatlas.extraction.errors import UserError

_LOG = logging.getLogger(__name__)
CARRY_COSINE = 0.9
"""The least cosine between two directions at which a person's judgement passes from one to the other."""


@dataclass(frozen=True, eq=False)
class ConceptBank:
    """Concept directions with a record of each. A value: every change returns a new bank and joins the history.

    Parameters
    ----------
    directions : ndarray, shape (k, p)
        Concept directions W, float32, unit-norm rows; row i belongs to ``concepts[i]``. Made read-only.
    layer : str
        The cut point that the directions live at.
    class_name, class_index : str, int
        The class whose images the concepts were found in.
    concepts : tuple of ConceptRecord
        One record per row; their ids are unique and stay with the concept. By default ids 0 to k - 1.
    provenance : dict
        Where the bank comes from (model, weights, data, factorizer, seed, versions ...), JSON-ready.
    tree : ConceptTree, dict or None
        The recursion's tree of concepts.
    embeddings : ndarray, shape (k, d), or None
        Each concept's contrast in the space of a text-image encoder: what a search by text compares words with.
    history : tuple of Edit
        A person's decisions, oldest first.

    Raises
    ------
    UserError
        Where shapes, ids or values do not fit together.

    Examples
    --------
    >>> bank = ConceptBank(np.eye(2, 3, dtype=np.float32), "layer4", "zebra", 340)
    >>> bank.rename(1, "stripes").tag(1, "core").labels
    ['concept 0', 'stripes']
    """

    directions: np.ndarray
    layer: str
    class_name: str
    class_index: int
    concepts: tuple[ConceptRecord, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    tree: Any = None
    embeddings: np.ndarray | None = field(default=None, kw_only=True)
    history: tuple[Edit, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        directions = _frozen_matrix(self.directions, "directions")
        embeddings = None if self.embeddings is None else _frozen_matrix(self.embeddings, "embeddings")
        concepts = tuple(self.concepts) or tuple(ConceptRecord(i) for i in range(len(directions)))
        ids = [record.id for record in concepts]
        if len(ids) != len(directions) or (embeddings is not None and len(embeddings) != len(ids)):
            raise UserError(f"A bank needs one record (and embedding) per direction: {len(ids)} for {len(directions)}.")
        if len(set(ids)) != len(ids):
            raise UserError(f"The ids of a bank's concepts must differ, but got {ids}.")
        values = {"directions": directions, "embeddings": embeddings, "concepts": concepts}
        for key, value in {**values, "history": tuple(self.history)}.items():
            object.__setattr__(self, key, value)

    # -- reading -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.concepts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConceptBank):
            return NotImplemented
        pairs = ((self.directions, other.directions), (self.embeddings, other.embeddings))
        same = all(np.array_equal(a, b) if a is not None and b is not None else a is b for a, b in pairs)
        return same and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    @property
    def ids(self) -> list[int]:
        """The concepts' ids, in the order of the rows of `directions`."""
        return [record.id for record in self.concepts]

    @property
    def labels(self) -> list[str]:
        """What each concept is called: a person's title, else its name, else "concept 3"."""
        return [record.label for record in self.concepts]

    def index(self, concept: int) -> int:
        """The row of the concept with this id.

        Raises
        ------
        UserError
            Where there is none; the message lists the ids.
        """
        try:
            return self.ids.index(concept)
        except ValueError:
            raise UserError(f"There is no concept {concept!r} in {self.class_name!r}; it has {self.ids}.") from None

    def record(self, concept: int) -> ConceptRecord:
        """The record of the concept with this id."""
        return self.concepts[self.index(concept)]

    def to_frame(self) -> pd.DataFrame:
        """One row per concept: id, label, the name with its evidence, a person's judgement, parent, measures."""
        return pd.DataFrame([record.to_row() for record in self.concepts]).astype({"parent": "Int64"})

    def _repr_html_(self) -> str:
        """A short table for notebooks; everything that comes from outside is escaped."""
        title = f"{self.class_name}: {len(self)} concepts at {self.layer}"
        shown = self.to_frame()[["concept", "label", "name_status", "name_auc", "tag", "note", "parent"]]
        body = shown.to_html(index=False, escape=True, na_rep="", float_format=lambda v: f"{v:.3g}", border=0)
        return f"<p>{escape(title)}</p>{body}"

    # -- a person's word -----------------------------------------------------------------------------------------

    def rename(self, concept: int, title: str | None) -> ConceptBank:
        """The bank with a person's title for the concept; "" or None gives the automatic name back."""
        return self._edited("rename", concept, "title", check_text(title, "title", 200) or None)

    def tag(self, concept: int, tag: str | None) -> ConceptBank:
        """The bank with the concept marked ``core``, ``spurious`` or ``unclear``; "" or None takes the mark away."""
        return self._edited("tag", concept, "tag", check_tag(tag))

    def note(self, concept: int, note: str | None) -> ConceptBank:
        """The bank with a person's remark on the concept."""
        return self._edited("note", concept, "note", check_text(note, "note", 10_000))

    def drop(self, concepts: int | Sequence[int]) -> ConceptBank:
        """The bank without these concepts; the others keep their ids, children move up to the dropped one's parent.

        Raises
        ------
        UserError
            Where an id is unknown, or no concept would be left.
        """
        gone = sorted({concepts} if isinstance(concepts, (int, np.integer)) else set(concepts))
        rows = [self.index(concept) for concept in gone]
        keep = [i for i in range(len(self)) if i not in rows]
        if not keep:
            raise UserError(f"Dropping {gone} would leave no concept of {self.class_name!r}.")
        up = {record.id: record.parent for record in self.concepts if record.id in gone}
        edit = Edit("drop", tuple(gone), [self.concepts[i].to_dict() for i in rows])
        return replace(self._kept(keep, up), history=(*self.history, edit))

    def merge(
        self, concepts: Sequence[int], *, title: str | None = None, weights: Sequence[float] | None = None
    ) -> ConceptBank:
        """The bank with these concepts as one, at the place and under the id of the first.

        Parameters
        ----------
        concepts : sequence of int
            Two or more ids.
        title : str, optional
            A title for the result; by default that of the first titled one.
        weights : sequence of float, optional
            How much each direction counts (such as its prevalence); equal by default. The sum is scaled to unit norm.

        Raises
        ------
        UserError
            Where fewer than two ids are given, one is unknown, the weights do not fit, or the directions cancel out.

        Notes
        -----
        The automatic name and the measures spoke of the parts, so the result has none until they are taken again.
        Different tags become ``unclear``; notes are joined.
        """
        ids = list(dict.fromkeys(concepts))
        if len(ids) < 2:
            raise UserError(f"Merging needs two or more concepts, but got {list(concepts)}.")
        rows, share = [self.index(concept) for concept in ids], merge_weights(weights, len(ids))
        parts = [self.concepts[i] for i in rows]
        keep = [i for i in range(len(self)) if i == rows[0] or i not in rows]
        rest, at = self._kept(keep, dict.fromkeys(ids[1:], ids[0])), keep.index(rows[0])
        records, directions = list(rest.concepts), rest.directions.copy()
        records[at] = merged_record(parts, check_text(title, "title", 200))
        together = share @ self.directions[rows]
        if np.linalg.norm(together) <= 1e-6 * np.linalg.norm(self.directions[rows]):
            raise UserError(f"Concepts {ids} point opposite ways and cancel out: they cannot be one concept.")
        directions[at] = unit_rows(together)
        embeddings = None
        if self.embeddings is not None:
            embeddings = self.embeddings[keep]
            embeddings[at] = share @ self.embeddings[rows]
        after = {"id": ids[0], "weights": share.tolist()}
        history = (*self.history, Edit("merge", tuple(ids), [part.to_dict() for part in parts], after))
        return replace(rest, directions=directions, embeddings=embeddings, concepts=tuple(records), history=history)

    def apply_edits(self, edits: Any) -> ConceptBank:
        """The bank after the edits that the site exports.

        Parameters
        ----------
        edits : dict, list of dict, ``{"edits": [...]}`` or path to a JSON file of one of these
            Each edit has ``concept`` (an id) and at least one of ``title``, ``tag``, ``note``; where its ``class`` is
            neither this bank's name nor its index it is passed over. An empty value takes the old one away.

        Raises
        ------
        UserError
            Where the file or an edit does not read.

        Examples
        --------
        >>> bank = ConceptBank(np.eye(2, 3, dtype=np.float32), "layer4", "zebra", 340)
        >>> bank.apply_edits([{"class": "zebra", "concept": 0, "title": "mane"}, {"class": "ant", "concept": 9}]).labels
        ['mane', 'concept 1']
        """
        bank = self
        own = (None, self.class_name, self.class_index, str(self.class_index))
        for edit in read_edits(edits):
            if edit.get("class") not in own:
                continue
            for key in ("title", "tag", "note"):
                old = getattr(bank.record(edit["concept"]), key) or None
                if key in edit and (edit[key] or None) != old:
                    change = bank.rename if key == "title" else bank.tag if key == "tag" else bank.note
                    bank = change(edit["concept"], edit[key])
        return bank

    def carry_over(self, old: ConceptBank, *, threshold: float = CARRY_COSINE) -> ConceptBank:
        """The bank with the titles, tags and notes that a person gave to the same concepts in an earlier run.

        Concepts are matched one to one by the cosine of their directions. What this bank already says of a concept
        stays. Judgements that find no concept are logged and kept in the history.

        Parameters
        ----------
        old : ConceptBank
            The earlier bank, at the same layer.
        threshold : float, default 0.9
            The least cosine of a match.

        Raises
        ------
        UserError
            Where the layers or the directions' lengths differ, so that a cosine would mean nothing.
        """
        if old.layer != self.layer or old.directions.shape[1] != self.directions.shape[1]:
            here, there = (f"{b.layer} ({b.directions.shape[1]} features)" for b in (self, old))
            raise UserError(f"Judgements carry over only within one layer, but the banks are at {here} and {there}.")
        matches = matched_rows(old.directions, self.directions, threshold)
        records, edits = list(self.concepts), list(old.history)
        for i, record in enumerate(old.concepts):
            if not record.judged:
                continue
            said = {"title": record.title, "tag": record.tag, "note": record.note}
            if i not in matches:
                _LOG.warning("no concept of the new run matches %r of class %r", record.label, self.class_name)
                edits.append(Edit("carry_over", (record.id,), said))
                continue
            row, cosine = matches[i]
            new = records[row]
            records[row] = replace(new, **{key: getattr(new, key) or value for key, value in said.items()})
            edits.append(Edit("carry_over", (record.id, new.id), said, {"cosine": cosine}))
        return replace(self, concepts=tuple(records), history=(*edits, *self.history))

    # -- what is measured ----------------------------------------------------------------------------------------

    def with_names(self, names: Sequence[Name | None]) -> ConceptBank:
        """The bank with these automatic names, in the order of its concepts; a person's titles stay before them."""
        if len(names) != len(self):
            raise UserError(f"{len(names)} names do not fit {len(self)} concepts.")
        records = (replace(record, name=name) for record, name in zip(self.concepts, names, strict=True))
        return replace(self, concepts=tuple(records))

    def with_quality(self, **measures: Iterable[float]) -> ConceptBank:
        """The bank with measures added to its records: ``with_quality(coherence=[...])``, one value a concept."""
        columns = {key: [float(v) for v in values] for key, values in measures.items()}
        for key, values in columns.items():
            if len(values) != len(self):
                raise UserError(f"{len(values)} values of {key!r} do not fit {len(self)} concepts.")
        records = (
            replace(record, quality={**record.quality, **{key: values[i] for key, values in columns.items()}})
            for i, record in enumerate(self.concepts)
        )
        return replace(self, concepts=tuple(records))

    # -- keeping -------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All of the bank but its matrices, as JSON-ready values."""
        values = {
            "layer": self.layer,
            "class_name": self.class_name,
            "class_index": int(self.class_index),
            "shape": list(self.directions.shape),
            "concepts": [record.to_dict() for record in self.concepts],
            "provenance": self.provenance,
            "tree": self.tree.to_dict() if hasattr(self.tree, "to_dict") else self.tree,
            "history": [edit.to_dict() for edit in self.history],
        }
        return {key: bank_file.json_ready(value) for key, value in values.items()}

    def save(self, path: str | Path) -> Path:
        """Write the bank as a folder (safetensors + JSON); what was there stays whole until the new one is.

        Raises
        ------
        UserError
            Where the folder cannot be written.
        """
        return bank_file.write_folder(path, self.to_dict(), self._tensors())

    @classmethod
    def load(cls, path: str | Path) -> ConceptBank:
        """The bank that `save` wrote. Never unpickles.

        Raises
        ------
        UserError
            Where the folder is missing, torn, changed outside the library, or written by a newer version.
        """
        return cls._from_parts(*bank_file.read_folder(path), where=str(path))

    def push_to_hub(self, repo_id: str | Path, **options: Any) -> str:
        """Upload the bank to the Hugging Face Hub, or write it to a local folder; see `bank_file.push_folder`."""
        return bank_file.push_folder(repo_id, self.to_dict(), self._tensors(), **options)

    @classmethod
    def from_hub(cls, repo_id: str | Path, **options: Any) -> ConceptBank:
        """The bank that `push_to_hub` put there; see `bank_file.pull_folder`."""
        return cls._from_parts(*bank_file.pull_folder(repo_id, **options), where=str(repo_id))

    # -- within --------------------------------------------------------------------------------------------------

    @classmethod
    def _from_parts(cls, values: dict[str, Any], tensors: dict[str, np.ndarray], where: str) -> ConceptBank:
        try:
            if list(tensors["directions"].shape) != values["shape"]:
                raise UserError(f"The matrices of the concept bank in {where} do not have the recorded shape.")
            return cls(
                tensors["directions"],
                values["layer"],
                values["class_name"],
                values["class_index"],
                tuple(ConceptRecord.from_dict(record) for record in values["concepts"]),
                values["provenance"],
                _tree(values["tree"]),
                embeddings=tensors.get("embeddings"),
                history=tuple(Edit.from_dict(edit) for edit in values["history"]),
            )
        except UserError:
            raise
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise UserError(f"The concept bank in {where} lacks something ({error!r}); save it again.") from error

    def _tensors(self) -> dict[str, np.ndarray]:
        tensors = {"directions": self.directions, "embeddings": self.embeddings}
        return {key: np.ascontiguousarray(value) for key, value in tensors.items() if value is not None}

    def _edited(self, action: str, concept: int, key: str, value: Any) -> ConceptBank:
        row = self.index(concept)
        record = self.concepts[row]
        edit = Edit(action, (concept,), getattr(record, key), value)
        concepts = (*self.concepts[:row], replace(record, **{key: value}), *self.concepts[row + 1 :])
        return replace(self, concepts=concepts, history=(*self.history, edit))

    def _kept(self, rows: list[int], up: dict[int, int | None]) -> ConceptBank:
        """The bank with only these rows; parents that went give way to what `up` says."""
        records = (self.concepts[i] for i in rows)
        concepts = tuple(replace(record, parent=survivor(record.parent, up)) for record in records)
        embeddings = None if self.embeddings is None else self.embeddings[rows]
        return replace(self, directions=self.directions[rows], embeddings=embeddings, concepts=concepts)


def _frozen_matrix(values: Any, what: str) -> np.ndarray:
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    matrix = np.array(values, dtype=np.float32, order="C")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise UserError(f"A bank's {what} are a matrix with one row per concept, not of shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise UserError(f"A bank's {what} hold NaN or infinite values.")
    matrix.flags.writeable = False
    return matrix


def _tree(values: Any) -> Any:
    return ConceptTree.from_dict(values) if isinstance(values, dict) and "nodes" in values else values
