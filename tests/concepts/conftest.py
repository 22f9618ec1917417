"""What several tests of this folder need."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest


@dataclass
class StubEncoder:
    """A text-image encoder that knows given attributes: one axis each, noise on images, strangers for other words.

    An image is a region's set of attributes. A known word is its attribute's axis, a little off; an unknown word is a
    fixed random direction, the same in every call.
    """

    attributes: tuple[str, ...]
    dim: int = 64
    noise: float = 0.1
    seed: int = 0
    id: str = "stub"

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        self.axes = np.linalg.qr(rng.standard_normal((self.dim, self.dim)))[0]
        self.calls = 0

    def encode_images(self, images):
        self.calls += 1
        known = np.array([[attribute in image for attribute in self.attributes] for image in images], dtype=float)
        rng = np.random.default_rng((self.seed, len(images)))
        rows = known @ self.axes[: len(self.attributes)] + self.axes[-1]
        return self._unit(rows + self.noise * rng.standard_normal((len(images), self.dim)))

    def encode_texts(self, texts):
        self.calls += 1
        return self._unit(np.stack([self._word(text) for text in texts]))

    def _word(self, text):
        code = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        stranger = np.random.default_rng(code).standard_normal(self.dim) / np.sqrt(self.dim)
        known = [self.axes[i] for i, attribute in enumerate(self.attributes) if attribute in text]
        return 0.2 * stranger + np.sum(known, axis=0) if known else stranger

    @staticmethod
    def _unit(rows):
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def stub_encoder():
    """Makes a `StubEncoder`."""
    return StubEncoder


@dataclass(frozen=True)
class Regions:
    """Regions of images with planted attributes: their embeddings, presences, images."""

    embeddings: np.ndarray
    presence: np.ndarray
    groups: np.ndarray
    truth: np.ndarray
    encoder: StubEncoder


@pytest.fixture
def planted_regions():
    """Makes regions in which each attribute of an encoder is there by chance, and a concept that fires on each."""

    def make(attributes, *, n_images=150, per_image=4, share=0.3, blur=0.1, seed=0, noise=0.1):
        rng = np.random.default_rng(seed)
        encoder = StubEncoder(tuple(attributes), noise=noise, seed=seed)
        truth = rng.random((n_images * per_image, len(attributes))) < share
        regions = [{a for a, there in zip(attributes, row, strict=True) if there} for row in truth]
        presence = np.clip(truth * rng.uniform(0.5, 1, truth.shape) + blur * rng.random(truth.shape), 0, None)
        groups = np.repeat(np.arange(n_images), per_image)
        return Regions(encoder.encode_images(regions), presence.astype(np.float32), groups, truth, encoder)

    return make
