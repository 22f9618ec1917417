"""How a person's decisions change records: reading edits, merging, finding the same concepts in another run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from conceptatlas.concepts.records import ConceptRecord
from conceptatlas.extraction.errors import UserError


def read_edits(edits: Any) -> list[dict[str, Any]]:
    """The edits as a list, from a dict, a list, ``{"edits": [...]}`` or the path of a JSON file of one of these.

    Raises
    ------
    UserError
        Where they do not read.

    Examples
    --------
    >>> read_edits({"concept": 1, "title": "mane"})
    [{'concept': 1, 'title': 'mane'}]
    """
    if isinstance(edits, str | Path):
        try:
            edits = json.loads(Path(edits).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"The edits in {edits} cannot be read: {error}.") from error
    if isinstance(edits, Mapping):
        edits = edits.get("edits", [edits])
    if not isinstance(edits, Sequence) or not all(isinstance(edit, Mapping) for edit in edits):
        raise UserError("Edits are a list of objects with concept and title, tag or note, as the site exports them.")
    for edit in edits:
        if not isinstance(edit.get("concept"), int) or isinstance(edit["concept"], bool):
            raise UserError(f"An edit needs the id of its concept as a whole number, not {edit.get('concept')!r}.")
    return [dict(edit) for edit in edits]


def written_edits(class_name: str, records: Sequence[ConceptRecord]) -> list[dict[str, Any]]:
    """What a person has said of a class's concepts, in the form that `read_edits` reads.

    Examples
    --------
    >>> written_edits("zebra", [ConceptRecord(0), ConceptRecord(1, title="mane")])
    [{'class': 'zebra', 'concept': 1, 'title': 'mane'}]
    """
    said = [{"title": record.title, "tag": record.tag, "note": record.note} for record in records]
    return [
        {"class": class_name, "concept": record.id, **{key: value for key, value in each.items() if value}}
        for record, each in zip(records, said, strict=True)
        if record.judged
    ]


def check_text(value: Any, what: str, longest: int) -> str:
    """`value` without the space around it; "" for None.

    Raises
    ------
    UserError
        Where it is not text, or longer than `longest` characters.

    Examples
    --------
    >>> check_text(" mane ", "title", 200)
    'mane'
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"A concept's {what} is text, not {value!r}.")
    if len(value) > longest:
        raise UserError(f"A concept's {what} has at most {longest} characters, not {len(value)}.")
    return value.strip()


def survivor(parent: int | None, up: Mapping[int, int | None]) -> int | None:
    """The nearest ancestor that is still there, where `up` maps the ids that went to what takes their place.

    Examples
    --------
    >>> survivor(5, {5: 4, 4: 1})
    1
    """
    while parent is not None and parent in up:
        parent = up[parent]
    return parent


def merged_record(records: Sequence[ConceptRecord], title: str = "") -> ConceptRecord:
    """One record for several: the first one's id, one title, a common tag or ``unclear``, all notes, no measures.

    Examples
    --------
    >>> merged_record([ConceptRecord(1, tag="core"), ConceptRecord(2, title="mane")])
    ConceptRecord(id=1, name=None, title='mane', tag='unclear', note='', parent=None, quality={})
    """
    tag = records[0].tag if len({record.tag for record in records}) == 1 else "unclear"
    return ConceptRecord(
        id=records[0].id,
        title=title or next((record.title for record in records if record.title), None),
        tag=tag,
        note="\n".join(record.note for record in records if record.note),
        parent=survivor(records[0].parent, {record.id: record.parent for record in records}),
    )


def merge_weights(weights: Sequence[float] | None, count: int) -> np.ndarray:
    """`count` float32 weights that sum to one; equal ones for None.

    Raises
    ------
    UserError
        Where their number is another, or one is negative or not finite.
    """
    share = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
    if share.shape != (count,) or not np.isfinite(share).all() or (share < 0).any() or share.sum() <= 0:
        raise UserError(f"Merging {count} concepts takes {count} weights of 0 or more, not {weights!r}.")
    return (share / share.sum()).astype(np.float32)


def matched_rows(old: np.ndarray, new: np.ndarray, threshold: float) -> dict[int, tuple[int, float]]:
    """For rows of `old` (k, p) the row of `new` (l, p) that is the same direction, with the cosine.

    One to one, the sum of cosines as large as it can be (Hungarian assignment); pairs below `threshold` are left out.

    Examples
    --------
    >>> matched_rows(np.eye(2, 3), np.eye(3)[[1, 0]], 0.9)
    {0: (1, 1.0), 1: (0, 1.0)}
    """
    cosine = unit_rows(old) @ unit_rows(new).T
    pairs = zip(*linear_sum_assignment(-cosine), strict=True)
    return {int(i): (int(j), float(cosine[i, j])) for i, j in pairs if cosine[i, j] >= threshold}


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """The rows, or one vector, scaled to unit length; zero stays zero.

    Examples
    --------
    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
