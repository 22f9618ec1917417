"""The pages that look across classes: index, shortcuts, slices, skipped images, methods."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from conceptatlas.viz.findings import Finding, slices_of, table_rows
from conceptatlas.viz.links import SUSPECT_GRADES, ClassLink, index_concepts
from conceptatlas.viz.methods import counts, facts, layer_name, metrics, model_name, not_checked
from conceptatlas.viz.tables import known_numbers, unfitted_rows
from conceptatlas.viz.text import count, percent, visible
from conceptatlas.viz.verbalise import GRADES, headline

if TYPE_CHECKING:
    from conceptatlas.audit import Atlas

FULL_FINDINGS, LISTED_FINDINGS, FIRST_FINDINGS = 30, 1000, 6
ALL_SLICES, SLICED_CLASSES = 60, 100  # of more groups than that, only raised ones are listed, of so many classes


def index_context(atlas: Atlas, links: Sequence[ClassLink], found: Sequence[Finding]) -> dict[str, Any]:
    """Return what the index shows: the classes, and the data that its search reads."""
    concepts, words = index_concepts(atlas, links)
    strong = [finding for finding in found if finding.grade in ("A", "B")]
    return {
        "links": links,
        "suspects": [(finding, headline(finding.row)) for finding in strong[:FIRST_FINDINGS]],
        "more_suspects": max(0, len(strong) - FIRST_FINDINGS),
        "n_some": sum(finding.grade == "C" for finding in found),
        "n_raised": sum(part.raised for link in links for part in slices_of(atlas[link.name])),
        "has_findings": bool(found),
        "unfitted": left_out(atlas.classes),
        "n_concepts": sum(map(len, concepts)),
        "listing": {"concepts": concepts, "index": [link.index for link in links], "words": words},
        "paragraph": _summary(atlas, links),
    }


@dataclass(frozen=True)
class LeftOut:
    """Classes without concepts for one reason: the reason in words, and (name, images predicted as it) of each."""

    reason: str
    classes: tuple[tuple[str, int], ...]


def left_out(classes: pd.DataFrame) -> list[LeftOut]:
    """Return the classes for which no concepts were sought, grouped by the reason.

    >>> rows = [("fly", 6, "6 images are predicted as it, 20 are needed"), ("ant", 9, "not asked for")]
    >>> frame = pd.DataFrame(rows, columns=["name", "n_images", "reason"]).assign(fitted=False)
    >>> [group.reason for group in left_out(frame)]
    ['fewer than the 20 images that are needed are predicted as it', 'not asked for']
    """
    groups: dict[str, list[tuple[str, int]]] = {}
    for row in unfitted_rows(classes):
        groups.setdefault(_reason(str(row.get("reason") or "")), []).append((str(row["name"]), int(row["n_images"])))
    return [LeftOut(reason, tuple(members)) for reason, members in groups.items()]


def _reason(told: str) -> str:
    found = re.fullmatch(r"\d+ images? (?:is|are) predicted as it, (\d+) are needed", told)
    return f"fewer than the {found[1]} images that are needed are predicted as it" if found else told


def shortcuts_context(found: Sequence[Finding]) -> dict[str, Any]:
    """Return what the page of shortcuts shows: the first with all their evidence, the others as a list."""
    graded = {grade: sum(finding.grade == grade for finding in found) for grade in SUSPECT_GRADES}
    suspected = [finding for finding in found if finding.grade in SUSPECT_GRADES]
    full, others = suspected[:FULL_FINDINGS], [finding for finding in found if finding.grade not in SUSPECT_GRADES]
    rest = [*suspected[FULL_FINDINGS:], *others][:LISTED_FINDINGS]
    return {
        "found": full,
        "rest": rest,
        "n_unlisted": len(found) - len(full) - len(rest),
        "grades": GRADES,
        "paragraph": (
            "Concepts that the model may follow where the label does not, most suspect first. "
            f"Of {count(len(found), 'pair')} of class and concept, {graded['A']} are graded A, {graded['B']} B "
            f"and {graded['C']} C."
        ),
    }


def slices_context(atlas: Atlas, links: Sequence[ClassLink]) -> dict[str, Any]:
    """Return what the page of error slices shows, class by class; of very many, only those above their control."""
    parts = [(link, slices_of(atlas[link.name])) for link in links]
    parts.sort(key=lambda part: -sum(group.raised for group in part[1]))
    n_groups = sum(len(slices) for _, slices in parts)
    n_raised = sum(part.raised for _, slices in parts for part in slices)
    if n_groups > ALL_SLICES:
        parts = [(link, [part for part in slices if part.raised]) for link, slices in parts]
    told = f"{count(n_groups, 'group')} of images of one class, described by their concepts; {n_raised:,} with an error"
    text = (
        f"{told} rate above that of the class and above the control, which is the highest rate of such groups after "
        f"the errors were shuffled.{' Only those are listed here.' if n_groups > ALL_SLICES else ''}"
    )
    return {
        "parts": [(link, slices) for link, slices in parts if slices][:SLICED_CLASSES],
        "paragraph": text if n_groups else "This audit did not look for groups with more errors.",
    }


def skipped_context(atlas: Atlas) -> dict[str, Any]:
    """Return what the page of skipped images shows."""
    found = counts(atlas)
    text = f"{found['skipped']:,} of {count(found['seen'], 'image')} could not be used."
    return {"table": table_rows(atlas.skipped), "paragraph": text}


def methods_context(atlas: Atlas) -> dict[str, Any]:
    """Return what the methods page shows."""
    found = counts(atlas)
    text = (
        f"{visible(model_name(atlas))} was cut at {visible(layer_name(atlas))}. "
        f"Of {count(found['seen'], 'image')} seen, {found['used']:,} were used and {found['skipped']:,} skipped. "
        "Images are grouped by the class that the model predicts; labels, where there are any, say where it is right."
    )
    return {"metrics": metrics(atlas), "gaps": not_checked(atlas), "facts": facts(atlas), "paragraph": text}


def _summary(atlas: Atlas, links: Sequence[ClassLink]) -> str:
    found = counts(atlas)
    correct = known_numbers(atlas.images, "correct")
    right = f" It is right in {percent(float(correct.mean()))} of the labelled ones." if len(correct) else ""
    return (
        f"What {visible(model_name(atlas))} looks at in {count(found['used'], 'image')}, as the concepts found at "
        f"{visible(layer_name(atlas))} for each of {count(len(links), 'class', 'classes')}.{right}"
    )
