"""Artefact tokens: the few patch tokens of a transformer whose norm stands far out from all others.

They carry global information and not their place's (Darcet et al., Vision Transformers Need Registers, ICLR 2024), so
that a concept fitted on them points nowhere.
"""

from __future__ import annotations

import numpy as np

from conceptatlas.extraction.store import ActivationStore

DEVIATIONS = 8.0
LEAST_RATIO = 2.0
_GAUSSIAN = 1.4826  # from the median absolute deviation to a standard deviation


def position_norms(store: ActivationStore, *, batch: int = 256) -> np.ndarray:
    """Return the Euclidean norm of every position's activations, (n, h * w) float32."""
    norms = [np.linalg.norm(features.positions, axis=2) for _, features in store.blocks(batch)]
    return np.concatenate(norms) if norms else np.zeros((0, store.grid[0] * store.grid[1]), np.float32)


def outlying(norms: np.ndarray, *, deviations: float = DEVIATIONS, least_ratio: float = LEAST_RATIO) -> np.ndarray:
    """Return which norms are artefacts: a boolean array of the shape of `norms`.

    A norm is one if its logarithm is more than `deviations` robust standard deviations above the median, and it is more
    than `least_ratio` times the median.

    Parameters
    ----------
    norms
        Non-negative.
    deviations, least_ratio
        Both must be exceeded.

    Examples
    --------
    >>> outlying(np.array([1.0, 1.1, 0.9, 1.05, 30.0]))
    array([False, False, False, False,  True])
    """
    positive = norms[norms > 0]
    if positive.size == 0:
        return np.zeros(norms.shape, bool)
    logs = np.log(positive)
    middle = float(np.median(logs))
    spread = _GAUSSIAN * float(np.median(np.abs(logs - middle)))
    threshold = np.exp(middle + max(deviations * spread, np.log(least_ratio)))
    return norms > threshold


def artefact_positions(store: ActivationStore) -> np.ndarray:
    """Return which positions of a store hold artefacts, boolean (n, h * w).

    ``store.rows(keep=~artefact_positions(store))`` leaves them out; their sum is their number. Made for transformers:
    in a convolutional network a large norm is no artefact.
    """
    return outlying(position_norms(store))
