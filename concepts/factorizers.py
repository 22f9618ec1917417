"""Factorizers by name."""

from __future__ import annotations

import logging

from conceptatlas.concepts.baselines import PCA, KMeans, RandomDirections
from conceptatlas.concepts.estimator import Factorizer
from conceptatlas.concepts.nmf import NMF
from conceptatlas.concepts.sae import TopKSAE
from conceptatlas.concepts.seminmf import SemiNMF
from conceptatlas.extraction.errors import UserError

logger = logging.getLogger(__name__)

FACTORIZERS: dict[str, type[Factorizer]] = {
    "nmf": NMF,
    "seminmf": SemiNMF,
    "kmeans": KMeans,
    "pca": PCA,
    "topksae": TopKSAE,
    "random": RandomDirections,
}

STABLE_EXCLUSIVITY = 0.02
"""What SemiNMF is made with: a little reconstruction for components that come out again on other images."""


def make_factorizer(name: str, n_components: int, *, signed: bool, seed: int = 0) -> Factorizer:
    """Return an unfitted factorizer; ``"auto"`` takes NMF for activations >= 0, SemiNMF for signed ones, and logs it.

    Parameters
    ----------
    name
        ``"auto"`` or a key of `FACTORIZERS`, in any case.
    n_components
        Number of concepts k.
    signed
        Whether the layer has negative activations.
    seed
        Random state of the factorizer.

    Raises
    ------
    UserError
        For an unknown name, or for NMF on signed activations.

    Examples
    --------
    >>> make_factorizer("auto", 5, signed=True)
    SemiNMF(exclusivity=0.02, n_components=5, random_state=0)
    """
    key = name.lower()
    if key == "auto":
        key = "seminmf" if signed else "nmf"
        logger.info("factorizer 'auto': %s, since activations are %s", key, "signed" if signed else "non-negative")
    if key not in FACTORIZERS:
        raise UserError(f"There is no factorizer {name!r}: take 'auto' or one of {', '.join(FACTORIZERS)}.")
    if key == "nmf" and signed:
        raise UserError("NMF needs activations >= 0 and this layer is signed: take factorizer 'auto' or 'seminmf'.")
    settings = {"exclusivity": STABLE_EXCLUSIVITY} if key == "seminmf" else {}
    return FACTORIZERS[key](n_components, random_state=seed, **settings)
