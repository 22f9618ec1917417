"""The demo's trained models, loaded from the files beside this module; no network is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from conceptatlas.demo.captions import part_words
from conceptatlas.demo.classifiers import build_classifier
from conceptatlas.demo.config import SceneConfig, Shortcut
from conceptatlas.demo.folders import write_folder
from conceptatlas.demo.splits import SceneSplit, make_split

WEIGHTS = Path(__file__).resolve().parent / "weights"


def demo_models() -> tuple[str, ...]:
    """Names of the classifiers that are shipped.

    Examples
    --------
    >>> "cnn" in demo_models()
    True
    """
    return tuple(sorted(path.stem for path in WEIGHTS.glob("*.json")))


def demo_card(name: str, *, folder: Path = WEIGHTS) -> dict[str, Any]:
    """What is on record about a shipped classifier: architecture, classes, preprocessing, seed, measured numbers.

    Examples
    --------
    >>> demo_card("cnn")["architecture"]
    'test_resnet'
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"no demo model is called {name!r}; there are {', '.join(demo_models())}")
    return json.loads(path.read_text(encoding="utf-8"))


def load_demo_model(name: str = "cnn", *, folder: Path = WEIGHTS) -> nn.Module:
    """A shipped classifier in evaluation mode; its timm configuration states preprocessing and class names.

    Parameters
    ----------
    name
        One of `demo_models`: ``"cnn"`` and ``"vit"`` have learned the planted tag, ``"cnn_clean"`` never saw it go
        with a class.
    folder
        Where weights and card are, if not beside this module.

    Raises
    ------
    ValueError
        For another name.

    Examples
    --------
    >>> model = load_demo_model("cnn")
    >>> model(torch.zeros(1, 3, 96, 96)).shape
    torch.Size([1, 8])
    """
    card = demo_card(name, folder=folder)
    names = tuple(card["class_names"])
    model = build_classifier(card["architecture"], card["kwargs"], names, undilated=card["undilated"])
    state = safetensors.torch.load_file(folder / f"{name}.safetensors")
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    return model.eval()


def save_classifier(model: nn.Module, card: dict[str, Any], folder: Path) -> None:
    """Write a classifier: half-precision safetensors and the card as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(half(model), folder / f"{card['name']}.safetensors")
    (folder / f"{card['name']}.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def half(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model in half precision, whole numbers as they are."""
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in model.state_dict().items()
    }


def demo_encoder_path() -> str:
    """Where the text-image model is, in the form that open_clip takes.

    Examples
    --------
    >>> demo_encoder_path().startswith("local-dir:")
    True
    """
    return f"local-dir:{WEIGHTS / 'text_image'}"


def demo_vocabulary() -> list[str]:
    """Words that the text-image model knows, one per thing that a scene can show."""
    return list(part_words())


def demo_class_names() -> list[str]:
    """Names of the classes, in the order of the classifiers' outputs.

    Examples
    --------
    >>> demo_class_names()[:2]
    ['ambril', 'borrin']
    """
    return list(SceneConfig().class_names)


def demo_config(name: str = "cnn") -> SceneConfig:
    """The configuration that a shipped classifier was trained on; `make_split` draws its scenes again."""
    card = demo_card(name)
    return SceneConfig(shortcuts=tuple(Shortcut(**knobs) for knobs in card["shortcuts"]), seed=card["seed"])


def write_demo_images(path: str | Path, *, n_per_class: int = 40, seed: int = 0) -> SceneSplit:
    """Write scenes of the audit split as class folders: the images that the demo looks at.

    Parameters
    ----------
    path
        Folder to write into.
    n_per_class
        Scenes per class, on average.
    seed
        Of the scenes. The classifiers were trained on other scenes, whatever the seed.

    Returns
    -------
    SceneSplit
        The scenes, in the order of their file numbers: ``<class>/<number>.png``.
    """
    config = SceneConfig(seed=seed)
    split = make_split(config, "audit", n_per_class * config.n_classes)
    write_folder(split, path)
    return split
