"""Do the maps point at what was planted, and does the choice find the map that does?

``python -m benchmarks.grounding [--only mobilenetv2 deit ...] [--images 24] [--timing]``
``python -m benchmarks.grounding --parts [--only demo-vit] [--seeds 0 1 2]``

For each setting (a model, a layer, a planted thing) it prints the share of unseen planted images in which a map's
maximum lies on the planted pixels (within 1/16 of the side) for every candidate, the automatic choice, Grad-CAM of
the class, and chance. DeiT needs ``CONCEPTATLAS_REAL_DATA``; the small networks are trained on first use (minutes).

``--parts`` prints another table: for the demo's CNN and ViT, and for every part that decides a class, how well the best
concept of the class tells scenes with and without the part apart, and how often its map's maximum lies on the part
(`benchmarks.planted_parts`), with the audit's own factorizer beside KMeans, PCA and random directions.

``--quick`` is a smoke run on the demo's CNN.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.planted_parts import AUC, FACTORIZERS, POINTING, part_table, summary
from benchmarks.planted_settings import MOSTLY, Setting, photograph_material, scene_materials, setting_at
from benchmarks.small_models import RECIPES, load_small_model
from conceptatlas.demo.config import SceneConfig
from conceptatlas.demo.models import demo_config, demo_models, load_demo_model
from conceptatlas.demo.splits import make_split
from conceptatlas.extraction import Preprocess, split
from conceptatlas.importance.cams import class_maps
from conceptatlas.importance.grounding import average_precision, pointing_chance, pointing_game
from conceptatlas.importance.localisation import choose_map
from conceptatlas.importance.maps import concept_maps, map_methods, nnls_transform, paired_maps, upsample


def settings(only: list[str]) -> Iterator[Setting]:
    """Every setting whose family is asked for and can be built here."""
    for name in ("cnn", "vit"):
        if (not only or f"demo-{name}" in only) and name in demo_models():
            yield from _on_scenes(f"demo-{name}", load_demo_model(name), demo_config(name))
    for name, recipe in RECIPES.items():
        if not only or name in only:
            yield from _on_scenes(name, load_small_model(name), recipe.config)
    real = os.environ.get("CONCEPTATLAS_REAL_DATA")
    if real and (not only or "deit" in only):
        for kind in ("tag", "border", "texture"):
            yield setting_at(photograph_material(Path(real), kind), "blocks.8")


def _on_scenes(name: str, model: torch.nn.Module, config: SceneConfig) -> Iterator[Setting]:
    """The shortcuts that have a place, and the parts of two classes without one, at the layer that the model calls for."""
    prepare = Preprocess.for_model(model).tensor
    probe = torch.stack([prepare(scene.image) for scene in make_split(config, "train", 64)])
    layer = split(model, "auto", input_size=tuple(probe.shape[-2:]), probe=probe).layer.name
    placed = [i for i, shortcut in enumerate(config.shortcuts) if shortcut.kind in ("tag", "border")]
    found = [setting_at(m, layer) for m in scene_materials(name, model, config, shortcuts=placed, classes=(1, 2))]
    for setting in found:
        rivals = [each for each in found if _concept_of(each) == _concept_of(setting)]
        owner = max(rivals, key=lambda each: each.planted_share)
        if owner is setting:
            yield setting
        else:  # a concept that needs both falls with either, and is the one's without which it falls most
            print(f"\n{setting.name}: its concept falls more without {owner.name}: not counted", flush=True)


def _concept_of(setting: Setting) -> tuple[int, int, int]:
    return setting.class_index, len(setting.W), setting.concept


def measure(setting: Setting, n_images: int) -> tuple[pd.DataFrame, dict[str, object]]:
    """Pointing and average precision of every candidate on unseen planted images, and the choice made on the probe."""
    images, masks = setting.images[:n_images], setting.masks[:n_images]
    started = time.process_time()
    choice = choose_map(setting.split_model, setting.W, setting.probe)
    seconds = time.process_time() - started
    concept = torch.full((len(images),), setting.concept)
    transform = nnls_transform(setting.W, images.device)
    maps = paired_maps(setting.split_model, images, concept, transform, methods=map_methods(setting.split_model))
    if choice.method not in maps:
        maps[choice.method] = concept_maps(
            setting.split_model, setting.W, images, method=choice.method, concepts=[setting.concept]
        )[:, 0]
    maps["Grad-CAM of the class"] = class_maps(setting.split_model, images, setting.class_index)
    rows = []
    for method, found in maps.items():
        pixels = upsample(found[:, None], (masks.shape[1], masks.shape[2]))[:, 0].numpy()
        hits = pointing_game(pixels, masks, tolerance=masks.shape[1] / 16)
        precision = average_precision(pixels, masks)
        rows.append({"method": method, "pointing": np.nanmean(hits), "precision": np.nanmean(precision)})
    rows.append(
        {
            "method": "chance",
            "pointing": np.nanmean(pointing_chance(masks, tolerance=masks.shape[1] / 16)),
            "precision": masks.mean(),
        }
    )
    table = pd.DataFrame(rows)
    candidates = table[~table["method"].isin(["chance", "Grad-CAM of the class"])].set_index("method")["pointing"]
    summary = {
        "setting": setting.name,
        "planted share": setting.planted_share,
        "chosen": choice.method,
        "pointing": candidates[choice.method],
        "best": candidates.max(),
        "coefficients": candidates["coefficients"],
        "class": table.set_index("method")["pointing"]["Grad-CAM of the class"],
        "chance": table["pointing"].iloc[-1],
        "localisation": choice.localisation[setting.concept],
        "random": choice.chance[setting.concept],
        "agreement": choice.agreement[setting.concept],
        "known": bool(choice.known[setting.concept]),
        "seconds": seconds,
    }
    return table, summary


def timing(setting: Setting, repeats: int = 3) -> dict[str, float]:
    """CPU seconds of one concept's implicit map, over those of a frozen-weight gradient pass of the same network."""
    images = setting.images[:8]
    method = map_methods(setting.split_model)[-1]  # the earliest cut point
    for parameter in setting.split_model.model.parameters():
        parameter.requires_grad_(False)

    def gradient_pass() -> None:
        pixels = images.clone().requires_grad_()
        setting.split_model.model(pixels)[:, setting.class_index].sum().backward()

    def implicit() -> None:
        concept_maps(setting.split_model, setting.W, images, method=method, concepts=[setting.concept])

    times = {}
    for name, run in (("gradient", gradient_pass), ("implicit", implicit)):
        run()
        taken = []
        for _ in range(repeats):
            started = time.process_time()
            run()
            taken.append(time.process_time() - started)
        times[name] = min(taken)
    return {**times, "ratio": times["implicit"] / times["gradient"]}


def main() -> None:
    """Run the settings and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="demo-cnn, demo-vit, deit or a small network's name")
    parser.add_argument("--images", type=int, default=24, help="unseen planted images per setting")
    parser.add_argument("--timing", action="store_true", help="time the implicit map beside a gradient pass")
    parser.add_argument("--parts", action="store_true", help="the table of parts instead, for the demo's models")
    parser.add_argument("--factorizers", nargs="*", default=FACTORIZERS, help="of the table of parts")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], help="of the fits of the table of parts")
    parser.add_argument("--quick", action="store_true", help="a smoke run: the demo's CNN, eight images")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    if options.quick:
        options.only, options.images = ["demo-cnn"], 8
    if options.parts:
        print_parts(options.only, options.factorizers, options.seeds)
    else:
        print_settings(options.only, options.images, with_timing=options.timing)


def print_parts(only: list[str], factorizers: Sequence[str], seeds: Sequence[int]) -> None:
    """Every part of every class of the demo's models, by each factorizer and seed."""
    tables = []
    for name in ("cnn", "vit"):
        if only and f"demo-{name}" not in only:
            continue
        for factorizer, seed in itertools.product(factorizers, seeds):
            table = part_table(f"demo-{name}", load_demo_model(name), SceneConfig(seed=0), factorizer, seed=seed)
            print(f"\n{table.drop(columns=['model', 'factorizer']).round(2).to_string(index=False)}")
            tables.append(summary(table).assign(seed=seed))
            print(tables[-1].round(2).to_string(index=False), flush=True)
    print(f"\nheld: AUC >= {AUC} and maximum on the part in >= {POINTING:.0%} of the scenes")
    print(pd.concat(tables).round(2).to_string(index=False))


def print_settings(only: list[str], n_images: int, *, with_timing: bool) -> None:
    """Every candidate's pointing in every setting, and what the choice makes of it."""
    summaries = []
    for setting in settings(only):
        print(f"\n{setting.name}, concept {setting.concept} (share {setting.planted_share:.2f})", flush=True)
        if setting.planted_share < MOSTLY:
            print("no concept is mostly the planted thing: not counted", flush=True)
            continue
        table, summary = measure(setting, n_images)
        summaries.append(summary | (timing(setting) if with_timing else {}))
        print(table.round(2).to_string(index=False))
        print(pd.DataFrame(summaries[-1:]).round(2).to_string(index=False), flush=True)
    report = pd.DataFrame(summaries)
    print("\n" + report.round(2).to_string(index=False))
    near = (report["pointing"] >= report["best"] - 0.05).mean()
    failing = report[(report["pointing"] < 0.75) & report["known"]]
    print(f"\nmean pointing of the chosen map {report['pointing'].mean():.2f}; within .05 of the best in {near:.0%}")
    print(f"below .75 and not reported unknown: {', '.join(failing['setting']) or 'none'}")
    pointing = report[report["pointing"] >= 0.9]
    print(f"at .9 and above: {len(pointing)}, of which the place is called known for {pointing['known'].sum()}")


if __name__ == "__main__":
    main()
