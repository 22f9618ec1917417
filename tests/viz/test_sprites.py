"""Sprite sheets: every cell is found again, and a budget is kept."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from conceptatlas.extraction.errors import UserError
from conceptatlas.viz.sprites import COLUMNS, pack


def tile(seed: int, side: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_every_cell_holds_its_tile() -> None:
    shades = [Image.new("RGB", (16, 12), (10 * i, 255 - 10 * i, 40)) for i in range(23)]
    sheet = pack(shades)
    opened = np.asarray(Image.open(io.BytesIO(sheet.data)).convert("RGB"), int)
    assert (sheet.columns, sheet.rows) == (COLUMNS, 3)
    for i in range(23):
        x, y = sheet.position(i)
        middle = opened[y * 12 + 6, x * 16 + 8]
        assert np.abs(middle - (10 * i, 255 - 10 * i, 40)).max() < 12, i


def test_a_budget_lowers_the_quality_until_the_sheet_fits() -> None:
    tiles = [tile(i) for i in range(20)]
    free = len(pack(tiles).data)
    assert len(pack(tiles, budget=free * 2 // 3).data) <= free * 2 // 3


def test_the_same_tiles_give_the_same_bytes() -> None:
    assert pack([tile(1), tile(2)]).data == pack([tile(1), tile(2)]).data


def test_transparency_is_kept() -> None:
    layer = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    solid = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    alpha = np.asarray(Image.open(io.BytesIO(pack([layer, solid], lossless=True).data)).convert("RGBA"))[..., 3]
    assert alpha[:, :8].max() == 0
    assert alpha[:, 8:].min() == 255


@pytest.mark.parametrize("tiles", [[], [(8, 8), (8, 9)], [(9000, 8)] * 2])
def test_what_cannot_be_packed_is_refused(tiles: list[tuple[int, int]]) -> None:
    with pytest.raises(UserError):
        pack([Image.new("RGB", size) for size in tiles])


def test_a_cell_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="no cell 5"):
        pack([tile(0)]).position(5)
