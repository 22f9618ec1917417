"""The evidence for one suspected shortcut as pairs of numbers that are meant to be compared."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from conceptatlas.viz.text import SPACE, count, interval, number, percent, shorten, signed, value_of

Row = Mapping[Hashable, Any]


@dataclass(frozen=True)
class Line:
    """One number of a comparison.

    Attributes
    ----------
    label, value
        What is written.
    width
        Length of its bar in percent of the track.
    kind
        ``for``, ``against`` or ``plain``.
    """

    label: str
    value: str
    width: float
    kind: str = "plain"


@dataclass(frozen=True)
class Contrast:
    """Two numbers that say something only side by side.

    Attributes
    ----------
    title
        What is compared.
    lines
        The two numbers.
    note
        Difference with interval, or how many images.
    """

    title: str
    lines: tuple[Line, ...]
    note: str = ""


def contrasts(row: Row) -> tuple[Contrast, ...]:
    """Return the comparisons that a row of ``atlas.shortcuts()`` allows; unknown ones are left out.

    Examples
    --------
    >>> found = contrasts({"class": "bee", "presence_in_class": 0.9, "presence_elsewhere": 0.1})
    >>> found[0].title, [line.width for line in found[0].lines]
    ('Where it is found', [90.0, 10.0])
    """
    name = f"“{shorten(row.get('class', 'the class'), 28)}”"
    made = (
        _pair(row, "Where it is found", (f"in {name}", "presence_in_class"), ("elsewhere", "presence_elsewhere"), ""),
        _rates(row, f"Images of {name} recognised", "accuracy"),
        _rates(row, f"Other images called {name}", "false_positive"),
        _effects(row, name),
    )
    return tuple(contrast for contrast in made if contrast is not None)


def _rates(row: Row, title: str, key: str) -> Contrast | None:
    bounds = interval(value_of(row, f"{key}_gap_low"), value_of(row, f"{key}_gap_high"), as_percent=True)
    gap = value_of(row, f"{key}_gap")
    note = f"difference {signed(100 * gap, 0)} points ({bounds})" if bounds and gap is not None else ""
    return _pair(row, title, ("with it", f"{key}_with"), ("without it", f"{key}_without"), note)


def _pair(row: Row, title: str, first: tuple[str, str], second: tuple[str, str], note: str) -> Contrast | None:
    lines = tuple(
        Line(label, percent(value), round(100 * min(1.0, max(0.0, float(value))), 1))
        for label, key in (first, second)
        if (value := value_of(row, key)) is not None
    )
    return Contrast(title, lines, note) if lines else None


def _effects(row: Row, name: str) -> Contrast | None:
    lines, notes = [], []
    for label, key, flips, held in (
        ("taken out", "ablation_effect", "ablation_flips", "n_ablated"),
        ("put into others", "addition_effect", "addition_flips", "n_added"),
    ):
        change = value_of(row, key)
        if change is None:
            continue
        width = round(100 * min(1.0, abs(float(change))), 1)
        lines.append(Line(label, signed(change), width, "for" if change > 0 else "against"))
        flipped, n = value_of(row, flips), value_of(row, held)
        if flipped is not None and n:
            notes.append(f"{label}: {number(100 * flipped, 0)}{SPACE}% of {count(int(n), 'image')} change class")
    return Contrast(f"Probability of {name} when it is", tuple(lines), "; ".join(notes)) if lines else None
