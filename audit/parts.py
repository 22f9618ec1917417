"""The parts of a class's concepts: the recursion over the images that are shown, and the crops that stand for each.

The recursion runs on whole images (a row is a position of the audited layer's grid), so that a part's strongest rows
are places in images: those are its crops.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from conceptatlas.audit.context import Context
from conceptatlas.audit.examples import SMALLEST_CROP, Box, Pool
from conceptatlas.concepts import ConceptTree, grow_tree
from conceptatlas.extraction.errors import LayerError

logger = logging.getLogger(__name__)

COLUMNS = ["node", "rank", "sample_id", "view", "left", "top", "right", "bottom"]
CROPS_PER_PART = 8
_CELLS = 2.5  # a crop's side, in cells of the grid


@dataclass(frozen=True)
class Parts:
    """The tree of a class's concepts, None where nobody asked for it, and one row per part and crop (`COLUMNS`)."""

    tree: ConceptTree | None = None
    examples: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))


def find_parts(context: Context, pool: Pool, directions: torch.Tensor, view_of: dict[int, str]) -> Parts:
    """Split the concepts of a class into parts at earlier layers, as ``settings.recursion`` says.

    Parameters
    ----------
    context, pool
        The audit, and the images of the class that the recursion looks at.
    directions
        (k, p) concepts at the audited layer.
    view_of
        Stored view of each row.

    Returns
    -------
    Parts
        Empty with ``recursion="off"``, and where no cut point with a grid lies before the audited layer (logged).
    """
    wanted = context.settings.recursion
    if wanted == "off" or not pool.views:
        return Parts()
    concepts = "auto" if wanted == "auto" else range(len(directions))
    images = context.tensors(pool.views)
    try:
        tree = grow_tree(context.split, images, directions, concepts=concepts, seed=context.settings.seed)
    except LayerError as error:
        logger.warning("no parts: %s", error)
        return Parts()
    return Parts(tree, part_table(context, pool, tree, view_of))


def part_table(context: Context, pool: Pool, tree: ConceptTree, view_of: dict[int, str]) -> pd.DataFrame:
    """Return the crops of every part, strongest first and one per image (see `COLUMNS`)."""
    grid = (int(context.store.grid[0]), int(context.store.grid[1]))
    positions = grid[0] * grid[1]
    records = []
    for node in tree.nodes:
        if node.parent is None:
            continue
        places = [divmod(i, positions) for i in node.examples]
        first = dict(reversed(places))
        strongest = list(dict.fromkeys(image for image, _ in places))
        beside = context.split.reading_offset(node.layer, grid=grid)  # of the layer that the part was found at
        for rank, image in enumerate(strongest[:CROPS_PER_PART]):
            row = int(pool.rows[image])
            box = cell_box(first[image], grid, pool.views[image].size, beside)
            records.append((node.id, rank, context.images["sample_id"].iloc[row], view_of.get(row), *box))
    return pd.DataFrame(records, columns=COLUMNS)


def cell_box(
    position: int, grid: tuple[int, int], size: tuple[int, int], beside: tuple[float, float] = (0.0, 0.0)
) -> Box:
    """Return the square (left, top, right, bottom) around what one position of a grid reads, in pixels of a view.

    Parameters
    ----------
    position
        Number of the cell, row by row.
    grid
        (rows, columns).
    size
        (width, height) of the view.
    beside
        How far below and to the right of its place a position reads the image, in cells (`SplitModel.reading_offset`).

    Examples
    --------
    >>> cell_box(0, (7, 7), (70, 70)), cell_box(24, (7, 7), (70, 70))
    ((0, 0, 25, 25), (22, 22, 47, 47))
    """
    (rows, columns), (width, height) = grid, size
    row, column = divmod(position, columns)
    shorter = min(width, height)
    side = int(np.clip(_CELLS * max(width / columns, height / rows), SMALLEST_CROP * shorter, shorter))
    left = int(np.clip((column + 0.5 + beside[1]) * width / columns - side / 2, 0, width - side))
    top = int(np.clip((row + 0.5 + beside[0]) * height / rows - side / 2, 0, height - side))
    return left, top, left + side, top + side
