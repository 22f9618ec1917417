"""Activations as positions and prefix tokens, whatever the layout in which the model keeps them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Features:
    """The activations of a batch at one layer.

    Attributes
    ----------
    positions
        (B, h * w, p), row by row.
    prefix
        (B, t, p): class, distillation and register tokens; None where the layer has none.
    grid
        (h, w). Activations after pooling have (1, 1); tokens that do not lie row by row on the image have (1, n).

    Examples
    --------
    >>> features = Features(torch.zeros(2, 12, 5), None, (3, 4))
    >>> features.spatial.shape
    torch.Size([2, 3, 4, 5])
    """

    positions: torch.Tensor
    prefix: torch.Tensor | None
    grid: tuple[int, int]

    @property
    def spatial(self) -> torch.Tensor:
        """The positions as a view (B, h, w, p)."""
        return self.positions.unflatten(1, self.grid)

    def replace(self, **changes: torch.Tensor | None) -> Features:
        """Return the same features with other ``positions`` or another ``prefix``."""
        return replace(self, **changes)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.positions)


def to_features(value: torch.Tensor, layout: str, grid: tuple[int, int] | None, prefix_tokens: int) -> Features:
    """Return a layer's value, in its own ``layout``, as positions and prefix tokens; views where that is possible.

    >>> to_features(torch.zeros(2, 5, 3, 4), "NCHW", (3, 4), 0).positions.shape
    torch.Size([2, 12, 5])
    """
    if layout == "NCHW":
        return Features(value.flatten(2).transpose(1, 2), None, (value.shape[2], value.shape[3]))
    if layout == "NHWC":
        return Features(value.flatten(1, 2), None, (value.shape[1], value.shape[2]))
    if layout == "NC":
        return Features(value.unsqueeze(1), None, (1, 1))
    prefix = value[:, :prefix_tokens] if prefix_tokens else None
    return Features(value[:, prefix_tokens:], prefix, grid or (1, value.shape[1] - prefix_tokens))


def to_value(features: Features, layout: str) -> torch.Tensor:
    """Return the value that the model itself would hold: the inverse of `to_features`, in memory of its own.

    The copy keeps a model that works in place from writing into the caller's tensors, and it is contiguous, since some
    heads ask for that (``x.view(len(x), -1)``).

    >>> value = torch.arange(24.).view(1, 2, 3, 4)
    >>> torch.equal(to_value(to_features(value, "NCHW", (3, 4), 0), "NCHW"), value)
    True
    """
    positions = features.positions
    if layout == "NCHW":
        positions = positions.transpose(1, 2).unflatten(2, features.grid)
    elif layout == "NHWC":
        positions = positions.unflatten(1, features.grid)
    elif layout == "NC":
        positions = positions.squeeze(1)
    elif features.prefix is not None:
        return torch.cat([features.prefix, positions], dim=1)
    return positions.clone(memory_format=torch.contiguous_format)
