"""A shortcut planted on photographs of bees, a linear probe that follows it, and what an audit says about the probe.

DeiT-tiny is frozen under a new head. It knows bees and ants too well to need a tag that merely comes with the bees, so
the training labels are made less true than the planted thing (`plant_on_photographs`); the audit's are all true, and
half of the bees and half of the ants hold the planted thing there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

import conceptatlas as ca
from conceptatlas.audit import Atlas, EditedModel, Settings, reopen, wide_of
from conceptatlas.audit.statistics import auc
from conceptatlas.demo import PlantedSet, Shortcut, linear_probe, plant_on_photographs
from conceptatlas.extraction import Preprocess, as_source, load_model
from conceptatlas.importance import concept_maps, peak

BEE = 1
AUDIT = Settings(umap=False, n_examples=2, max_views=4)
#: Kind and size, in pixels of a 96 pixel image: a fifth of the side, a tenth, the whole image.
KINDS: dict[str, float] = {"tag": 19.2, "border": 9.6, "cast": 0.0}


@dataclass(frozen=True)
class Biased:
    """A probe that follows a planted shortcut, and the photographs that it is audited on."""

    kind: str
    probe: torch.nn.Module
    audit: PlantedSet

    @property
    def prepare(self) -> Preprocess:
        """How the probe wants its images, which are views already: nothing is cropped off again."""
        return replace(Preprocess.for_model(self.probe), crop=1.0)


@dataclass(frozen=True)
class Verdict:
    """What the audit says of a planted shortcut, beside the truth.

    `reliance` is the accuracy on bees with it less that on bees without; `misled` the share of ants called bees with
    it, less that without. `rank` is the place of the best-matching concept among the class's suspects, 1 the first.
    `first_auc` is how well the first suspect tells who holds the planted thing, `best_auc` how well any concept does.
    `pointing` is the share of the images that hold it in which the first suspect's map is strongest on it; `area` is
    that share by chance. `moved_with`, `moved_without`: mean absolute change of p(bee) on bees with and without it,
    when the first suspect is removed from the images that are said to hold it.
    """

    kind: str
    reliance: float
    misled: float
    layer: str
    first_auc: float
    best_auc: float
    rank: int
    grade: str
    map: str
    pointing: float
    area: float
    moved_with: float
    moved_without: float


def biased_probe(real: Path, kind: str, *, seed: int = 0, predictivity: float = 0.8) -> Biased:
    """Plant, fit the probe, and plant on the photographs of the audit; `real` holds DeiT-tiny and the photographs."""
    shortcut = Shortcut(
        kind,  # type: ignore[arg-type]
        BEE,
        correlation=0.95,
        leak=0.0,
        audit_correlation=0.5,
        audit_leak=0.5,
        predictivity=predictivity,
        size=KINDS[kind],
    )
    network = load_model("deit_tiny_patch16_224", checkpoint=real / "deit_tiny_patch16_224.fp16.safetensors")
    prepare = Preprocess.for_model(network)
    sets = []
    for part, split in (("train", "train"), ("val", "audit")):
        source = as_source(real / "hymenoptera" / part)
        views = [prepare.view(source[i].image) for i in range(len(source))]
        labels = [int(label == "bees") for label in source.labels]
        sets.append(plant_on_photographs(views, labels, shortcut, split, seed=seed))  # type: ignore[arg-type]
    training, audit = sets
    inputs = torch.stack([prepare.tensor(image) for image in training.images])
    return Biased(kind, linear_probe(network, inputs, training.labels, ["ant", "bee"]), audit)


def audit_of(
    biased: Biased, out: Path, *, settings: Settings = AUDIT, n_concepts: int | Literal["auto"] = "auto"
) -> Atlas:
    """Audit the probe's bees."""
    images = [(image, int(label)) for image, label in zip(biased.audit.images, biased.audit.labels, strict=True)]
    return ca.audit(
        biased.probe,
        images,
        out=out,
        class_names=["ant", "bee"],
        classes=["bee"],
        preprocess=biased.prepare,
        n_concepts=n_concepts,
        progress=False,
        settings=settings,
    )


def judge(biased: Biased, atlas: Atlas) -> Verdict:
    """Compare the class's first suspect with what was planted."""
    order = atlas.images["source_index"].to_numpy()
    held, bee = biased.audit.held[order], biased.audit.labels[order] == BEE
    called = atlas.images["predicted_index"].to_numpy() == BEE
    member = atlas["bee"]
    aucs = np.array([auc(column, held[member.everywhere_rows]) for column in member.everywhere_scores.T])
    suspects = atlas.shortcuts()
    suspects = suspects[suspects["class"] == "bee"].reset_index(drop=True)
    first = suspects.iloc[0]
    concept = int(first["concept"])
    pointing, area = _pointing(biased, atlas, concept, np.flatnonzero(held))
    moved = [_moved(biased, atlas, concept, np.flatnonzero(bee & chosen)) for chosen in (held, ~held)]
    return Verdict(
        kind=biased.kind,
        reliance=float(called[bee & held].mean() - called[bee & ~held].mean()),
        misled=float(called[~bee & held].mean() - called[~bee & ~held].mean()),
        layer=atlas.run["layer"]["name"],
        first_auc=float(aucs[concept]),
        best_auc=float(aucs.max()),
        rank=1 + suspects["concept"].tolist().index(int(aucs.argmax())),
        grade=first["grade"],
        map=atlas.run["map"],
        pointing=pointing,
        area=area,
        moved_with=moved[0],
        moved_without=moved[1],
    )


def _pointing(biased: Biased, atlas: Atlas, concept: int, rows: np.ndarray) -> tuple[float, float]:
    context = reopen(atlas, biased.probe)
    directions = torch.tensor(atlas["bee"].bank.directions.copy())
    at = atlas.images["source_index"].to_numpy()[rows]
    inputs = torch.stack([biased.prepare(biased.audit.images[i]) for i in at])
    maps = [
        concept_maps(context.split, directions, x, method=atlas.run["map"], concepts=[concept])
        for x in inputs.split(16)
    ]
    tops = peak(torch.cat(maps), tuple(inputs.shape[-2:])).reshape(-1, 2).tolist()
    masks = [biased.audit.masks[i] for i in at]
    hits = [mask[int(y), int(x)] for mask, (y, x) in zip(masks, tops, strict=True)]
    return float(np.mean(hits)), float(np.mean([mask.mean() for mask in masks]))


def _moved(biased: Biased, atlas: Atlas, concept: int, rows: np.ndarray) -> float:
    context, member = reopen(atlas, biased.probe), atlas["bee"]
    directions, reference = torch.tensor(member.bank.directions.copy()), torch.tensor(member.reference)
    edited = EditedModel(
        context.split,
        directions,
        [concept],
        method="remove",
        reference=reference,
        thresholds=torch.tensor(member.thresholds),
        wide=wide_of(member.bank),
    )
    changes = []
    with torch.no_grad():
        for _, features in context.blocks(rows):
            before, after = context.split.head(features).softmax(1), edited.head(features).softmax(1)
            changes.append((after - before)[:, BEE].abs())
    return float(torch.cat(changes).mean())
