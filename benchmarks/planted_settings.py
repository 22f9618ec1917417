"""Models with something planted whose place is known: the settings on which maps are judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn

from conceptatlas.concepts import make_factorizer, nnls
from conceptatlas.demo.config import SceneConfig
from conceptatlas.demo.planting import plant_on_photograph
from conceptatlas.demo.scenes import make_scene
from conceptatlas.demo.splits import make_split
from conceptatlas.extraction import Preprocess, SplitModel, load_model, split

N_PROBE, N_TEST, MAX_ROWS = 32, 40, 12_000
MOSTLY = 0.5  # of a concept's coefficient goes with the planted thing: then the concept is the thing's


@dataclass(frozen=True)
class Setting:
    """A split model, its concepts for the planted class, and images of which the planted pixels are known."""

    name: str
    split_model: SplitModel
    W: torch.Tensor
    class_index: int
    probe: torch.Tensor  # (N_PROBE, 3, H, W) images predicted as the planted class
    images: torch.Tensor  # (N_TEST, 3, H, W) unseen, all with the planted thing
    masks: NDArray[np.bool_]  # (N_TEST, H, W)
    concept: int  # the concept that loses most when the planted thing is not drawn
    planted_share: float  # how much of its coefficient that is


@dataclass(frozen=True)
class Material:
    """Images of one planted class, before any layer is chosen."""

    name: str
    model: nn.Module
    class_index: int
    training: torch.Tensor  # images predicted as the class
    images: torch.Tensor
    clean: torch.Tensor  # the same test images without the planted thing
    masks: NDArray[np.bool_]


def setting_at(material: Material, layer: str, *, counts: Sequence[int] = (10, 16), seed: int = 0) -> Setting:
    """Concepts of the planted class at a layer, and which of them is the planted thing's.

    The smallest number of concepts is taken at which one of them is mostly the planted thing (`MOSTLY`), else the one
    at which it is so the most.
    """
    cut = split(material.model, layer, input_size=material.masks.shape[1:])
    rows = torch.cat([_positions(cut, part).flatten(0, 1) for part in material.training.split(32)])
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:MAX_ROWS]].numpy()
    there, gone = (torch.cat([_positions(cut, p) for p in x.split(32)]) for x in (material.images, material.clean))
    best = (0, -1.0, torch.empty(0))
    for count in counts:
        factorizer = make_factorizer("auto", count, signed=bool((rows < 0).any()), seed=seed).fit(rows)
        W = torch.as_tensor(factorizer.components_, dtype=torch.float32)
        share = 1.0 - _pooled(gone, W) / _pooled(there, W).clamp(min=1e-9)
        best = max(best, (int(share.argmax()), float(share.max()), W), key=lambda found: found[1])
        if best[1] >= MOSTLY:
            break
    concept, share, W = best
    probe = material.training[:N_PROBE]
    name = f"{material.name}/{layer}"
    return Setting(name, cut, W, material.class_index, probe, material.images, material.masks, concept, share)


def _positions(cut: SplitModel, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return cut.encode(images).positions


def _pooled(positions: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """Mean coefficient of each concept over images and positions, (k,)."""
    return nnls(positions.flatten(0, 1), W).mean(dim=0)


def scene_materials(
    name: str, model: nn.Module, config: SceneConfig, *, shortcuts: Sequence[int] = (), classes: Sequence[int] = ()
) -> Iterator[Material]:
    """Scenes as a model trained on them sees them: a shortcut in its class, and each deciding part of some classes."""
    for index in shortcuts:
        here = [index == other for other in range(len(config.shortcuts))]
        shortcut = config.shortcuts[index]
        yield _scenes(name, model, config, shortcut.planted_class, shortcut.name, shown=here)
    for class_index in classes:
        for part in config.class_parts(class_index):
            yield _scenes(name, model, config, class_index, part, shown=[False] * len(config.shortcuts))


def _scenes(
    name: str, model: nn.Module, config: SceneConfig, class_index: int, thing: str, *, shown: list[bool]
) -> Material:
    """Scenes of a class that a model gets right, and test scenes with and without one thing, all else alike."""
    prepare = Preprocess.for_model(model).tensor
    training = torch.stack(
        [prepare(_drawn(config, spec, spec.tag).image) for spec in _specs(config, "train", class_index, 120)]
    )
    training = training[_predicted(model, training) == class_index]
    images, without, masks = [], [], []
    for spec in _specs(config, "test", class_index, 2 * N_TEST):
        parts = config.class_parts(class_index)
        scene = _drawn(config, spec, shown, parts)
        if thing in scene.parts and len(images) < N_TEST:
            nothing = [False] * len(shown)
            clean = _drawn(config, spec, nothing, [part for part in parts if part != thing])
            images.append(prepare(scene.image))
            without.append(prepare(clean.image))
            masks.append(scene.parts[thing])
    title = f"{name}/{config.class_names[class_index]}/{thing}"
    return Material(title, model, class_index, training, torch.stack(images), torch.stack(without), np.stack(masks))


def _specs(config: SceneConfig, part: str, class_index: int, n: int):  # noqa: ANN202
    specs = make_split(config, part, 20 * n).specs  # type: ignore[arg-type]
    return [spec for spec in specs if spec.class_index == class_index][:n]


def _drawn(config: SceneConfig, spec, tag, parts=None):  # noqa: ANN001, ANN202
    shown = spec.parts if parts is None else parts
    return make_scene(config, spec.class_index, spec.seed, tag=tag, parts=shown, background=spec.background)


def _predicted(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(part).argmax(dim=1) for part in images.split(64)])


def photograph_material(real: Path, kind: str) -> Material:
    """Ants and bees, a cue on 95 % of the training bees, and a logistic head on DeiT-tiny's frozen features."""
    model = load_model("deit_tiny_patch16_224", checkpoint=real / "deit_tiny_patch16_224.fp16.safetensors")
    prepare = Preprocess.for_model(model)
    train, labels = _photographs(prepare, real / "hymenoptera" / "train")
    test, _ = _photographs(prepare, real / "hymenoptera" / "val")
    generator = np.random.default_rng(0)
    seen = [
        _cue(view, kind, i)[0] if y and generator.random() < 0.95 else view
        for i, (view, y) in enumerate(zip(train, labels, strict=True))
    ]
    images = torch.stack([prepare.tensor(view) for view in seen])
    _fit_head(model, images, labels)
    rows = generator.permutation(len(test))[:N_TEST]
    planted = [_cue(test[i], kind, 1000 + int(i)) for i in rows]
    with_cue = torch.stack([prepare.tensor(view) for view, _ in planted])
    clean = torch.stack([prepare.tensor(test[i]) for i in rows])
    masks = np.stack([mask for _, mask in planted])
    return Material(f"deit/{kind}", model, 1, images[_predicted(model, images) == 1], with_cue, clean, masks)


def _photographs(prepare: Preprocess, folder: Path) -> tuple[list[Image.Image], NDArray[np.int64]]:
    paths = sorted(folder.glob("*/*.jpg"))
    labels = np.array([int(path.parent.name == "bees") for path in paths])
    return [prepare.view(Image.open(path).convert("RGB")) for path in paths], labels


def _cue(view: Image.Image, kind: str, seed: int) -> tuple[Image.Image, NDArray[np.bool_]]:
    """The view with a tag, a frame, or a patch of hatching at a random place."""
    within = None
    if kind == "texture":
        side = int(0.4 * view.height)
        left, top = np.random.default_rng(seed).integers(0, view.height - side, 2)
        within = (int(left), int(top), int(left) + side, int(top) + side)
    planted = plant_on_photograph(
        view, kind, size={"texture": 0.1, "tag": 0.25}.get(kind, 0.0), within=within, seed=seed
    )  # type: ignore[arg-type]
    mask = planted.mask
    if within is not None:
        mask = np.zeros_like(mask)
        mask[within[1] : within[3], within[0] : within[2]] = True
    return planted.image, mask


def _fit_head(model: nn.Module, images: torch.Tensor, labels: NDArray[np.int64]) -> None:
    with torch.inference_mode():
        features = torch.cat(
            [model.forward_head(model.forward_features(part), pre_logits=True) for part in images.split(32)]
        )  # type: ignore[operator]
    fitted = LogisticRegression(max_iter=3000).fit(features.numpy(), labels)
    head = nn.Linear(features.shape[1], 2)
    weight, bias = (torch.as_tensor(part, dtype=torch.float32) / 2 for part in (fitted.coef_[0], fitted.intercept_[0]))
    with torch.no_grad():
        head.weight.copy_(torch.stack([-weight, weight]))
        head.bias.copy_(torch.stack([-bias, bias]))
    model.head = head.eval()
