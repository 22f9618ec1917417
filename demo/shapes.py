"""Shapes and textures as functions of the plane: signed distances in pixels, and patterns between 0 and 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]
Point = tuple[float, float]


def ellipse(u: Plane, v: Plane, centre: Point, radii: Point) -> Plane:
    """Signed distance to an ellipse (first order: exact on its outline), negative inside.

    Examples
    --------
    >>> grid = np.zeros((1, 1), np.float32)
    >>> float(ellipse(grid, grid, (3.0, 0.0), (1.0, 1.0))[0, 0])
    2.0
    """
    du, dv = u - centre[0], v - centre[1]
    length = np.hypot(du / radii[0], dv / radii[1])
    slope = np.hypot(du / radii[0] ** 2, dv / radii[1] ** 2)
    return length * (length - 1.0) / np.maximum(slope, np.float32(1e-6))


def polygon(u: Plane, v: Plane, corners: Sequence[Point]) -> Plane:
    """Signed distance to a convex polygon (the farthest of its edges), corners in either direction of turn."""
    centre_u = sum(corner[0] for corner in corners) / len(corners)
    centre_v = sum(corner[1] for corner in corners) / len(corners)
    distance: Plane | None = None
    for (u0, v0), (u1, v1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        length = float(np.hypot(u1 - u0, v1 - v0))
        normal_u, normal_v = (v1 - v0) / length, (u0 - u1) / length
        if (centre_u - u0) * normal_u + (centre_v - v0) * normal_v > 0:
            normal_u, normal_v = -normal_u, -normal_v
        edge = (u - u0) * np.float32(normal_u) + (v - v0) * np.float32(normal_v)
        distance = edge if distance is None else np.maximum(distance, edge)
    if distance is None:
        raise ValueError("a polygon needs corners")
    return distance


def bar(u: Plane, v: Plane, start: Point, end: Point, half_width: float) -> Plane:
    """Signed distance to a bar with round ends."""
    axis_u, axis_v = end[0] - start[0], end[1] - start[1]
    du, dv = u - start[0], v - start[1]
    along = np.clip((du * axis_u + dv * axis_v) / (axis_u**2 + axis_v**2), 0.0, 1.0)
    return np.hypot(du - along * axis_u, dv - along * axis_v).astype(np.float32) - np.float32(half_width)


def fan(u: Plane, v: Plane, centre: Point, radius: float, direction: float, half_angle: float) -> Plane:
    """Signed distance to a sector of a disc that opens towards `direction` (degrees, clockwise from +u)."""
    du, dv = u - centre[0], v - centre[1]
    angle, half = np.deg2rad(direction), np.deg2rad(half_angle)
    along, across = du * np.cos(angle) + dv * np.sin(angle), np.abs(dv * np.cos(angle) - du * np.sin(angle))
    return np.maximum(np.hypot(du, dv) - radius, across * np.cos(half) - along * np.sin(half)).astype(np.float32)


def coverage(distance: Plane, scale: float) -> Plane:
    """Share of each pixel inside a shape, in [0, 1]; `scale` is pixels of the image per unit of distance."""
    return np.clip(0.5 - distance * np.float32(scale), 0.0, 1.0)


def stripes(u: Plane, v: Plane) -> Plane:
    """Upright stripes, seven units apart."""
    return _step(np.sin((u + 0.12 * v) * np.float32(2 * np.pi / 7.0)))


def spots(u: Plane, v: Plane) -> Plane:
    """Round spots on a staggered grid."""
    row = np.floor(v / 7.0)
    du = np.mod(u + 4.0 * np.mod(row, 2.0), 8.0) - 4.0
    dv = np.mod(v, 7.0) - 3.5
    return np.clip(3.1 - np.hypot(du, dv), 0.0, 1.0).astype(np.float32)


def checks(u: Plane, v: Plane) -> Plane:
    """A chequerboard of squares five units wide."""
    return _step(np.sin(u * np.float32(np.pi / 5.0)) * np.sin(v * np.float32(np.pi / 5.0)) * 2.0)


def rings(u: Plane, v: Plane) -> Plane:
    """Concentric dark rings around the origin, six units apart."""
    return _step(np.sin(np.hypot(u, v) * np.float32(2 * np.pi / 6.0)))


def ribs(u: Plane, v: Plane) -> Plane:
    """Thin rays from the origin."""
    return np.clip(np.sin(np.arctan2(v, u) * 14.0) * 2.0 - 0.9, 0.0, 1.0).astype(np.float32)


def scales(u: Plane, v: Plane) -> Plane:
    """Overlapping scales: arcs on a staggered grid."""
    row = np.floor(v / 5.0)
    du = np.mod(u + 3.5 * np.mod(row, 2.0), 7.0) - 3.5
    dv = np.mod(v, 5.0)
    return np.clip(1.3 - np.abs(np.hypot(du, dv) - 3.8), 0.0, 1.0).astype(np.float32)


def tufts(u: Plane, v: Plane) -> Plane:
    """Slanted dashes."""
    wave = np.sin((u * 0.5 + v) * np.float32(2 * np.pi / 4.5)) + 0.6 * np.sin((u - v) * np.float32(2 * np.pi / 6.0))
    return _step(wave.astype(np.float32) - 0.35)


def plain(u: Plane, v: Plane) -> Plane:
    """Nothing."""
    return np.zeros_like(u + v)


TEXTURES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "plain": plain,
    "stripes": stripes,
    "spots": spots,
    "checks": checks,
    "rings": rings,
    "ribs": ribs,
    "scales": scales,
    "tufts": tufts,
}


def _step(wave: Plane) -> Plane:
    """A wave in [-1, 1] turned into bands with soft edges."""
    return np.clip(wave * np.float32(2.0) + np.float32(0.5), 0.0, 1.0)
