"""Suspected shortcuts: concepts that the model follows where the label does not.

A concept is suspect where it *misleads* (images of other classes that hold it are called this class), where the class
is *missed* without it, and where taking it out or putting it in changes the prediction. A concept that goes with the
class itself does neither: other classes rarely hold it. Each figure stands in the table with its interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from conceptatlas.audit.causal import Effect, Probe, addition_effect, removal_effect
from conceptatlas.audit.coefficients import ImageCoefficients
from conceptatlas.audit.context import Context, sample
from conceptatlas.audit.statistics import (
    auc,
    benjamini_hochberg,
    explained_by,
    holds,
    otsu,
    otsu_of_three,
    risk_difference,
)

if TYPE_CHECKING:
    from conceptatlas.audit.wide import ImageWide

PERMUTATIONS = 1000
FEW = 8  # images that a concept is edited in where labels acquit it, or where this moves nothing
STILL = 0.01  # mean change of the class's probability below which nothing is moved
MISLEADS = MISSES = CAUSES = FLIPS = 0.1
SIGNIFICANT = 0.05
FOREIGN = 0.5
TOLD, TOLD_BY = 0.9, 5  # AUC from which on a concept tells what the model follows, from so many images of either kind
FURTHER = 0.15  # by how much the gaps' lower bounds together must grow for a less likely threshold to be taken
TWO_LEVELS = 0.8  # share of the scores' variance that two levels have to explain; else there are three
PLAIN = 0.4  # mean of both gaps' lower bounds: seen so plainly that it counts without an edit that shows it
EVIDENCE_COLUMNS = [
    "class", "concept", "name", "property", "importance", "threshold", "presence_in_class", "presence_elsewhere",
    "n_with", "n_without", "accuracy_with", "accuracy_without", "accuracy_gap", "accuracy_gap_low", "accuracy_gap_high",
    "n_elsewhere_with", "n_elsewhere_without", "false_positive_with", "false_positive_without", "false_positive_gap",
    "false_positive_gap_low", "false_positive_gap_high", "label_association", "prediction_association",
    "ablation_effect", "ablation_flips", "n_ablated", "addition_effect", "addition_flips", "n_added",
    "foreground_share", "foreground_area", "foreground_source", "localisation", "stability", "p_raw", "told",
]  # fmt: skip


@dataclass(frozen=True)
class Population:
    """The images in which a class's concepts are looked for.

    Attributes
    ----------
    rows
        (m,) rows of the store: images predicted as the class, images labelled as it, and a sample of the others.
    weight
        (m,) how many images of the run each row stands for.
    predicted
        (m,) whether the model predicts the class.
    labelled
        (m,) 1.0 where the label is the class, 0.0 where it is another, NaN where there is none.
    score
        (m, k) how much of each concept the image holds.
    """

    rows: np.ndarray
    weight: np.ndarray
    predicted: np.ndarray
    labelled: np.ndarray
    score: np.ndarray


def population_rows(context: Context, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows in which a class's concepts are looked for, and how many images each stands for."""
    predicted = context.images["predicted_index"].to_numpy() == index
    labelled = context.images["label_index"].to_numpy(dtype=float) == index
    always = np.flatnonzero(predicted | labelled)
    others = np.flatnonzero(~(predicted | labelled))
    drawn = sample(others, context.settings.max_elsewhere, context.settings.seed)
    rows = np.concatenate([always, drawn])
    weight = np.concatenate([np.ones(len(always)), np.full(len(drawn), len(others) / max(len(drawn), 1))])
    order = np.argsort(rows)
    return rows[order], weight[order]


def describe_population(context: Context, index: int, weight: np.ndarray, found: ImageCoefficients) -> Population:
    """Return a class's population with predictions, labels and concept scores side by side."""
    label = context.images["label_index"].to_numpy(dtype=float)[found.rows]
    return Population(
        rows=found.rows,
        weight=weight,
        predicted=context.images["predicted_index"].to_numpy()[found.rows] == index,
        labelled=np.where(np.isnan(label), np.nan, (label == index).astype(float)),
        score=found.score,
    )


def presence_thresholds(population: Population, *, n_wide: int = 0) -> np.ndarray:
    """Return for each concept the score from which on an image is said to hold it (Otsu on square roots).

    Where two levels leave too much of the scores' variation there may be three, of which the highest is what holds the
    concept (snow, sand, which has a little of what snow has, and leaves), or none that stand apart. Scores do not tell
    which: the threshold is taken above which the concept leads the model further astray. The last `n_wide` are
    properties of whole images, which have no natural zero and all levels: Otsu on the scores as they are.
    """
    columns, places = population.score.T, population.score.shape[1] - n_wide
    found = []
    for column in columns[:places]:
        likely, *others = (level**2 for level in _levels(np.sqrt(np.maximum(column, 0))))
        least = _leads_astray(population, column, likely) + FURTHER
        found.append(next((one for one in others if _leads_astray(population, column, one) > least), likely))
    return np.array(found + [otsu(column) for column in columns[places:]], dtype=np.float64)


def _levels(values: np.ndarray) -> list[float]:
    """Return the thresholds that may tell who holds a concept, the likelier first."""
    threshold = otsu(values)
    return [threshold] if explained_by(values, threshold) >= TWO_LEVELS else [otsu_of_three(values)[1], threshold]


def _leads_astray(population: Population, score: np.ndarray, threshold: float) -> float:
    """Return the sum of what both gaps are at least, where positive; 0 without labels."""
    row = observed(population, holds(score, threshold), score)
    return sum(float(np.nan_to_num(max(row.get(f"{gap}_gap_low", 0.0), 0.0))) for gap in ("accuracy", "false_positive"))


def evidence(
    context: Context,
    index: int,
    population: Population,
    thresholds: np.ndarray,
    directions: torch.Tensor,
    reference: torch.Tensor,
    wide: ImageWide | None = None,
) -> pd.DataFrame:
    """Return one row of evidence for each concept of a class; `finish` grades and ranks the rows of all classes.

    `reference` (k,) is the mean coefficient per position over the population: what a removed concept is lowered to. The
    last concepts are those of `wide`, where there are any: they are edited by as much as they are in the whole image.
    """
    present = holds(population.score, thresholds)
    p_values = stratified_permutation(population, seed=context.settings.seed)
    probes = build_probes(context, population, directions, wide)
    if wide is not None and len(wide):
        reference = torch.cat([reference[: -len(wide)], torch.as_tensor(wide.reference).to(reference)])
    rows = []
    for concept in range(population.score.shape[1]):
        held = dict(zip(population.rows.tolist(), present[:, concept].tolist(), strict=True))
        row = {
            "class": context.class_names[index],
            "concept": concept,
            "threshold": thresholds[concept],
            "p_raw": p_values[concept],
        }
        row |= observed(population, present[:, concept], population.score[:, concept])
        most = FEW if acquitted(row) else context.settings.max_probe
        row |= _causal(context, index, probes, held, concept, directions, reference, most)
        rows.append(row)
    frame = pd.DataFrame(rows).reindex(columns=EVIDENCE_COLUMNS)
    frame["told"] = told_within_labels(population.score, population.predicted, population.labelled)
    return frame


def told_within_labels(score: np.ndarray, predicted: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Return how well each concept's score (m, k) tells which images of one label are predicted as the class, (k,).

    An AUC, the mean over the groups of equal label (the class, other classes, none) that have `TOLD_BY` of both kinds;
    NaN where none has.
    """
    group = np.nan_to_num(labelled.astype(float), nan=2.0)
    sides = [predicted[group == g] for g in np.unique(group)]
    usable = [g for g, side in zip(np.unique(group), sides, strict=True) if min(side.sum(), (~side).sum()) >= TOLD_BY]
    if not usable:
        return np.full(score.shape[1], np.nan)
    told = [[auc(column[group == g], predicted[group == g]) for g in usable] for column in score.T]
    return np.mean(told, axis=1)


def observed(population: Population, present: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """Return what is seen without touching the model: where the concept is and what is predicted there."""
    known = ~np.isnan(population.labelled)
    home = population.labelled == 1 if known.any() else population.predicted
    away = population.labelled == 0 if known.any() else ~population.predicted
    row: dict[str, float] = {
        "presence_in_class": _share(present, home, population.weight),
        "presence_elsewhere": _share(present, away, population.weight),
        "prediction_association": auc(score, population.predicted),
        "label_association": auc(score[known], population.labelled[known] == 1),
    }
    if known.any():
        row |= _gap("accuracy", "", population, population.labelled == 1, present)
        row |= _gap("false_positive", "elsewhere_", population, population.labelled == 0, present)
    return row


def _share(present: np.ndarray, chosen: np.ndarray, weight: np.ndarray) -> float:
    total = weight[chosen].sum()
    return float((present * weight)[chosen].sum() / total) if total else float("nan")


def _gap(
    measure: str, prefix: str, population: Population, chosen: np.ndarray, present: np.ndarray
) -> dict[str, float]:
    counts = []
    for side in (chosen & present, chosen & ~present):
        weight = population.weight[side]
        rate = float((population.predicted[side] * weight).sum() / weight.sum()) if len(weight) else float("nan")
        counts.append((rate, len(weight)))
    (rate_with, n_with), (rate_without, n_without) = counts
    value, low, high = (
        risk_difference(rate_with * n_with, n_with, rate_without * n_without, n_without)
        if n_with and n_without
        else (float("nan"), -1.0, 1.0)
    )
    return {
        f"n_{prefix}with": n_with, f"n_{prefix}without": n_without,
        f"{measure}_with": rate_with, f"{measure}_without": rate_without,
        f"{measure}_gap": value, f"{measure}_gap_low": low, f"{measure}_gap_high": high,
    }  # fmt: skip


def stratified_permutation(population: Population, *, seed: int = 0) -> np.ndarray:
    """Return for each concept a one-sided p-value: does it go with the prediction among images of the same label?

    Predictions are permuted inside each label (the class, other classes, no label); the statistic is the mean rank of
    the score where the class is predicted. (1 + exceedances) / (1 + permutations).
    """
    from scipy.stats import rankdata

    rng = np.random.default_rng(seed)
    strata = np.nan_to_num(population.labelled, nan=2.0)
    observed_sum = np.zeros(population.score.shape[1])
    permuted_sum = np.zeros((PERMUTATIONS, population.score.shape[1]))
    informative = False
    for stratum in np.unique(strata):
        chosen = strata == stratum
        hits = population.predicted[chosen].astype(np.float64)
        if hits.min() == hits.max():
            continue
        informative = True
        ranks = rankdata(population.score[chosen], axis=0) / chosen.sum()
        observed_sum += hits @ ranks
        permuted_sum += rng.permuted(np.tile(hits, (PERMUTATIONS, 1)), axis=1) @ ranks
    if not informative:
        return np.full(population.score.shape[1], np.nan)
    return (1 + (permuted_sum >= observed_sum - 1e-9).sum(0)) / (1 + PERMUTATIONS)


def build_probes(
    context: Context, population: Population, directions: torch.Tensor, wide: ImageWide | None = None
) -> tuple[Probe, Probe]:
    """Return the images that edits are tried on: some predicted as the class, and some that are not."""
    settings = context.settings
    inside = sample(population.rows[population.predicted], 2 * settings.max_probe, settings.seed)
    outside = sample(population.rows[~population.predicted], settings.max_probe, settings.seed)

    def probe(rows: np.ndarray) -> Probe:
        logits = directions.new_tensor(context.store.logits_of(rows))
        return Probe.build(context.split, rows, context.features(rows), directions, wide, logits=logits)

    return probe(inside), probe(outside)


def _causal(
    context: Context,
    index: int,
    probes: tuple[Probe, Probe],
    holds: dict[int, bool],
    concept: int,
    directions: torch.Tensor,
    reference: torch.Tensor,
    most: int,
) -> dict[str, float]:
    inside, outside = probes
    held = inside.select(np.flatnonzero([holds[int(r)] for r in inside.rows])[: context.settings.max_probe])
    strange = outside.select(np.flatnonzero([not holds[int(r)] for r in outside.rows]))

    def remove(some: np.ndarray) -> Effect:
        return removal_effect(context.split, held.select(some), directions, concept, index, reference)

    def add(some: np.ndarray) -> Effect:
        donors = held.select(some % max(len(held.rows), 1) if len(held.rows) else some[:0])
        return addition_effect(context.split, strange.select(some), donors, directions, concept, index)

    removed, added = in_steps(remove, len(held.rows), most), in_steps(add, len(strange.rows), most)
    return {
        "ablation_effect": removed.change, "ablation_flips": removed.flipped, "n_ablated": removed.n,
        "addition_effect": added.change, "addition_flips": added.flipped, "n_added": added.n,
    }  # fmt: skip


def in_steps(effect_on: Callable[[np.ndarray], Effect], n: int, most: int) -> Effect:
    """Return the effect of an edit on at most `most` of n images, on a few where it does nothing to these."""
    few = effect_on(np.arange(min(n, FEW)))
    if few.n < FEW or min(n, most) == FEW or (abs(few.change) < STILL and few.flipped == 0):
        return few
    rest = effect_on(np.arange(FEW, min(n, most)))
    total = few.n + rest.n
    change, flipped = (
        (few.n * one + rest.n * other) / total
        for one, other in ((few.change, rest.change), (few.flipped, rest.flipped))
    )
    return Effect(change, flipped, total)


def acquitted(row: dict[str, Any]) -> bool:
    """Whether neither gap is proven, so that rank and grade are the lowest whatever the edits show."""
    gaps = [
        row[f"{name}_gap_low"] for name in ("accuracy", "false_positive") if np.isfinite(row.get(f"{name}_gap", np.nan))
    ]
    return bool(gaps) and max(gaps) <= 0


def finish(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the evidence of all classes with corrected p-values, grades and ranks, most suspect first."""
    frame = rows.copy()
    if not len(frame):
        return pd.DataFrame(
            columns=["class", "concept", "name", "grade", "suspicion", "p_value", *EVIDENCE_COLUMNS[3:]]
        )
    frame["p_value"] = benjamini_hochberg(frame["p_raw"].to_numpy(dtype=float))
    frame["suspicion"] = _suspicion(frame)
    frame["grade"] = np.where(_echoes(frame), "D", [_grade(row) for _, row in frame.iterrows()])
    first = ["class", "concept", "name", "grade", "suspicion", "p_value"]
    frame = frame[[*first, *[c for c in frame.columns if c not in first]]]
    return frame.sort_values(["suspicion", "class", "concept"], ascending=[False, True, True], ignore_index=True)


def _suspicion(frame: pd.DataFrame) -> np.ndarray:
    """Return a number in [0, 1]: how far the concept leads the model astray, more so where the model follows its edit.

    The mean of the two gaps' lower bounds times (1 + effect of editing it) / 2. What is seen in images leads, because
    an edit of one direction does little where the thing is spread over several concepts, as a colour cast is.
    A property of whole images is put into every position at once, which moves more than a concept in its place can: of
    these only taking them out counts, so that a dark frame comes before the darkness of the images that have it.
    """
    astray = (_positive(frame, "false_positive_gap_low") + _positive(frame, "accuracy_gap_low")) / 2
    put_in = np.where(frame["property"].isna(), _positive(frame, "addition_flips"), 0)
    follows = np.maximum(_positive(-frame["ablation_effect"]), put_in)
    unlabelled = frame["false_positive_gap"].isna().to_numpy() & frame["accuracy_gap"].isna().to_numpy()
    widespread = _positive(frame, "presence_elsewhere")  # without labels: causes the prediction and is found elsewhere
    return np.where(unlabelled, follows * widespread / 4, astray * (1 + follows) / 2)


def _positive(frame: pd.DataFrame | pd.Series, column: str | None = None) -> np.ndarray:
    values = frame if column is None else frame[column]
    return np.clip(np.nan_to_num(values.to_numpy(dtype=float)), 0, 1)


def _grade(row: pd.Series) -> str:
    """Return a grade from A (strongest evidence) to D (none).

    A: other classes' images with the concept are called the class, its own are missed without it, and editing the
    concept changes the prediction. B: less than that of a concept that is found outside the class at least half as
    often as inside, since what belongs to the class can mislead and be missed, but is no shortcut: it misleads and
    editing it changes the prediction; or the class is missed without it, editing it changes the prediction, and it is
    known to lie off the object; or it misleads and is missed, so plainly that it counts although editing this one
    direction changes nothing, as where a thing is spread over several concepts. C: what would be a B but may belong to
    the class, or is less plain.
    """
    misleads = row["false_positive_gap_low"] > MISLEADS
    misses = row["accuracy_gap_low"] > MISSES
    acts = _acts(row)
    if not row["p_value"] < SIGNIFICANT or not (misleads or misses):
        return "D"
    if misleads and misses and acts:
        return "A"
    plain = misleads and misses and (row["false_positive_gap_low"] + row["accuracy_gap_low"]) / 2 > PLAIN
    foreign = row["presence_elsewhere"] >= FOREIGN * row["presence_in_class"]
    if foreign and (plain or (acts and (misleads or _off_object(row)))):
        return "B"
    return "C" if acts or (misleads and misses) else "D"


def _off_object(row: pd.Series) -> bool:
    """Whether a concept's share on the object is known, and nearer to chance, or below it, than to all of it."""
    return bool(row["foreground_share"] < (1 + row["foreground_area"]) / 2)


def _echoes(frame: pd.DataFrame) -> np.ndarray:
    """Return which properties of whole images only echo a concept of a place: a plate adds contrast to its image.

    The concept acts on the prediction, tells which images of one label are called the class, and is more suspect.
    """
    place = frame["property"].isna()
    leads = place & (frame["told"] >= TOLD) & np.array([_acts(row) for _, row in frame.iterrows()])
    leader = frame["suspicion"].where(leads).groupby(frame["class"]).transform("max")
    return (~place & (leader > frame["suspicion"])).to_numpy()


def _acts(row: pd.Series) -> bool:
    """Whether the prediction follows an edit of the concept: it moves when it is taken out, or flips either way."""
    flips = [row[key] > FLIPS for key in ("ablation_flips", "addition_flips")]
    return bool(-row["ablation_effect"] > CAUSES or any(flips))
