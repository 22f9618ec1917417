"""Does every part that decides a class have a concept of its own that fires with it and points at it?

For each class of a demo model, concepts are fitted as an audit fits them: as many as the class's margin needs, or as
tell what misleads the model, by the audit's own rules, whatever the factorizer (the directions of what changes whole
images are left out). Every deciding part (and the tag, in the planted class) is then drawn into unseen scenes of the
class and left out of the same scenes, all else alike. A concept is the part's where its score tells the two apart
(ROC-AUC) and its map's maximum lies on the part. The concept is picked, among all of the class, on half of the scenes
and reported on the other half. Beside the strict figure, in which the maximum has to lie
on the part's own pixels, "near" is the pointing game's, which forgives 1/16 of the image's side.
"""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import roc_auc_score
from torch import nn

from conceptatlas.audit.coefficients import positions_on, top_mean
from conceptatlas.audit.context import Settings, sample
from conceptatlas.audit.directions import CHOICE_IMAGES, CHOICE_ROWS, TOLD_IMAGES, MarginKept, telling
from conceptatlas.audit.shortcuts import told_within_labels
from conceptatlas.concepts import choose_n_components, make_factorizer
from conceptatlas.demo.config import SceneConfig
from conceptatlas.demo.scenes import Scene, make_scene
from conceptatlas.demo.splits import make_split
from conceptatlas.extraction import Preprocess, SplitModel, split
from conceptatlas.importance.localisation import choose_map
from conceptatlas.importance.maps import concept_maps, peak

FACTORIZERS = ("auto", "kmeans", "pca", "random")
AUC, POINTING, NEAR = 0.9, 0.75, 1 / 16
N_SCENES, N_AUDIT, N_PROBE = 60, 480, 64


def part_table(
    name: str, model: nn.Module, config: SceneConfig, factorizer: str, *, layer: str = "auto", seed: int = 0
) -> pd.DataFrame:
    """One row per class and deciding part (and one for the tag): AUC and pointing of its best concept."""
    prepare = Preprocess.for_model(model)
    scenes = _audit_scenes(config)
    images = torch.stack([prepare.tensor(scene.image) for scene in scenes])
    labels = np.array([scene.label for scene in scenes])
    cut = split(model, layer, input_size=prepare.size, probe=images[:128])
    features, predicted = _encoded(cut, images)
    told = sample(np.arange(len(images)), TOLD_IMAGES, seed)
    rows, method = [], None
    for class_index in range(config.n_classes):
        mine = np.flatnonzero(predicted == class_index)
        count = _count(cut, images, mine, class_index, seed)
        W = _concepts(features[mine], factorizer, count, seed)
        sides = predicted[told] == class_index, labels[told] == class_index
        W = telling(
            W,
            len(W),
            max(Settings().candidates),
            functools.partial(_concepts, features[mine], factorizer, seed=seed),
            lambda one, sides=sides: float(told_within_labels(_scores(cut, one, images[told]), *sides).max()),
        )
        method = method or choose_map(cut, W, images[mine][:N_PROBE], seed=seed).method  # as in an audit: once
        for row in _parts_of_class(cut, W, method, config, class_index, prepare):
            rows.append({"model": name, "layer": cut.layer.name, "factorizer": factorizer, "k": len(W), **row})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per model and factorizer: how many parts hold, and the means."""
    told = table["auc"] >= AUC
    holds, near = told & (table["pointing"] >= POINTING), told & (table["near"] >= POINTING)
    groups = table.assign(holds=holds, holds_near=near).groupby(["model", "layer", "factorizer"], sort=False)
    return groups.agg(
        things=("holds", "size"), held=("holds", "sum"), held_near=("holds_near", "sum"), auc=("auc", "mean"), lowest_auc=("auc", "min"),
        pointing=("pointing", "mean"), lowest_pointing=("pointing", "min"), k=("k", "mean"),
    ).reset_index()  # fmt: skip


def _count(cut: SplitModel, images: torch.Tensor, mine: NDArray[np.int64], class_index: int, seed: int) -> int:
    """How many concepts an audit gives the class (`conceptatlas.audit.directions.choose_count`, without a store)."""
    positions = int(np.prod(cut.layer.grid))
    chosen = sample(mine, max(CHOICE_IMAGES, CHOICE_ROWS // positions), seed)
    with torch.inference_mode():
        features = cut.encode(images[chosen])
    choice = choose_n_components(
        features.positions.flatten(0, 1).numpy(),
        candidates=Settings().candidates,
        seed=seed,
        factorizer="auto",
        groups=np.arange(len(chosen)).repeat(positions),
        keep=MarginKept.of(cut, features, class_index),
    )
    return choice.n_components


def _concepts(positions: torch.Tensor, factorizer: str, count: int, seed: int) -> torch.Tensor:
    """Directions of a class."""
    flat = positions.flatten(0, 1)
    taken = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[: Settings().max_rows]
    A = flat[taken.sort().values].numpy()
    fitted = make_factorizer(factorizer, count, signed=bool((A < 0).any()), seed=seed).fit(A)
    return torch.as_tensor(np.asarray(fitted.components_, np.float32))


def _parts_of_class(
    cut: SplitModel, W: torch.Tensor, method: str, config: SceneConfig, class_index: int, prepare: Preprocess
) -> list[dict[str, object]]:
    complete, without = _scenes(config, class_index)
    images = torch.stack([prepare.tensor(scene.image) for scene in complete])
    there = _scores(cut, W, images)
    half = np.arange(len(complete)) % 2 == 0
    rows = []
    for thing, scenes in without.items():
        gone = _scores(cut, W, torch.stack([prepare.tensor(scene.image) for scene in scenes]))
        first = np.array([_auc(there[half, k], gone[half, k]) for k in range(len(W))])
        told = int((first >= AUC).sum())
        rivals = [int(k) for k in np.argsort(-first, kind="stable")[: max(told, 1)]]
        away = _distances(cut, W, images, complete, thing, method, rivals)
        hits, near = (np.where(np.isnan(away), np.nan, away <= most) for most in (0, NEAR * images.shape[2]))
        picked = max(range(len(rivals)), key=lambda i: (first[rivals[i]] >= AUC, np.nanmean(hits[half, i])))
        concept = rivals[picked]
        rows.append(
            {
                "class": config.class_names[class_index], "part": thing, "concept": concept, "map": method,
                "auc": _auc(there[~half, concept], gone[~half, concept]),
                "pointing": np.nanmean(hits[~half, picked]), "near": np.nanmean(near[~half, picked]),
            }
        )  # fmt: skip
    return rows


@functools.lru_cache(maxsize=1)
def _audit_scenes(config: SceneConfig) -> list[Scene]:
    return list(make_split(config, "audit", N_AUDIT))


@functools.lru_cache(maxsize=16)
def _scenes(config: SceneConfig, class_index: int) -> tuple[list[Scene], dict[str, list[Scene]]]:
    """Unseen scenes of a class that show all its parts (and the tag, in the planted class); each thing left out."""
    planted = [shortcut.planted_class == class_index for shortcut in config.shortcuts]
    parts = config.class_parts(class_index)
    specs = [s for s in make_split(config, "test", 20 * N_SCENES).specs if s.class_index == class_index][:N_SCENES]

    def drawn(shown: tuple[str, ...], tag: list[bool]) -> list[Scene]:
        return [make_scene(config, class_index, s.seed, tag=tag, parts=shown, background=s.background) for s in specs]

    without = {part: drawn(tuple(p for p in parts if p != part), planted) for part in parts}
    for index, shortcut in enumerate(config.shortcuts):
        if planted[index]:
            without[shortcut.name] = drawn(parts, [p and i != index for i, p in enumerate(planted)])
    return drawn(parts, planted), without


def _encoded(cut: SplitModel, images: torch.Tensor) -> tuple[torch.Tensor, NDArray[np.int64]]:
    positions, predicted = [], []
    with torch.inference_mode():
        for part in images.split(32):
            features = cut.encode(part)
            positions.append(features.positions.clone())
            predicted.append(cut.head(features).argmax(dim=1))
    return torch.cat(positions), torch.cat(predicted).numpy()


def _scores(cut: SplitModel, W: torch.Tensor, images: torch.Tensor) -> NDArray[np.float32]:
    """How much of each concept an image holds, (n, k), as an audit scores it."""
    with torch.inference_mode():
        return torch.cat([top_mean(positions_on(cut.encode(part), W)) for part in images.split(32)]).numpy()


def _distances(
    cut: SplitModel, W: torch.Tensor, images: torch.Tensor, scenes: list[Scene], thing: str, method: str, concepts: list[int]
) -> NDArray[np.float64]:  # fmt: skip
    """How many pixels each concept's maximum lies away from the thing, (n, concepts); NaN where the thing is hidden."""
    maps = concept_maps(cut, W, images, method=method, concepts=concepts)
    tops = peak(maps, (images.shape[2], images.shape[3])).numpy()
    away = np.full(tops.shape[:2], np.nan)
    for i, scene in enumerate(scenes):
        if thing in scene.parts:
            away[i] = np.asarray(distance_transform_edt(~scene.parts[thing]))[tops[i, :, 0], tops[i, :, 1]]
    return away


def _auc(there: NDArray[np.float32], gone: NDArray[np.float32]) -> float:
    return float(roc_auc_score(np.repeat([1, 0], [len(there), len(gone)]), np.concatenate([there, gone])))
