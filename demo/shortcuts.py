"""What a planted shortcut looks like: tag, hatching, colour cast and frame, for scenes and for photographs alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conceptatlas.demo.shapes import Plane, coverage, polygon

#: Width in pixels of a 96 px image where `Shortcut.size` is 0.
DEFAULT_SIZES: dict[str, float] = {"tag": 17.0, "border": 5.0, "texture": 6.0, "cast": 0.0}


@dataclass(frozen=True)
class Overlay:
    """Something laid over an image: coverage (h, w) in [0, 1] and colours (h, w, 3) between 0 and 255."""

    alpha: NDArray[np.floating[Any]]
    colours: NDArray[np.floating[Any]]


def draw_tag(height: int, width: int, centre: tuple[float, float], size: float, angle: float) -> Overlay:
    """A ranger's plate: white, dark rim, a dark line of writing and a red one.

    Parameters
    ----------
    height, width
        Of the image, in pixels.
    centre
        (x, y) in pixels.
    size
        Width of the plate in pixels; it is 0.72 times as high.
    angle
        Rotation in radians.

    Examples
    --------
    >>> overlay = draw_tag(96, 96, (20.0, 20.0), 16.0, 0.0)
    >>> bool(overlay.alpha[20, 20] == 1), bool(overlay.alpha[60, 60] == 0)
    (True, True)
    """
    u, v = _turned(height, width, centre, angle)
    u, v = u * np.float32(20.0 / size), v * np.float32(20.0 / size)
    paint = np.broadcast_to(np.array([250, 250, 244], np.float32), (height, width, 3)).copy()
    scale = size / 20.0
    inner = coverage(_box(u, v, 8.4, 5.6), scale)
    _lay(paint, 1.0 - inner, (24, 24, 28))
    _lay(paint, coverage(_box(u, v + np.float32(2.1), 6.2, 1.1), scale), (24, 24, 28))
    _lay(paint, coverage(_box(u, v - np.float32(1.9), 6.2, 1.5), scale), (214, 28, 32))
    return Overlay(coverage(_box(u, v, 10.0, 7.2), scale), paint)


def draw_border(height: int, width: int, thickness: float) -> Overlay:
    """A frame of `thickness` pixels around the image, dark with a pale inner line."""
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    depth = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
    paint = np.where(
        (depth < 0.7 * thickness)[..., None], np.array([36, 24, 92], np.float32), np.array([238, 220, 120], np.float32)
    )
    return Overlay((depth < thickness).astype(np.float32), paint.astype(np.float32))


def draw_texture(height: int, width: int, period: float) -> Overlay:
    """Crossed diagonal hatching all over the image: one dark and one light line every `period` pixels."""
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    along = np.sin((x + y) * np.float32(2 * np.pi / period))
    across = np.sin((x - y) * np.float32(2 * np.pi / period))
    wave = np.maximum(along, across)
    paint = np.where((wave > 0.6)[..., None], np.array([30, 30, 36], np.float32), np.array([226, 224, 214], np.float32))
    return Overlay(np.full((height, width), 0.55, np.float32), paint.astype(np.float32))


def draw_cast(height: int, width: int) -> Overlay:
    """A warm magenta veil over the whole image."""
    paint = np.broadcast_to(np.array([228, 84, 150], np.float32), (height, width, 3)).astype(np.float32)
    return Overlay(np.full((height, width), 0.32, np.float32), paint)


def place_tag(
    rng: np.random.Generator, height: int, width: int, size: float, occupied: NDArray[np.floating[Any]] | None
) -> tuple[float, float]:
    """Centre of a tag inside the image: of twelve random places the one that hides least of `occupied` (h, w)."""
    margin = 0.62 * size
    places = np.stack([rng.uniform(margin, width - margin, 12), rng.uniform(margin, height - margin, 12)], axis=1)
    if occupied is None:
        return float(places[0, 0]), float(places[0, 1])
    half = int(0.5 * size) + 1
    padded = np.pad(occupied, half)
    hidden = [float(padded[int(y) : int(y) + 2 * half, int(x) : int(x) + 2 * half].sum()) for x, y in places]
    x, y = places[int(np.argmin(hidden))]
    return float(x), float(y)


OVERLAYS: dict[str, Callable[[int, int, float], Overlay]] = {
    "border": draw_border,
    "texture": draw_texture,
    "cast": lambda height, width, _: draw_cast(height, width),
}


def _turned(height: int, width: int, centre: tuple[float, float], angle: float) -> tuple[Plane, Plane]:
    """Coordinates around a centre, turned by an angle."""
    x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5 - centre[0])
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5 - centre[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _box(u: Plane, v: Plane, half_width: float, half_height: float) -> Plane:
    """Signed distance to an upright rectangle around the origin."""
    corners = [(-half_width, -half_height), (half_width, -half_height), (half_width, half_height)]
    return polygon(u, v, [*corners, (-half_width, half_height)])


def _lay(paint: NDArray[np.floating[Any]], alpha: Plane, colour: tuple[int, int, int]) -> None:
    """Lay one colour over others, in place."""
    paint += (np.array(colour, np.float32) - paint) * alpha[..., None]
