"""The pages that look across classes: index, shortcuts, slices, skipped images, methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conceptatlas.viz.findings import Finding, slices_of, table_rows
from conceptatlas.viz.links import SUSPECT_GRADES, ClassLink, index_concepts
from conceptatlas.viz.methods import counts, facts, layer_name, metrics, model_name, not_checked
from conceptatlas.viz.tables import known_numbers, unfitted_rows
from conceptatlas.viz.text import count, percent, visible
from conceptatlas.viz.verbalise import GRADES

if TYPE_CHECKING:
    from conceptatlas.audit import Atlas

FULL_FINDINGS, LISTED_FINDINGS, FIRST_FINDINGS = 30, 1000, 9
ALL_SLICES, SLICED_CLASSES = 60, 100  # of more groups than that, only raised ones are listed, of so many classes


def index_context(atlas: Atlas, links: Sequence[ClassLink], found: Sequence[Finding]) -> dict[str, Any]:
    """Return what the index shows: the classes, and the data that its search reads."""
    concepts, words = index_concepts(atlas, links)
    return {
        "links": links,
        "suspects": [finding for finding in found if finding.grade in ("A", "B")][:FIRST_FINDINGS],
        "has_findings": bool(found),
        "unfitted": unfitted_rows(atlas.classes),
        "n_concepts": sum(map(len, concepts)),
        "listing": {"concepts": concepts, "index": [link.index for link in links], "words": words},
        "paragraph": _summary(atlas, links),
    }


def shortcuts_context(found: Sequence[Finding]) -> dict[str, Any]:
    """Return what the page of shortcuts shows: the first with all their evidence, the others as a list."""
    graded = {grade: sum(finding.grade == grade for finding in found) for grade in SUSPECT_GRADES}
    rest = found[FULL_FINDINGS : FULL_FINDINGS + LISTED_FINDINGS]
    listed = f"Ranks {FULL_FINDINGS + 1:,} to {FULL_FINDINGS + len(rest):,} of {len(found):,}"
    return {
        "found": found[:FULL_FINDINGS],
        "rest": rest,
        "rest_title": listed,
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
