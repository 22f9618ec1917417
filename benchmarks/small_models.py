"""Small networks with a 7 x 7 last grid, trained on the demo's scenes in a few minutes and kept outside the repository.

``python -m benchmarks.small_models NAME ...`` trains them; the cache is ``$CONCEPTATLAS_CACHE`` or
``~/.cache/conceptatlas/benchmarks``.
"""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import timm
import torch
from torch import nn

from conceptatlas.demo.classifiers import MEAN, STD, Recipe, train_classifier
from conceptatlas.demo.config import SceneConfig, Shortcut
from conceptatlas.demo.splits import make_split
from conceptatlas.extraction import Preprocess

TAG = Shortcut(kind="tag", planted_class=0)
BORDER = Shortcut(kind="border", planted_class=3)
TEXTURE = Shortcut(kind="texture", planted_class=5)


@dataclass(frozen=True)
class LargeScenes(Recipe):
    """A recipe on scenes of 112 pixels, which a stride of 16 brings to a 7 x 7 grid."""

    shortcuts: tuple[Shortcut, ...] = (TAG,)

    @property
    def config(self) -> SceneConfig:
        """Scenes of 112 pixels."""
        return SceneConfig(size=112, shortcuts=self.shortcuts, seed=self.seed)


RECIPES = {
    "mobilenetv2": LargeScenes("mobilenetv2", "mobilenetv2_035", {"output_stride": 16}, epochs=5),
    "efficientnet": LargeScenes(
        "efficientnet",
        "test_efficientnet",
        {"output_stride": 16},
        shortcuts=(TAG, BORDER, TEXTURE),
        n_scenes=5_000,
        epochs=5,
    ),
    "convnext": LargeScenes("convnext", "test_convnext", {"output_stride": 16}, epochs=8, learning_rate=2e-3),
    "resnet": LargeScenes("resnet", "test_resnet", {"output_stride": 16}),
}


def cache_folder() -> Path:
    """Where the weights are kept."""
    default = Path.home() / ".cache" / "conceptatlas" / "benchmarks"
    return Path(os.environ.get("CONCEPTATLAS_CACHE", default))


def load_small_model(name: str) -> nn.Module:
    """A trained network, from the cache or trained now (minutes)."""
    recipe, path = RECIPES[name], cache_folder() / f"{name}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = train_classifier(recipe)
        safetensors.torch.save_file(model.state_dict(), path)
    seen = {"input_size": (3, 112, 112), "mean": MEAN, "std": STD, "crop_pct": 1.0, "interpolation": "bicubic"}
    n_classes = recipe.config.n_classes
    model = timm.create_model(recipe.architecture, num_classes=n_classes, pretrained_cfg_overlay=seen, **recipe.kwargs)
    model.load_state_dict(safetensors.torch.load_file(path))
    return model.eval()


def accuracy(model: nn.Module, config: SceneConfig, n: int = 400) -> float:
    """Share of unseen scenes that are right."""
    scenes = make_split(config, "test", n)
    prepare = Preprocess.for_model(model).tensor
    with torch.inference_mode():
        logits = torch.cat([model(prepare(scene.image)[None]) for scene in scenes])
    return float((logits.argmax(dim=1).numpy() == scenes.labels).mean())


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(RECIPES))
    parser.add_argument("--quick", action="store_true", help="only those that are in the cache")
    options = parser.parse_args()
    names = [n for n in options.names if not options.quick or (cache_folder() / f"{n}.safetensors").is_file()]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    for name in names:
        print(name, accuracy(load_small_model(name), RECIPES[name].config), flush=True)


if __name__ == "__main__":
    main()
