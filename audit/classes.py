"""One class of an audit, from stored activations to a finished `ClassAtlas`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from conceptatlas.audit.atlas import ClassAtlas
from conceptatlas.audit.coefficients import (
    ImageCoefficients,
    ImageContributions,
    measure,
    measure_class,
    positions_on,
    top_mean,
)
from conceptatlas.audit.context import Context, sample
from conceptatlas.audit.directions import fit_directions
from conceptatlas.audit.examples import build_pool, example_table, store_views, top_rows
from conceptatlas.audit.foreground import Foreground, foreground_of
from conceptatlas.audit.panels import image_maps, what_flips
from conceptatlas.audit.parts import Parts, find_parts
from conceptatlas.audit.shortcuts import describe_population, evidence, population_rows, presence_thresholds
from conceptatlas.audit.slice_words import slice_words
from conceptatlas.audit.slices import find_slices
from conceptatlas.audit.statistics import bootstrap_mean, holds
from conceptatlas.audit.storage import slug_of
from conceptatlas.audit.strategies import Strategies, find_strategies
from conceptatlas.audit.words import Naming, name_class
from conceptatlas.concepts import ConceptBank, ConceptRecord, Name
from conceptatlas.extraction import Features
from conceptatlas.importance import ConceptImportance, MapChoice, choose_map, concept_importance, pooled


def fit_class(context: Context, index: int) -> tuple[ClassAtlas, pd.DataFrame]:
    """Find, weigh, place and name the concepts of one class.

    Returns
    -------
    The class, and its rows of evidence for suspected shortcuts (see `conceptatlas.audit.shortcuts`).
    """
    name = context.class_names[index]
    rows = context.predicted_as(index)
    directions, wide, provenance = fit_directions(context, rows, index)
    found, parts = measure_class(context, rows, directions, index, wide)
    weights = sobol_indices(context, rows, directions, index)
    choice = locate(context, rows, directions, found)
    shown = illustrate(context, rows, directions, found, parts, choice)
    others, weight = population_rows(context, index)
    everywhere = measure(context, others, directions, wide)
    population = describe_population(context, index, weight, everywhere)
    thresholds = presence_thresholds(population, n_wide=len(wide))
    reference = directions.new_tensor(np.average(everywhere.mean, axis=0, weights=weight))
    proof = evidence(context, index, population, thresholds, directions, reference, wide)
    correct = context.images["correct"].to_numpy(dtype=float)[rows]
    strategies = find_strategies(parts.values, correct, seed=context.settings.seed, umap=context.settings.umap)
    table = concept_table(parts, weights, choice, found, thresholds, strategies, shown.naming.names)
    table["reference"] = reference.cpu().numpy()[table["concept"]]
    table["property"] = np.array([None] * (len(directions) - len(wide)) + list(wide.properties))[table["concept"]]
    proof = _with_concepts(proof, table, shown.foreground, provenance)
    bank = make_bank(context, index, directions, shown, table, provenance)
    member = ClassAtlas(
        index=index,
        name=name,
        slug=slug_of(index, name),
        bank=bank,
        concepts=table,
        images=image_table(context, rows, directions, parts, strategies, shown.view_of),
        coefficients=found.mean,
        contributions=parts.values,
        residual=parts.residual,
        bias=parts.bias,
        strategies=strategies.table,
        examples=shown.examples,
        maps=shown.maps,
        parts=shown.parts.examples,
        image_maps=shown.image_maps,
        everywhere_rows=everywhere.rows,
        everywhere_scores=everywhere.score,
        slices=slices_of(context, index, everywhere, directions, choice.method),
    )
    return member, proof


def sobol_indices(context: Context, rows: np.ndarray, directions: torch.Tensor, index: int) -> ConceptImportance:
    """Return total Sobol indices over the class: of all images where they are exact, of a sample otherwise."""
    settings, split = context.settings, context.split

    def indices(features: Features) -> ConceptImportance:
        return concept_importance(
            split, features, positions_on(features, directions), directions, index,
            max_designs=settings.sobol_designs, seed=settings.seed, typical=context.typical,
        )  # fmt: skip

    if split.head_is_affine:
        return pooled([indices(features) for _, features in context.blocks(rows)])
    return indices(context.features(sample(rows, settings.sobol_images, settings.seed)))


def locate(context: Context, rows: np.ndarray, directions: torch.Tensor, found: ImageCoefficients) -> MapChoice:
    """Choose the concept map by the causal test, or only score it where the run has already chosen."""
    per_concept = max(2, context.settings.max_probe // max(len(directions), 1))
    best = {int(r) for column in found.score.T for r in top_rows(column, rows, per_concept)}
    chosen = sample(np.array(sorted(best)), context.settings.max_probe, context.settings.seed)
    views = context.readable_views(chosen)
    kept = np.array(sorted(views), dtype=int)
    images = context.tensors([views[row] for row in kept])
    presence = top_mean(positions_on(context.features(kept), directions))
    methods = None if context.map_method is None else [context.map_method]
    return choose_map(context.split, directions, images, presence=presence, methods=methods, seed=context.settings.seed)


@dataclass(frozen=True)
class Illustrations:
    """What is shown of a class: examples and maps, crops of the parts, names, and the stored view of each row."""

    examples: pd.DataFrame
    maps: np.ndarray
    image_maps: pd.DataFrame
    parts: Parts
    naming: Naming
    foreground: Foreground
    view_of: dict[int, str]


def illustrate(
    context: Context,
    rows: np.ndarray,
    directions: torch.Tensor,
    found: ImageCoefficients,
    weights: ImageContributions,
    choice: MapChoice,
) -> Illustrations:
    """Pick the shown images, draw their maps, name the concepts, split them into parts, and store the views."""
    settings = context.settings
    best = {int(r) for column in found.score.T for r in top_rows(column, rows, settings.n_examples)}
    spread = {int(r) for r in sample(rows, settings.max_probe, settings.seed)}
    pool = build_pool(context, np.array(sorted(best | spread)), directions, choice.method)
    naming = name_class(context, pool)
    wanted = sample(rows, settings.max_views, settings.seed)
    already = dict(zip(pool.rows.tolist(), pool.views, strict=True))
    views = {**context.readable_views(np.setdiff1d(wanted, pool.rows)), **already}
    view_of = store_views(context, views)
    examples, maps = example_table(context, pool, rows, found.score, view_of)
    ids = context.images["sample_id"].to_numpy()[rows]
    of_images, maps = image_maps(pool, rows, weights.values, examples, maps, ids)
    found_parts, foreground = find_parts(context, pool, directions, view_of), foreground_of(context, pool)
    return Illustrations(examples, maps, of_images, found_parts, naming, foreground, view_of)


def concept_table(
    parts: ImageContributions,
    weights: ConceptImportance,
    choice: MapChoice,
    found: ImageCoefficients,
    thresholds: np.ndarray,
    strategies: Strategies,
    names: list[Name | None],
) -> pd.DataFrame:
    """Return one row per concept, the most important first (see `ClassAtlas.concepts`)."""
    size = np.abs(parts.values).sum(1).mean()
    shares = parts.values / size if size > 0 else np.zeros_like(parts.values)
    low, high = bootstrap_mean(shares)
    k = parts.values.shape[1]
    frame = pd.DataFrame(
        {
            "concept": np.arange(k),
            "name": [n.text if n is not None and n.status == "named" else None for n in names],
            "name_status": [n.status if n is not None else "unnamed" for n in names],
            "name_auc": [n.heldout_auc if n is not None else np.nan for n in names],
            "name_p": [n.p_null if n is not None else np.nan for n in names],
            "name_margin": [n.margin if n is not None else np.nan for n in names],
            "importance": shares.mean(0),
            "importance_low": low,
            "importance_high": high,
            "sobol": _array(weights.total),
            "sobol_low": _array(weights.low),
            "sobol_high": _array(weights.high),
            "presence": holds(found.score, thresholds).mean(0),
            "threshold": thresholds,
            "localisation": _array(choice.localisation),
            "localisation_chance": _array(choice.chance),
            "place_known": np.asarray(choice.known, dtype=bool),
            "map": choice.method,
        }
    )
    frame = frame.merge(strategies.table[["concept", "prevalence", "reliability"]], on="concept", how="left")
    frame["prevalence"] = frame["prevalence"].fillna(0.0)
    order = np.argsort(-frame["importance"].abs().to_numpy(), kind="stable")
    return frame.iloc[order].reset_index(drop=True)


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float64)


def _with_concepts(
    proof: pd.DataFrame, table: pd.DataFrame, foreground: Foreground, provenance: dict[str, Any]
) -> pd.DataFrame:
    by_concept = table.set_index("concept")
    proof = proof.copy()
    proof["stability"] = np.asarray(provenance["stability"])[proof["concept"]]
    proof["foreground_share"] = foreground.share[proof["concept"]]
    proof["foreground_area"], proof["foreground_source"] = foreground.area, foreground.source
    for column in ("name", "property", "importance", "localisation"):
        proof[column] = by_concept.loc[proof["concept"], column].to_numpy()
    return proof


def slices_of(
    context: Context, index: int, everywhere: ImageCoefficients, directions: torch.Tensor, method: str
) -> pd.DataFrame:
    """Return the error slices among the images labelled as the class; empty where too few are."""
    images = context.images.iloc[everywhere.rows]
    labelled = (images["label_index"] == index).to_numpy()
    logits = torch.as_tensor(np.asarray(context.store.logits_of(everywhere.rows[labelled]), np.float32))
    probability = (
        torch.softmax(logits, 1)[:, index].numpy() if logits.shape[1] > 1 else torch.sigmoid(logits[:, 0]).numpy()
    )
    correct = images["correct"].to_numpy(dtype=float)[labelled] == 1
    found = find_slices(everywhere.score[labelled], probability, correct, seed=context.settings.seed)
    words = slice_words(context, everywhere.rows[labelled], found, correct, directions, method)
    return found.table.assign(words=words)


def image_table(
    context: Context,
    rows: np.ndarray,
    directions: torch.Tensor,
    parts: ImageContributions,
    strategies: Strategies,
    view_of: dict[int, str],
) -> pd.DataFrame:
    """Return one row per image of the class (see `ClassAtlas.images`)."""
    images = context.images.iloc[rows]
    frame = pd.DataFrame(
        {
            "sample_id": images["sample_id"].to_numpy(),
            "row": rows,
            "label": images["label"].to_numpy(),
            "correct": images["correct"].to_numpy(),
            "probability": images["probability"].to_numpy(),
            "logit": parts.logit,
            "dominant": strategies.dominant,
            "x": strategies.position[:, 0],
            "y": strategies.position[:, 1],
            "cluster": strategies.cluster,
            "view": [view_of.get(int(row)) for row in rows],
        }
    )
    return frame.join(what_flips(context, rows, directions), on="row")


def make_bank(
    context: Context,
    index: int,
    directions: torch.Tensor,
    shown: Illustrations,
    table: pd.DataFrame,
    provenance: dict[str, Any],
) -> ConceptBank:
    """Return the class's concept bank with the quality of each concept."""
    property_of = table.set_index("concept")["property"]
    quality_columns = ["sobol", "importance", "presence", "localisation", "localisation_chance"]
    by_concept = table.set_index("concept")[quality_columns]
    records = tuple(
        ConceptRecord(
            id=i,
            name=name,
            quality={c: float(by_concept.loc[i, c]) for c in quality_columns},  # type: ignore[arg-type]
            whole_image=property_of[i] or "",
        )
        for i, name in enumerate(shown.naming.names)
    )
    return ConceptBank(
        directions=directions.cpu().numpy(),
        layer=context.split.layer.name,
        class_name=context.class_names[index],
        class_index=index,
        concepts=records,
        provenance=provenance,
        tree=shown.parts.tree,
        embeddings=shown.naming.contrasts,
    )
