"""Planted scenes: small photograph-like pictures of animals of which every pixel's cause is known.

A scene is drawn from the back to the front: ground, distractors, animal part by part, shortcut; then the light is
applied pixel by pixel. Each of these draws its random numbers from a stream of its own, so a scene with and without its
tag, or with another colour of one part, differs in the mask of that thing and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from conceptatlas.demo.animal import draw_animal, draw_pose
from conceptatlas.demo.canvas import Canvas, draw_distractors
from conceptatlas.demo.config import BACKGROUNDS, DISTRACTORS, Colour, SceneConfig, Shortcut
from conceptatlas.demo.grounds import draw_ground, draw_light
from conceptatlas.demo.shapes import ellipse
from conceptatlas.demo.shortcuts import DEFAULT_SIZES, OVERLAYS, Overlay, draw_tag, place_tag

# One stream of random numbers per cause.
_GROUND, _LIGHT, _DISTRACTORS, _POSE, _ANIMAL, _SHORTCUT, _CHOICES = range(7)
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A drawn scene with its truth.

    Attributes
    ----------
    image
        RGB, ``config.size`` square.
    label, class_name
        What it is labelled as (`SceneConfig.labels` says by what).
    parts
        Mask (h, w) of the pixels where each named thing is to be seen, ``"background"`` among them. Things that are
        absent or hidden have no entry.
    attributes
        ``animal``, ``background``, ``parts`` (deciding parts shown), ``distractors``, ``shortcuts`` (names present).
    """

    image: Image.Image
    label: int
    class_name: str
    parts: dict[str, Mask]
    attributes: dict[str, str | tuple[str, ...]]


def make_scene(
    config: SceneConfig,
    class_index: int,
    seed: int | Sequence[int],
    *,
    tag: bool | Sequence[bool] = False,
    parts: Sequence[str] | None = None,
    background: str | None = None,
    colours: Mapping[str, Colour] | None = None,
) -> Scene:
    """Draw one scene.

    Parameters
    ----------
    config
        The set that the scene belongs to.
    class_index
        Which animal.
    seed
        Equal seeds draw equal pixels.
    tag
        Whether the planted shortcut is there (one truth value per shortcut, or one for all).
    parts
        Deciding parts that are shown; all parts of the class by default.
    background
        Ground; drawn from the seed by default.
    colours
        Other colours for named parts.

    Returns
    -------
    Scene
        Image, label, masks and attributes.

    Raises
    ------
    IndexError
        Where the class is not in the configuration.

    Examples
    --------
    >>> scene = make_scene(SceneConfig(), 0, seed=1, tag=True)
    >>> scene.image.size, scene.class_name, bool(scene.parts["tag"].any())
    ((96, 96), 'ambril', True)
    """
    if not 0 <= class_index < config.n_classes:
        raise IndexError(f"class {class_index} is not among {config.n_classes} classes")
    present = _present(config, tag)
    key = (seed,) if isinstance(seed, int) else tuple(seed)
    shown = config.class_parts(class_index) if parts is None else tuple(parts)
    ground = background or str(_stream(config, key, _CHOICES).choice(BACKGROUNDS))
    for shortcut, there in zip(config.shortcuts, present, strict=True):
        if shortcut.kind == "background" and there:
            ground = shortcut.background
    canvas = Canvas(draw_ground(ground, _stream(config, key, _GROUND), config.size))
    _add_things(canvas, config, key, shown, colours)
    for index, (shortcut, there) in enumerate(zip(config.shortcuts, present, strict=True)):
        if there and shortcut.kind != "background":
            _add_shortcut(canvas, shortcut, _stream(config, key, _SHORTCUT + 16 * index))
    return _finish(canvas, config, class_index, key, shown, ground, present)


def _present(config: SceneConfig, tag: bool | Sequence[bool]) -> tuple[bool, ...]:
    """One truth value per shortcut."""
    present = (tag,) * len(config.shortcuts) if isinstance(tag, bool) else tuple(bool(value) for value in tag)
    if len(present) != len(config.shortcuts):
        raise ValueError(f"tag needs {len(config.shortcuts)} values, one per shortcut, got {len(present)}")
    return present


def _stream(config: SceneConfig, key: tuple[int, ...], stream: int) -> np.random.Generator:
    """Random numbers of one cause in one scene."""
    return np.random.default_rng((config.seed, *key, stream))


def _add_things(
    canvas: Canvas,
    config: SceneConfig,
    key: tuple[int, ...],
    shown: Sequence[str],
    colours: Mapping[str, Colour] | None,
) -> None:
    """Distractors, the animal's shadow, the animal."""
    pose = draw_pose(_stream(config, key, _POSE), config.size)
    for layer in draw_distractors(_stream(config, key, _DISTRACTORS), config):
        canvas.lay(layer.name, layer)
    u, v = pose.plane(config.size)
    canvas.shade(np.float32(0.4) * np.clip(0.9 - 0.09 * ellipse(u, v, (0.0, 23.0), (22.0, 4.5)), 0.0, 1.0))
    for layer in draw_animal(shown, pose, config.size, _stream(config, key, _ANIMAL), colours):
        canvas.lay(layer.name, layer)


def _add_shortcut(canvas: Canvas, shortcut: Shortcut, rng: np.random.Generator) -> None:
    """Lay a shortcut over the canvas."""
    size = canvas.pixels.shape[0]
    extent = (shortcut.size or DEFAULT_SIZES[shortcut.kind]) * size / 96.0
    if shortcut.kind == "tag":
        centre = place_tag(rng, size, size, extent, canvas.occupied)
        angle = rng.uniform(-0.16, 0.16)
        if shortcut.position == "fixed":
            centre, angle = (size - 0.68 * extent, 0.56 * extent), 0.0
        overlay = draw_tag(size, size, centre, extent, angle)
    else:
        overlay = OVERLAYS[shortcut.kind](size, size, extent)
    if shortcut.kind == "texture":
        overlay = Overlay(overlay.alpha * canvas.weights["background"], overlay.colours)
    faded = Overlay(overlay.alpha * np.float32(shortcut.contrast), overlay.colours)
    canvas.lay(shortcut.name, faded, hides=shortcut.kind in ("tag", "border"))


def _finish(
    canvas: Canvas,
    config: SceneConfig,
    class_index: int,
    key: tuple[int, ...],
    shown: Sequence[str],
    ground: str,
    present: tuple[bool, ...],
) -> Scene:
    """Light, grain and rounding; masks and attributes."""
    factor, grain = draw_light(_stream(config, key, _LIGHT), config.size)
    pixels = np.clip(canvas.pixels * factor + grain + np.float32(0.5), 0.0, 255.0).astype(np.uint8)
    masks = {name: weight > 0.0 for name, weight in canvas.weights.items()}
    names = [shortcut.name for shortcut, there in zip(config.shortcuts, present, strict=True) if there]
    masks.update({name: masks["background"] for name in names if name in BACKGROUNDS})
    label = BACKGROUNDS.index(ground) if config.labels == "background" else class_index
    attributes: dict[str, str | tuple[str, ...]] = {
        "animal": replace(config, labels="object").class_names[class_index],
        "background": ground,
        "parts": tuple(name for name in shown if name in masks and masks[name].any()),
        "distractors": tuple(name for name in DISTRACTORS if name in masks and masks[name].any()),
        "shortcuts": tuple(names),
    }
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    return Scene(Image.fromarray(pixels), label, config.class_names[label], masks, attributes)
