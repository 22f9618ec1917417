"""Does the ranking of concepts by importance agree with what was planted in the scenes?

``python -m benchmarks.planted_importance [--scenes 480] [--models cnn vit] [--concepts 12] [--seeds 3] [--quick]``

- predictivity: for every class of a demo model, Spearman's rho between the importance of its concepts and the
  predictivity of the thing that each shows: how much more often the training scenes of the class show it than others
  do. "auc" says how well importance tells the concepts of predictive things (0.2 and more) from the others, "tag rank"
  is the place of the tag's concept; the tag was planted in the first class.
- labels: the same pixels labelled by animal and by ground. Two models share a frozen encoder and have a linear head each,
  so the same concepts can be weighed under both; printed is the share of importance on concepts that show the ground.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from conceptatlas.concepts import make_factorizer, nnls
from conceptatlas.concepts.evidence import retrieval_auc
from conceptatlas.demo import demo_config, load_demo_model, make_split
from conceptatlas.demo.config import BACKGROUNDS, PARTS, SceneConfig
from conceptatlas.demo.scenes import Scene
from conceptatlas.extraction import Features, Preprocess, SplitModel, split
from conceptatlas.importance import concept_importance
from conceptatlas.importance.recomposition import select

COMMON = ("head", "legs", "eye")
N_SPECS = 4000
PREDICTIVE = 0.2


@dataclass(frozen=True)
class Encoded:
    """Scenes and their activations at the layer that an audit would choose."""

    cut: SplitModel
    features: Features
    predicted: np.ndarray
    scenes: list[Scene]


def encode(name: str, n: int, *, seed: int, layer: str = "auto") -> Encoded:
    """Encode scenes that the demo's model has not seen."""
    model = load_demo_model(name).requires_grad_(False)
    preprocess = Preprocess.for_model(model)
    scenes = list(make_split(SceneConfig(seed=7000 + seed), "audit", n))
    images = torch.stack([preprocess(scene.image) for scene in scenes])
    cut = split(model, layer, input_size=preprocess.size, probe=images[:64])
    with torch.no_grad():
        batches = [cut.encode(batch) for batch in images.split(64)]
        predicted = torch.cat([cut.head(batch) for batch in batches]).argmax(1).numpy()
    prefix = None if batches[0].prefix is None else torch.cat([batch.prefix for batch in batches])
    positions = torch.cat([batch.positions for batch in batches])
    return Encoded(cut, batches[0].replace(positions=positions, prefix=prefix), predicted, scenes)


def concepts_of(features: Features, n_concepts: int, *, signed: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Return coefficients ``(B, P, k)`` and directions ``(k, p)``."""
    factorizer = make_factorizer("auto", n_concepts, signed=signed, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        factorizer.fit(features.positions.flatten(0, 1).numpy())
    W = torch.as_tensor(np.asarray(factorizer.components_, np.float32))
    return nnls(features.positions.contiguous(), W), W


def covered(scenes: Sequence[Scene], thing: str, grid: tuple[int, int]) -> np.ndarray:
    """Return the share of each cell that shows a thing, ``(B, P)``."""
    empty = np.zeros(scenes[0].image.size[::-1], bool)
    masks = torch.as_tensor(np.stack([scene.parts.get(thing, empty) for scene in scenes]), dtype=torch.float32)
    return torch.nn.functional.adaptive_avg_pool2d(masks[:, None], grid).flatten(1).numpy()


def shown_by(U: Tensor, scenes: Sequence[Scene], grid: tuple[int, int]) -> list[tuple[str, float]]:
    """Return for each concept the thing whose places its coefficients tell best, and that AUC."""
    things = (*PARTS, "tag", *COMMON, *BACKGROUNDS)
    places = {thing: covered(scenes, thing, grid).ravel() >= 0.5 for thing in things}
    places = {thing: there for thing, there in places.items() if there.sum() >= 5}
    rows = U.flatten(0, 1).numpy()
    found = [{thing: retrieval_auc(column, there) for thing, there in places.items()} for column in rows.T]
    return [max(aucs.items(), key=lambda item: item[1]) for aucs in found]


def predictivities(config: SceneConfig, index: int) -> dict[str, float]:
    """Return how much more often training scenes of a class show each thing than the others do."""
    specs = make_split(config, "train", N_SPECS).specs
    own = np.array([spec.class_index == index for spec in specs])

    def gap(there: list[bool]) -> float:
        return float(np.mean(np.array(there)[own]) - np.mean(np.array(there)[~own]))

    gaps = {thing: gap([thing in spec.parts for spec in specs]) for thing in PARTS}
    gaps |= {thing: gap([thing == spec.background for spec in specs]) for thing in BACKGROUNDS}
    return {**gaps, "tag": gap([any(spec.tag) for spec in specs]), **dict.fromkeys(COMMON, 0.0)}


def predictivity_table(name: str, n_scenes: int, n_concepts: int, seed: int) -> pd.DataFrame:
    """Hold importance against predictivity, class by class."""
    encoded, config, rows = encode(name, n_scenes, seed=seed), demo_config(name), []
    for index, class_name in enumerate(config.class_names):
        own = np.flatnonzero(encoded.predicted == index)
        if len(own) < 20:
            continue
        features = select(encoded.features, torch.as_tensor(own))
        signed = bool((features.positions < 0).any())
        U, W = concepts_of(features, n_concepts, signed=signed, seed=seed)
        things = shown_by(U, [encoded.scenes[i] for i in own], features.grid)
        some = torch.arange(len(own) if encoded.cut.head_is_affine else min(len(own), 8))
        found = concept_importance(encoded.cut, select(features, some), U[some], W, index)
        planted = predictivities(config, index)
        expected = np.array([planted[thing] for thing, _ in things])
        tags = [i for i, (thing, _) in enumerate(things) if thing == "tag"]
        rank = 1 + min((int((found.total > found.total[i]).sum()) for i in tags), default=n_concepts)
        top = things[int(found.total.argmax())][0]
        rho = spearmanr(found.total, expected).statistic if np.ptp(expected) > 0 else np.nan
        auc = retrieval_auc(found.total, expected >= PREDICTIVE)
        row = {"model": name, "seed": seed, "class": class_name, "rho": rho, "auc": auc, "first": top}
        rows.append({**row, "tag rank": rank if tags else np.nan})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class LinearHead:
    """Mean over the positions, then a linear map: a head that `concept_importance` takes."""

    weight: Tensor
    bias: Tensor
    head_is_affine: bool = True

    def head(self, features: Features) -> Tensor:
        """Return logits ``(B, n)``."""
        return features.positions.mean(dim=1) @ self.weight.T + self.bias


def fit_head(features: Features, labels: np.ndarray) -> tuple[LinearHead, float]:
    """Fit a linear head on mean features of the first half; return it with its accuracy on the second."""
    pooled, half = features.positions.mean(dim=1).numpy(), len(labels) // 2
    scale = pooled.std(axis=0) + 1e-6
    fit = LogisticRegression(C=1.0, max_iter=2000).fit(pooled[:half] / scale, labels[:half])
    head = LinearHead(
        torch.as_tensor(fit.coef_ / scale, dtype=torch.float32), torch.as_tensor(fit.intercept_, dtype=torch.float32)
    )
    return head, float(fit.score(pooled[half:] / scale, labels[half:]))


def by_labels(n_scenes: int, n_concepts: int, seed: int, *, layer: str = "layer3") -> SimpleNamespace:
    """Weigh one set of concepts under two heads on the same pixels: labelled by animal, and by ground.

    Returns
    -------
    SimpleNamespace
        ``animal`` and ``ground``: total indices ``(k,)``, mean over images of the index for the image's own label;
        ``shows_ground`` ``(k,)``: share of each concept's coefficients that lies on the ground; ``accuracy``: of both.
    """
    encoded = encode("cnn_clean", n_scenes, seed=seed, layer=layer)
    names = [str(scene.attributes["background"]) for scene in encoded.scenes]
    labels = {
        "animal": np.array([scene.label for scene in encoded.scenes]),
        "ground": np.array([BACKGROUNDS.index(name) for name in names]),
    }
    U, W = concepts_of(encoded.features, n_concepts, signed=False, seed=seed)
    ground = covered(encoded.scenes, "background", encoded.features.grid)
    weight = U.numpy()
    found = SimpleNamespace(
        shows_ground=(weight * ground[:, :, None]).sum((0, 1)) / np.maximum(weight.sum((0, 1)), 1e-9), accuracy={}
    )
    for kind, given in labels.items():
        head, found.accuracy[kind] = fit_head(encoded.features, given)
        indices = np.zeros((len(given), n_concepts))
        for label in np.unique(given):
            rows = torch.as_tensor(np.flatnonzero(given == label))
            one = concept_importance(head, select(encoded.features, rows), U[rows], W, int(label))
            indices[rows.numpy()] = one.local
        setattr(found, kind, indices.mean(axis=0))
    return found


def labels_table(n_scenes: int, n_concepts: int, seeds: int) -> pd.DataFrame:
    """Share of importance on concepts that show the ground, under both sets of labels."""
    rows = []
    for seed in range(seeds):
        found = by_labels(n_scenes, n_concepts, seed)
        on_ground = found.shows_ground > np.median(found.shows_ground)
        share = {kind: getattr(found, kind)[on_ground].sum() for kind in ("animal", "ground")}
        rows.append(
            {
                "seed": seed,
                **{f"accuracy, {kind}": value for kind, value in found.accuracy.items()},
                **{f"importance on the ground, {kind} labels": value for kind, value in share.items()},
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=480)
    parser.add_argument("--models", nargs="+", default=["cnn", "vit"])
    parser.add_argument("--concepts", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.scenes, options.models, options.seeds = 160, ["cnn"], 1
    print(labels_table(options.scenes, options.concepts, options.seeds).round(3).to_string(index=False), flush=True)
    for name in options.models:
        tables = [predictivity_table(name, options.scenes, options.concepts, seed) for seed in range(options.seeds)]
        table = pd.concat(tables)
        print(table.round(3).to_string(index=False))
        print(f"{name}: mean rho {table['rho'].mean():.3f}, mean AUC {table['auc'].mean():.3f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
