"""Rebuild every shipped model: ``python -m conceptatlas.demo.train`` (what ``make weights`` runs).

Examples
--------
``python -m conceptatlas.demo.train --only cnn vit --device cuda --workers 16``
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from conceptatlas.demo.captions import part_words
from conceptatlas.demo.card import model_card
from conceptatlas.demo.classifiers import MEAN, RECIPES, STD, Recipe, draw_pairs, measure_classifier, train_classifier
from conceptatlas.demo.config import SceneConfig
from conceptatlas.demo.models import WEIGHTS, half, load_demo_model, save_classifier
from conceptatlas.demo.retrieval import measure_text_image
from conceptatlas.demo.splits import make_split
from conceptatlas.demo.text_image import (
    MODEL_CONFIG,
    PREPROCESS_CONFIG,
    TextImageRecipe,
    load_text_image,
    train_text_image,
)

LOGGER = logging.getLogger("conceptatlas.demo.train")

#: Unseen scenes behind the numbers of a classifier, and of the text-image model.
N_MEASURED, N_RETRIEVED = 1000, 400


def main(arguments: list[str] | None = None) -> None:
    """Train, measure and write the models that are asked for (all by default)."""
    parser = argparse.ArgumentParser(prog="python -m conceptatlas.demo.train", description="Rebuild the demo's models.")
    parser.add_argument("--only", nargs="+", default=[*RECIPES, "text_image"], choices=[*RECIPES, "text_image"])
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name in options.only:
        if name == "text_image":
            make_text_image(options.out, options.device, options.workers)
        else:
            make_classifier(RECIPES[name], options.out, options.device, options.workers)
    (options.out.parent / "MODEL_CARD.md").write_text(model_card(options.out), encoding="utf-8")


def make_classifier(recipe: Recipe, out: Path, device: str, workers: int) -> dict[str, Any]:
    """Train one classifier, write it, measure what was written; returns its card."""
    return write_classifier(train_classifier(recipe, device=device, workers=workers), recipe, out)


def write_classifier(model: nn.Module, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Write a trained classifier, measure it as it is loaded, and write its card."""
    card = classifier_card(recipe)
    save_classifier(model, card, out)
    loaded = load_demo_model(recipe.name, folder=out)
    card["measured"] = rounded(measure_classifier(loaded, draw_pairs(SceneConfig(seed=recipe.seed), N_MEASURED)))
    save_classifier(model, card, out)
    LOGGER.info("%s: %s", recipe.name, card["measured"])
    return card


def classifier_card(recipe: Recipe) -> dict[str, Any]:
    """What is on record about a classifier, before it is measured."""
    config = recipe.config
    return {
        "name": recipe.name,
        "architecture": recipe.architecture,
        "kwargs": recipe.kwargs,
        "undilated": recipe.undilated,
        "class_names": list(config.class_names),
        "class_parts": {name: config.class_parts(index) for index, name in enumerate(config.class_names)},
        "preprocess": {"size": [96, 96], "crop": 1.0, "interpolation": "bicubic", "mean": MEAN, "std": STD},
        "shortcuts": [asdict(shortcut) for shortcut in recipe.shortcuts],
        "seed": recipe.seed,
        "recipe": {key: value for key, value in asdict(recipe).items() if key not in ("kwargs", "name", "undilated")},
        "n_measured": N_MEASURED,
        "n_planted": int((make_split(SceneConfig(seed=recipe.seed), "test", N_MEASURED).labels == 0).sum()),
        "versions": versions(),
    }


def make_text_image(out: Path, device: str, workers: int) -> dict[str, Any]:
    """Train the text-image model and write it; returns its card."""
    recipe = TextImageRecipe()
    return write_text_image(train_text_image(recipe, device=device, workers=workers), recipe, out / "text_image")


def write_text_image(model: nn.Module, recipe: TextImageRecipe, folder: Path) -> dict[str, Any]:
    """Write a trained text-image model as a folder that open_clip loads, measure what was written, write its card."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(half(model), folder / "open_clip_model.safetensors")
    record: dict[str, Any] = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}
    (folder / "open_clip_config.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    card = {
        "recipe": asdict(recipe),
        "words": part_words(),
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "measured": rounded(measure_text_image(load_text_image(folder), n=N_RETRIEVED)),
        "n_measured": N_RETRIEVED,
        "versions": versions(),
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    LOGGER.info("text-image: %s", card["measured"])
    return card


def rounded(numbers: dict[str, float]) -> dict[str, float]:
    """Numbers to four places, as they stand in a card."""
    return {name: round(value, 4) for name, value in numbers.items()}


def versions() -> dict[str, str]:
    """Versions of what the weights were made with."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


if __name__ == "__main__":
    main()
