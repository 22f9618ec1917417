"""Colours and symbols of concepts, the same on every figure and page, readable without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from conceptatlas.audit import ClassAtlas

# Middle lightness, so that one set stands out against white paper and a dark screen alike (contrast >= 3 on both);
# neighbours in the list stay apart under protanopia and deuteranopia (tests/viz/test_palette.py).
COLOURS = ("#0077B3", "#D86000", "#7A52EC", "#009B77", "#CC2255", "#6C84EC", "#9A5A80", "#D020A8")
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "star",
    "triangle-down",
    "hexagon",
    "x",
    "pentagon",
    "bowtie",
    "hourglass",
)
GREY = "#7C7F85"
OTHER_SYMBOL = "circle-open"
FOR, AGAINST = "#1F77A8", "#C4511D"
MIN_IMAGES_FOR_COLOUR = 10
PAIRS = len(COLOURS) * len(SYMBOLS) // 4  # the lists' lengths share the factor 4: so many pairs before one repeats


@dataclass(frozen=True)
class Style:
    """How one concept is drawn.

    Attributes
    ----------
    colour : str
        Hex colour; grey where the concept dominates too few images to earn one.
    symbol : str
        Plotly's name of the marker.
    coloured : bool
        Whether the concept has a colour of its own.
    """

    colour: str
    symbol: str
    coloured: bool


OTHER = Style(GREY, OTHER_SYMBOL, coloured=False)


def concept_styles(
    dominant: Sequence[int] | np.ndarray, *, min_images: int = MIN_IMAGES_FOR_COLOUR
) -> dict[int, Style]:
    """Return a style for each concept that dominates at least `min_images` images, the most frequent first.

    Concepts that are missing from the result are drawn as `OTHER`.

    Parameters
    ----------
    dominant
        (n,) concept that dominates each image.
    min_images
        Images a concept must dominate to get a colour.

    Examples
    --------
    >>> styles = concept_styles([4] * 12 + [1] * 10 + [0] * 3)
    >>> list(styles), styles[4].symbol
    ([4, 1], 'circle')
    """
    concepts, counts = np.unique(np.asarray(dominant, dtype=int), return_counts=True)
    order = np.lexsort((concepts, -counts))
    frequent = [int(concepts[i]) for i in order if counts[i] >= min_images]
    return {concept: style_at(position) for position, concept in enumerate(frequent)}


def style_at(position: int) -> Style:
    """Return the style at a position of the list: colour and symbol advance together, so pairs repeat late.

    Examples
    --------
    >>> style_at(0).colour, style_at(8).colour, style_at(8).symbol
    ('#0077B3', '#0077B3', 'x')
    """
    return Style(COLOURS[position % len(COLOURS)], SYMBOLS[position % len(SYMBOLS)], coloured=True)


def class_styles(class_atlas: ClassAtlas) -> Mapping[int, Style]:
    """Return the styles of a class's concepts, by concept id."""
    return concept_styles(class_atlas.images["dominant"].to_numpy())
