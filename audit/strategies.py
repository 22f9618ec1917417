"""Strategies: which concepts the model decides by, image by image, and how often it is right when it does.

Source: Fel et al., "A Holistic Approach to Unifying Automatic Concept Extraction and Concept Importance
Estimation", NeurIPS 2023, section 4 (strategic cluster graph, prevalence, reliability).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from conceptatlas.audit.statistics import wilson
from conceptatlas.importance.tabled import Tabled

MIN_IMAGES_FOR_UMAP = 15
MIN_IMAGES_FOR_CLUSTERS = 10


@dataclass(frozen=True)
class Strategies(Tabled):
    """The data of a strategic cluster graph.

    Attributes
    ----------
    dominant
        (n,) id of the concept that contributes most to each image's class score.
    position
        (n, 2) place of each image in the plane; close images are classified for the same concepts.
    cluster
        (n,) cluster number, -1 for images that belong to none.
    table
        One row per dominant concept: ``concept, n_images, prevalence, reliability, reliability_low,
        reliability_high``; the most prevalent first.
    embedding
        ``"umap"``, ``"pca"`` or ``"none"``.
    """

    dominant: np.ndarray
    position: np.ndarray
    cluster: np.ndarray
    table: pd.DataFrame
    embedding: str

    def to_frame(self) -> pd.DataFrame:
        """Return the strategies' table."""
        return self.table


def find_strategies(contributions: np.ndarray, correct: np.ndarray, *, seed: int = 0, umap: bool = True) -> Strategies:
    """Group the images of a class by the concepts that they are classified for.

    Parameters
    ----------
    contributions
        (n, k) signed contribution of each concept to each image's class score.
    correct
        (n,) 1.0 where the prediction is right, 0.0 where it is wrong, NaN where no label is known.
    seed
        Seed of the embedding.
    umap
        Use UMAP where there are enough images; PCA otherwise.
    """
    shares = normalised(contributions)
    dominant = contributions.argmax(1) if contributions.size else np.zeros(len(contributions), dtype=int)
    position, embedding = embed(shares, seed=seed, umap=umap)
    return Strategies(
        dominant=dominant,
        position=position,
        cluster=clusters_of(shares),
        table=prevalence_table(dominant, correct),
        embedding=embedding,
    )


def normalised(contributions: np.ndarray) -> np.ndarray:
    """Return contributions divided by each image's sum of magnitudes; rows of zeros stay zero."""
    size = np.abs(contributions).sum(1, keepdims=True)
    return np.divide(contributions, size, out=np.zeros_like(contributions, dtype=np.float64), where=size > 0)


def embed(shares: np.ndarray, *, seed: int = 0, umap: bool = True) -> tuple[np.ndarray, str]:
    """Return a 2-D embedding of importance vectors and the method's name.

    UMAP (cosine, 15 neighbours) from 15 images on, PCA below that; a single image lies at the origin.
    """
    n, k = shares.shape
    if n < 2 or k < 2 or np.allclose(shares, shares[:1]):
        return np.zeros((n, 2)), "none"
    if umap and n >= MIN_IMAGES_FOR_UMAP:
        return _umap(shares, seed), "umap"
    return _principal_plane(shares), "pca"


def _umap(shares: np.ndarray, seed: int) -> np.ndarray:
    """Return UMAP's plane. The neighbours are found here: below 4096 rows UMAP would call Python for every pair."""
    from sklearn.neighbors import NearestNeighbors

    rooted = (np.sign(shares) * np.sqrt(np.abs(shares))).astype(np.float32)
    neighbours = min(15, len(shares) - 1)
    distances, indices = NearestNeighbors(n_neighbors=neighbours).fit(rooted).kneighbors(rooted)
    with warnings.catch_warnings(), _kept_threads():
        warnings.simplefilter("ignore")  # deprecations inside umap and numba, and "n_jobs overridden by the seed"
        from umap import UMAP

        start = _principal_plane(shares)
        start = start / max(start.std(), 1e-12) * 10 + np.random.default_rng(seed).normal(scale=1e-3, size=start.shape)
        model = UMAP(
            n_neighbors=neighbours,
            min_dist=0.1,
            metric="euclidean",
            init=start,
            n_epochs=300,
            random_state=seed,
            n_jobs=1,
            precomputed_knn=(indices, distances.astype(np.float32)),
        )
        return np.asarray(model.fit_transform(rooted), dtype=np.float64)


@contextmanager
def _kept_threads() -> Iterator[None]:
    """Leave torch as many threads as it had: numba, when it first runs, gives OpenMP all of the machine's."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _principal_plane(shares: np.ndarray) -> np.ndarray:
    centred = shares - shares.mean(0)
    left, size, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])  # the sign of a singular vector is arbitrary
    plane = (left * size * signs)[:, :2]
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))


def clusters_of(shares: np.ndarray) -> np.ndarray:
    """Return a cluster number for each image (HDBSCAN on the square roots of the shares), -1 for none."""
    if len(shares) < MIN_IMAGES_FOR_CLUSTERS:
        return np.full(len(shares), -1)
    from sklearn.cluster import HDBSCAN

    size = max(5, len(shares) // 20)
    rooted = np.sign(shares) * np.sqrt(np.abs(shares))
    return HDBSCAN(min_cluster_size=size, copy=True).fit_predict(rooted)


def prevalence_table(dominant: np.ndarray, correct: np.ndarray) -> pd.DataFrame:
    """Return prevalence and reliability of each dominant concept, with a 95 % Wilson interval.

    Prevalence is the share of images that the concept dominates (sums to 1). Reliability is the accuracy on those
    among them that have a label, NaN where none has.
    """
    rows = []
    for concept in np.unique(dominant):
        chosen = correct[dominant == concept]
        known = chosen[~np.isnan(chosen)]
        low, high = wilson(known.sum(), len(known)) if len(known) else (np.nan, np.nan)
        rows.append(
            {
                "concept": int(concept),
                "n_images": len(chosen),
                "prevalence": len(chosen) / len(dominant),
                "reliability": known.mean() if len(known) else np.nan,
                "reliability_low": low,
                "reliability_high": high,
            }
        )
    columns = ["concept", "n_images", "prevalence", "reliability", "reliability_low", "reliability_high"]
    return pd.DataFrame(rows, columns=columns).sort_values("prevalence", ascending=False, ignore_index=True)
