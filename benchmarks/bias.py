"""Are planted shortcuts and slices found, and do interventions help? Prints every figure; nothing is asserted here.

    python -m benchmarks.bias [--quick] [--part shortcuts clean photographs slices interventions comparison]

Shortcuts are planted in the training data of linear heads on frozen networks: the demo's CNN and ViT on scenes
(`biased_scenes`), DeiT-tiny on the photographs that CONCEPTATLAS_REAL_DATA names (`biased_photographs`). The floors
that the tests hold stand in tests/audit/test_bias_floors.py.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import conceptatlas as ca
from conceptatlas.audit import (
    BeforeAfter,
    Comparison,
    EditedModel,
    Settings,
    before_after,
    refit_last_layer,
    reopen,
    wide_of,
)
from conceptatlas.audit.coefficients import measure
from conceptatlas.audit.interventions import predictions
from conceptatlas.demo import SceneConfig, demo_class_names, demo_config, load_demo_model, write_demo_images

AUDIT = Settings(umap=False, n_examples=2, max_views=4, max_probe=24)


def shortcuts(quick: bool) -> None:
    """Planted scenes: is the planted concept the first suspect of its class?"""
    from benchmarks import biased_scenes as scenes

    found = []
    for name, network, config in scenes.shortcut_settings()[:: 5 if quick else 1]:
        setting = scenes.planted_probe(name, network, config)
        seen = scenes.draw(config, "audit", scenes.N_AUDIT)
        with tempfile.TemporaryDirectory() as out:
            atlas = scenes.audit_scenes(setting, seen, Path(out) / "run", classes=[scenes.PLANTED])
            found.append(scenes.judge(setting, atlas, seen))
        print(found[-1], flush=True)
    counted = [f for f in found if f.relied_on]
    print(
        f"{len(found)} settings; in {len(counted)} the head relies on it (accuracy differs by {scenes.RELIES} or more)"
    )
    print(f"planted concept first and graded A or B: {np.mean([f.hit for f in counted]):.2f} of those", flush=True)


def clean(quick: bool) -> None:
    """Scenes without any shortcut: how many concepts are graded A or B?"""
    from benchmarks import biased_scenes as scenes

    alarms = classes = 0
    for number, network in enumerate(("cnn", "vit") * (1 if quick else 2)):
        setting = scenes.planted_probe("clean", network, SceneConfig(shortcuts=(), seed=300 + number))
        seen = scenes.draw(setting.config, "audit", 2 * scenes.N_AUDIT)
        with tempfile.TemporaryDirectory() as out:
            atlas = scenes.audit_scenes(setting, seen, Path(out) / "run", classes=None)
        alarms += int(atlas.shortcut_table["grade"].isin(["A", "B"]).sum())
        classes += len(atlas)
    print(f"clean scenes: {alarms} grades A or B in {classes} classes = {10 * alarms / classes:.2f} per 10 classes")


def photographs(quick: bool) -> None:
    """Ants and bees with something planted on the bees, DeiT-tiny frozen under a linear head."""
    from benchmarks import biased_photographs as biased

    if "CONCEPTATLAS_REAL_DATA" not in os.environ:
        print("photographs: CONCEPTATLAS_REAL_DATA is not set")
        return
    real = Path(os.environ["CONCEPTATLAS_REAL_DATA"])
    for kind in biased.KINDS:
        for seed in range(1 if quick else 2):
            setting = biased.biased_probe(real, kind, seed=seed)
            with tempfile.TemporaryDirectory() as out:
                print(biased.judge(setting, biased.audit_of(setting, Path(out) / "run")), flush=True)


def slices(quick: bool) -> None:
    """Slices of 6 to 10 % of a class, planted as a shortcut that fails them: precision at 10, and the same shuffled."""
    from benchmarks import biased_scenes as scenes

    rows = []
    for number in range(0, 20, 5 if quick else 1):
        name, network, config = scenes.sliced_setting(number)
        setting = scenes.planted_probe(name, network, config)
        rows.append(scenes.precision_of_slices(setting, scenes.sliced_scenes(config), seed=number))
        print(name, {key: round(value, 2) for key, value in rows[-1].items()}, flush=True)
    print(pd.DataFrame(rows).mean().round(3).to_string())


def interventions(name: str, *, n_per_class: int = 60) -> dict[str, BeforeAfter]:
    """The first suspect of the demo's planted class: groups of class and tag, before and after each intervention.

    The last-layer refit groups images by the concept, not by the true tag, and is measured on the half that it has not
    seen.
    """
    planted = demo_class_names()[demo_config(name).shortcuts[0].planted_class]
    with tempfile.TemporaryDirectory() as folder:
        scenes = write_demo_images(Path(folder) / "images", n_per_class=n_per_class, seed=0)
        model = load_demo_model(name)
        atlas = ca.audit(
            model,
            Path(folder) / "images",
            out=Path(folder) / "run",
            classes=[planted],
            progress=False,
            settings=AUDIT,
        )
        number = [int(Path(sample_id).stem) for sample_id in atlas.images["sample_id"]]
        context, first, member = reopen(atlas, model), atlas.shortcuts().iloc[0], atlas[planted]
        rows, concept = np.arange(len(atlas.images)), int(first["concept"])
        labels = atlas.images["label_index"].to_numpy().astype(int)
        groups = np.array(
            [
                f"{class_name}, {'with' if tag else 'without'}"
                for class_name, tag in zip(atlas.images["label"], scenes.tags[number, 0], strict=True)
            ]
        )
        directions, reference = context_tensors(member)
        before = predictions(context, context.split, rows)
        results = {}
        for method in ("mean", "zero", "remove", "project", "clamp"):
            edited = EditedModel(
                context.split,
                directions,
                [concept],
                method=method,
                reference=reference,
                thresholds=torch.tensor(member.thresholds),
                target=member.index,  # type: ignore[arg-type]
                wide=wide_of(member.bank),
            )
            results[method] = before_after(before, predictions(context, edited, rows), labels, groups.tolist())
        scores = measure(context, rows, directions, wide_of(member.bank)).score
        present = scores[:, concept] >= first["threshold"]
        numbers = np.unique(
            [f"{label} {there}" for label, there in zip(labels, present, strict=True)], return_inverse=True
        )[1]
        half = np.random.default_rng(0).random(len(rows)) < 0.5
        refitted = refit_last_layer(context, rows[half], labels[half], numbers[half])
        cut = ca.split(refitted, atlas.run["layer"]["name"], input_size=context.split.input_size)
        after = predictions(context, cut, rows[~half])
        results["refit"] = before_after(before[~half], after, labels[~half], groups[~half].tolist())
        return results


def context_tensors(member: Any) -> tuple[Any, Any]:
    """Directions and reference of a class as tensors."""
    return torch.tensor(member.bank.directions.copy()), torch.tensor(member.reference)


def print_interventions(name: str) -> None:
    """Print each intervention's accuracies, on average and of the worst group."""
    for method, result in interventions(name).items():
        print(
            f"{name} {method}: average {result.average_before:.3f} -> {result.average_after:.3f}, worst group "
            f"{result.worst_before:.3f} -> {result.worst_after:.3f}, flips {result.flips:.3f}, "
            f"improved beyond its interval: {result.improved}",
            flush=True,
        )


def comparison(*, n_per_class: int = 60) -> Comparison:
    """Compare the demo's CNN with its twin that never saw the tag go with a class, on the same images."""
    planted = demo_class_names()[demo_config("cnn").shortcuts[0].planted_class]
    with tempfile.TemporaryDirectory() as folder:
        write_demo_images(Path(folder) / "images", n_per_class=n_per_class, seed=0)
        atlases = [
            ca.audit(
                load_demo_model(name),
                Path(folder) / "images",
                out=Path(folder) / name,
                classes=[planted],
                progress=False,
                settings=AUDIT,
            )
            for name in ("cnn", "cnn_clean")
        ]
        return ca.compare(*atlases)


def print_comparison() -> None:
    """Print which shortcuts came and went, and how many concepts."""
    result = comparison()
    columns = [
        "class",
        "status",
        "label_a",
        "label_b",
        "similarity",
        "importance_a",
        "importance_b",
        "grade_a",
        "grade_b",
    ]
    print(result.shortcuts[columns].to_string())
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
        "photographs": lambda: photographs(asked.quick),
        "slices": lambda: slices(asked.quick),
        "interventions": lambda: [print_interventions(name) for name in ("cnn", "vit")],
        "comparison": print_comparison,
    }
    for part in asked.part:
        started = time.process_time()
        print(f"== {part}", flush=True)
        runs[part]()
        print(f"({time.process_time() - started:.0f} s of CPU)", flush=True)


if __name__ == "__main__":
    main()
