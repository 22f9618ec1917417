"""Are planted shortcuts and slices found, and do interventions help? Prints every figure; nothing is asserted here.

    python benchmarks/bias.py [--quick] [--part shortcuts clean photographs slices interventions comparison]

Shortcuts are planted in the training data of linear heads on frozen networks (the demo's CNN and ViT on scenes, DeiT
on the photographs that CONCEPTATLAS_REAL_DATA names), so that one setting takes seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import conceptatlas as ca
from conceptatlas.audit import Atlas, EditedModel, Settings, before_after, find_slices, refit_last_layer, reopen
from conceptatlas.audit.interventions import concept_groups, predictions
from conceptatlas.audit.statistics import auc
from conceptatlas.demo import load_demo_model, make_split, plant_on_photograph, write_demo_images
from conceptatlas.demo.config import SceneConfig, Shortcut
from conceptatlas.demo.planting import draw_plan
from conceptatlas.demo.probing import linear_probe
from conceptatlas.extraction import Preprocess, load_model

QUICK_SETTINGS = Settings(umap=False, n_examples=2, max_views=4, max_probe=24)
PLANTED, RELIANCE = 0, 0.3


@dataclass(frozen=True)
class Found:
    """What an audit says about one planted setting."""

    name: str
    reliance: float
    first_auc: float
    best_auc: float
    grade: str
    pointing: float
    false_alarms: int

    @property
    def hit(self) -> bool:
        """Whether the first suspect of the planted class is the planted thing, graded A or B."""
        return self.first_auc >= 0.85 and self.grade in ("A", "B")


def scene_settings(quick: bool) -> list[tuple[str, Shortcut]]:
    """Kinds, correlations and sizes, for each backbone."""
    rows = []
    for backbone in ("cnn", "vit"):
        for kind, sizes in (
            ("tag", (0.0, 11.0)),
            ("border", (0.0,)),
            ("texture", (0.0,)),
            ("cast", (0.0,)),
            ("background", (0.0,)),
        ):
            for size in sizes:
                for correlation in (0.95,) if quick else (0.8, 0.98) if size == 0.0 else (0.95,):
                    rows.append((backbone, Shortcut(kind, PLANTED, correlation, size=size)))  # type: ignore[arg-type]
    return rows


def scenes_of(config: SceneConfig, split: str, n: int) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Images, labels, and which of them hold the planted thing."""
    scenes = list(make_split(config, split, n))  # type: ignore[arg-type]
    name = config.shortcuts[0].name if config.shortcuts else None
    held = [
        name in s.parts and s.parts[name].any() if name and config.shortcuts[0].kind != "background" else False
        for s in scenes
    ]
    if config.shortcuts and config.shortcuts[0].kind == "background":
        held = [spec.background == config.shortcuts[0].background for spec in make_split(config, split, n).specs]  # type: ignore[arg-type]
    return [s.image for s in scenes], np.array([s.label for s in scenes]), np.array(held, dtype=bool)


def audit_probe(
    probe: torch.nn.Module, images: list[Any], labels: np.ndarray, names: list[str], out: Path, only: bool
) -> Atlas:
    """Audit a probe on images in memory."""
    return ca.audit(
        probe,
        [(image, int(label)) for image, label in zip(images, labels, strict=True)],
        out=out,
        class_names=names,
        classes=[PLANTED] if only else None,
        min_images=12,
        progress=False,
        settings=QUICK_SETTINGS,
        preprocess=Preprocess.for_model(probe),
    )


def judge(name: str, atlas: Atlas, held: np.ndarray, class_name: str) -> Found:
    """Compare the first suspect of the planted class with the truth."""
    images = atlas.images
    order = images["source_index"].to_numpy()
    holds = held[order]
    home = (images["label_index"] == PLANTED).to_numpy()
    right = (images["correct"] == 1).to_numpy()
    reliance = (
        right[home & holds].mean() - right[home & ~holds].mean()
        if (home & holds).any() and (home & ~holds).any()
        else np.nan
    )
    suspects = atlas.shortcuts()
    others = suspects[(suspects["class"] != class_name) & suspects["grade"].isin(["A", "B"])]
    if class_name not in atlas:
        return Found(name, float(reliance), np.nan, np.nan, "-", np.nan, len(others))
    member = atlas[class_name]
    truth = holds[member.everywhere_rows]
    aucs = [auc(column, truth) for column in member.everywhere_scores.T]
    first = suspects[suspects["class"] == class_name].iloc[0]
    return Found(name, float(reliance), aucs[int(first["concept"])], max(aucs), first["grade"], np.nan, len(others))


def shortcuts(quick: bool) -> list[Found]:
    """Planted scenes: is the planted concept the first suspect of its class?"""
    found = []
    for number, (backbone, shortcut) in enumerate(scene_settings(quick)):
        config = SceneConfig(shortcuts=(shortcut,), seed=100 + number)
        names = list(config.class_names)
        network = load_demo_model(backbone)
        prepare = Preprocess.for_model(network)
        images, labels, _ = scenes_of(config, "train", 800)
        probe = linear_probe(network, torch.stack([prepare(i) for i in images]), labels, names)
        images, labels, held = scenes_of(config, "audit", 400)
        with tempfile.TemporaryDirectory() as out:
            atlas = audit_probe(probe, images, labels, names, Path(out) / "run", only=True)
            title = f"{backbone} {shortcut.kind} {shortcut.correlation} size {shortcut.size:g}"
            found.append(judge(title, atlas, held, names[PLANTED]))
        print(found[-1], flush=True)
    counted = [f for f in found if f.reliance >= RELIANCE]
    print(
        f"{len(found)} settings; {len(counted)} in which the model relies on it (accuracy differs by {RELIANCE} or more)"
    )
    print(f"planted concept first and graded A or B: {np.mean([f.hit for f in counted]):.2f} of those")
    return found


def clean(quick: bool) -> None:
    """Scenes without any shortcut: how many concepts are graded A or B?"""
    alarms = classes = 0
    for number, backbone in enumerate(("cnn", "vit") * (1 if quick else 2)):
        config = SceneConfig(shortcuts=(), seed=300 + number)
        names = list(config.class_names)
        network = load_demo_model(backbone)
        prepare = Preprocess.for_model(network)
        images, labels, _ = scenes_of(config, "train", 800)
        probe = linear_probe(network, torch.stack([prepare(i) for i in images]), labels, names)
        images, labels, _ = scenes_of(config, "audit", 480)
        with tempfile.TemporaryDirectory() as out:
            atlas = audit_probe(probe, images, labels, names, Path(out) / "run", only=False)
        alarms += int(atlas.shortcut_table["grade"].isin(["A", "B"]).sum())
        classes += len(atlas)
    print(f"clean scenes: {alarms} grades A or B in {classes} classes = {10 * alarms / classes:.2f} per 10 classes")


def photographs() -> None:
    """Ants and bees with something planted on the bees, DeiT-tiny frozen under a linear head."""
    real = Path(os.environ["CONCEPTATLAS_REAL_DATA"])
    network = load_model("deit_tiny_patch16_224", checkpoint=real / "deit_tiny_patch16_224.fp16.safetensors")
    prepare = Preprocess.for_model(network)
    source = {part: ca.extraction.as_source(real / "hymenoptera" / part) for part in ("train", "val")}
    for kind, size in (("tag", 0.2), ("border", 0.0), ("cast", 0.0)):
        shortcut = Shortcut(kind, 1, correlation=0.95, leak=0.0, audit_correlation=0.5, audit_leak=0.5)  # type: ignore[arg-type]
        sets = {}
        for part, split in (("train", "train"), ("val", "audit")):
            views = [prepare.view(source[part][i].image) for i in range(len(source[part]))]
            labels = np.array([int(label == "bees") for label in source[part].labels])
            plan = draw_plan(labels.tolist(), shortcut, split)  # type: ignore[arg-type]
            planted = [plant_on_photograph(v, kind, size=size, seed=i) for i, v in enumerate(views)]  # type: ignore[arg-type]
            images = [p.image if h else v for p, v, h in zip(planted, views, plan, strict=True)]
            sets[part] = (images, labels, plan, [p.mask for p in planted])
        images, labels, _, _ = sets["train"]
        probe = linear_probe(network, torch.stack([prepare.tensor(i) for i in images]), labels, ["ant", "bee"])
        images, labels, held, masks = sets["val"]
        report_photographs(kind, probe, images, labels, held, masks)


def report_photographs(
    kind: str, probe: torch.nn.Module, images: list[Any], labels: np.ndarray, held: np.ndarray, masks: list[np.ndarray]
) -> None:
    """Audit one planted probe and print rank, pointing and the effect of ablation with and without the planted thing."""
    from conceptatlas.importance import concept_maps, peak

    with tempfile.TemporaryDirectory() as out:
        atlas = ca.audit(
            probe, [(i, int(y)) for i, y in zip(images, labels, strict=True)], out=Path(out) / "run",
            class_names=["ant", "bee"], progress=False, settings=QUICK_SETTINGS, min_images=12,
        )  # fmt: skip
        suspects = atlas.shortcuts()
        first = suspects[suspects["class"] == "bee"].iloc[0]
        member, concept = atlas["bee"], int(first["concept"])
        order = atlas.images["source_index"].to_numpy()
        truth = held[order]
        score = auc(member.everywhere_scores[:, concept], truth[member.everywhere_rows])
        context = reopen(atlas, probe)
        directions = torch.tensor(member.bank.directions.copy())
        prepare = Preprocess.for_model(probe)
        rows = [int(r) for r in member.images["row"] if truth[int(r)]]
        inputs = torch.stack([prepare(images[order[r]]) for r in rows])
        maps = torch.cat([
            concept_maps(context.split, directions, part, method=atlas.run["map"], concepts=[concept]) for part in inputs.split(16)
        ])  # fmt: skip
        tops = peak(maps, (224, 224)).reshape(-1, 2).tolist()
        pointing = np.mean([masks[order[r]][int(y), int(x)] for r, (y, x) in zip(rows, tops, strict=True)])
        reference = torch.tensor(member.reference)
        edited = EditedModel(context.split, directions, [concept], method="mean", reference=reference)
        moved = {}
        for name, chosen in (("with", truth), ("without", ~truth)):
            at = np.array([r for r in member.images["row"] if chosen[int(r)]])
            moved[name] = _moved(context, edited, at) if len(at) else np.nan
    print(
        f"photographs {kind}: first suspect AUC {score:.2f}, grade {first['grade']}, map {atlas.run['map']} points at it in "
        f"{pointing:.2f} of {len(rows)}; ablation moves p(bee) by {moved['with']:.3f} with it, {moved['without']:.3f} without",
        flush=True,
    )


def _moved(context: Any, edited: EditedModel, rows: np.ndarray) -> float:
    changes = []
    with torch.no_grad():
        for _, features in context.blocks(rows):
            before, after = context.split.head(features).softmax(1), edited.head(features).softmax(1)
            changes.append((after - before)[:, 1].abs())
    return float(torch.cat(changes).mean())


def slices(quick: bool) -> None:
    """Slices of 6 to 10 % of a class, planted as a shortcut that fails them: precision at 10, and the same shuffled."""
    rows = []
    for seed in range(4 if quick else 20):
        share = 0.06 + 0.04 * (seed % 5) / 4
        shortcut = Shortcut("tag", PLANTED, 0.95, audit_correlation=1 - share, audit_leak=0.02)
        config = SceneConfig(shortcuts=(shortcut,), seed=500 + seed)
        names = list(config.class_names)
        network = load_demo_model(("cnn", "vit")[seed % 2])
        prepare = Preprocess.for_model(network)
        images, labels, _ = scenes_of(config, "train", 800)
        probe = linear_probe(network, torch.stack([prepare(i) for i in images]), labels, names)
        images, labels, held = scenes_of(config, "audit", 1200)
        chosen = labels == PLANTED
        with tempfile.TemporaryDirectory() as out:
            atlas = audit_probe(probe, images, labels, names, Path(out) / "run", only=True)
            rows.append(_precision(atlas, held, chosen, seed))
    table = pd.DataFrame(rows)
    print(table.mean().round(3).to_string())


def _precision(atlas: Atlas, held: np.ndarray, chosen: np.ndarray, seed: int) -> dict[str, float]:
    member = next(iter(atlas.values()))
    order = atlas.images["source_index"].to_numpy()
    inside = chosen[order][member.everywhere_rows]
    scores = member.everywhere_scores[inside]
    at = member.everywhere_rows[inside]
    truth = ~held[order][at]
    right = atlas.images["correct"].to_numpy(float)[at] == 1
    store = ca.extraction.ActivationStore(atlas.path / "activations")
    probability = torch.tensor(np.asarray(store.logits[at])).softmax(1)[:, PLANTED].numpy()
    own = np.concatenate([f.positions.mean(1).numpy() for _, f in store.blocks(256)])[at]

    def best(found: Any, labels: np.ndarray) -> float:
        count = min(10, int(truth.sum()))
        return max(labels[found.top(s, count)].mean() for s in range(found.membership.shape[1]))

    by_concepts = find_slices(scores, probability, right, seed=seed)
    shuffled = np.random.default_rng(seed).permutation(truth)
    return {
        "share": truth.mean(),
        "concepts": best(by_concepts, truth),
        "shuffled": best(by_concepts, shuffled),
        "domino": best(find_slices(scores, probability, right, seed=seed, method="domino"), truth),
        "own activations": best(find_slices(np.maximum(own, 0), probability, right, seed=seed), truth),
        "lowest confidence": truth[np.argsort(probability)[: min(10, int(truth.sum()))]].mean(),
    }


def interventions(name: str = "cnn") -> None:
    """The demo's planted class: worst group before and after each intervention."""
    with tempfile.TemporaryDirectory() as folder:
        write_demo_images(Path(folder) / "images", n_per_class=60, seed=0)
        model = load_demo_model(name)
        atlas = ca.audit(
            model, Path(folder) / "images", out=Path(folder) / "run", progress=False, settings=QUICK_SETTINGS
        )
        first = atlas.shortcuts().iloc[0]
        member, concept = atlas[first["class"]], int(first["concept"])
        context = reopen(atlas, model)
        rows = member.everywhere_rows
        labels = atlas.images["label_index"].to_numpy()[rows].astype(int)
        present = member.everywhere_scores[:, concept] >= first["threshold"]
        groups = concept_groups(np.where(labels == member.index, member.name, "others"), present)
        directions, reference = torch.tensor(member.bank.directions.copy()), torch.tensor(member.reference)
        before = predictions(context, context.split, rows)
        for method in ("mean", "zero", "project", "clamp"):
            edited = EditedModel(
                context.split, directions, [concept], method=method, reference=reference, target=member.index
            )  # type: ignore[arg-type]
            _line(f"{name} {method}", before_after(before, predictions(context, edited, rows), labels, groups))
        half = np.arange(len(rows)) % 2 == 0
        numbers = np.unique(groups, return_inverse=True)[1]
        refitted = refit_last_layer(context, rows[half], labels[half], numbers[half])
        cut = ca.split(refitted, atlas.run["layer"]["name"], input_size=context.split.input_size)
        after = predictions(context, cut, rows[~half])
        _line(
            f"{name} last-layer refit (held-out half)",
            before_after(before[~half], after, labels[~half], np.array(groups)[~half].tolist()),
        )


def _line(name: str, result: Any) -> None:
    print(
        f"{name}: average {result.average_before:.3f} -> {result.average_after:.3f}, worst group {result.worst_before:.3f} -> "
        f"{result.worst_after:.3f}, flips {result.flips:.3f}, improved beyond its interval: {result.improved}",
        flush=True,
    )


def comparison() -> None:
    """The demo's CNN against its twin that was trained without the shortcut, on the same images."""
    with tempfile.TemporaryDirectory() as folder:
        write_demo_images(Path(folder) / "images", n_per_class=60, seed=0)
        atlases = [
            ca.audit(
                load_demo_model(m),
                Path(folder) / "images",
                out=Path(folder) / m,
                progress=False,
                settings=QUICK_SETTINGS,
            )
            for m in ("cnn", "cnn_clean")
        ]
        result = ca.compare(*atlases)
        print(
            result.shortcuts[
                ["class", "status", "label_a", "similarity", "importance_a", "importance_b", "grade_a", "grade_b"]
            ]
        )
        print(result.concepts["status"].value_counts().to_string())


def main() -> None:
    """Run the parts that are asked for."""
    parts = ("shortcuts", "clean", "photographs", "slices", "interventions", "comparison")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", nargs="*", choices=parts, default=parts)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    runs = {
        "shortcuts": lambda: shortcuts(asked.quick),
        "clean": lambda: clean(asked.quick),
        "photographs": lambda: (
            photographs() if "CONCEPTATLAS_REAL_DATA" in os.environ else print("photographs: not set")
        ),
        "slices": lambda: slices(asked.quick),
        "interventions": lambda: [interventions(name) for name in ("cnn", "vit")],
        "comparison": comparison,
    }
    for part in asked.part:
        print(f"== {part}", flush=True)
        runs[part]()


if __name__ == "__main__":
    main()
