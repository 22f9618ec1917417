"""Concept maps on what the model saw: veils that leave the concept lit, outlines at a quantile, and crops."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from conceptatlas.extraction.errors import UserError

OUTLINE_QUANTILE = 0.90
_LEAST_LEVEL = 0.5
# What the map leaves out is darkened: what it marks keeps its own colours and can be recognised, also in grey.
_VEIL, _VEIL_ALPHA, _LIT_FROM = (22, 24, 30), 0.64, 0.6  # from this share of the scale on nothing is darkened


def scaled_map(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a map resampled to `size` (bicubic), float32 in [0, 1].

    Parameters
    ----------
    heat
        (h, w) map: uint8 in 0..255, or float in [0, 1].
    size
        (width, height) of the result in pixels.

    Raises
    ------
    UserError
        Where the map does not have two axes.

    Examples
    --------
    >>> scaled_map(np.eye(2, dtype=np.uint8) * 255, (4, 6)).shape
    (6, 4)
    """
    array = np.asarray(heat)
    if array.ndim != 2 or array.size == 0:
        raise UserError(f"a map has two axes (h, w), but got shape {array.shape}; give one concept's map of one image")
    unit = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)
    resized = Image.fromarray(np.nan_to_num(unit)).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resized), 0, 1)


def heat_layer(heat: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Return a map as an RGBA image of `size` (width, height) to be laid over a view: dark where the map is low.

    A map that is zero everywhere darkens nothing.

    >>> heat_layer(np.eye(2), (8, 8)).getextrema()[3]
    (0, 163)
    """
    strength = scaled_map(heat, size)
    alpha = 255 * _VEIL_ALPHA * (1 - np.clip(strength / _LIT_FROM, 0, 1)) * bool(strength.any())
    colour = np.broadcast_to(np.array(_VEIL, dtype=np.float32), (*strength.shape, 3))
    return Image.fromarray(np.dstack([colour, alpha]).round().astype(np.uint8))


def overlay(view: Image.Image, heat: np.ndarray) -> Image.Image:
    """Return a view that a concept's map leaves lit where the concept is, and darkens elsewhere.

    Parameters
    ----------
    view
        What the model saw, RGB.
    heat
        (h, w) map at any resolution: uint8 in 0..255, or float in [0, 1].

    Examples
    --------
    >>> overlay(Image.new("RGB", (8, 6)), np.ones((2, 2))).size
    (8, 6)
    """
    base = view.convert("RGBA")
    base.alpha_composite(heat_layer(heat, view.size))
    return base.convert("RGB")


def region(heat: np.ndarray, size: tuple[int, int], *, quantile: float = OUTLINE_QUANTILE) -> np.ndarray:
    """Return where a map reaches its quantile, (height, width) bool; empty for a map that is flat.

    A map that is narrower than the quantile's share would be outlined at the level of its noise; the level is
    therefore never below half of the map's maximum. Grain finer than a fiftieth of the view is smoothed first.

    Examples
    --------
    >>> region(np.zeros((4, 4)), (8, 8)).any()
    np.False_
    """
    strength = _smoothed(scaled_map(heat, size))
    if strength.max() - strength.min() < 1e-6:
        return np.zeros(strength.shape, dtype=bool)
    return strength >= max(float(np.quantile(strength, quantile)), _LEAST_LEVEL * float(strength.max()), 1e-6)


def outline(view: Image.Image, heat: np.ndarray, *, quantile: float = OUTLINE_QUANTILE, width: int = 1) -> Image.Image:
    """Return a view with the border of the map's top region drawn on it: white inside, dark around it.

    Parameters
    ----------
    view
        What the model saw, RGB.
    heat
        (h, w) map at any resolution.
    quantile
        Share of the view's pixels that lies below the outlined level.
    width
        Thickness of each of the two lines, in pixels.

    Examples
    --------
    >>> heat = np.zeros((8, 8)); heat[3:5, 3:5] = 1
    >>> np.asarray(outline(Image.new("RGB", (32, 32), "gray"), heat)).max()
    np.uint8(255)
    """
    inside = region(heat, view.size, quantile=quantile)
    pixels = np.array(view.convert("RGB"))
    grown = _grow(inside, width)
    pixels[_grow(grown, width) & ~grown] = (20, 20, 24)
    pixels[grown & ~inside] = (255, 255, 255)
    return Image.fromarray(pixels)


def crop(view: Image.Image, box: tuple[float, float, float, float], *, size: int | None = None) -> Image.Image:
    """Return the square around a box (left, top, right, bottom; pixels), moved inside the view where it sticks out.

    Parameters
    ----------
    view
        What the model saw.
    box
        The region; a longer side decides the square's side, at most the view's shorter side.
    size
        Side of the result in pixels; the square's own side where not given.

    Examples
    --------
    >>> crop(Image.new("RGB", (100, 80)), (70, 10, 110, 30), size=32).size
    (32, 32)
    """
    square = square_box(box, view.size)
    region_image = view.crop(square)
    return region_image if size is None else region_image.resize((size, size), Image.Resampling.LANCZOS)


def square_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the square (left, top, right, bottom) in whole pixels that holds a box and lies inside `size`.

    >>> square_box((70, 10, 110, 30), (100, 80))
    (60, 0, 100, 40)
    """
    left, top, right, bottom = (float(v) for v in box)
    side = int(np.clip(round(max(right - left, bottom - top)), 1, min(size)))
    x = int(np.clip(round((left + right - side) / 2), 0, size[0] - side))
    y = int(np.clip(round((top + bottom - side) / 2), 0, size[1] - side))
    return x, y, x + side, y + side


def outlined_crop(
    view: Image.Image, heat: np.ndarray | None, box: tuple[float, float, float, float], *, size: int
) -> Image.Image:
    """Return the crop of a box with the map's outline, drawn after scaling so that the line keeps its width.

    Examples
    --------
    >>> outlined_crop(Image.new("RGB", (64, 64)), np.eye(4), (8, 8, 40, 40), size=48).size
    (48, 48)
    """
    square = square_box(box, view.size)
    scale = size / (square[2] - square[0])
    tile = view.resize((size, size), Image.Resampling.LANCZOS, box=square)
    if heat is None:
        return tile
    whole = (max(1, round(view.width * scale)), max(1, round(view.height * scale)))
    inside = region(heat, whole)
    x, y = (min(round(v * scale), limit - size) for v, limit in zip(square[:2], whole, strict=True))
    window = inside[max(y, 0) : max(y, 0) + size, max(x, 0) : max(x, 0) + size]
    return _draw_border(tile, window)


def fitted(view: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a view fitted into `size` (width, height) with grey bars where the shapes differ.

    >>> fitted(Image.new("RGB", (10, 20)), (8, 8)).size
    (8, 8)
    """
    return ImageOps.pad(view.convert("RGB"), size, Image.Resampling.LANCZOS, color=(128, 128, 128))


def _smoothed(strength: np.ndarray) -> np.ndarray:
    radius = max(strength.shape) / 50
    blurred = Image.fromarray((255 * strength).round().astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(blurred, dtype=np.float32) / 255


def _draw_border(tile: Image.Image, inside: np.ndarray) -> Image.Image:
    if not inside.any():
        return tile
    pixels = np.array(tile.convert("RGB"))
    mask = np.zeros(pixels.shape[:2], dtype=bool)
    mask[: inside.shape[0], : inside.shape[1]] = inside
    core = ~_grow(~mask, 1)
    pixels[_grow(mask, 1) & ~mask] = (20, 20, 24)
    pixels[mask & ~core] = (255, 255, 255)
    return Image.fromarray(pixels)


def _grow(mask: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask
