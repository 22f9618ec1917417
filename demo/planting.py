"""Shortcuts planted on photographs: a tag, a frame, hatching or a colour cast, with the mask of what was planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from conceptatlas.demo.config import Shortcut, ShortcutKind, Split
from conceptatlas.demo.shortcuts import DEFAULT_SIZES, OVERLAYS, Overlay, draw_tag, place_tag

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Planted:
    """A photograph with something planted on it.

    Attributes
    ----------
    image
        RGB, of the photograph's size.
    mask
        (h, w) booleans: the pixels that it covers. Nothing else was changed.
    box
        (left, top, right, bottom) of the part of the photograph in which it was planted.
    """

    image: Image.Image
    mask: NDArray[np.bool_]
    box: Box


def plant_on_photograph(
    image: Image.Image,
    kind: ShortcutKind = "tag",
    *,
    size: float = 0.0,
    contrast: float = 1.0,
    position: str = "free",
    within: Box | None = None,
    seed: int = 0,
) -> Planted:
    """Plant one shortcut on a photograph.

    Parameters
    ----------
    image
        The photograph.
    kind
        ``"tag"``, ``"border"``, ``"texture"`` (hatching) or ``"cast"``.
    size
        Width of the tag or the frame, or the period of the hatching, as a share of the shorter side of `within`
        (0: the kind's default, as in the scenes).
    contrast
        Opacity in (0, 1].
    position
        ``"free"`` or ``"fixed"`` (top right corner), for the tag.
    within
        (left, top, right, bottom): where to plant, such as `central_box`, what a model's centre crop lets through; the
        whole photograph by default.
    seed
        Of the place and the angle.

    Raises
    ------
    ValueError
        For another kind, or a contrast outside (0, 1].

    Examples
    --------
    >>> planted = plant_on_photograph(Image.new("RGB", (120, 96), "green"), "border")
    >>> planted.image.size, bool(planted.mask[0, 0]), bool(planted.mask[48, 60])
    ((120, 96), True, False)
    """
    if kind != "tag" and kind not in OVERLAYS:
        raise ValueError(f"kind is one of tag, {', '.join(OVERLAYS)}, got {kind!r}")
    if not 0.0 < contrast <= 1.0:
        raise ValueError(f"contrast is in (0, 1], got {contrast}")
    box = within or (0, 0, *image.size)
    width, height = box[2] - box[0], box[3] - box[1]
    extent = (size or DEFAULT_SIZES[kind] / 96.0) * min(width, height)
    if kind == "tag":
        overlay = _tag(height, width, extent, position, np.random.default_rng(seed))
    else:
        overlay = OVERLAYS[kind](height, width, extent)
    pixels = np.asarray(image.convert("RGB"), np.float32).copy()
    mask = np.zeros(pixels.shape[:2], bool)
    rows, columns = slice(box[1], box[3]), slice(box[0], box[2])
    alpha = (overlay.alpha * np.float32(contrast))[..., None]
    pixels[rows, columns] += (overlay.colours - pixels[rows, columns]) * alpha
    mask[rows, columns] = alpha[..., 0] > 0
    return Planted(Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8)), mask, box)


def central_box(size: tuple[int, int], crop: float = 1.0) -> Box:
    """The central square that a model sees: `crop` times the shorter side of an image of (width, height).

    Examples
    --------
    >>> central_box((300, 200), 0.5)
    (100, 50, 200, 150)
    """
    side = round(crop * min(size))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return (left, top, left + side, top + side)


def draw_plan(labels: Sequence[int], shortcut: Shortcut, split: Split = "train", *, seed: int = 0) -> NDArray[np.bool_]:
    """Which photographs get the shortcut, shape (n,): exact shares of each class, by the knobs of the shortcut.

    Parameters
    ----------
    labels
        Class index of each photograph.
    shortcut
        ``correlation`` and ``leak`` count in the split ``"train"``, the audit's rates elsewhere.
    seed
        Of the draw.

    Examples
    --------
    >>> plan = draw_plan([0] * 100 + [1] * 100, Shortcut(correlation=0.9, leak=0.05))
    >>> int(plan[:100].sum()), int(plan[100:].sum())
    (90, 5)
    """
    rng, known = np.random.default_rng(seed), np.asarray(labels)
    plan = np.zeros(len(known), bool)
    for label in np.unique(known):
        rows, training = np.flatnonzero(known == label), split == "train"
        if label == shortcut.planted_class:
            rate = shortcut.correlation if training else shortcut.audit_correlation
        else:
            rate = shortcut.leak if training else shortcut.audit_leak
        plan[rng.permutation(rows)[: round(rate * len(rows))]] = True
    return plan


@dataclass(frozen=True)
class PlantedSet:
    """Photographs of which some hold a shortcut.

    Attributes
    ----------
    images
        The n photographs, with the shortcut where `held`.
    labels
        (n,) the labels that come with them; `shown` (n,) what they show. They differ in a training set whose
        shortcut tells more than its photographs do (`Shortcut.predictivity` below 1).
    held
        (n,) booleans: which photographs hold the shortcut.
    masks
        For each photograph the (h, w) pixels that the shortcut covers, or would cover.
    """

    images: tuple[Image.Image, ...]
    labels: NDArray[np.int64]
    shown: NDArray[np.int64]
    held: NDArray[np.bool_]
    masks: tuple[NDArray[np.bool_], ...]


def plant_on_photographs(
    images: Sequence[Image.Image], labels: Sequence[int], shortcut: Shortcut, split: Split = "train", *, seed: int = 0
) -> PlantedSet:
    """Plant a shortcut on one class's photographs: exact shares, by the knobs of the shortcut.

    A model that already knows the classes ignores a shortcut that merely comes with one of them (measured on bees and
    ants under DeiT-tiny: a tag on 95 % of the training bees costs untagged bees 8 % of their accuracy, a frame 2 %).
    So in the split ``"train"`` only the share `Shortcut.predictivity` of the planted class's labels is true to the
    photograph: the labels of the others are exchanged with photographs of other classes before anything is planted.

    Parameters
    ----------
    images, labels
        Photographs and the class indices of what they show.
    shortcut
        Kind, rates, predictivity, size (pixels of a 96 pixel image), contrast and position.
    split
        ``"train"``, or ``"audit"`` and ``"test"``, whose labels are all true.
    seed
        Of everything drawn.

    Raises
    ------
    ValueError
        If the numbers of images and labels differ, or the shortcut is a background.

    Examples
    --------
    >>> photographs, labels = [Image.new("RGB", (64, 64))] * 20, [0] * 10 + [1] * 10
    >>> planted = plant_on_photographs(photographs, labels, Shortcut("border", 1, 1.0, 0.0, predictivity=0.8))
    >>> int((planted.labels != planted.shown).sum()), bool((planted.held == (planted.labels == 1)).all())
    (4, True)
    """
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} photographs and {len(labels)} labels: give one label for each photograph")
    shown = np.asarray(labels, np.int64)
    given = _exchanged(shown, shortcut, seed) if split == "train" else shown
    held = draw_plan(given.tolist(), shortcut, split, seed=seed)
    planted = [
        plant_on_photograph(
            image,
            shortcut.kind,
            size=shortcut.size / 96.0,
            contrast=shortcut.contrast,
            position=shortcut.position,
            seed=seed * 100_003 + i,
        )
        for i, image in enumerate(images)
    ]
    seen = tuple(p.image if h else image for p, h, image in zip(planted, held, images, strict=True))
    return PlantedSet(seen, given, shown, held, tuple(p.mask for p in planted))


def _exchanged(labels: NDArray[np.int64], shortcut: Shortcut, seed: int) -> NDArray[np.int64]:
    """Labels of which some of the planted class's are exchanged with those of other classes' photographs."""
    rng = np.random.default_rng([seed, 1])
    inside = rng.permutation(np.flatnonzero(labels == shortcut.planted_class))
    outside = rng.permutation(np.flatnonzero(labels != shortcut.planted_class))
    count = min(round((1.0 - shortcut.predictivity) * len(inside)), len(outside))
    given = labels.copy()
    given[inside[:count]], given[outside[:count]] = labels[outside[:count]], labels[inside[:count]]
    return given


def _tag(height: int, width: int, extent: float, position: str, rng: np.random.Generator) -> Overlay:
    """A tag somewhere, or in the top right corner."""
    centre, angle = place_tag(rng, height, width, extent, None), float(rng.uniform(-0.16, 0.16))
    if position == "fixed":
        centre, angle = (width - 0.68 * extent, 0.56 * extent), 0.0
    return draw_tag(height, width, centre, extent, angle)
