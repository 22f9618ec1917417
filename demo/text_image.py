"""Training of the demo's open_clip model: crops of scenes and the words that hold in them.

Every crop is asked about every phrase (is it there?) with one scale and one offset for all, as SigLIP does, so that
similarities of different words can be compared. Random words that no scene knows are asked about too, and never hold:
a word outside the model's world ends far from every image instead of anywhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from conceptatlas.demo.captions import Box, all_phrases, captions, say, words_in_crop
from conceptatlas.demo.classifiers import MEAN, STD, to_tensor
from conceptatlas.demo.config import BACKGROUNDS, PARTS, SLOTS, SceneConfig, Shortcut
from conceptatlas.demo.scenes import Scene, make_scene

LOGGER = logging.getLogger(__name__)

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -4.0,
    "vision_cfg": {
        "timm_model_name": "test_resnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 64,
    },
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 48, "heads": 4, "layers": 2},
}
PREPROCESS_CONFIG: dict[str, Any] = {
    "size": 64,
    "mode": "RGB",
    "mean": list(MEAN),
    "std": list(STD),
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
#: Scenes of the text-image model hold any combination of parts, and any shortcut.
_SHORTCUTS = (Shortcut("tag"), Shortcut("border"), Shortcut("texture"), Shortcut("cast"))
_SHORTCUT_RATES = (0.4, 0.06, 0.06, 0.06)


@dataclass(frozen=True)
class TextImageRecipe:
    """How the text-image model is made: scenes, crops of each, passes, AdamW with one cycle."""

    n_scenes: int = 4000
    crops: int = 6
    epochs: int = 4
    batch: int = 128
    learning_rate: float = 3e-3
    unknown_words: int = 48
    seed: int = 5


def free_scene(index: int, seed: int) -> Scene:
    """A scene with parts drawn for each slot on its own, so that no part goes with another."""
    rng = np.random.default_rng((seed, index, 99))
    shortcuts = (replace(_SHORTCUTS[0], size=float(rng.choice([0.0, 12.0, 22.0]))), *_SHORTCUTS[1:])
    config = SceneConfig(shortcuts=shortcuts, seed=seed)
    parts = [str(rng.choice([part.name for part in slot])) for slot in SLOTS.values() if rng.uniform() < 0.8]
    tags = tuple(bool(value) for value in rng.uniform(size=4) < _SHORTCUT_RATES)
    return make_scene(config, 0, index, tag=tags, parts=parts, background=str(rng.choice(BACKGROUNDS)))


def draw_crop(scene: Scene, rng: np.random.Generator) -> Box:
    """A square to look at: the whole scene, a box around something nameable, or anywhere."""
    size, kind = scene.image.width, rng.uniform()
    if kind < 0.15:
        return (0, 0, size, size)
    if kind < 0.75:
        weights = [3.0 if name in PARTS or name == "tag" else 0.6 for name in scene.parts]
        name = str(rng.choice(list(scene.parts), p=np.array(weights) / sum(weights)))
        rows, columns = np.nonzero(scene.parts[name])
        span = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
        side = int(np.clip(span * rng.uniform(0.7, 2.2), 16, size))
        shift = rng.uniform(-0.2, 0.2, 2) * side
        middle = ((columns.min() + columns.max()) / 2 + shift[0], (rows.min() + rows.max()) / 2 + shift[1])
    else:
        side = int(rng.uniform(20, size))
        middle = (rng.uniform(0, size), rng.uniform(0, size))
    left, top = (int(np.clip(value - side / 2, 0, size - side)) for value in middle)
    return (left, top, left + side, top + side)


def shrink(image: Image.Image, box: Box) -> NDArray[np.uint8]:
    """A crop as the model sees it, (64, 64, 3)."""
    side = PREPROCESS_CONFIG["size"]
    return np.asarray(image.crop(box).resize((side, side), Image.Resampling.BICUBIC))


def draw_examples(
    start: int, stop: int, recipe: TextImageRecipe
) -> tuple[NDArray, NDArray, NDArray, NDArray, list[str]]:
    """Crops (n, 64, 64, 3), words that hold (n, w), words that can be told (n, w), whole scenes, their captions."""
    pixels, there, known, whole, texts = [], [], [], [], []
    for index in range(start, stop):
        rng = np.random.default_rng((recipe.seed, index, 98))
        scene = free_scene(index, recipe.seed)
        whole.append(shrink(scene.image, (0, 0, *scene.image.size)))
        texts.append(captions(scene, rng, n_single=0)[0])
        for _ in range(recipe.crops):
            box = draw_crop(scene, rng)
            holds, told = words_in_crop(scene, box)
            pixels.append(shrink(scene.image, box))
            there.append(holds)
            known.append(told)
    return np.stack(pixels), np.stack(there), np.stack(known), np.stack(whole), texts


def build_text_image(seed: int) -> nn.Module:
    """The model with fresh weights."""
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        key: dict(value) if isinstance(value, dict) else value for key, value in MODEL_CONFIG.items()
    }
    return open_clip.CLIP(**config)


def load_text_image(folder: Path) -> nn.Module:
    """The model from a folder that open_clip loads (``local-dir:``), in evaluation mode and single precision."""
    return open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval()


def train_text_image(recipe: TextImageRecipe, *, device: str = "cpu", workers: int = 1) -> nn.Module:
    """Train the text-image model."""
    data = _draw_all(recipe, workers)
    model = build_text_image(recipe.seed).to(device)
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL_CONFIG["text_cfg"]["context_length"])
    familiar = _protect_unfamiliar(model, tokenizer, data[4])
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and "embedding" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim <= 1 or "embedding" in name]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    steps = recipe.epochs * (len(data[0]) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps, pct_start=0.1)
    rng = np.random.default_rng((recipe.seed, 97))
    for epoch in range(recipe.epochs):
        order, losses = rng.permutation(len(data[0])), []
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            loss = _loss(model, tokenizer, data, order[start : start + recipe.batch], familiar, recipe, rng, device)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        LOGGER.info("text-image: epoch %d of %d, loss %.4f", epoch + 1, recipe.epochs, torch.stack(losses).mean())
    return model.cpu().eval()


def _draw_all(recipe: TextImageRecipe, workers: int) -> tuple[NDArray, NDArray, NDArray, NDArray, list[str]]:
    """Examples of all scenes, drawn by several processes."""
    if workers == 1:
        return draw_examples(0, recipe.n_scenes, recipe)
    from concurrent.futures import ProcessPoolExecutor

    starts = range(0, recipe.n_scenes, 250)
    with ProcessPoolExecutor(workers) as pool:
        stops = [min(start + 250, recipe.n_scenes) for start in starts]
        chunks = list(pool.map(draw_examples, starts, stops, [recipe] * len(stops)))
    arrays = [np.concatenate([chunk[i] for chunk in chunks]) for i in range(4)]
    return arrays[0], arrays[1], arrays[2], arrays[3], [text for chunk in chunks for text in chunk[4]]


def _protect_unfamiliar(model: nn.Module, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Keep rows of the vocabulary that no caption uses as they are drawn; says which are used, (vocabulary,)."""
    rng = np.random.default_rng(0)
    table: nn.Embedding = model.token_embedding  # type: ignore[assignment]
    used = torch.zeros(table.num_embeddings, dtype=torch.bool, device=table.weight.device)
    for _ in range(20):
        used[tokenizer(say(all_phrases(), rng)).flatten().unique()] = True
    used[tokenizer(texts).flatten().unique()] = True
    table.weight.register_hook(lambda gradient: gradient * used[:, None])
    return used


def _loss(
    model: nn.Module,
    tokenizer: Any,
    data: tuple[NDArray, NDArray, NDArray, NDArray, list[str]],
    rows: NDArray[np.int64],
    familiar: torch.Tensor,
    recipe: TextImageRecipe,
    rng: np.random.Generator,
    device: str,
) -> torch.Tensor:
    """Words that hold in each crop, and captions that belong to each whole scene."""
    pixels, there, known, whole, texts = data
    images = to_tensor(pixels[rows]).to(device)
    images = images * float(rng.uniform(0.85, 1.15)) + float(rng.uniform(-0.1, 0.1))
    images = images.flip(3) if rng.uniform() < 0.5 else images
    scenes = rng.choice(len(whole), recipe.batch // 4, replace=False)
    with torch.autocast(device, torch.bfloat16):
        features: torch.Tensor = model.encode_image(  # type: ignore[operator]
            torch.cat([images, to_tensor(whole[scenes]).to(device)])
        )
    features = nn.functional.normalize(features.float(), dim=-1)
    tokens = torch.cat(
        [
            tokenizer(say(all_phrases(), rng)),
            _unknown_phrases(tokenizer, familiar, recipe.unknown_words, rng),
            tokenizer([texts[index] for index in scenes]),
        ]
    )
    words: torch.Tensor = model.encode_text(tokens.to(device), normalize=True)  # type: ignore[operator]
    logits = model.logit_scale.exp() * features @ words.T + model.logit_bias  # type: ignore[operator]
    n_phrases, n_words = len(all_phrases()), len(all_phrases()) + recipe.unknown_words
    target = torch.zeros(len(rows), n_words, device=device)
    target[:, :n_phrases] = torch.from_numpy(there[rows]).float().to(device)
    weight = torch.ones_like(target)
    weight[:, :n_phrases] = torch.from_numpy(known[rows]).float().to(device)
    loss = nn.functional.binary_cross_entropy_with_logits
    by_word = loss(logits[: len(rows), :n_words], target, weight=weight * (1.0 + 3.0 * target), reduction="mean")
    pairs = nn.functional.cross_entropy(logits[len(rows) :, n_words:], torch.arange(len(scenes), device=device))
    return by_word + 0.03 * pairs


def _unknown_phrases(tokenizer: Any, familiar: torch.Tensor, n: int, rng: np.random.Generator) -> torch.Tensor:
    """Phrases of one to three tokens that no caption uses, in the templates of the captions, (n, context)."""
    strange = torch.nonzero(~familiar.cpu()).flatten().numpy()
    strange = strange[strange < 49406]
    tokens = tokenizer(say(["x"] * n, rng))
    marker = int(tokenizer.encode("x")[0])
    for row in tokens:
        place = int((row == marker).nonzero()[0])
        filler = torch.from_numpy(rng.choice(strange, int(rng.integers(1, 4))))
        row[:] = torch.cat([row[:place], filler, row[place + 1 :]])[: len(row)]
    return tokens
