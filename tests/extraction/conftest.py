"""Small pictures, folders and models for the tests of extraction."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conceptatlas.extraction import Features, Preprocess


def make_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a smooth coloured picture in which no two places look alike."""
    rows, columns = np.mgrid[0:height, 0:width] / max(width, height)
    phases = np.random.default_rng(seed).uniform(0, 6, size=3)
    waves = [127 + 120 * np.sin(5 * rows * (i + 1) + 7 * columns + phase) for i, phase in enumerate(phases)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))


@pytest.fixture
def picture():
    return make_picture


@pytest.fixture
def image_folder(tmp_path):
    """Return a function that writes class folders of JPEGs: ``image_folder(ants=3, bees=2)``."""

    def make(root=tmp_path / "images", *, size=(48, 40), **classes):
        seed = 0
        for name, count in classes.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                make_picture(*size, seed=seed).save(root / name / f"{number}.jpg")
                seed += 1
        return root

    return make


class TinySplit:
    """A convolutional encoder and an affine head, with the members that extraction asks of a split model."""

    class layer:  # noqa: N801 - stands for an instance
        name = "encoder"
        layout = "NCHW"

    def __init__(self, n_classes: int = 3, n_features: int = 5, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder = nn.Sequential(nn.Conv2d(3, n_features, 8, stride=8), nn.BatchNorm2d(n_features), nn.ReLU())
            self.model = nn.Sequential(encoder, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_features, n_classes))
        self.batches: list[int] = []
        self.device = torch.device("cpu")

    def to(self, device):
        self.device = torch.device(device)
        return self

    def encode(self, images):
        self.batches.append(len(images))
        maps = self.model[0](images)
        return Features(maps.flatten(2).transpose(1, 2), None, tuple(maps.shape[2:]))

    def head(self, features):
        return self.model[3](features.positions.mean(dim=1))


@pytest.fixture
def tiny_split():
    return TinySplit


@pytest.fixture
def small_input():
    """Return a preprocessing to 32 x 32 pixels."""
    return Preprocess((32, 32), 1.0, "bilinear")
