"""Activations rebuilt with some concepts changed, and the head's target on them, in batches that fit the memory.

Activations are ``A = U W + residual``. To change concepts is to change U and keep the residual, so that an unchanged U
gives back the activations, and the prediction, exactly.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from conceptatlas.importance.implicit import frozen
from conceptatlas.importance.masks import Masks, Values
from conceptatlas.importance.targets import Target

T = TypeVar("T")
_LOGGER = logging.getLogger(__name__)
_NUMBERS_PER_BATCH = {"cpu": 1_000_000}
_NUMBERS_ELSEWHERE = 32_000_000


class Features(Protocol):
    """Activations of a batch, as :class:`conceptatlas.extraction.Features` holds them."""

    @property
    def positions(self) -> Tensor:
        """``(B, P, p)``."""
        ...

    @property
    def prefix(self) -> Tensor | None:
        """``(B, t, p)`` or None."""
        ...


class SplitModel(Protocol):
    """The half of :class:`conceptatlas.extraction.SplitModel` that importance needs."""

    @property
    def head_is_affine(self) -> bool:
        """Whether the head is an affine function of the positions."""
        ...

    def head(self, features: Any) -> Tensor:
        """Return the output ``(B, n)``."""
        ...


@dataclass(frozen=True)
class Decomposition:
    """A batch of images as coefficients on concept directions, and the target that is explained.

    Attributes
    ----------
    split_model
        Its ``head`` maps features to outputs.
    features
        Activations A of the batch, positions ``(B, P, p)``; prefix tokens pass through unchanged.
    coefficients
        U, ``(B, P, k)``.
    directions
        W, ``(k, p)``.
    target
        Scalar of the output.
    batch_size
        Most rows that go through the head at once; by default from the size of an activation.
    typical
        ``(p,)``: activation that takes the place of what is taken out, or None for nothing.
    """

    split_model: SplitModel
    features: Any
    coefficients: Tensor
    directions: Tensor
    target: Target
    batch_size: int | None = None
    typical: Tensor | None = None

    @classmethod
    def build(
        cls,
        split_model: Any,
        features: Any,
        U: Any,
        W: Any,
        target: Target,
        *,
        batch_size: int | None = None,
        typical: Any = None,
    ) -> Decomposition:
        """Return the decomposition after checking that the shapes agree; U and W may be numpy arrays."""
        with torch.inference_mode(False):
            features = with_positions(features, _plain(features.positions), _plain(features.prefix))
            positions = features.positions
            coefficients, directions = (_plain(torch.as_tensor(part).to(positions)) for part in (U, W))
            if typical is not None:
                typical = _plain(torch.as_tensor(typical).to(positions))
        n, n_positions, width = positions.shape
        if directions.ndim != 2 or directions.shape[1] != width:
            raise ValueError(f"W must have shape (k, {width}), got {tuple(directions.shape)}")
        if coefficients.shape != (n, n_positions, len(directions)):
            raise ValueError(f"U must have shape {(n, n_positions, len(directions))}, got {tuple(coefficients.shape)}")
        if typical is not None and typical.shape != (width,):
            raise ValueError(f"typical must have shape {(width,)}, got {tuple(typical.shape)}")
        return cls(split_model, features, coefficients, directions, target, batch_size, typical)

    @property
    def n_images(self) -> int:
        """Images in the batch, B."""
        return len(self.coefficients)

    @property
    def n_concepts(self) -> int:
        """Concepts, k."""
        return len(self.directions)

    def rows(self) -> int:
        """Return how many rows go through the head at once."""
        if self.batch_size is not None:
            return self.batch_size
        positions = self.features.positions
        numbers = _NUMBERS_PER_BATCH.get(positions.device.type, _NUMBERS_ELSEWHERE)
        return max(1, min(1024, numbers // (positions.shape[1] * positions.shape[2])))

    def rescaled(self, images: Tensor, masks: Tensor) -> Any:
        """Return the features of `images` ``(n,)`` with their coefficients times `masks` ``(n, k)``."""
        taken = (masks - 1.0)[:, None, :]
        change = (self.coefficients[images] * taken) @ self.directions
        if self.typical is not None:
            change = change - (self.shares[images] * taken).sum(dim=2, keepdim=True) * self.typical
        return with_positions(select(self.features, images), self.features.positions[images] + change)

    @cached_property
    def shares(self) -> Tensor:
        """Which share of each activation each concept makes up, ``(B, P, k)``: its part along the activation."""
        with torch.inference_mode(False), torch.no_grad():
            positions = self.features.positions
            squares = positions.square().sum(dim=2, keepdim=True).clamp(min=torch.finfo(positions.dtype).tiny)
            return self.coefficients * (positions @ self.directions.T) / squares

    def residual(self, images: Tensor) -> Tensor:
        """Return what goes from the positions of `images` with the part that no concept explains, ``(n, P, p)``."""
        left = self.features.positions[images] - self.coefficients[images] @ self.directions
        if self.typical is None:
            return left
        return left - (1.0 - self.shares[images].sum(dim=2, keepdim=True)) * self.typical

    def along(self, images: Tensor, gradient: Tensor) -> Tensor:
        """Return how far the whole of each concept moves `images` along a gradient ``(n, P, p)``: ``(n, k)``."""
        moved = (self.coefficients[images].to(gradient) * (gradient @ self.directions.to(gradient).T)).sum(dim=1)
        if self.typical is None:
            return moved
        return moved - (self.shares[images].to(gradient) * (gradient @ self.typical.to(gradient))[..., None]).sum(dim=1)

    def score(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the target of `images` ``(n,)`` under `masks` ``(n, k)``, ``(n,)``."""
        return self.target(self.split_model.head(self.rescaled(images, masks)))

    def outputs(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the head's outputs under masks, in batches and without gradients, ``(n, n_classes)``."""

        def some(part: slice) -> Tensor:
            with torch.no_grad():
                return self.split_model.head(self.rescaled(images[part], masks[part].to(self.directions)))

        return torch.cat(list(in_batches(some, len(images), self.rows())))

    def scores(self, masks: Masks, images: np.ndarray) -> Values:
        """Return the target of every one of `images` ``(b,)`` under every mask ``(n, k)``: ``(n, b)``."""
        which, repeated = self._crossed(masks, images)
        values = self.target(self.outputs(which, repeated))
        return _to_numpy(values).reshape(len(masks), len(images))

    def scores_and_slopes(self, masks: Masks, images: np.ndarray) -> tuple[Values, Values]:
        """Return targets ``(n, b)`` and their gradients by the masks ``(n, k, b)``."""

        def some(part: slice) -> tuple[Tensor, Tensor]:
            leaf = repeated[part].clone().requires_grad_()
            value = self.score(which[part], leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
            return value.detach(), slope

        with differentiated(self.split_model):
            which, repeated = self._crossed(masks, images)
            pieces = list(in_batches(some, len(which), self.rows()))
        shape = (len(masks), len(images))
        slopes = _to_numpy(torch.cat([slope for _, slope in pieces])).reshape(*shape, self.n_concepts)
        return _to_numpy(torch.cat([value for value, _ in pieces])).reshape(shape), slopes.swapaxes(1, 2)

    def is_differentiable(self) -> bool:
        """Say whether the target of the first image carries a gradient."""
        with differentiated(self.split_model):
            first = torch.zeros(1, dtype=torch.long, device=self.directions.device)
            leaf = torch.ones(1, self.n_concepts).to(self.directions).requires_grad_()
            value = self.score(first, leaf)
            return value.requires_grad and torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0] is not None

    def _crossed(self, masks: Masks, images: np.ndarray) -> tuple[Tensor, Tensor]:
        device = self.directions.device
        which = torch.as_tensor(np.tile(images, len(masks)), device=device)
        repeated = torch.as_tensor(masks).to(self.directions).repeat_interleave(len(images), dim=0)
        return which, repeated


@contextmanager
def differentiated(split_model: Any) -> Iterator[None]:
    """Build graphs of gradients meanwhile, also within inference mode, and none by the weights of the model."""
    model = getattr(split_model, "model", None)
    weights = frozen(model) if isinstance(model, torch.nn.Module) else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), weights:
        yield


def with_positions(features: Any, positions: Tensor, prefix: Tensor | None = None) -> Any:
    """Return `features` with other positions ``(B, P, p)``, and with another prefix where one is given."""
    changes = {"positions": positions} if prefix is None else {"positions": positions, "prefix": prefix}
    return dataclasses.replace(features, **changes)


def select(features: Any, images: Tensor) -> Any:
    """Return the features of `images` ``(n,)``, which may repeat."""
    prefix = features.prefix[images] if features.prefix is not None else None
    return dataclasses.replace(features, positions=features.positions[images], prefix=prefix)


def in_batches(function: Callable[[slice], T], n_rows: int, size: int) -> Iterator[T]:
    """Yield `function` of successive slices of at most `size` rows, halving the size where memory runs out."""
    start = 0
    while start < n_rows:
        try:
            result = function(slice(start, start + size))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            torch.cuda.empty_cache()
            _LOGGER.warning("out of memory: going on with batches of %d rows", size)
            continue
        yield result
        start += size


def _plain(values: Any) -> Any:
    """Return a tensor that autograd can start from: without a history, and copied where inference mode made it."""
    if not isinstance(values, Tensor):
        return values
    return values.clone() if values.is_inference() else values.detach()


def _to_numpy(values: Tensor) -> Values:
    return values.detach().double().cpu().numpy()
