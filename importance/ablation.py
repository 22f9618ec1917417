"""Ablation: the output once some concepts are taken out of the activations and all else is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from conceptatlas.importance.recomposition import in_batches, select, with_positions

AblationMode = Literal["mean", "zero"]


def ablate(
    split_model: Any,
    features: Any,
    U: Any,
    W: Any,
    concepts: int | Sequence[int],
    *,
    mode: AblationMode = "mean",
    reference: Any = None,
    batch_size: int = 64,
) -> Tensor:
    """Return the outputs with concepts set to their mean, or to nothing.

    ``A' = A - sum_k (u_k - c_k) w_k`` over the ablated concepts, so that the residual and all other concepts stay.

    Parameters
    ----------
    split_model, features, U, W
        The head, activations with positions ``(B, P, p)``, coefficients ``(B, P, k)`` and directions ``(k, p)``.
    concepts
        Which to ablate.
    mode
        ``"mean"``: ``c_k`` is the reference; ``"zero"``: 0.
    reference
        ``(k,)`` mean coefficients, of the probe images; by default those of this batch.
    batch_size
        Images through the head at once; halved where memory runs out.

    Returns
    -------
    torch.Tensor
        ``(B, n_classes)``.

    Raises
    ------
    ValueError
        For an unknown mode, a concept that does not exist or shapes that do not agree.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from conceptatlas.extraction.features import Features
    >>> head = SimpleNamespace(head=lambda features: features.positions.sum(1), head_is_affine=True)
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> features = Features(U @ W, None, (1, 1))
    >>> ablate(head, features, U, W, 0, mode="zero").tolist()
    [[0.0, 1.0]]
    """
    changed = ablate_features(features, U, W, concepts, mode=mode, reference=reference)
    return _outputs(split_model, changed, batch_size)


def ablate_features(
    features: Any,
    U: Any,
    W: Any,
    concepts: int | Sequence[int],
    *,
    mode: AblationMode = "mean",
    reference: Any = None,
) -> Any:
    """Return the features that :func:`ablate` gives to the head.

    Examples
    --------
    >>> from conceptatlas.extraction.features import Features
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> features = Features(U @ W, None, (1, 1))
    >>> ablate_features(features, U, W, 0, mode="zero").positions.tolist()
    [[[0.0, 1.0]]]
    """
    if mode not in get_args(AblationMode):
        raise ValueError(f"unknown mode {mode!r}; choose mean or zero")
    positions = features.positions
    coefficients, directions = torch.as_tensor(U).to(positions), torch.as_tensor(W).to(positions)
    which = _concept_list(concepts, len(directions))
    kept = torch.zeros(len(directions)).to(positions)
    if mode == "mean":
        kept = coefficients.mean(dim=(0, 1)) if reference is None else torch.as_tensor(reference).to(positions)
    change = (coefficients[..., which] - kept[which]) @ directions[which]
    return with_positions(features, positions - change)


def project(split_model: Any, features: Any, W: Any, concepts: int | Sequence[int], *, batch_size: int = 64) -> Tensor:
    """Return the outputs with the subspace spanned by concepts projected out, ``A' = A (I - Q Q^T)``.

    Parameters
    ----------
    split_model, features, W, concepts, batch_size
        As for :func:`ablate`.

    Returns
    -------
    torch.Tensor
        ``(B, n_classes)``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from conceptatlas.extraction.features import Features
    >>> head = SimpleNamespace(head=lambda features: features.positions.sum(1), head_is_affine=True)
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> features = Features(U @ W, None, (1, 1))
    >>> project(head, features, W, 0).tolist()
    [[0.0, 1.0]]
    """
    return _outputs(split_model, project_features(features, W, concepts), batch_size)


def project_features(features: Any, W: Any, concepts: int | Sequence[int]) -> Any:
    """Return the features that :func:`project` gives to the head.

    Examples
    --------
    >>> from conceptatlas.extraction.features import Features
    >>> U, W = torch.tensor([[[3.0, 1.0]]]), torch.eye(2)
    >>> features = Features(U @ W, None, (1, 1))
    >>> project_features(features, W, [0]).positions.tolist()
    [[[0.0, 1.0]]]
    """
    directions = torch.as_tensor(W).to(features.positions)
    _, sizes, right = torch.linalg.svd(directions[_concept_list(concepts, len(directions))], full_matrices=False)
    basis = right[sizes > 1e-5 * sizes.max()]
    return with_positions(features, features.positions - (features.positions @ basis.T) @ basis)


def _concept_list(concepts: int | Sequence[int], n_concepts: int) -> list[int]:
    which = [int(concept) for concept in np.atleast_1d(np.asarray(concepts, dtype=int))]
    unknown = [concept for concept in which if not 0 <= concept < n_concepts]
    if unknown:
        raise ValueError(f"concept {unknown[0]} does not exist: there are {n_concepts}, numbered from 0")
    return which


def _outputs(split_model: Any, features: Any, batch_size: int) -> Tensor:
    every = torch.arange(len(features.positions), device=features.positions.device)

    def some(part: slice) -> Tensor:
        with torch.no_grad():
            return split_model.head(select(features, every[part]))

    return torch.cat(list(in_batches(some, len(every), batch_size)))
