"""Scenes with a planted shortcut, linear heads on the demo's frozen networks, and what audits and slices find.

Four kinds of animals, so that a setting takes seconds. The heads are fitted on scenes in which the planted thing tells
more than the parts do (`Shortcut.predictivity`); whether a head then follows it is measured and printed as `reliance`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import conceptatlas as ca
from conceptatlas.audit import Atlas, Settings, find_slices
from conceptatlas.audit.coefficients import positions_on, top_mean
from conceptatlas.audit.statistics import auc
from conceptatlas.concepts import OpenClipEncoder, make_factorizer
from conceptatlas.demo import SceneConfig, Shortcut, demo_encoder_path, linear_probe, load_demo_model, make_split
from conceptatlas.extraction import Preprocess

AUDIT = Settings(umap=False, n_examples=2, max_views=4, max_probe=24)
PLANTED = 0
RELIES = 0.3  # accuracy with it less that without: below, the head does not follow it and there is nothing to find
SAME = 0.85  # a concept is the planted thing's where its score tells with this AUC who holds it
N_TRAIN, N_AUDIT, N_SLICED = 480, 320, 260


@dataclass(frozen=True)
class Scenes:
    """Images, labels, and which of them hold the planted thing."""

    images: list[Image.Image]
    labels: np.ndarray
    held: np.ndarray


@dataclass(frozen=True)
class Setting:
    """A network's probe that was fitted on planted scenes."""

    name: str
    config: SceneConfig
    probe: torch.nn.Module

    @property
    def prepare(self) -> Preprocess:
        """How the probe wants its images."""
        return Preprocess.for_model(self.probe)


def draw(config: SceneConfig, split: str, n: int) -> Scenes:
    """Draw the scenes of a split."""
    scenes = make_split(config, split, n)  # type: ignore[arg-type]
    held = scenes.tags[:, 0] if config.shortcuts else np.zeros(n, dtype=bool)
    return Scenes([scene.image for scene in scenes], scenes.labels, held)


def planted_probe(name: str, network: str, config: SceneConfig) -> Setting:
    """Fit a head for the scenes of a configuration on one of the demo's networks."""
    model = load_demo_model(network)
    training = draw(config, "train", N_TRAIN)
    prepare = Preprocess.for_model(model)
    inputs = torch.stack([prepare(image) for image in training.images])
    return Setting(name, config, linear_probe(model, inputs, training.labels, list(config.class_names)))


def shortcut_settings(networks: tuple[str, ...] = ("cnn", "vit")) -> list[tuple[str, str, SceneConfig]]:
    """Kinds, correlations and sizes for each network: name, network, configuration."""
    plan = [
        ("tag", 0.0, 0.8), ("tag", 0.0, 0.9), ("tag", 0.0, 0.98), ("tag", 12.0, 0.95), ("tag", 22.0, 0.9),
        ("border", 0.0, 0.9), ("border", 3.0, 0.98), ("texture", 0.0, 0.8), ("texture", 0.0, 0.95),
        ("cast", 0.0, 0.9), ("cast", 0.0, 0.98), ("background", 0.0, 0.9), ("background", 0.0, 0.98),
    ]  # fmt: skip
    rows = []
    for network in networks:
        for number, (kind, size, correlation) in enumerate(plan):
            shortcut = Shortcut(kind, PLANTED, correlation, predictivity=0.7, size=size)  # type: ignore[arg-type]
            config = SceneConfig(n_classes=4, shortcuts=(shortcut,), seed=100 + number)
            rows.append((f"{network} {kind} {size:g} {correlation}", network, config))
    return rows


@dataclass(frozen=True)
class Found:
    """What an audit says about one planted setting; see `Verdict` of the photographs for the figures."""

    name: str
    reliance: float
    first_auc: float
    best_auc: float
    grade: str
    alarms: int

    @property
    def relied_on(self) -> bool:
        """Whether there is a shortcut to find."""
        return self.reliance >= RELIES

    @property
    def hit(self) -> bool:
        """Whether the first suspect of the planted class is the planted thing, graded A or B."""
        return self.first_auc >= SAME and self.grade in ("A", "B")


def audit_scenes(setting: Setting, scenes: Scenes, out: Path, *, classes: list[int] | None) -> Atlas:
    """Audit a probe on scenes in memory."""
    return ca.audit(
        setting.probe,
        [(image, int(label)) for image, label in zip(scenes.images, scenes.labels, strict=True)],
        out=out,
        class_names=list(setting.config.class_names),
        classes=classes,
        min_images=12,
        progress=False,
        settings=AUDIT,
        preprocess=setting.prepare,
    )


def judge(setting: Setting, atlas: Atlas, scenes: Scenes) -> Found:
    """Compare the first suspect of the planted class with the truth."""
    order = atlas.images["source_index"].to_numpy()
    held, home = scenes.held[order], scenes.labels[order] == PLANTED
    right = (atlas.images["correct"] == 1).to_numpy()
    reliance = float(right[home & held].mean() - right[home & ~held].mean())
    name = setting.config.class_names[PLANTED]
    if name not in atlas:
        return Found(setting.name, reliance, np.nan, np.nan, "-", 0)
    member, suspects = atlas[name], atlas.shortcuts()
    aucs = [auc(column, held[member.everywhere_rows]) for column in member.everywhere_scores.T]
    alarmed = suspects[suspects["grade"].isin(["A", "B"])]["concept"]
    first = suspects.iloc[0]
    return Found(
        setting.name, reliance, aucs[int(first["concept"])], max(aucs), first["grade"],
        sum(aucs[int(concept)] < SAME for concept in alarmed),
    )  # fmt: skip


def sliced_setting(number: int) -> tuple[str, str, SceneConfig]:
    """A shortcut that fails 6 to 10 % of its class in the audit; nearly all scenes of the audit are of that class."""
    kind = ("tag", "border", "texture", "cast")[number % 4]
    share = 0.06 + 0.01 * (number % 5)
    shortcut = Shortcut(
        kind,
        PLANTED,
        0.97,
        audit_correlation=1 - share,
        audit_leak=0.02,
        predictivity=0.7,  # type: ignore[arg-type]
    )
    network = ("cnn", "vit")[number // 4 % 2]
    return f"{network} {kind} {share:.2f}", network, SceneConfig(n_classes=4, shortcuts=(shortcut,), seed=500 + number)


def sliced_scenes(config: SceneConfig) -> Scenes:
    """Scenes of the audit, nine in ten of the planted class."""
    shares = tuple(0.91 if index == PLANTED else 0.03 for index in range(config.n_classes))
    return draw(replace(config, class_shares=shares), "audit", N_SLICED)


def precision_of_slices(setting: Setting, scenes: Scenes, *, seed: int, n_concepts: int = 12) -> dict[str, float]:
    """Precision at 10 of the best slice for the planted one, in concept space and by what stands beside it."""
    inputs = torch.stack([setting.prepare(image) for image in scenes.images])
    cut = ca.split(setting.probe, "auto", input_size=tuple(inputs.shape[-2:]), probe=inputs[:64])
    with torch.no_grad():
        features = cut.encode(inputs)
        logits = cut.head(features)
    called = (logits.argmax(1) == PLANTED).numpy()
    rows = features.positions[torch.as_tensor(called)].flatten(0, 1)
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:20_000]
    factorizer = make_factorizer("auto", n_concepts, signed=bool((rows < 0).any()), seed=seed)
    factorizer.fit(rows[chosen].numpy())
    W = torch.as_tensor(np.asarray(factorizer.components_), dtype=torch.float32)
    home = scenes.labels == PLANTED
    scores = top_mean(positions_on(features, W)).numpy()[home]
    probability = logits.softmax(1)[:, PLANTED].numpy()[home]
    missing, right = ~scenes.held[home], called[home]
    return {
        "share": float(missing.mean()),
        "reliance": float(right[~missing].mean() - right[missing].mean()),
        **_precisions(scores, probability, right, missing, seed),
        **_beside(setting, features.positions, scenes, home, probability, right, missing, seed),
    }


def _precisions(scores: Any, probability: Any, right: Any, missing: Any, seed: int) -> dict[str, float]:
    found = find_slices(scores, probability, right, seed=seed)
    shuffled = np.random.default_rng(seed).permutation(missing)
    others = {
        method: best_precision(find_slices(scores, probability, right, seed=seed, method=method), missing)
        for method in ("domino", "planespot", "spotlight")
    }
    return {"concepts": best_precision(found, missing), "shuffled": best_precision(found, shuffled), **others}


def _beside(
    setting: Setting, positions: Any, scenes: Scenes, home: Any, probability: Any, right: Any, missing: Any, seed: int
) -> dict[str, float]:
    count = min(10, int(missing.sum()))
    own = positions.mean(1).numpy()[home]
    encoder = OpenClipEncoder(demo_encoder_path())
    seen = encoder.encode_images([image for image, there in zip(scenes.images, home, strict=True) if there])
    by_own, by_text = (
        find_slices(values - values.min(0), probability, right, seed=seed) for values in (own, np.asarray(seen))
    )
    return {
        "own activations": best_precision(by_own, missing),
        "text encoder": best_precision(by_text, missing),
        "lowest confidence": float(missing[np.argsort(probability, kind="stable")[:count]].mean()),
    }


def best_precision(found: Any, truth: np.ndarray) -> float:
    """Share of the planted images among the ten that most surely belong to a slice, of the best slice."""
    count = min(10, int(truth.sum()))
    return max(float(truth[found.top(s, count)].mean()) for s in range(found.membership.shape[1]))
