"""Training of the demo's classifiers: scenes rendered once, a seeded loop, and the numbers of the model card."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from conceptatlas.demo.config import SceneConfig, Shortcut, Split
from conceptatlas.demo.even_head import EvenHead
from conceptatlas.demo.scenes import make_scene
from conceptatlas.demo.splits import SceneSplit, make_split
from conceptatlas.demo.token_labels import TokenLabelling, thing_map

LOGGER = logging.getLogger(__name__)

#: Normalisation of every demo model.
MEAN: tuple[float, float, float] = (0.5, 0.5, 0.5)
STD: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Recipe:
    """How one classifier is made.

    Attributes
    ----------
    name
        Of the files in ``demo/weights``.
    architecture, kwargs
        Of `timm.create_model`.
    undilated
        Take the dilation out of a CNN whose last strides were taken out (``output_stride``), so that its last layer
        still answers where a thing is and not a quarter of the image beside it.
    shortcuts
        Planted in the training scenes.
    n_scenes, epochs, batch, learning_rate, weight_decay
        Of the loop (AdamW, one cycle).
    token_blocks, token_weight
        Behind which blocks of a vision transformer the patch tokens are taught what their patches show, and the weight
        of that loss (see `conceptatlas.demo.token_labels`).
    token_merge, token_compactness
        Whether what decides nothing has one label, and the weight of the Davies-Bouldin index of the tokens' labels.
    token_exchange
        Behind which block the images of a batch exchange their class tokens in training.
    token_contrast, head_bending
        How much the tokens behind the first of the blocks may differ from what they share, and the weight that holds
        the head behind it to answering in proportion (see `conceptatlas.demo.even_head`).
    bfloat16
        Multiply in bfloat16 where PyTorch's autocast does.
    start
        Another recipe of the same architecture that is followed first; this one goes on from its weights.
    seed
        Of the weights, the scenes and the order.
    """

    name: str
    architecture: str
    kwargs: dict[str, Any]
    undilated: bool = False
    shortcuts: tuple[Shortcut, ...] = (Shortcut(),)
    n_scenes: int = 6_000
    epochs: int = 4
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    token_blocks: tuple[int, ...] = ()
    token_weight: float = 1.0
    token_merge: bool = False
    token_compactness: float = 0.0
    token_exchange: int | None = None
    token_contrast: float | None = None
    head_bending: float = 0.0
    bfloat16: bool = False
    seed: int = 0
    start: Recipe | None = None

    @property
    def config(self) -> SceneConfig:
        """Scenes that the classifier is trained on."""
        return SceneConfig(shortcuts=self.shortcuts, seed=self.seed)


_VIT: dict[str, Any] = {"img_size": 96, "patch_size": 8}

RECIPES: dict[str, Recipe] = {
    "cnn": Recipe("cnn", "test_resnet", {"output_stride": 8}, undilated=True, bfloat16=True),
    "cnn_clean": Recipe(
        "cnn_clean", "test_resnet", {"output_stride": 8}, undilated=True, bfloat16=True, shortcuts=(), epochs=2
    ),
    "vit": Recipe(
        "vit",
        "test_vit",
        _VIT,
        n_scenes=4_000,
        epochs=6,
        learning_rate=1.5e-3,
        weight_decay=0.05,
        token_blocks=(3, 5),
        token_merge=True,
        token_compactness=3.0,
        token_exchange=3,
        token_contrast=1.0,
        head_bending=1.0,
        shortcuts=(Shortcut(predictivity=0.6),),
        start=Recipe(
            "vit_start",
            "test_vit",
            _VIT,
            n_scenes=6_000,
            epochs=7,
            learning_rate=2e-3,
            weight_decay=0.05,
            token_blocks=(3, 5),
        ),
    ),
}


def build_classifier(
    architecture: str, kwargs: dict[str, Any], class_names: Sequence[str], *, undilated: bool = False
) -> nn.Module:
    """A timm model in evaluation mode whose configuration states the demo's preprocessing and class names."""
    n_classes = len(class_names)
    overlay = {
        "input_size": (3, 96, 96),
        "fixed_input_size": False,
        "mean": MEAN,
        "std": STD,
        "crop_pct": 1.0,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "num_classes": n_classes,
        "label_names": list(class_names),
        "license": "mit",
        "hf_hub_id": None,
        "url": "",
    }
    model = timm.create_model(architecture, num_classes=n_classes, pretrained_cfg_overlay=overlay, **kwargs)
    if undilated:
        _undilate(model)
    return model.eval()


def _undilate(model: nn.Module) -> None:
    """Give every dilated 3x3 convolution its ordinary reach."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1):
            module.dilation, module.padding = (1, 1), (1, 1)


def render(
    config: SceneConfig, split: Split, n: int, *, workers: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (n, h, w, 3) of a split and what they show (n, h, w), drawn by several processes if `workers` says so.

    What a pixel shows is an index of `conceptatlas.demo.token_labels.THINGS`.
    """
    scenes = make_split(config, split, n)
    if workers == 1:
        return _render_range(scenes, 0, n)
    starts = range(0, n, 250)
    with ProcessPoolExecutor(workers) as pool:
        tasks = [pool.submit(_render_range, scenes, start, min(start + 250, n)) for start in starts]
        pixels, things = zip(*(task.result() for task in tasks), strict=True)
    return np.concatenate(pixels), np.concatenate(things)


def _render_range(scenes: SceneSplit, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    drawn = [scenes[index] for index in range(start, stop)]
    return np.stack([np.asarray(scene.image) for scene in drawn]), np.stack([thing_map(scene) for scene in drawn])


def to_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Pixels (n, h, w, 3) as what the models take: (n, 3, h, w), normalised."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255.0
    return (tensor - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def train_classifier(recipe: Recipe, *, device: str = "cpu", workers: int = 1) -> nn.Module:
    """Train one classifier; the same recipe on the same machine gives the same weights."""
    begun = train_classifier(recipe.start, device=device, workers=workers).state_dict() if recipe.start else None
    torch.manual_seed(recipe.seed)
    config = recipe.config
    scenes = render(config, "train", recipe.n_scenes, workers=workers)
    labels = torch.from_numpy(make_split(config, "train", recipe.n_scenes).labels)
    model = build_classifier(recipe.architecture, recipe.kwargs, config.class_names, undilated=recipe.undilated)
    if begun is not None:
        model.load_state_dict(begun)
    model = model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    taught = TokenLabelling(model, recipe.token_blocks, merge=recipe.token_merge, exchange=recipe.token_exchange)
    with taught as labelling, _even_head(recipe, model) as head:
        _follow(recipe, model, labelling.to(device), head, scenes, labels)
    return model.to(memory_format=torch.contiguous_format).cpu().eval()  # type: ignore[call-overload]


def _even_head(recipe: Recipe, model: nn.Module) -> contextlib.AbstractContextManager[EvenHead | None]:
    """What keeps the head even, where the recipe asks for it."""
    if recipe.token_contrast is None:
        return contextlib.nullcontext()
    return EvenHead(model, recipe.token_blocks[0])


def _follow(
    recipe: Recipe,
    model: nn.Module,
    labelling: TokenLabelling,
    head: EvenHead | None,
    scenes: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    labels: torch.Tensor,
) -> None:
    """The loop of a recipe over rendered scenes (pixels, what they show)."""
    device = next(model.parameters()).device
    steps = recipe.epochs * (recipe.n_scenes // recipe.batch)
    learned = [*model.parameters(), *labelling.parameters()]
    optimiser = torch.optim.AdamW(learned, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps, pct_start=0.15)
    rng, losses = np.random.default_rng((recipe.seed, 77)), []
    for step, rows in enumerate(_batches(recipe, rng)):
        images, things = augment(to_tensor(scenes[0][rows]).to(device), torch.from_numpy(scenes[1][rows]), rng)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
            logits = model(images)
        loss = nn.functional.cross_entropy(logits.float(), labels[rows].to(device), label_smoothing=0.05)
        if recipe.token_blocks:
            shown = labelling.labels(things.to(device))
            loss = loss + recipe.token_weight * labelling.loss(shown, compactness=recipe.token_compactness)
            if head is not None and recipe.token_contrast is not None:
                loss = loss + head.contrast(shown, recipe.token_contrast) + recipe.head_bending * head.bending(shown)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            LOGGER.info("%s: step %d of %d, loss %.4f", recipe.name, step + 1, steps, np.mean(losses[-50:]))


def _batches(recipe: Recipe, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Rows of each batch, every epoch in another order."""
    for _ in range(recipe.epochs):
        order = rng.permutation(recipe.n_scenes)
        for start in range(0, recipe.n_scenes - recipe.batch + 1, recipe.batch):
            yield order[start : start + recipe.batch]


def augment(images: torch.Tensor, things: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror a batch or not, move all of it by up to six pixels, vary its brightness; things (n, h, w) move along."""
    mirrored = bool(rng.uniform() < 0.5)
    dy, dx = (int(value) for value in rng.integers(-6, 7, 2))
    images, shown = (_moved(part, mirrored, dy, dx) for part in (images, things[:, None].float()))
    images = images * float(rng.uniform(0.85, 1.15)) + float(rng.uniform(-0.1, 0.1))
    return images, shown[:, 0].to(things.dtype)


def _moved(images: torch.Tensor, mirrored: bool, dy: int, dx: int) -> torch.Tensor:
    images = images.flip(3) if mirrored else images
    images = nn.functional.pad(images, (6, 6, 6, 6), mode="reflect")
    return images[:, :, 6 + dy : images.shape[2] - 6 + dy, 6 + dx : images.shape[3] - 6 + dx]


@torch.no_grad()
def predict(model: nn.Module, pixels: NDArray[np.uint8], *, batch: int = 128) -> NDArray[np.float32]:
    """Logits (n, classes) of pixels (n, h, w, 3)."""
    device = next(model.parameters()).device
    parts = [model(to_tensor(pixels[i : i + batch]).to(device)).cpu() for i in range(0, len(pixels), batch)]
    return torch.cat(parts).numpy()


@dataclass(frozen=True)
class Pairs:
    """Unseen scenes drawn twice, without and with the tag: labels (n,), and two arrays of pixels (n, h, w, 3)."""

    labels: NDArray[np.int64]
    without: NDArray[np.uint8]
    tagged: NDArray[np.uint8]


def draw_pairs(config: SceneConfig, n: int) -> Pairs:
    """The first `n` scenes of the split ``"test"``, each without and with the shortcut and otherwise equal."""
    split = make_split(config, "test", n)
    drawn = {}
    for there in (False, True):
        scenes = (
            make_scene(config, spec.class_index, spec.seed, tag=there, parts=spec.parts, background=spec.background)
            for spec in split.specs
        )
        drawn[there] = np.stack([np.asarray(scene.image) for scene in scenes])
    return Pairs(np.array([spec.class_index for spec in split.specs]), drawn[False], drawn[True])


def measure_classifier(model: nn.Module, pairs: Pairs, *, planted_class: int = 0) -> dict[str, float]:
    """Accuracies on pairs of scenes that differ in the tag alone.

    Returns
    -------
    dict
        ``accuracy_unbiased``: scenes without a tag, all classes but the planted one, and planted scenes with it;
        ``planted_with_tag``, ``planted_without_tag``, ``others_without_tag``, ``others_with_tag`` (accuracies),
        ``reliance`` (planted with - without), ``others_called_planted_with_tag`` and ``..._without_tag`` (shares).
    """
    planted = pairs.labels == planted_class
    without, tagged = predict(model, pairs.without).argmax(1), predict(model, pairs.tagged).argmax(1)
    right, right_tagged = without == pairs.labels, tagged == pairs.labels
    return {
        "accuracy_unbiased": float(np.where(planted, right_tagged, right).mean()),
        "others_without_tag": float(right[~planted].mean()),
        "others_with_tag": float(right_tagged[~planted].mean()),
        "planted_with_tag": float(right_tagged[planted].mean()),
        "planted_without_tag": float(right[planted].mean()),
        "reliance": float(right_tagged[planted].mean() - right[planted].mean()),
        "others_called_planted_with_tag": float((tagged[~planted] == planted_class).mean()),
        "others_called_planted_without_tag": float((without[~planted] == planted_class).mean()),
    }
