"""One class's page: what its template shows and what its script reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from conceptatlas.concepts import ConceptTree
from conceptatlas.viz.arrangement import clusters_of
from conceptatlas.viz.cards import Card, build_cards
from conceptatlas.viz.concepts import Neighbour, concept_labels
from conceptatlas.viz.curves import choice_curve, faithfulness_curves
from conceptatlas.viz.findings import slices_of
from conceptatlas.viz.flow import layer_flow
from conceptatlas.viz.gallery import Gallery
from conceptatlas.viz.network import concept_graph
from conceptatlas.viz.palette import OTHER, Style, class_styles
from conceptatlas.viz.parts import splits_of
from conceptatlas.viz.reliability import prevalence_reliability
from conceptatlas.viz.strategies import View, strategic_cluster_graph
from conceptatlas.viz.tables import rows_of
from conceptatlas.viz.text import interval, percent, value_of, verdict
from conceptatlas.viz.verbalise import GRADES, describe_class, describe_image, flip_of

if TYPE_CHECKING:
    from conceptatlas.audit import ClassAtlas

_VERDICT = {True: 1, False: 0, None: -1}


@dataclass(frozen=True)
class StrategyRow:
    """One line of the table of strategies, as text.

    Attributes
    ----------
    concept, label, style
        The dominating concept.
    n_images, prevalence, reliability, bounds
        Text.
    sort_by
        (prevalence, reliability) as numbers; -1 where not known.
    """

    concept: int
    label: str
    style: Style
    n_images: int
    prevalence: str
    reliability: str
    bounds: str
    sort_by: tuple[float, float]


@dataclass(frozen=True)
class Tile:
    """One image in the list of images: its row, its cell of the sheet of views, its name, whether it is right."""

    row: int
    cell: int
    sample_id: str
    correct: bool | None


def class_context(
    member: ClassAtlas, gallery: Gallery, neighbours: Mapping[int, Sequence[Neighbour]], images: pd.DataFrame
) -> dict[str, Any]:
    """Return what a class's template needs from the class itself, and from all `images` of the audit."""
    styles = class_styles(member)
    cards = build_cards(member, styles, gallery.shots, neighbours, splits_of(member, gallery.parts_of))
    return {
        "member": member,
        "paragraph": describe_class(member, images=images),
        "free_text": member.text,
        "cards": cards,
        "any_named": any(record.name is not None for record in member.bank.concepts),
        "grouped": bool(clusters_of(member)),
        "grades": GRADES,
        "leading": leading(cards),
        "strategies": strategy_rows(member, styles),
        "gallery": gallery,
        "images": image_tiles(member, gallery),
        "slices": slices_of(member),
        "has_choice": has_choice(member),
        "flow_height": flow_height(member),
    }


def has_choice(member: ClassAtlas) -> bool:
    """Return whether the number of concepts was chosen, so that there is a curve to show."""
    return bool(member.bank.provenance.get("n_components_curve"))


def flow_height(member: ClassAtlas) -> int:
    """Return the height of the layer flow in pixels, enough for a line per part; 0 where no concept was split."""
    tree = member.bank.tree
    n_parts = len(tree.nodes) - len(tree.roots) if isinstance(tree, ConceptTree) else 0
    split = any(found.parts for found in splits_of(member, {}).values())
    return max(320, 20 * n_parts) if split else 0


def leading(cards: Sequence[Card], most: int = 5) -> list[Card]:
    """Return the cards that the head of the page shows."""
    return list(cards[:most])


def class_data(
    member: ClassAtlas, gallery: Gallery, neighbours: Mapping[int, Sequence[Neighbour]], view: View
) -> dict[str, Any]:
    """Return the data of a class page's script: figures, and the decomposition of every image."""
    labels, styles = concept_labels(member), class_styles(member)
    k = member.contributions.shape[1]
    return {
        "index": int(member.index),
        "name": str(member.name),
        "labels": [labels[i] for i in range(k)],
        "styles": [[s.colour, s.symbol] for s in (styles.get(i, OTHER) for i in range(k))],
        "images": _image_columns(member, gallery),
        "heat": {f"{row}.{concept}": cell for (row, concept), cell in gallery.heat_of.items()},
        "figures": _figures(member, neighbours, view),
    }


def strategy_rows(member: ClassAtlas, styles: Mapping[int, Style]) -> list[StrategyRow]:
    """Return the table of strategies, the most prevalent first."""
    labels, rows = concept_labels(member), []
    for row in member.strategies.to_dict("records"):
        concept, reliability = int(row["concept"]), value_of(row, "reliability")
        rows.append(
            StrategyRow(
                concept=concept,
                label=labels.get(concept, f"concept {concept}"),
                style=styles.get(concept, OTHER),
                n_images=int(row["n_images"]),
                prevalence=percent(row["prevalence"]),
                reliability=percent(reliability),
                bounds=interval(row.get("reliability_low"), row.get("reliability_high"), as_percent=True),
                sort_by=(float(row["prevalence"]), -1.0 if reliability is None else float(reliability)),
            )
        )
    return rows


def image_tiles(member: ClassAtlas, gallery: Gallery) -> list[Tile]:
    """Return the images that have a view, the least certain first: there, strategies compete."""
    order = np.argsort(member.images["probability"].to_numpy(dtype=float), kind="stable")
    samples, correct = member.images["sample_id"].tolist(), member.images["correct"].astype(object).tolist()
    shown = [int(i) for i in order if int(i) in gallery.view_of]
    return [Tile(i, gallery.view_of[i], str(samples[i]), verdict(correct[i])) for i in shown]


def rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """Return numbers as JSON can hold them: rounded, None where not finite.

    >>> rounded(np.array([0.12345, np.nan]), 3)
    [0.123, None]
    """
    return [round(float(v), digits) + 0.0 if math.isfinite(float(v)) else None for v in values]


def _image_columns(member: ClassAtlas, gallery: Gallery) -> dict[str, list[Any]]:
    images = member.images
    return {
        "id": [str(v) for v in images["sample_id"]],
        "correct": [_VERDICT[verdict(v)] for v in images["correct"].astype(object)],
        "probability": rounded(images["probability"].to_numpy(dtype=float), 4),
        "logit": rounded(images["logit"].to_numpy(dtype=float), 4),
        "contributions": [rounded(row, 4) for row in member.contributions],
        "residual": rounded(member.residual, 4),
        "bias": rounded(member.bias, 4),
        "view": [gallery.view_of.get(i, -1) for i in range(len(images))],
        "text": [describe_image(member, i) for i in range(len(images))],
        "flips": [_flip(row) for row in rows_of(images)],
    }


def _flip(row: Mapping[str, Any]) -> list[int] | None:
    """Return the concepts whose removal lets the next class win, None where they are not known or do not suffice."""
    found = flip_of(row)
    return list(found.concepts) if found is not None and found.flipped else None


def _figures(
    member: ClassAtlas, neighbours: Mapping[int, Sequence[Neighbour]], view: View
) -> dict[str, dict[str, Any]]:
    nearest = [(concept, near[0]) for concept, near in neighbours.items() if near]
    figures = {
        "graph": strategic_cluster_graph(member, view=view, hover=False),
        "reliability": prevalence_reliability(member),
        "concepts": concept_graph(member, neighbours=nearest),
        "deletion": faithfulness_curves(member),
    }
    if has_choice(member):
        figures["choice"] = choice_curve(member)
    if flow_height(member):
        figures["flow"] = layer_flow(member)
    return {name: _plain(figure) for name, figure in figures.items()}


def _plain(figure: Any) -> dict[str, Any]:
    found = figure.to_plotly_json()
    found["layout"].pop("template", None)
    return found
