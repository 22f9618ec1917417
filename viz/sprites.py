"""Sprite sheets: many small images in one WebP file, drawn by the page as windows on the sheet."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from conceptatlas.extraction.errors import UserError

COLUMNS = 10
_QUALITIES = (82, 74, 66, 56, 45, 34)
_MAX_SIDE = 16383  # WebP's limit


@dataclass(frozen=True)
class Sheet:
    """Equal cells in rows of at most `COLUMNS`, as encoded bytes.

    Attributes
    ----------
    data : bytes
        The WebP file.
    cell : tuple of int
        (width, height) of one cell in pixels.
    columns, rows : int
        Cells across and down.
    count : int
        Cells in use.
    """

    data: bytes
    cell: tuple[int, int]
    columns: int
    rows: int
    count: int

    def position(self, index: int) -> tuple[int, int]:
        """Return (column, row) of a cell.

        >>> Sheet(b"", (8, 8), 10, 2, 13).position(12)
        (2, 1)
        """
        if not 0 <= index < self.count:
            raise UserError(f"a sheet of {self.count} cells has no cell {index}")
        return index % self.columns, index // self.columns


def pack(tiles: Sequence[Image.Image], *, budget: int | None = None, lossless: bool = False) -> Sheet:
    """Return a sheet of images of one size.

    Parameters
    ----------
    tiles
        At least one image; all of one size and mode.
    budget
        Bytes that the sheet should not exceed: quality is lowered in steps until it fits (or the last step is
        reached). The first quality otherwise.
    lossless
        Keep every pixel (for small layers with transparency).

    Raises
    ------
    UserError
        Where there is nothing to pack, sizes differ, or the sheet would be larger than WebP allows.

    Examples
    --------
    >>> sheet = pack([Image.new("RGB", (8, 8), c) for c in ("red", "blue", "green")])
    >>> sheet.columns, sheet.rows, sheet.count
    (3, 1, 3)
    """
    sizes = {tile.size for tile in tiles}
    if len(sizes) != 1:
        raise UserError(f"a sheet needs images of one size, but got {sorted(sizes) or 'none'}")
    (width, height) = sizes.pop()
    columns = min(COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    if max(columns * width, rows * height) > _MAX_SIDE:
        raise UserError(f"{len(tiles)} images of {width} x {height} pixels do not fit one WebP file; pack fewer")
    canvas = Image.new(tiles[0].mode, (columns * width, rows * height))
    for i, tile in enumerate(tiles):
        canvas.paste(tile, (i % columns * width, i // columns * height))
    data = _encode(canvas, None, lossless=True) if lossless else _encode_within(canvas, budget)
    return Sheet(data, (width, height), columns, rows, len(tiles))


def _encode_within(canvas: Image.Image, budget: int | None) -> bytes:
    data = b""
    for quality in _QUALITIES:
        data = _encode(canvas, quality)
        if budget is None or len(data) <= budget:
            break
    return data


def _encode(canvas: Image.Image, quality: int | None, *, lossless: bool = False) -> bytes:
    stream = io.BytesIO()
    canvas.save(stream, "WEBP", quality=75 if quality is None else quality, method=4, lossless=lossless, exact=False)
    return stream.getvalue()
