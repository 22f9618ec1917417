"""The bias report: one self-contained page on the suspected shortcuts, and the same as Parquet and CSV."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from conceptatlas.extraction.errors import UserError
from conceptatlas.viz.findings import Finding, Slice, findings, slices_of, table_rows
from conceptatlas.viz.folder import write_whole
from conceptatlas.viz.links import SUSPECT_GRADES
from conceptatlas.viz.methods import counts, facts, layer_name, metrics, model_name, not_checked
from conceptatlas.viz.overlays import fitted, outlined_crop, overlay
from conceptatlas.viz.render import common, environment, template_text
from conceptatlas.viz.sprites import pack
from conceptatlas.viz.tables import numbers_of, rows_of
from conceptatlas.viz.text import count, visible
from conceptatlas.viz.verbalise import GRADES

if TYPE_CHECKING:
    from conceptatlas.audit import Atlas, ClassAtlas

_CROPS, _WHOLES, _SIDE, _GAP = 8, 4, 128, 4
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Exhibit:
    """A suspected shortcut with its pictures.

    Attributes
    ----------
    finding
        The evidence.
    crops, wholes
        Strips of pictures as data URIs; "" where there are none.
    n_crops, n_wholes
        Pictures in each strip.
    place_known
        Whether the map tells where the concept comes from.
    """

    finding: Finding
    crops: str
    wholes: str
    n_crops: int
    n_wholes: int
    place_known: bool


def bias_report(
    atlas: Atlas,
    out: str | Path,
    *,
    interventions: pd.DataFrame | None = None,
    most: int = 50,
) -> Path:
    """Write the bias report and return the path of its page, ``bias_report.html``.

    Beside it lie ``shortcuts`` and ``slices`` as ``.parquet`` (as measured) and as ``.csv`` (for spreadsheets: text
    that a spreadsheet would run as a formula is quoted).

    Parameters
    ----------
    atlas
        A loaded atlas.
    out
        Folder to write into; made where it is missing.
    interventions
        One row per intervention tried, with its accuracies before and after; said to be missing where not given.
    most
        Suspected shortcuts shown with pictures: those graded A to C, most suspect first.

    Raises
    ------
    UserError
        Where `out` is a file or cannot be written to.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_atlas
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = bias_report(example_atlas(), folder)
    ...     sorted(path.name for path in page.parent.iterdir())
    ['bias_report.html', 'shortcuts.csv', 'shortcuts.parquet', 'slices.csv', 'slices.parquet']
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{str(folder)!r} is a file; give a folder to write the report into")
    found = findings(atlas)
    for name, frame in (("shortcuts", atlas.shortcuts()), ("slices", all_slices(atlas))):
        write_whole(folder / f"{name}.parquet", storable(frame).to_parquet(index=False))
        write_whole(folder / f"{name}.csv", spreadsheet(frame))
    page = environment().get_template("report.html").render(_context(atlas, found, interventions, most))
    return write_whole(folder / "bias_report.html", page.encode("utf-8", "replace"))


def spreadsheet(frame: pd.DataFrame) -> bytes:
    r"""Return a table as CSV whose cells no spreadsheet runs as a formula: those that would get an apostrophe.

    Examples
    --------
    >>> spreadsheet(pd.DataFrame({"name": ["=1+1", "bee"], "x": [-0.5, 1.0]})).decode()
    "name,x\n'=1+1,-0.5\nbee,1.0\n"
    """
    safe = {neutral(str(column)): [neutral(value) for value in frame[column]] for column in frame.columns}
    return pd.DataFrame(safe).to_csv(index=False, lineterminator="\n").encode("utf-8", "replace")


def neutral(value: Any) -> Any:
    """Return text that would start a formula with an apostrophe before it; anything else as it is.

    >>> neutral("@SUM(A1)"), neutral(-1.5), neutral("bee")
    ("'@SUM(A1)", -1.5, 'bee')
    """
    if isinstance(value, (list, tuple, np.ndarray)):
        value = str([list(item) if isinstance(item, np.ndarray) else item for item in value])
    if isinstance(value, str) and value.lstrip().startswith(_FORMULA):
        return f"'{value}"
    return value


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table that Parquet can hold: cells of nested values as text.

    >>> storable(pd.DataFrame({"concepts": [((0, 1.5),)]}))["concepts"].tolist()
    ['[(0, 1.5)]']
    """
    nested = [c for c in frame.columns if any(isinstance(v, (list, tuple, np.ndarray)) for v in frame[c])]
    return frame.assign(**{c: [str(list(v)) if v is not None else None for v in frame[c]] for c in nested})


def all_slices(atlas: Atlas) -> pd.DataFrame:
    """Return the error slices of all classes in one table, with the class's name first."""
    frames = [atlas[name].slices.assign(**{"class": name}) for name in atlas if len(atlas[name].slices)]
    if not frames:
        return pd.DataFrame(columns=["class", "slice", "n_images", "error_rate"])
    table = pd.concat(frames, ignore_index=True)
    return table.reindex(columns=["class", *[c for c in table.columns if c != "class"]])


def _context(atlas: Atlas, found: Sequence[Finding], interventions: pd.DataFrame | None, most: int) -> dict[str, Any]:
    suspects = [finding for finding in found if finding.grade in SUSPECT_GRADES]
    slices: list[tuple[str, list[Slice]]] = [
        (name, [s for s in slices_of(atlas[name]) if s.raised]) for name in atlas if len(atlas[name].slices)
    ]
    return {
        **common(atlas, []),
        "css": template_text("site.css"),
        "paragraph": _summary(atlas, found),
        "exhibits": [_exhibit(atlas[f.class_name], f, atlas.view) for f in suspects[:most]],
        "n_more": max(0, len(suspects) - most),
        "n_pairs": len(found),
        "grades": GRADES,
        "slices": [(name, held) for name, held in slices if held],
        "slices_sought": bool(slices),
        "interventions": table_rows(interventions) if interventions is not None else {"columns": [], "rows": []},
        "gaps": not_checked(atlas) + ([] if interventions is not None else ["No intervention was tried."]),
        "facts": facts(atlas),
        "metrics": metrics(atlas),
        "found": found,
    }


def _summary(atlas: Atlas, found: Sequence[Finding]) -> str:
    held = counts(atlas)
    graded = {grade: sum(f.grade == grade for f in found) for grade in SUSPECT_GRADES}
    verdict = (
        f"Of {count(len(found), 'pair')} of class and concept, {graded['A']} have strong evidence of a shortcut (A), "
        f"{graded['B']} good evidence (B) and {graded['C']} some (C)."
        if found
        else "No evidence on shortcuts was gathered."
    )
    tagged = [f for f in found if f.tag == "spurious"]
    judged = f" A reviewer has called {count(len(tagged), 'concept')} spurious." if tagged else ""
    return (
        f"{visible(model_name(atlas))} at {visible(layer_name(atlas))}, audited on {count(held['used'], 'image')} "
        f"({held['seen']:,} seen, {held['skipped']:,} skipped) in {count(len(atlas), 'class', 'classes')}. "
        f"{verdict}{judged}"
    )


def _exhibit(member: ClassAtlas, finding: Finding, view: Callable[[str], Image.Image]) -> Exhibit:
    chosen = rows_of(member.examples, numbers_of(member.examples, "concept") == finding.concept)
    at = rows_of(member.concepts, numbers_of(member.concepts, "concept") == finding.concept)
    known = bool(at and at[0].get("place_known", True))
    crops, wholes = [], []
    for row in sorted(chosen, key=lambda row: row["rank"])[:_CROPS]:
        try:
            image = view(str(row["view"]))
        except (OSError, ValueError):
            continue
        heat = member.maps[int(row["map_row"])] if known and 0 <= row["map_row"] < len(member.maps) else None
        box = (row["left"], row["top"], row["right"], row["bottom"])
        crops.append(outlined_crop(image, heat, box, size=_SIDE * 3 // 4))
        if len(wholes) < _WHOLES:
            wholes.append(fitted(image if heat is None else overlay(image, heat), (_SIDE, _SIDE)))
    return Exhibit(finding, _strip(crops), _strip(wholes), len(crops), len(wholes), known)


def _strip(tiles: Sequence[Image.Image]) -> str:
    if not tiles:
        return ""
    spaced = []
    for tile in tiles:
        framed = Image.new("RGBA", (tile.width + _GAP, tile.height), (0, 0, 0, 0))
        framed.paste(tile, (0, 0))
        spaced.append(framed)
    return f"data:image/webp;base64,{base64.b64encode(pack(spaced).data).decode()}"
