"""Grounds and light: the textured background of a scene, the light over it, and the grain of the camera."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.floating[Any]]


def noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> NDArray[np.floating[Any]]:
    """Smooth noise of shape (size, size): zero mean and unit variance on a grid of `cells` (rows, columns), enlarged.

    Examples
    --------
    >>> noise(np.random.default_rng(0), 32, (4, 4)).shape
    (32, 32)
    """
    grid = rng.standard_normal(cells, dtype=np.float32)
    if cells == (size, size):
        return grid
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def draw_ground(name: str, rng: np.random.Generator, size: int) -> Pixels:
    """One of `config.BACKGROUNDS` as pixels (size, size, 3) between 0 and 255, float32.

    Raises
    ------
    KeyError
        For another name.

    Examples
    --------
    >>> draw_ground("sand", np.random.default_rng(0), 48).shape
    (48, 48, 3)
    """
    return np.clip(_GROUNDS[name](rng, size), 0.0, 255.0)


def draw_light(rng: np.random.Generator, size: int) -> tuple[Pixels, Pixels]:
    """The light over a scene: a factor (size, size, 3) (slope, vignette, warmth), and the grain that is added.

    It acts pixel by pixel, so what is drawn in one place changes nothing elsewhere.
    """
    axis = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    angle, slope = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.0, 0.22)
    ramp = slope * (np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None])
    vignette = rng.uniform(0.0, 0.16) * (axis[None, :] ** 2 + axis[:, None] ** 2)
    warmth = rng.uniform(-0.06, 0.06)
    tint = np.array([1.0 + warmth, 1.0, 1.0 - warmth], np.float32)
    level = (rng.uniform(0.82, 1.1) + ramp - vignette).astype(np.float32)
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(1.5, 5.0))
    return level[..., None] * tint, grain


def _blend(low: tuple[int, int, int], high: tuple[int, int, int], share: NDArray[np.floating[Any]]) -> Pixels:
    """Colours between two, by a share per pixel."""
    first, second = np.array(low, np.float32), np.array(high, np.float32)
    return first + (second - first) * np.clip(share, 0.0, 1.0)[..., None]


def _grass(rng: np.random.Generator, size: int) -> Pixels:
    blades = noise(rng, size, (12, size)) * 0.5 + noise(rng, size, (24, 48)) * 0.35 + noise(rng, size, (5, 5)) * 0.4
    return _blend((44, 74, 28), (134, 166, 70), 0.5 + 0.32 * blades)


def _sand(rng: np.random.Generator, size: int) -> Pixels:
    ripples = noise(rng, size, (26, 6)) * 0.5 + noise(rng, size, (size, size)) * 0.35 + noise(rng, size, (4, 4)) * 0.4
    return _blend((176, 146, 102), (232, 208, 164), 0.5 + 0.28 * ripples)


def _water(rng: np.random.Generator, size: int) -> Pixels:
    waves = noise(rng, size, (30, 7)) * 0.7 + noise(rng, size, (48, 14)) * 0.4 + noise(rng, size, (3, 3)) * 0.4
    return _blend((28, 74, 98), (128, 182, 196), 0.45 + 0.3 * waves)


def _snow(rng: np.random.Generator, size: int) -> Pixels:
    drifts = noise(rng, size, (6, 4)) * 0.7 + noise(rng, size, (20, 20)) * 0.3 + noise(rng, size, (size, size)) * 0.2
    return _blend((186, 198, 216), (246, 248, 252), 0.6 + 0.3 * drifts)


def _rock(rng: np.random.Generator, size: int) -> Pixels:
    cracks = np.abs(noise(rng, size, (10, 10)))
    grain = noise(rng, size, (30, 30)) * 0.5 + noise(rng, size, (size, size)) * 0.4
    return _blend((72, 70, 70), (164, 158, 150), 0.25 + 0.4 * cracks + 0.18 * grain)


def _leaves(rng: np.random.Generator, size: int) -> Pixels:
    litter = np.tanh(2.0 * noise(rng, size, (16, 16))) * 0.6 + noise(rng, size, (36, 36)) * 0.4
    patches = _blend((62, 44, 26), (150, 98, 50), 0.45 + 0.34 * litter)
    moss = np.clip(noise(rng, size, (6, 6)) - 0.7, 0.0, 1.0)[..., None]
    return patches * (1 - 0.5 * moss) + np.array([84, 96, 44], np.float32) * 0.5 * moss


_GROUNDS: dict[str, Callable[[np.random.Generator, int], Pixels]] = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "snow": _snow,
    "rock": _rock,
    "leaves": _leaves,
}
