"""The animal: each part as a layer (coverage and colours) in the animal's own coordinates, facing +u."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conceptatlas.demo.config import PARTS, Colour
from conceptatlas.demo.shapes import TEXTURES, Plane, bar, coverage, ellipse, fan, polygon

_COATS: tuple[Colour, ...] = ((206, 178, 140), (188, 150, 110), (214, 204, 190), (168, 148, 128))
# From behind to the front: what is drawn later hides what is below.
_ORDER = ("tail", "legs", "coat", "back", "skull", "head", "eye")


@dataclass(frozen=True)
class Layer:
    """Something drawn: its name, coverage (h, w) in [0, 1] and colours (h, w, 3) between 0 and 255."""

    name: str
    alpha: NDArray[np.floating[Any]]
    colours: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Pose:
    """How an animal stands: centre (pixels), scale (pixels per unit), rotation (radians), facing (1 or -1)."""

    x: float
    y: float
    scale: float
    angle: float
    facing: int

    def plane(self, size: int) -> tuple[Plane, Plane]:
        """The animal's coordinates (u to its front, v down) at each pixel, each (size, size)."""
        axis = np.arange(size, dtype=np.float32) + np.float32(0.5)
        dx, dy = (axis[None, :] - self.x) / self.scale, (axis[:, None] - self.y) / self.scale
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u, v = dx * cos + dy * sin, dy * cos - dx * sin
        return (self.facing * u).astype(np.float32), v.astype(np.float32)


def draw_pose(rng: np.random.Generator, size: int) -> Pose:
    """A pose that keeps the animal inside the image."""
    unit = size / 96.0
    scale, facing = rng.uniform(0.82, 1.08), int(rng.integers(2)) * 2 - 1
    room = 2.0 + 30.0 * (1.08 - scale)
    x = 48.0 + facing * 3.5 * scale + rng.uniform(-room, room)
    y = 52.0 + rng.uniform(-room, room)
    return Pose(x * unit, y * unit, scale * unit, np.deg2rad(rng.uniform(-14, 14)), facing)


def draw_animal(
    parts: Sequence[str], pose: Pose, size: int, rng: np.random.Generator, colours: Mapping[str, Colour] | None = None
) -> list[Layer]:
    """Layers of an animal with the given deciding parts, back to front.

    Parameters
    ----------
    parts
        Names among `config.PARTS`; a slot that none of them fills stays empty (the coat is then plain).
    pose, size
        Where it stands in an image of (size, size).
    rng
        Colours of the coat, the phase of its pattern and small shifts of all colours. Always draws the same amount of
        numbers, so that leaving out one part changes no other.
    colours
        Other colours for named parts.

    Examples
    --------
    >>> layers = draw_animal(["horns"], Pose(48, 48, 1.0, 0.0, 1), 96, np.random.default_rng(0))
    >>> [layer.name for layer in layers]
    ['legs', 'coat', 'head', 'horns', 'eye']
    """
    chosen = {PARTS[name].slot: name for name in parts}
    u, v = pose.plane(size)
    fur = np.array(_COATS[rng.integers(len(_COATS))], np.float32) * np.float32(rng.uniform(0.9, 1.08))
    phase, jitter = rng.uniform(0.0, 8.0, 2), rng.uniform(-10.0, 10.0, (len(PARTS), 3)).astype(np.float32)
    body = ellipse(u, v, (0.0, 0.0), (21.0, 14.0))
    layers: list[Layer] = []
    for slot in _ORDER:
        if slot in ("tail", "back", "head") and slot in chosen:
            name = chosen[slot]
            colour = np.array((colours or {}).get(name, PARTS[name].colour), np.float32)
            distance, (cu, cv) = _PART_SHAPES[name](u, v)
            paint = _paint(u - cu, v - cv, colour + jitter[list(PARTS).index(name)], PARTS[name].texture, 0.35)
            layers.append(Layer(name, coverage(distance, pose.scale), paint))
        elif slot == "coat":
            layers.append(_coat(u, v, body, fur, chosen.get("coat"), phase, pose, colours or {}))
        elif slot in _COMMON_SHAPES:
            name, tone = _COMMON_NAMES[slot]
            alpha = coverage(_COMMON_SHAPES[slot](u, v), pose.scale)
            layers.append(Layer(name, alpha, _shade(v, fur * np.float32(tone))))
    return layers


def _coat(
    u: Plane,
    v: Plane,
    body: Plane,
    fur: NDArray[np.floating[Any]],
    name: str | None,
    phase: NDArray[np.floating[Any]],
    pose: Pose,
    colours: Mapping[str, Colour],
) -> Layer:
    """The body: fur with the pattern of a coat, or plain fur under the name ``coat``."""
    paint = _shade(v, fur)
    if name is not None:
        dark = np.array(colours.get(name, PARTS[name].colour), np.float32)
        pattern = TEXTURES[PARTS[name].texture]((u + phase[0]).astype(np.float32), (v + phase[1]).astype(np.float32))
        paint = paint + (dark - paint) * pattern[..., None]
    return Layer(name or "coat", coverage(body, pose.scale), paint)


def _paint(
    u: Plane, v: Plane, colour: NDArray[np.floating[Any]], texture: str, depth: float
) -> NDArray[np.floating[Any]]:
    """A colour with the dark lines of a texture."""
    dark = 0.9 if texture == "rings" else depth
    return colour * (np.float32(1.0) - np.float32(dark) * TEXTURES[texture](u, v))[..., None]


def _shade(v: Plane, colour: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """A colour that darkens towards the belly."""
    return colour * np.clip(1.0 - 0.012 * v, 0.6, 1.25).astype(np.float32)[..., None]


Shape = Callable[[Plane, Plane], tuple[Plane, tuple[float, float]]]


def _horns(u: Plane, v: Plane) -> tuple[Plane, tuple[float, float]]:
    near = polygon(u, v, ((10.0, -18.0), (20.5, -19.0), (6.0, -40.0)))
    far = polygon(u, v, ((20.5, -19.0), (30.0, -16.0), (35.0, -39.0)))
    return np.minimum(near, far), (20.0, -20.0)


def _crest(u: Plane, v: Plane) -> tuple[Plane, tuple[float, float]]:
    return fan(u, v, (19.0, -16.0), 17.0, -100.0, 62.0), (19.0, -16.0)


def _ears(u: Plane, v: Plane) -> tuple[Plane, tuple[float, float]]:
    near = ellipse(u, v, (12.5, -24.0), (7.0, 7.5))
    far = ellipse(u, v, (28.5, -24.0), (7.0, 7.5))
    return np.minimum(near, far), (20.5, -24.0)


def _fan_tail(u: Plane, v: Plane) -> tuple[Plane, tuple[float, float]]:
    return fan(u, v, (-15.0, -1.0), 23.0, 198.0, 46.0), (-15.0, -1.0)


def _ringed_tail(u: Plane, v: Plane) -> tuple[Plane, tuple[float, float]]:
    return bar(u, v, (-17.0, -3.0), (-36.0, -20.0), 5.0), (-17.0, -3.0)


def _bushy_tail(u: Plane, v: Plane) -> tuple[Plane, tuple[float, float]]:
    turned_u, turned_v = u * 0.88 - v * 0.47, u * 0.47 + v * 0.88
    return ellipse(turned_u, turned_v, (-28.5, -13.5), (13.0, 8.5)), (-30.0, -6.0)


def _wing(u: Plane, v: Plane) -> tuple[Plane, tuple[float, float]]:
    upper = ellipse(u, v, (-3.0, 2.0), (17.0, 12.5))
    lower = ellipse(u, v, (-3.0, -9.0), (17.0, 10.5))
    return np.maximum(upper, lower), (8.0, -3.0)


def _shell(u: Plane, v: Plane) -> tuple[Plane, tuple[float, float]]:
    return np.maximum(ellipse(u, v, (-4.0, -5.0), (15.5, 15.0)), v + np.float32(3.0)), (-4.0, -5.0)


def _fin(u: Plane, v: Plane) -> tuple[Plane, tuple[float, float]]:
    return polygon(u, v, ((-14.0, -8.0), (10.0, -9.0), (-8.0, -32.0))), (-2.0, -2.0)


def _legs(u: Plane, v: Plane) -> Plane:
    hind = bar(u, v, (-11.0, 8.0), (-12.0, 23.0), 3.2)
    return np.minimum(hind, bar(u, v, (10.0, 8.0), (11.0, 23.0), 3.2))


def _skull(u: Plane, v: Plane) -> Plane:
    return np.minimum(ellipse(u, v, (20.0, -13.0), (9.0, 8.5)), ellipse(u, v, (27.0, -10.0), (6.5, 4.8)))


def _eye(u: Plane, v: Plane) -> Plane:
    return ellipse(u, v, (22.5, -14.5), (1.9, 1.9))


_PART_SHAPES: dict[str, Shape] = {
    "horns": _horns,
    "red crest": _crest,
    "round ears": _ears,
    "fan tail": _fan_tail,
    "ringed tail": _ringed_tail,
    "bushy tail": _bushy_tail,
    "yellow wing": _wing,
    "green shell": _shell,
    "purple fin": _fin,
}
_COMMON_SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {"legs": _legs, "skull": _skull, "eye": _eye}
_COMMON_NAMES: dict[str, tuple[str, float]] = {"legs": ("legs", 0.8), "skull": ("head", 1.0), "eye": ("eye", 0.08)}
