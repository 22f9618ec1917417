"""What the methods page states: what was audited, what each number means, its random baseline, what was not checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from conceptatlas.concepts import ConceptTree
from conceptatlas.viz.tables import known_numbers, rows_of, unfitted_rows
from conceptatlas.viz.text import count, known, number, percent, visible
from conceptatlas.viz.verbalise import flip_of

if TYPE_CHECKING:
    from conceptatlas.audit import Atlas


@dataclass(frozen=True)
class Metric:
    """One measure: what it says, what it is in this atlas, and what chance would give.

    Attributes
    ----------
    name, meaning, here, baseline
        Text of the table's four columns.
    """

    name: str
    meaning: str
    here: str
    baseline: str


def counts(atlas: Atlas) -> dict[str, int]:
    """Return how many images were seen, used and skipped.

    >>> from conceptatlas.viz.example import example_atlas
    >>> counts(example_atlas())
    {'seen': 49, 'used': 48, 'skipped': 1}
    """
    data = atlas.run.get("data", {})
    used, skipped = len(atlas.images), len(atlas.skipped)
    return {
        "seen": int(data.get("n_seen", used + skipped)),
        "used": int(data.get("n_used", used)),
        "skipped": int(data.get("n_skipped", skipped)),
    }


def model_name(atlas: Atlas) -> str:
    """Return the name of the audited model."""
    return str(_section(atlas.run, "model").get("name", "model"))


def layer_name(atlas: Atlas) -> str:
    """Return the name of the layer whose activations were decomposed."""
    return str(_section(atlas.run, "layer").get("name", "unknown layer"))


def facts(atlas: Atlas) -> list[tuple[str, str]]:
    """Return everything the run recorded about itself as (name, value) lines, nested names joined by dots."""
    hidden = {"key", "schema", "finished"}
    lines = [line for name, value in atlas.run.items() if name not in hidden for line in _flat(name, value)]
    return [(name.replace("_", " "), value) for name, value in lines]


def metrics(atlas: Atlas) -> list[Metric]:
    """Return the table of measures with the value in this atlas and the value that chance gives."""
    concepts = _all_concepts(atlas)
    k = max(1.0, len(concepts) / max(len(atlas), 1))
    correct = known_numbers(atlas.images, "correct")
    accuracy = float(correct.mean()) if len(correct) else None
    width = max((atlas[name].bank.directions.shape[1] for name in atlas), default=1)
    return [
        Metric(
            "Importance",
            "Mean signed contribution of a concept to the class score (coefficient times gradient; where activations "
            "have signs, the gradient halfway to the mean activation, which stands for absence), as a share of what "
            "all concepts move. The interval is a 95 % bootstrap over images.",
            f"largest of a class: {_typical(_largest(atlas, 'importance'))}",
            f"{percent(1 / k)} where all concepts move the score equally",
        ),
        Metric(
            "Influence (total Sobol index)",
            "Share of the score's variance that involves the concept when concepts are scaled at random, down to their "
            "absence. No sign.",
            f"largest of a class: {_typical(_largest(atlas, 'sobol'))}",
            f"{percent(1 / k)} where all concepts count equally",
        ),
        Metric(
            "Prevalence",
            "Share of a class's images in which the concept contributes most. Sums to 1 over the concepts of a class.",
            f"largest of a class: {_typical(_largest(atlas, 'prevalence'))}",
            f"{percent(1 / k)} for {number(k, 1)} concepts that dominate at random",
        ),
        Metric(
            "Reliability",
            "Accuracy on the images that a concept dominates, among those with a label, with a 95 % Wilson interval.",
            _typical(known_numbers(concepts, "reliability")),
            f"{percent(accuracy)}, the accuracy over all labelled images"
            if known(accuracy)
            else "not known: no labels",
        ),
        Metric(
            "Localisation",
            "Share of a concept that goes when the place its map marks is covered. Where that is no more than for a "
            "random place, or the map does not foretell under which covers the concept falls, the place is not known "
            "and no map is drawn.",
            f"{_typical(known_numbers(concepts, 'localisation'))}; place known for {_known_places(concepts)}",
            f"{_typical(known_numbers(concepts, 'localisation_chance'))}, a random place covered",
        ),
        Metric(
            "Name: held-out AUC",
            "How well the text finds crops that hold the concept, on images that did not choose the text.",
            f"{_typical(known_numbers(concepts, 'name_auc'), shares=False)}; {_statuses(concepts)}",
            "0.50; p is the share of random draws of crops in which any word scores as high",
        ),
        Metric(
            "Similar concepts (cosine)",
            "Cosine of two concept directions of different classes at the same layer.",
            "listed from 0.60",
            f"about ±{number(1 / np.sqrt(width))} for random directions in {width} dimensions "
            "(non-negative directions lie closer)",
        ),
        *_counterfactuals(atlas),
        *_parts(atlas),
    ]


def _counterfactuals(atlas: Atlas) -> list[Metric]:
    """Return the measure of what changes decisions, where it was sought."""
    tried = [
        (flip, member.n_concepts)
        for member in atlas.values()
        for row in rows_of(member.images)
        if (flip := flip_of(row))
    ]
    if not tried:
        return []
    changed = [(len(flip.concepts), k) for flip, k in tried if flip.flipped]
    sizes = np.array([size for size, _ in changed], dtype=float)
    at_random = np.mean([1 / comb(k, size) for size, k in changed]) if changed else None
    told = f"; concepts needed: {_typical(sizes, shares=False)}" if changed else ""
    return [
        Metric(
            "Counterfactual",
            "The fewest concepts whose removal lets the next class win; exact where the head is affine.",
            f"{len(changed):,} of {count(len(tried), 'image')} tried change class{told}",
            f"{percent(at_random)}: as many concepts drawn at random are these" if changed else "none changes",
        )
    ]


def _parts(atlas: Atlas) -> list[Metric]:
    """Return the measure of the parts that the recursion found, where it ran and found some."""
    trees = [member.bank.tree for member in atlas.values() if isinstance(member.bank.tree, ConceptTree)]
    parts = [node for tree in trees for node in tree.nodes if node.parent is not None]
    looked = [(node.coherence, node.chance) for node in parts if known(node.coherence) and known(node.chance)]
    if not looked:
        return []
    own, chance = np.array(looked, dtype=float).T
    return [
        Metric(
            "Parts: coherence",
            "Mean cosine between the strongest places of a part, one layer further down.",
            f"{_typical(own, shares=False)} over {count(len(looked), 'part')} of {len(parts):,}",
            f"{_typical(chance, shares=False)}: what places drawn at random stay below in 95 % of draws",
        )
    ]


def not_checked(atlas: Atlas) -> list[str]:
    """Return, sentence by sentence, what this atlas cannot tell."""
    found = [_labels_gap(atlas), _names_gap(atlas), _places_gap(atlas), _classes_gap(atlas), _skipped_gap(atlas)]
    found += [_shortcut_gap(atlas), _slices_gap(atlas)]
    always = [
        "Concepts are directions that the factorization found; another number of them or another layer gives others.",
        "What was measured holds for the audited images; nothing is claimed about images of another kind.",
        "A name is text that retrieves the concept's crops. It is not what the concept means to the model.",
    ]
    return [sentence for sentence in found if sentence] + always


def _labels_gap(atlas: Atlas) -> str:
    labelled = len(known_numbers(atlas.images, "correct"))
    if labelled == 0:
        return "No image has a label: reliability, errors and how often a concept misleads are not known."
    if labelled < len(atlas.images):
        missing = count(len(atlas.images) - labelled, "image")
        return f"{missing} of {len(atlas.images):,} without a label: accuracies rest on the other {labelled:,}."
    return ""


def _names_gap(atlas: Atlas) -> str:
    named = any(record.name is not None for name in atlas for record in atlas[name].bank.concepts)
    return "" if named else "No text-image encoder was given: no concept has a name."


def _places_gap(atlas: Atlas) -> str:
    unknown = int((known_numbers(_all_concepts(atlas), "place_known") == 0).sum())
    text = f"The maps of {count(unknown, 'concept')} do not tell where they come from: their place is not known."
    return text if unknown else ""


def _classes_gap(atlas: Atlas) -> str:
    left_out = len(unfitted_rows(atlas.classes))
    return f"In {count(left_out, 'class', 'classes')} no concepts were sought (see the index)." if left_out else ""


def _skipped_gap(atlas: Atlas) -> str:
    skipped = counts(atlas)["skipped"]
    return f"{count(skipped, 'image')} could not be used (see the list of skipped images)." if skipped else ""


def _shortcut_gap(atlas: Atlas) -> str:
    table = atlas.shortcuts()
    if not len(table):
        return "Shortcuts were not sought."
    if not len(known_numbers(table, "foreground_share")):
        return "No masks of the objects were given: how much of a concept lies on the background is not known."
    return ""


def _slices_gap(atlas: Atlas) -> str:
    return (
        "" if any(len(atlas[name].slices) for name in atlas) else "Groups of images with raised error were not sought."
    )


def _all_concepts(atlas: Atlas) -> pd.DataFrame:
    frames = [atlas[name].concepts for name in atlas]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _largest(atlas: Atlas, column: str) -> np.ndarray:
    tops = [known_numbers(atlas[name].concepts, column) for name in atlas]
    return np.array([np.abs(values).max() for values in tops if len(values)])


def _typical(values: np.ndarray, *, shares: bool = True) -> str:
    if not len(values):
        return "not measured"
    low, middle, high = (float(v) for v in np.quantile(values, (0, 0.5, 1)))
    show = percent if shares else number
    return f"median {show(middle)} ({show(low)} to {show(high)})"


def _known_places(concepts: pd.DataFrame) -> str:
    return f"{int(known_numbers(concepts, 'place_known').sum()):,} of {len(concepts):,} concepts"


def _statuses(concepts: pd.DataFrame) -> str:
    held = list(concepts["name_status"]) if "name_status" in concepts else []
    return ", ".join(f"{held.count(status):,} {status}" for status in ("named", "weak", "unnamed"))


def _section(run: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = run.get(name)
    if isinstance(section, Mapping):
        return section
    return {"name": section} if section else {}


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
        return
    if isinstance(value, (list, tuple)):
        text = ", ".join(visible(v) for v in value[:12]) + (", …" if len(value) > 12 else "")
    elif isinstance(value, float):
        text = f"{value:.4g}"
    else:
        text = "not set" if value is None else visible(value)
    yield name, text[:400]
