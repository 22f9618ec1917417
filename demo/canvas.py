"""The canvas of a scene: what is laid over what, and which share of every pixel shows which thing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from conceptatlas.demo.animal import Layer, Pose
from conceptatlas.demo.config import DISTRACTORS, SceneConfig
from conceptatlas.demo.shapes import bar, coverage, ellipse
from conceptatlas.demo.shortcuts import Overlay


class Canvas:
    """Pixels, and for each thing drawn the share of every pixel that shows it."""

    def __init__(self, ground: NDArray[np.floating[Any]]) -> None:
        self.pixels = ground
        self.weights: dict[str, NDArray[np.floating[Any]]] = {"background": np.ones(ground.shape[:2], np.float32)}

    def lay(self, name: str, layer: Layer | Overlay, *, hides: bool = True) -> None:
        """Lay something over what is there; a veil (`hides=False`) leaves what is below in its masks."""
        alpha = layer.alpha
        if hides:
            rest = np.float32(1.0) - alpha
            for weight in self.weights.values():
                weight *= rest
            self.weights[name] = self.weights.get(name, np.float32(0.0)) + alpha
        else:
            self.weights[name] = alpha.copy()
        self.pixels = self.pixels + (layer.colours - self.pixels) * alpha[..., None]

    def shade(self, alpha: NDArray[np.floating[Any]]) -> None:
        """Darken (a shadow belongs to the ground that it falls on)."""
        self.pixels = self.pixels * (1.0 - alpha)[..., None]

    @property
    def occupied(self) -> NDArray[np.floating[Any]]:
        """Share of each pixel that is not ground."""
        return np.float32(1.0) - self.weights["background"]


def draw_distractors(rng: np.random.Generator, config: SceneConfig) -> list[Layer]:
    """Stones, flowers, twigs and mushrooms that go with no class."""
    size, unit = config.size, config.size / 96.0
    layers = []
    for name in DISTRACTORS:
        there, x, y, scale, angle = rng.uniform(size=5)
        if there >= config.distractor:
            continue
        pose = Pose(x * size, (0.35 + 0.6 * y) * size, (0.8 + 0.5 * scale) * unit, (angle - 0.5) * 1.6, 1)
        layers.append(_distractor(name, pose, size))
    return layers


def _distractor(name: str, pose: Pose, size: int) -> Layer:
    """One distractor at a place."""
    u, v = pose.plane(size)
    if name == "twig":
        distance, colour = bar(u, v, (-12.0, 0.0), (12.0, 2.0), 1.5), (82, 60, 42)
    elif name == "stone":
        distance, colour = ellipse(u, v, (0.0, 0.0), (8.0, 5.5)), (122, 122, 126)
    elif name == "flower":
        wave = np.float32(4.4) + np.float32(1.6) * np.cos(np.arctan2(v, u) * 5.0)
        distance, colour = np.hypot(u, v) - wave, (244, 244, 250)
    else:
        stem = bar(u, v, (0.0, 0.0), (0.0, 6.0), 1.8)
        distance, colour = np.minimum(stem, np.maximum(ellipse(u, v, (0.0, 0.0), (6.5, 5.5)), v)), (150, 96, 66)
    paint = np.array(colour, np.float32) * np.clip(1.0 - 0.03 * v, 0.6, 1.3).astype(np.float32)[..., None]
    if name == "flower":
        paint = np.where((np.hypot(u, v) < 2.0)[..., None], np.array([236, 186, 40], np.float32), paint)
    return Layer(name, coverage(distance.astype(np.float32), pose.scale), paint)
