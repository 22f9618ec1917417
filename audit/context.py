"""What every stage of an audit needs: the split model, the store, the images, the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image

from conceptatlas.concepts import TextImageEncoder, Vocabulary
from conceptatlas.extraction import ActivationStore, Features, ImageError, SplitModel

Masks = Mapping[str, Any] | Callable[[str], Any]
TYPICAL_IMAGES = 256  # whose mean activation stands for the absence of a concept
ACTIVATIONS, CROPS = "activations", "crops"  # folders of a run
ProgressFactory = Callable[[str, int], Callable[[int], None]]


@dataclass(frozen=True)
class Settings:
    """The numbers that an audit can be tuned by; all of them are written to ``run.json``.

    Attributes
    ----------
    n_concepts
        Concepts per class, or ``"auto"``: as many as the class's margin needs, and one more where the prediction
        follows the light, colours or sharpness of whole images.
    candidates
        Numbers of concepts that ``"auto"`` chooses among.
    factorizer
        ``"auto"`` or a name that `conceptatlas.concepts.make_factorizer` knows.
    seed
        Seed of everything random.
    min_images
        Classes with fewer predicted images are listed and not fitted.
    max_rows
        Rows of activations that a factorizer is fitted on, per class.
    max_elsewhere
        Images of other classes that a class's concepts are looked for in.
    max_probe
        Images that a causal measurement (Sobol, ablation, addition, map test) runs on, per class.
    sobol_images, sobol_designs
        Images, and the most mask designs, for total Sobol indices where the head is not affine (exact and free where it
        is); half of the designs do where two fits agree.
    n_examples
        Images shown per concept.
    max_views
        Thumbnails stored per class for the strategic cluster graph.
    umap
        Use UMAP for the strategic cluster graph (PCA otherwise).
    recursion
        Whether concepts are split into parts at earlier layers: ``"off"``, ``"auto"`` (those that `RecursionRule`
        finds spread out) or ``"all"`` (every one is tried).
    """

    n_concepts: int | Literal["auto"] = "auto"
    candidates: tuple[int, ...] = (8, 12, 16, 20, 25)
    factorizer: str = "auto"
    seed: int = 0
    min_images: int = 20
    max_rows: int = 20_000
    max_elsewhere: int = 600
    max_probe: int = 32
    sobol_images: int = 12
    sobol_designs: int = 32
    n_examples: int = 10
    max_views: int = 300
    umap: bool = True
    recursion: Literal["off", "auto", "all"] = "off"


@dataclass(frozen=True)
class Context:
    """One audit under way. Rows are rows of the store, in the order of `images`."""

    split: SplitModel
    store: ActivationStore
    source: Any
    preprocess: Any
    images: pd.DataFrame
    class_names: list[str]
    run_dir: Path
    settings: Settings
    encoder: TextImageEncoder | None = None
    vocabulary: Vocabulary | None = None
    word_embeddings: np.ndarray | None = None
    batch_size: int = 64
    map_method: str | None = None
    masks: Masks | None = None
    crops: ActivationStore | None = None

    @cached_property
    def typical(self) -> torch.Tensor | None:
        """The mean activation (p,) over a sample of all images, which stands for absence; None where that is 0.

        It is 0 where no activation is negative.
        """
        rows = sample(np.arange(len(self.images)), TYPICAL_IMAGES, self.settings.seed)
        means, signed = [], False
        for _, features in self.blocks(rows):
            means.append(features.positions.float().mean(dim=1))
            signed |= bool((features.positions < 0).any())
        return torch.cat(means).mean(dim=0) if signed else None

    def predicted_as(self, index: int) -> np.ndarray:
        """Return the rows of the images that the model predicts as a class, in the order of the store."""
        return np.flatnonzero(self.images["predicted_index"].to_numpy() == index)

    def blocks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Features]]:
        """Yield batches of rows with their stored features on the model's device."""
        for start in range(0, len(rows), self.batch_size):
            chosen = rows[start : start + self.batch_size]
            yield chosen, self.features(chosen)

    def features(self, rows: np.ndarray) -> Features:
        """Return the stored features of some rows on the model's device."""
        stored = self.store.features(rows)
        prefix = None if stored.prefix is None else stored.prefix.to(self.split.device)
        return stored.replace(positions=stored.positions.to(self.split.device), prefix=prefix)

    def rows_to_fit(self, rows: np.ndarray, max_rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return activations (n, p) that concepts of some images are fitted on, and the row of the image of each, (n,).

        They are positions of these images, or crops of them where the run is one of crops.
        """
        seed = self.settings.seed
        if self.crops is None:
            activations, images, _ = self.store.rows(rows, max_rows=max_rows, seed=seed)
            return activations, images
        place = {name: index for index, name in enumerate(self.crops.sample_ids)}
        ids = self.images["sample_id"].to_numpy()
        found = {place[ids[row]]: row for row in rows if ids[row] in place}
        activations, images, _ = self.crops.rows(sorted(found), max_rows=max_rows, seed=seed)
        return activations, np.array([found[index] for index in images], dtype=np.int64)

    def view(self, row: int) -> Image.Image:
        """Return what the model saw of an image."""
        position = int(self.images["source_index"].iloc[row])
        return self.preprocess.view(self.source[position].image)

    def tensors(self, views: list[Image.Image]) -> torch.Tensor:
        """Return views as one normalised batch (b, 3, h, w) on the model's device."""
        return torch.stack([self.preprocess.tensor(view) for view in views]).to(self.split.device)

    def readable_views(self, rows: np.ndarray) -> dict[int, Image.Image]:
        """Return the views of the rows whose images can still be read; a file that has gone is left out."""
        views = {}
        for row in rows:
            try:
                views[int(row)] = self.view(int(row))
            except (ImageError, OSError):
                continue
        return views


def sample(rows: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return at most `size` of the rows, drawn without replacement, in their order."""
    if len(rows) <= size:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, size=size, replace=False))
