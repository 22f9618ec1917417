"""A model that is used as a pair of functions: an encoder and a head."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.tracing import Root

Stretch = Callable[[torch.Tensor], Any]


class Pair(nn.Module):
    """A user's ``(encoder, head)`` as one model: ``forward_features`` is the encoder, ``forward_head`` the head."""

    def __init__(self, encoder: Callable[..., Any], head: Callable[..., Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward_features(self, images: torch.Tensor) -> Any:
        """Return the encoder's activations."""
        return self.encoder(images)

    def forward_head(self, value: torch.Tensor) -> Any:
        """Return the head's output."""
        return self.head(value)

    def forward(self, images: torch.Tensor) -> Any:
        """Return the head's output for the encoder's activations."""
        return self.head(self.encoder(images))


def as_pair(pair: Sequence[Any]) -> Pair:
    """Return two callables as one model.

    Raises
    ------
    UserError
        They are not two, or not callable.

    Examples
    --------
    >>> as_pair((torch.relu, torch.sum))(torch.tensor([-1.0, 2.0]))
    tensor(2.)
    """
    if len(pair) != 2 or not all(callable(part) for part in pair):
        raise UserError("a model given in parts must be a pair of callables (encoder, head)")
    return Pair(pair[0], pair[1])


def encoder_of(model: Any) -> Stretch:
    """Return the first half, ``forward_features``; several tensors come packed into one."""
    return lambda images: packed(model.forward_features(images))


def head_of(root: Root, parts: Sequence[tuple[int, ...]]) -> Stretch:
    """Return the second half, ``forward_head``, then the output function; ``parts`` are the packed tensors' shapes."""
    model: Any = root.model

    def head(value: torch.Tensor) -> Any:
        return root.logits_of(model.forward_head(unpacked(value, parts) if parts else value))

    return head


def packed(value: Any) -> Any:
    """Return several tensors (a network of two branches, say) as one row of numbers per image; one tensor as it is."""
    if not is_several(value):
        return value
    return torch.cat([part.flatten(1) for part in value], dim=1)


def unpacked(value: torch.Tensor, parts: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Return the tensors that `packed` has put into one row; ``parts`` are their shapes for one image."""
    rows = value.split([math.prod(shape) for shape in parts], dim=1)
    return [row.unflatten(1, shape) for row, shape in zip(rows, parts, strict=True)]


def is_several(value: Any) -> bool:
    """Say whether an encoder has returned more than one tensor."""
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(v, torch.Tensor) for v in value)
