"""What a class page shows of each concept, ready to be written: numbers as text, crops as cells of a sheet."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from conceptatlas.viz.concepts import Neighbour, records_of
from conceptatlas.viz.palette import OTHER, Style
from conceptatlas.viz.parts import Split
from conceptatlas.viz.tables import known_numbers
from conceptatlas.viz.text import SPACE, count, interval, known, number, percent, signed, value_of

if TYPE_CHECKING:
    from conceptatlas.audit import ClassAtlas
    from conceptatlas.concepts import ConceptRecord


@dataclass(frozen=True)
class Bar:
    """A measure with its interval, as text and as positions along a bar.

    Attributes
    ----------
    label, value, bounds, note
        What is written: the measure, its value, its 95 % interval, a remark.
    help
        What the measure means, one sentence.
    start, end
        Where the bar begins and ends, in percent of the track.
    low, high
        Where the interval's whisker begins and ends, in percent; None where it is not known.
    tick
        A reference mark (zero, chance), in percent; None for none.
    kind
        ``for``, ``against`` or ``plain``: how the bar is coloured.
    """

    label: str
    value: str
    help: str
    bounds: str = ""
    note: str = ""
    start: float | None = None
    end: float | None = None
    low: float | None = None
    high: float | None = None
    tick: float | None = None
    kind: str = "plain"


@dataclass(frozen=True)
class Shot:
    """One example of a concept.

    Attributes
    ----------
    crop, view, heat
        Cells of the sheets of crops, views and maps; None where there is no view or map.
    sample_id
        The image.
    row
        Its row among the class's images, None where it is not there.
    """

    crop: int | None
    view: int | None
    heat: int | None
    sample_id: str
    row: int | None


@dataclass(frozen=True)
class Card:
    """One concept of a class page.

    Attributes
    ----------
    concept, rank, record, style
        Id, rank by importance (from 1), the bank's record, and how it is drawn.
    status, evidence
        ``named``, ``weak`` or ``unnamed``, and the sentence that stands beside the name.
    bars, quality
        Measures with a bar, and further measures as (label, value).
    shots
        Examples, best first.
    parts, split, neighbours
        Concepts of the bank that are a part of it as (id, label), what the recursion found (None where it did not
        run), and similar concepts of other classes.
    place_known, map_method
        Whether the map tells where the concept comes from, and how it was made.
    """

    concept: int
    rank: int
    record: ConceptRecord
    style: Style
    status: str
    evidence: str
    bars: tuple[Bar, ...]
    quality: tuple[tuple[str, str], ...]
    shots: tuple[Shot, ...]
    parts: tuple[tuple[int, str], ...]
    split: Split | None
    neighbours: tuple[Neighbour, ...]
    place_known: bool
    map_method: str


Row = Mapping[Hashable, Any]
_SHOWN_AS_BARS = {
    "sobol", "importance", "presence", "prevalence", "reliability", "localisation", "localisation_chance",
}  # fmt: skip


def build_cards(
    class_atlas: ClassAtlas,
    styles: Mapping[int, Style],
    shots: Mapping[int, Sequence[Shot]],
    neighbours: Mapping[int, Sequence[Neighbour]],
    splits: Mapping[int, Split] | None = None,
) -> tuple[Card, ...]:
    """Return the cards of a class, most important concept first; concepts dropped from the bank have none."""
    records = records_of(class_atlas)
    scale, chance = _importance_scale(class_atlas), _chance(class_atlas)
    strategies = {int(row["concept"]): row for row in class_atlas.strategies.to_dict("records")}
    cards = []
    for row in class_atlas.concepts.to_dict("records"):
        concept = int(row["concept"])
        if concept not in records:
            continue
        cards.append(
            Card(
                concept=concept,
                rank=len(cards) + 1,
                record=records[concept],
                style=styles.get(concept, OTHER),
                status=_status(records[concept]),
                evidence=_evidence(records[concept]),
                bars=_bars(row, strategies.get(concept, {}), scale, chance),
                quality=_quality(records[concept]),
                shots=tuple(shots.get(concept, ())),
                parts=tuple((r.id, r.label) for r in records.values() if r.parent == concept),
                split=(splits or {}).get(concept),
                neighbours=tuple(neighbours.get(concept, ())),
                place_known=bool(value_of(row, "place_known")),
                map_method=str(value_of(row, "map") or ""),
            )
        )
    return tuple(cards)


def importance_bar(row: Row, scale: float) -> Bar:
    """Return the bar of a signed importance, growing from the middle of a track that spans -`scale` to `scale`.

    >>> importance_bar({"importance": -0.2, "importance_low": -0.3, "importance_high": -0.1}, 0.4).start
    25.0
    """
    value, low, high = (value_of(row, key) for key in ("importance", "importance_low", "importance_high"))
    at = {key: _along(v, -scale, scale) for key, v in (("value", value), ("low", low), ("high", high))}
    ends = sorted([50.0, at["value"]]) if at["value"] is not None else [None, None]
    return Bar(
        label="Importance",
        value=f"{signed(100 * value, 0)}{SPACE}%" if known(value) else "–",
        bounds=interval(low, high, as_percent=True),
        help="Signed share of the class score that the concept moves, mean over the class's images.",
        start=ends[0],
        end=ends[1],
        low=at["low"],
        high=at["high"],
        tick=50.0,
        kind="for" if (value or 0) >= 0 else "against",
    )


def share_bar(label: str, help_text: str, row: Row, key: str, *, chance: float | None = None, note: str = "") -> Bar:
    """Return the bar of a share in [0, 1], with the interval of columns ``key_low`` and ``key_high``.

    >>> share_bar("Presence", "...", {"presence": 0.25}, "presence").end
    25.0
    """
    value, low, high = (value_of(row, name) for name in (key, f"{key}_low", f"{key}_high"))
    return Bar(
        label=label,
        value=percent(value),
        bounds=interval(low, high, as_percent=True),
        help=help_text,
        note=note,
        start=0.0 if known(value) else None,
        end=_along(value, 0, 1),
        low=_along(low, 0, 1),
        high=_along(high, 0, 1),
        tick=_along(chance, 0, 1),
    )


@dataclass(frozen=True)
class Chance:
    """What measures of a class's concepts are read beside.

    Attributes
    ----------
    share
        Share of each concept if all counted equally.
    precision
        Share of the class's images that is right, None without labels.
    """

    share: float
    precision: float | None


def _chance(class_atlas: ClassAtlas) -> Chance:
    correct = known_numbers(class_atlas.images, "correct")
    return Chance(1 / max(1, len(class_atlas.concepts)), float(correct.mean()) if len(correct) else None)


def _bars(row: Row, strategy: Row, scale: float, chance: Chance) -> tuple[Bar, ...]:
    images = value_of(strategy, "n_images")
    equal = f"chance {percent(chance.share)}"
    dominated = f"{count(int(images), 'image')}; {equal}" if images else equal
    rated = f"class {percent(chance.precision)}" if known(chance.precision) else ""
    return (
        replace(importance_bar(row, scale), note=equal),
        share_bar(
            "Influence",
            "Total Sobol index: share of the score's variance that involves the concept. Chance: all count equally.",
            row,
            "sobol",
            chance=chance.share,
            note=equal,
        ),
        share_bar("Presence", "Share of the class's images that hold the concept.", row, "presence"),
        share_bar(
            "Prevalence",
            "Share of the class's images that the concept dominates. Chance: all dominate equally often.",
            row,
            "prevalence",
            chance=chance.share,
            note=dominated,
        ),
        share_bar(
            "Reliability",
            "Accuracy on the images that the concept dominates. The tick is the accuracy on all images of the class.",
            {**row, **strategy},
            "reliability",
            chance=chance.precision,
            note=rated,
        ),
        _place(row),
    )


def _place(row: Row) -> Bar:
    chance = value_of(row, "localisation_chance")
    help_text = "Share of the concept that goes when the region its map marks is covered; the tick is a random place."
    bar = share_bar("Localisation", help_text, row, "localisation", chance=chance)
    note = f"chance {percent(chance)}" if known(chance) else ""
    if not value_of(row, "place_known"):
        note = f"{note}: place not known" if note else "place not known"
    return replace(bar, note=note)


def _along(value: Any, low: float, high: float) -> float | None:
    if not known(value):
        return None
    return round(100 * min(1.0, max(0.0, (float(value) - low) / (high - low))), 2)


def _importance_scale(class_atlas: ClassAtlas) -> float:
    columns = [c for c in ("importance", "importance_low", "importance_high") if c in class_atlas.concepts]
    largest = class_atlas.concepts[columns].abs().max().max() if len(class_atlas.concepts) else 0.0
    return max(float(largest) * 1.05, 1e-6) if known(largest) else 1.0


def _status(record: ConceptRecord) -> str:
    return record.name.status if record.name is not None else "unnamed"


def _evidence(record: ConceptRecord) -> str:
    name = record.name
    if name is None:
        return "Naming did not run."
    if name.status == "unnamed":
        return f"No text retrieves these crops reliably{f' ({name.reason})' if name.reason else ''}."
    sure = f"held-out AUC {number(name.heldout_auc)}, p {number(name.p_null, 3)}, margin {number(name.margin, 3)}"
    return f"Text that retrieves these crops: {sure}{f'; weak: {name.reason}' if name.reason else ''}."


def _quality(record: ConceptRecord) -> tuple[tuple[str, str], ...]:
    shown = [(key, value) for key, value in record.quality.items() if key not in _SHOWN_AS_BARS]
    return tuple((key.replace("_", " "), number(value)) for key, value in sorted(shown))
