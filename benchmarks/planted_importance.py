"""Does the ranking of concepts by importance agree with what was planted in the scenes?

``python -m benchmarks.planted_importance [--scenes 480] [--models cnn vit] [--concepts 12] [--seeds 3] [--quick]``

- things: for every class of a demo model, the importance of each thing (part, tag, ground, and the parts that all animals
  share) is that of the concepts that show it, summed; a concept shows the thing whose places its coefficients tell best,
  with an AUC of at least 0.8, and a thing that no concept shows has none. It is held against two truths by Spearman's
  rho and by how well it tells the things that count from the others (AUC):
  predictivity, how much more often the training scenes of the class show the thing than others do (counts from 0.2), and
  reliance, what the network makes of the thing in pixels (counts from 0.1): the scenes are drawn again with every subset
  of their things left out and all else alike, the ground giving way to another one, and the class logit's total Sobol
  index is taken over these settings; it needs no concepts.
  "signed" holds the sizes of the mean signed contributions, by which an atlas sorts its concepts, against reliance;
  "network" is the rho between the two truths: a network need not rely on all that was predictive. "place" is the rank of
  the thing that the network relies on most, "tag rank" that of the tag; the tag was planted in the first class.
- labels: the same pixels labelled by animal and by ground. Two models share a frozen encoder and have a linear head each,
  so the same concepts can be weighed under both; printed is the share of importance on concepts that show the ground.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from unittest.mock import patch

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
from conceptatlas.demo import scenes as drawing
from conceptatlas.demo.animal import draw_animal
from conceptatlas.demo.config import BACKGROUNDS, PARTS, SceneConfig
from conceptatlas.demo.scenes import Scene, make_scene
from conceptatlas.demo.splits import SceneSpec, SceneSplit
from conceptatlas.extraction import Features, Preprocess, SplitModel, split
from conceptatlas.importance import concept_importance, contributions
from conceptatlas.importance.recomposition import select

COMMON = ("head", "legs", "eye")
#: Masks of the things whose importance is weighed.
THINGS = {**{part: (part,) for part in PARTS}, "tag": ("tag",), "ground": ("background",), "common parts": COMMON}
N_SPECS = 4000
N_WEIGHED, N_REDRAWN = 24, 8
SHOWS, PREDICTIVE, RELIED = 0.8, 0.2, 0.1


@dataclass(frozen=True)
class Encoded:
    """Scenes and their activations at the layer that an audit would choose."""

    cut: SplitModel
    features: Features
    predicted: np.ndarray
    scenes: list[Scene]
    drawn_from: SceneSplit
    preprocess: Preprocess


def encode(name: str, n: int, *, seed: int, layer: str = "auto") -> Encoded:
    """Encode scenes that the demo's model has not seen."""
    model = load_demo_model(name).requires_grad_(False)
    preprocess = Preprocess.for_model(model)
    drawn_from = make_split(SceneConfig(seed=7000 + seed), "audit", n)
    scenes = list(drawn_from)
    images = torch.stack([preprocess(scene.image) for scene in scenes])
    cut = split(model, layer, input_size=preprocess.size, probe=images[:64])
    with torch.no_grad():
        batches = [cut.encode(batch) for batch in images.split(64)]
        predicted = torch.cat([cut.head(batch) for batch in batches]).argmax(1).numpy()
    prefix = None if batches[0].prefix is None else torch.cat([batch.prefix for batch in batches])
    positions = torch.cat([batch.positions for batch in batches])
    features = batches[0].replace(positions=positions, prefix=prefix)
    return Encoded(cut, features, predicted, scenes, drawn_from, preprocess)


def concepts_of(features: Features, n_concepts: int, *, signed: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Return coefficients ``(B, P, k)`` and directions ``(k, p)``."""
    factorizer = make_factorizer("auto", n_concepts, signed=signed, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        factorizer.fit(features.positions.flatten(0, 1).numpy())
    W = torch.as_tensor(np.asarray(factorizer.components_, np.float32))
    return nnls(features.positions.contiguous(), W), W


def covered(scenes: Sequence[Scene], masks: Sequence[str], grid: tuple[int, int]) -> np.ndarray:
    """Return the share of each cell that shows what some masks show, ``(B, P)``."""
    empty = np.zeros(scenes[0].image.size[::-1], bool)
    shown = [np.any([scene.parts.get(mask, empty) for mask in masks], axis=0) for scene in scenes]
    stacked = torch.as_tensor(np.stack(shown), dtype=torch.float32)
    return torch.nn.functional.adaptive_avg_pool2d(stacked[:, None], grid).flatten(1).numpy()


def shown_by(U: Tensor, scenes: Sequence[Scene], grid: tuple[int, int]) -> list[str | None]:
    """Return for each concept the thing whose places its coefficients tell best, or None where they tell none well."""
    places = {thing: covered(scenes, masks, grid).ravel() >= 0.5 for thing, masks in THINGS.items()}
    places = {thing: there for thing, there in places.items() if there.sum() >= 5}
    found = []
    for column in U.flatten(0, 1).numpy().T:
        aucs = {thing: retrieval_auc(column, there) for thing, there in places.items()}
        best = max(aucs, key=aucs.__getitem__)
        found.append(best if aucs[best] >= SHOWS else None)
    return found


def predictivities(config: SceneConfig, index: int) -> dict[str, float]:
    """Return how much more often training scenes of a class show each thing than the others do."""
    specs = make_split(config, "train", N_SPECS).specs
    own = np.array([spec.class_index == index for spec in specs])
    there = {thing: np.array([thing in things_of(spec) for spec in specs]) for thing in THINGS}
    return {thing: float(shown[own].mean() - shown[~own].mean()) for thing, shown in there.items()}


def things_of(spec: SceneSpec) -> list[str]:
    """Return the things that a scene shows."""
    return [*spec.parts, *(["tag"] if any(spec.tag) else []), "ground", "common parts"]


def redrawn(config: SceneConfig, spec: SceneSpec, without: Collection[str]) -> Scene:
    """Draw a scene without some of its things and otherwise alike; the ground gives way to another one."""
    hidden = COMMON if "common parts" in without else ()
    other = BACKGROUNDS[(BACKGROUNDS.index(spec.background) + 1 + spec.seed[-1] % 5) % len(BACKGROUNDS)]
    with patch.object(drawing, "draw_animal", lambda *a: [part for part in draw_animal(*a) if part.name not in hidden]):
        return make_scene(
            config,
            spec.class_index,
            spec.seed,
            tag=False if "tag" in without else spec.tag,
            parts=[part for part in spec.parts if part not in without],
            background=other if "ground" in without else spec.background,
        )


def switch_indices(values: np.ndarray) -> np.ndarray:
    """Return total Sobol indices of m switches from the values at their ``2**m`` settings (bit i: switch i)."""
    settings = np.arange(len(values))
    flipped = [values[settings ^ (1 << i)] for i in range(len(values).bit_length() - 1)]
    return np.array([np.mean((values - other) ** 2) / 4 for other in flipped]) / max(values.var(), 1e-12)


def reliances(encoded: Encoded, rows: np.ndarray, index: int) -> dict[str, float]:
    """Return the total index of each thing in a class logit, mean over scenes (0 in those that do not show it)."""
    found = []
    for spec in [encoded.drawn_from.specs[row] for row in rows]:
        things = things_of(spec)
        subsets = [{thing for i, thing in enumerate(things) if setting >> i & 1} for setting in range(2 ** len(things))]
        drawn = [redrawn(encoded.drawn_from.config, spec, subset) for subset in subsets]
        images = torch.stack([encoded.preprocess(scene.image) for scene in drawn])
        with torch.no_grad():
            logits = torch.cat([encoded.cut.head(encoded.cut.encode(batch))[:, index] for batch in images.split(64)])
        found.append(dict(zip(things, switch_indices(logits.double().numpy()), strict=True)))
    return pd.DataFrame(found).fillna(0.0).mean().to_dict()


def weighed_things(encoded: Encoded, own: np.ndarray, index: int, n_concepts: int, seed: int) -> pd.DataFrame:
    """Return importance, contribution and reliance of the things that a class's concepts or redrawn scenes show."""
    features = select(encoded.features, torch.as_tensor(own))
    signed = bool((features.positions < 0).any())
    U, W = concepts_of(features, n_concepts, signed=signed, seed=seed)
    some = torch.arange(len(own) if encoded.cut.head_is_affine else min(len(own), N_WEIGHED))
    typical = encoded.features.positions.mean(dim=(0, 1)) if signed else None
    weighed, options = (encoded.cut, select(features, some), U[some], W, index), {"typical": typical}
    total = concept_importance(*weighed, **options).total
    signed_shares = contributions(*weighed, method="integrated" if signed else "gradient", steps=1, **options).values
    shown = pd.Series(shown_by(U, [encoded.scenes[i] for i in own], features.grid))
    columns = {
        "importance": pd.Series(total).groupby(shown).sum(),
        "contribution": pd.Series(signed_shares.mean(0).abs().numpy()).groupby(shown).sum(),
        "reliance": pd.Series(reliances(encoded, own[:N_REDRAWN], index)),
    }
    return pd.DataFrame(columns).fillna(0.0)


def things_table(name: str, n_scenes: int, n_concepts: int, seed: int) -> pd.DataFrame:
    """Hold importance against predictivity and against reliance, class by class."""
    encoded, config, rows = encode(name, n_scenes, seed=seed), demo_config(name), []
    for index, class_name in enumerate(config.class_names):
        own = np.flatnonzero(encoded.predicted == index)
        if len(own) < 20:
            continue
        things = weighed_things(encoded, own, index, n_concepts, seed)
        planted = pd.Series(predictivities(config, index))[things.index]
        row = {"model": name, "seed": seed, "class": class_name, "network": spearmanr(planted, things.reliance)[0]}
        for truth, values, least in (("planted", planted, PREDICTIVE), ("relied", things.reliance, RELIED)):
            row[f"rho {truth}"] = spearmanr(things.importance, values)[0]
            row[f"auc {truth}"] = retrieval_auc(things.importance.to_numpy(), values.to_numpy() >= least)
        row["rho signed"] = spearmanr(things.contribution, things.reliance)[0]
        row["auc signed"] = retrieval_auc(things.contribution.to_numpy(), things.reliance.to_numpy() >= RELIED)
        ranks, most = things.importance.rank(ascending=False, method="min"), things.reliance.idxmax()
        row |= {"first": things.importance.idxmax(), "relied on most": most, "place": ranks[most]}
        rows.append({**row, "tag rank": ranks.get("tag", np.nan)})
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
    ground = covered(encoded.scenes, THINGS["ground"], encoded.features.grid)
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
        tables = [things_table(name, options.scenes, options.concepts, seed) for seed in range(options.seeds)]
        table = pd.concat(tables)
        print(table.round(3).to_string(index=False))
        means = table[
            ["network", "rho planted", "auc planted", "rho relied", "auc relied", "rho signed", "auc signed", "place"]
        ].mean()
        print(f"{name}, means: " + ", ".join(f"{what} {value:.3f}" for what, value in means.items()), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
