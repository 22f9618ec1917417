"""Units: which part of an image a row of activations stands for, with its box in the view that the model sees."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from conceptatlas.extraction.errors import UserError


@dataclass(frozen=True)
class CropSpec:
    """Square crops on a regular grid that covers the whole view, border included.

    Parameters
    ----------
    size
        Side of a crop: pixels of the view (an integer), or a share of its shorter side (a float in (0, 1]). The default
        is CRAFT's 64 of 224 pixels.
    overlap
        Least share of a crop that its neighbour covers too, in [0, 1).
    native
        Whether crops go through the model at their own size (convolutional networks only) instead of being resized to
        the model's input as in CRAFT.

    Raises
    ------
    UserError
        A value is out of range.

    Examples
    --------
    >>> CropSpec(64).boxes((224, 224))[0]
    (5, 5)
    """

    size: int | float = 64 / 224
    overlap: float = 0.2
    native: bool = False

    def __post_init__(self) -> None:
        if self.size <= 0 or (isinstance(self.size, float) and self.size > 1):
            raise UserError(f"the crop size must be a number of pixels or a share in (0, 1], not {self.size!r}.")
        if not 0 <= self.overlap < 1:
            raise UserError(f"the overlap of crops must be in [0, 1), not {self.overlap}.")

    def boxes(self, view: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray]:
        """Return the grid (rows, columns) and the boxes of all crops, row by row.

        Parameters
        ----------
        view
            Height and width of the view.

        Returns
        -------
        grid : tuple of int
        boxes : ndarray (rows * columns, 4)
            Left, top, right, bottom in pixels of the view.
        """
        side = self._side(view)
        grid = self.grid(view)
        tops, lefts = (_offsets(length, side, count) for length, count in zip(view, grid, strict=True))
        top, left = (corner.ravel() for corner in np.meshgrid(tops, lefts, indexing="ij"))
        return grid, np.stack([left, top, left + side, top + side], axis=1)

    def grid(self, view: tuple[int, int]) -> tuple[int, int]:
        """Return how many rows and columns of crops cover a view of this height and width.

        >>> CropSpec(64).grid((224, 300))
        (5, 6)
        """
        side = self._side(view)
        stride = max(1, math.floor(side * (1 - self.overlap)))
        rows, columns = (math.ceil((length - side) / stride) + 1 for length in view)
        return rows, columns

    def _side(self, view: tuple[int, int]) -> int:
        shorter = min(view)
        return min(shorter, self.size if isinstance(self.size, int) else max(1, round(self.size * shorter)))

    def to_dict(self) -> dict[str, Any]:
        """Return the values, for a record."""
        return asdict(self)


def _offsets(length: int, side: int, count: int) -> np.ndarray:
    """Return where crops begin along one side: evenly spread, the first at 0, the last ending at the border."""
    return np.rint(np.linspace(0, length - side, count)).astype(np.int64)


def cut_crops(images: torch.Tensor, boxes: np.ndarray, *, size: tuple[int, int] | None) -> torch.Tensor:
    """Return the crops of a batch of images, image by image.

    Parameters
    ----------
    images
        (B, 3, H, W).
    boxes
        (n, 4): left, top, right, bottom; all of one size.
    size
        Height and width to which crops are resized (bilinear, as in CRAFT), or None to keep their own.

    Returns
    -------
    torch.Tensor
        (B * n, 3, h, w).

    Examples
    --------
    >>> grid, boxes = CropSpec(8, 0.0).boxes((16, 24))
    >>> cut_crops(torch.zeros(2, 3, 16, 24), boxes, size=(16, 24)).shape
    torch.Size([12, 3, 16, 24])
    """
    crops = torch.stack([images[:, :, top:bottom, left:right] for left, top, right, bottom in boxes.tolist()], dim=1)
    crops = crops.flatten(0, 1)
    if size is None or tuple(crops.shape[2:]) == tuple(size):
        return crops
    return functional.interpolate(crops, size=size, mode="bilinear", align_corners=False)


def position_boxes(grid: tuple[int, int], view: tuple[int, int]) -> np.ndarray:
    """Return the cell of each position as (h * w, 4): left, top, right, bottom in pixels of the view, row by row.

    >>> position_boxes((1, 2), (10, 20)).tolist()
    [[0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 20.0, 10.0]]
    """
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    down, across = view[0] / grid[0], view[1] / grid[1]
    return np.stack([columns * across, rows * down, (columns + 1) * across, (rows + 1) * down], axis=1).astype(
        np.float32
    )
