"""The comparison page: what became of each concept and each suspected shortcut, side by side with its crops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from conceptatlas.viz.methods import counts, layer_name, model_name
from conceptatlas.viz.overlays import outlined_crop
from conceptatlas.viz.sprites import Sheet, pack
from conceptatlas.viz.tables import known_numbers, numbers_of, rows_of
from conceptatlas.viz.text import SPACE, count, known, number, percent, signed, value_of, visible

if TYPE_CHECKING:
    from conceptatlas.audit import Atlas
    from conceptatlas.audit.comparison import Comparison

CROPS, SIDE, MOST_PAIRS, MOST_SHORTCUTS, BUDGET = 4, 72, 240, 30, 900_000
ORDER = ("new", "kept", "fixed")  # of suspected shortcuts: what is wrong now comes first
SHEET = "sprites/comparison.webp"


@dataclass(frozen=True)
class Side:
    """One concept of one of the two models; `concept` is None where the model has none."""

    concept: int | None
    label: str
    importance: str
    grade: str
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """A concept in both models, or in one.

    Attributes
    ----------
    class_name, status
        ``kept``, ``lost`` or ``gained``; of a suspected shortcut ``fixed``, ``kept`` or ``new``.
    sides
        In the first model and in the second.
    similarity
        How alike the two are, as text.
    shift
        Change of importance, as text.
    """

    class_name: str
    status: str
    sides: tuple[Side, Side]
    similarity: str
    shift: str


class Versus:
    """What the comparison page shows, and the sheet of its crops.

    Parameters
    ----------
    comparison
        What ``compare`` found. Without its atlases (tables alone) there are no pictures.
    """

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._tiles: list[Image.Image] = []
        self._cells: dict[tuple[int, str, int], tuple[int, ...]] = {}
        shortcuts = rows_of(comparison.shortcuts)
        shortcuts.sort(key=lambda row: (ORDER.index(str(row["status"])), _best_grade(row)))
        self._n_shortcuts, self._n_pairs = len(shortcuts), len(comparison.concepts)
        self.shortcuts = [self._pair(row) for row in shortcuts[:MOST_SHORTCUTS]]
        self.groups = self._groups()
        self.sheet: Sheet | None = pack(self._tiles, budget=BUDGET) if self._tiles else None
        self._tiles = []

    def picture(self) -> Iterator[tuple[str, bytes]]:
        """Yield (path, bytes) of the sheet, and let the bytes go."""
        if self.sheet is not None:
            yield SHEET, self.sheet.data
            self.sheet = replace(self.sheet, data=b"")

    def context(self) -> dict[str, Any]:
        """Return what the template needs."""
        classes = rows_of(self._comparison.classes)
        return {
            "paragraph": self._paragraph(),
            "sides": self._sides(),
            "shortcuts": self.shortcuts,
            "more_shortcuts": self._n_shortcuts - len(self.shortcuts),
            "classes": [_class_line(row, self._comparison) for row in classes if value_of(row, "only_in") is None],
            "only": _only_in(classes),
            "groups": self.groups,
            "more_pairs": self._n_pairs - sum(len(pairs) for _, pairs in self.groups),
            "sheet": self.sheet,
            "sheet_path": SHEET,
        }

    def _groups(self) -> list[tuple[str, list[Pair]]]:
        table = self._comparison.concepts
        if not len(table):
            return []
        groups: dict[str, list[Pair]] = {}
        for row in rows_of(table)[:MOST_PAIRS]:
            groups.setdefault(str(row["class"]), []).append(self._pair(row))
        return list(groups.items())

    def _pair(self, row: dict[str, Any]) -> Pair:
        name = str(row["class"])
        similarity = value_of(row, "similarity")
        both = value_of(row, "concept_a") is not None and value_of(row, "concept_b") is not None
        kind = f"{row['measure']} {number(similarity)}" if known(similarity) else "not known"
        shift = value_of(row, "shift")
        return Pair(
            class_name=name,
            status=str(row["status"]),
            sides=(self._side(row, name, "a"), self._side(row, name, "b")),
            similarity=kind if both else f"the nearest has {kind}",
            shift=f"{signed(100 * float(shift), 0)} points" if known(shift) else "",
        )

    def _side(self, row: dict[str, Any], name: str, which: str) -> Side:
        concept, weight = value_of(row, f"concept_{which}"), value_of(row, f"importance_{which}")
        return Side(
            concept=None if concept is None else int(concept),
            label=str(value_of(row, f"label_{which}") or ""),
            importance=f"{signed(100 * float(weight), 0)}{SPACE}%" if known(weight) else "",
            grade=str(value_of(row, f"grade_{which}") or ""),
            cells=() if concept is None else self._crops(0 if which == "a" else 1, name, int(concept)),
        )

    def _crops(self, which: int, name: str, concept: int) -> tuple[int, ...]:
        """Return the cells of a concept's best crops, cut out when they are first asked for."""
        if self._comparison.atlases is None:
            return ()
        key = (which, name, concept)
        if key not in self._cells:
            start = len(self._tiles)
            self._tiles += _best_crops(self._comparison.atlases[which], name, concept)
            self._cells[key] = tuple(range(start, len(self._tiles)))
        return self._cells[key]

    def _sides(self) -> list[dict[str, str]]:
        if self._comparison.atlases is None:
            return []
        titles = ("First model", "Second model")
        return [_model_line(t, atlas) for t, atlas in zip(titles, self._comparison.atlases, strict=True)]

    def _paragraph(self) -> str:
        shortcuts = _told(self._comparison.shortcuts, ORDER) or "none in either"
        concepts = _told(self._comparison.concepts, ("kept", "lost", "gained")) or "none"
        return f"From the first model to the second: suspected shortcuts {shortcuts}; concepts {concepts}."


def _told(frame: Any, order: tuple[str, ...]) -> str:
    held = Counter(str(row["status"]) for row in rows_of(frame))
    return ", ".join(f"{held[status]:,} {status}" for status in order if held[status])


def _best_grade(row: dict[str, Any]) -> str:
    return min(str(value_of(row, f"grade_{which}") or "Z") for which in "ab")


def _model_line(title: str, atlas: Atlas) -> dict[str, str]:
    right = known_numbers(atlas.images, "correct")
    accuracy = percent(float(right.mean())) if len(right) else "not known"
    return {
        "title": title,
        "model": visible(model_name(atlas)),
        "layer": visible(layer_name(atlas)),
        "images": count(counts(atlas)["used"], "image"),
        "accuracy": accuracy,
    }


def _class_line(row: dict[str, Any], comparison: Comparison) -> dict[str, Any]:
    table, shared = comparison.concepts, value_of(row, "n_shared_images")
    held = Counter(table.loc[table["class"] == row["class"], "status"]) if len(table) else Counter()
    return {
        "name": str(row["class"]),
        "shared": None if shared is None else int(shared),
        "agreement": number(value_of(row, "agreement")),
        **{status: held.get(status, 0) for status in ("kept", "lost", "gained")},
    }


def _only_in(rows: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return the classes that only one of the models has, with which one."""
    held = {"a": "first", "b": "second"}
    found = [(word, [str(r["class"]) for r in rows if value_of(r, "only_in") == key]) for key, word in held.items()]
    return [(word, names) for word, names in found if names]


def _best_crops(atlas: Atlas, name: str, concept: int) -> list[Image.Image]:
    if name not in set(atlas):
        return []
    member = atlas[name]
    chosen = (numbers_of(member.examples, "concept") == concept) & (numbers_of(member.examples, "rank") < CROPS)
    placed = {int(row["concept"]) for row in rows_of(member.concepts) if row.get("place_known", True)}
    tiles = []
    for row in rows_of(member.examples, chosen):
        try:
            view = atlas.view(str(row["view"]))
        except (OSError, ValueError):
            continue
        at = value_of(row, "map_row")
        heat = member.maps[int(at)] if concept in placed and at is not None else None
        box = (row["left"], row["top"], row["right"], row["bottom"])
        tiles.append(outlined_crop(view, heat, box, size=SIDE))
    return tiles
