"""Suspected shortcuts, error slices and other tables as the pages show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from conceptatlas.viz.concepts import concept_labels
from conceptatlas.viz.evidence import Contrast, contrasts
from conceptatlas.viz.links import SUSPECT_GRADES
from conceptatlas.viz.tables import rows_of
from conceptatlas.viz.text import MINUS, href, interval, percent, signed, slug, value_of
from conceptatlas.viz.verbalise import describe_shortcut, quoted

if TYPE_CHECKING:
    from conceptatlas.audit import Atlas, ClassAtlas

SAME_IMAGES = 0.8  # of the images that hold either of two concepts hold both: they may be one thing


@dataclass(frozen=True)
class Finding:
    """One suspected shortcut as the pages show it.

    Attributes
    ----------
    rank, grade, class_name, class_index, concept, label
        Which one it is.
    text, contrasts
        The evidence in words, and as pairs of numbers.
    numbers
        Every column as (name, value).
    row
        The table's row.
    tag, note
        A person's judgement.
    """

    rank: int
    grade: str
    class_name: str
    class_index: int
    concept: int
    label: str
    text: str
    contrasts: tuple[Contrast, ...]
    numbers: tuple[tuple[str, str], ...]
    row: Mapping[Any, Any]
    tag: str
    note: str

    @property
    def brief(self) -> tuple[tuple[str, float], ...]:
        """What a line of a table shows, each as (text, number to sort by): misleads, needed, taken out, put in."""
        rates = [_points(self.row, key) for key in ("false_positive_gap", "accuracy_gap")]
        effects = [_effect(self.row, key) for key in ("ablation_effect", "addition_effect")]
        return tuple(rates + effects)

    @property
    def page(self) -> str:
        """Link to the concept's card from the site's root."""
        return href("classes", f"{slug(self.class_name)}.html", fragment=f"concept-{self.concept}")


@dataclass(frozen=True)
class Slice:
    """One group of images with its error rate.

    Attributes
    ----------
    title, n_images, rate, bounds
        The group's rank by error rate, its size, and its error rate with a 95 % interval.
    of_class, shuffled
        The class's error rate, and the highest of such groups where errors are shuffled (the control).
    raised
        Whether the interval lies above both.
    concepts
        (id, label, difference in standard deviations as text) of the concepts that set it apart.
    """

    title: str
    n_images: int
    rate: str
    bounds: str
    of_class: str
    shuffled: str
    raised: bool
    concepts: tuple[tuple[int, str, str], ...]


def findings(atlas: Atlas) -> list[Finding]:
    """Return the suspected shortcuts, most suspect first; concepts that were dropped from a bank are left out."""
    records = {name: {record.id: record for record in atlas[name].bank.concepts} for name in atlas}
    found = []
    for row in atlas.shortcuts().to_dict("records"):
        name, concept = str(row["class"]), int(row["concept"])
        record = records.get(name, {}).get(concept)
        if record is None:
            continue
        graded = [one for one in found if one.class_name == name and row.get("grade") in SUSPECT_GRADES]
        found.append(
            Finding(
                rank=len(found) + 1,
                grade=str(row.get("grade", "D")),
                class_name=name,
                class_index=int(atlas[name].index),
                concept=concept,
                label=record.label,
                text=describe_shortcut({**row, "label": record.label}) + _again(atlas[name], concept, graded),
                contrasts=contrasts(row),
                numbers=_numbers(row),
                row={**row, "label": record.label},
                tag=record.tag or "",
                note=record.note,
            )
        )
    return found


def _again(member: ClassAtlas, concept: int, before: list[Finding]) -> str:
    """Return a sentence on the more suspect concept of the class that the same images hold, or nothing."""
    for one in before:
        share = member.overlap(one.concept, concept)
        if share >= SAME_IMAGES:
            return (
                f" It may be the same thing as suspect {one.rank}, {quoted(one.label)}: {percent(share)} of the images "
                "that hold either hold both."
            )
    return ""


def slices_of(member: ClassAtlas) -> list[Slice]:
    """Return the error slices of a class, the highest error rate first."""
    labels = concept_labels(member)
    return [_slice(number, row, labels) for number, row in enumerate(rows_of(member.slices))]


def table_rows(frame: pd.DataFrame) -> dict[str, Any]:
    """Return a table's column names and cells as text, for tables whose columns are not fixed.

    >>> table_rows(pd.DataFrame({"a_b": [0.5, None]}))
    {'columns': ['a b'], 'rows': [['0.5'], ['–']]}
    """
    columns = [str(c).replace("_", " ") for c in frame.columns] if len(frame) else []
    return {"columns": columns, "rows": [[cell_text(v) for v in row.values()] for row in frame.to_dict("records")]}


def cell_text(value: Any) -> str:
    """Return one cell as text.

    >>> cell_text(-0.12345), cell_text(None), cell_text(True)
    ('−0.123', '–', 'yes')
    """
    if isinstance(value, (np.ndarray, list, tuple)):
        return ", ".join(cell_text(v) for v in value)
    plain = value_of({"v": value}, "v")
    if plain is None:
        return "–"
    if isinstance(plain, (bool, np.bool_)):
        return "yes" if plain else "no"
    if isinstance(plain, (float, np.floating)):
        return f"{plain:.3g}".replace("-", MINUS)
    return str(plain)


def _points(row: Mapping[Any, Any], key: str) -> tuple[str, float]:
    value = value_of(row, key)
    return ("–", -9.0) if value is None else (signed(100 * float(value), 0), float(value))


def _effect(row: Mapping[Any, Any], key: str) -> tuple[str, float]:
    value = value_of(row, key)
    return ("–", -9.0) if value is None else (signed(value), float(value))


def _numbers(row: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    hidden = {"class", "concept", "label", "name", "grade"}
    return tuple((str(k).replace("_", " "), cell_text(v)) for k, v in row.items() if k not in hidden)


def _slice(number: int, row: Mapping[Any, Any], labels: Mapping[int, str]) -> Slice:
    control = [v for key in ("class_error_rate", "shuffled_error_rate") if (v := value_of(row, key)) is not None]
    low = value_of(row, "error_low")
    return Slice(
        title=f"Group {number + 1}",
        n_images=int(row["n_images"]),
        rate=percent(value_of(row, "error_rate")),
        bounds=interval(low, value_of(row, "error_high"), as_percent=True),
        of_class=percent(value_of(row, "class_error_rate")),
        shuffled=percent(value_of(row, "shuffled_error_rate")),
        raised=low is not None and bool(control) and low > max(control),
        concepts=tuple(_marks(row.get("concepts"), labels)),
    )


def _marks(pairs: Any, labels: Mapping[int, str]) -> Iterable[tuple[int, str, str]]:
    for pair in [] if pairs is None or isinstance(pairs, float) else pairs:
        concept, z = int(pair[0]), float(pair[1])
        if concept in labels:
            yield concept, labels[concept], signed(z, 1)
