"""A small split model with an affine or a bending head, planted so that every contribution is known."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PlainFeatures:
    positions: Tensor
    prefix: Tensor | None = None
    grid: tuple[int, int] = (2, 2)

    @property
    def spatial(self) -> Tensor:
        return self.positions.unflatten(1, self.grid)

    def replace(self, **changes: Tensor) -> "PlainFeatures":
        return replace(self, **changes)


class PlainSplit:
    """A head alone: mean over the positions, then a module; it counts the rows that go through."""

    def __init__(self, module: nn.Module, *, is_affine: bool) -> None:
        self.module = module.eval()
        self.head_is_affine = is_affine
        self.rows = 0
        self.largest = 0

    def head(self, features: PlainFeatures) -> Tensor:
        self.rows += len(features.positions)
        self.largest = max(self.largest, len(features.positions))
        pooled = features.positions.mean(dim=1)
        if features.prefix is not None:
            pooled = pooled + features.prefix.sum(dim=1)
        return self.module(pooled)


@dataclass(frozen=True)
class Planted:
    split_model: PlainSplit
    features: PlainFeatures
    U: Tensor
    W: Tensor


@pytest.fixture
def make_planted():
    """Return a builder of planted decompositions."""

    def make(
        head: str = "affine",
        *,
        n_images: int = 6,
        n_concepts: int = 8,
        width: int = 24,
        n_classes: int = 5,
        residual: float = 0.1,
        prefix: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Planted:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=dtype)

        W = nn.functional.normalize(normal(n_concepts, width), dim=1)
        U = torch.relu(normal(n_images, 4, n_concepts))
        positions = U @ W + residual * normal(n_images, 4, width)
        if head == "affine":
            module: nn.Module = nn.Linear(width, n_classes, dtype=dtype)
        else:
            module = nn.Sequential(
                nn.Linear(width, 32, dtype=dtype),
                nn.GELU(),
                nn.LayerNorm(32, dtype=dtype),
                nn.Linear(32, n_classes, dtype=dtype),
            )
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(normal(*parameter.shape) * (1.0 if parameter.ndim == 1 else 1.5))
        module.requires_grad_(False)
        features = PlainFeatures(positions, normal(n_images, 1, width) if prefix else None)
        return Planted(PlainSplit(module, is_affine=head == "affine"), features, U, W)

    return make


@pytest.fixture
def affine(make_planted) -> Planted:
    return make_planted("affine")


@pytest.fixture
def bending(make_planted) -> Planted:
    return make_planted("bending")


@pytest.fixture
def relative():
    """Return a function: total-variation distance of two sets of indices, each divided by its sum."""

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        return float(np.abs(first / first.sum() - second / second.sum()).sum() / 2)

    return distance
