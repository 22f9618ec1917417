"""Last-layer refit on concept-balanced groups: deep feature reweighting without group labels.

Source: Kirichenko, Izmailov and Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious
Correlations", ICLR 2023. Their groups are labelled by hand; here a group is a label with or without the concept.
"""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
from torch import nn

from conceptatlas.audit.context import Context
from conceptatlas.extraction.errors import UserError

STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01)


def last_linear(model: nn.Module, n_classes: int) -> tuple[str, nn.Linear]:
    """Return the name and the module of the model's last linear layer with one output per class.

    Raises
    ------
    UserError
        Where there is none.
    """
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == n_classes]
    if not found:
        raise UserError(
            f"the model ends in no linear layer with {n_classes} outputs, so its last layer cannot be refitted"
        )
    return found[-1]


def penultimate(context: Context, rows: np.ndarray) -> np.ndarray:
    """Return what enters the last linear layer for stored images, (n, q)."""
    _, layer = last_linear(context.split.model, context.split.n_classes)
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().flatten(1).cpu()))
    try:
        with torch.no_grad():
            for _, features in context.blocks(rows):
                context.split.head(features)
    finally:
        handle.remove()
    return torch.cat(seen).numpy()


def refit_last_layer(
    context: Context,
    rows: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    refits: int = 10,
    seed: int = 0,
) -> nn.Module:
    """Return a copy of the model whose last layer was fitted anew on groups of equal size.

    Parameters
    ----------
    context
        The run.
    rows, labels, groups
        (n,) rows of the store, their class indices, and the number of each one's group.
    refits
        Fits, each on its own balanced draw; their weights are averaged.
    seed
        Seed of the draws.

    Returns
    -------
    nn.Module
        Takes images as the model does. Classes without labelled images keep their weights; the new weights are
        brought to the scale of the old logits.
    """
    if len(np.unique(labels)) < 2:
        raise UserError("a refit needs images of at least two labelled classes")
    inputs = penultimate(context, rows)
    mean, spread = inputs.mean(0), inputs.std(0) + 1e-6
    standard = (inputs - mean) / spread
    strength = _best_strength(standard, labels, groups, seed)
    rng = np.random.default_rng(seed)
    fits = [_balanced_fit(standard, labels, groups, strength, rng) for _ in range(refits)]
    classes = np.unique(labels)
    weight = np.mean([w for w, _ in fits], axis=0) / spread
    bias = np.mean([b for _, b in fits], axis=0) - weight @ mean
    return _with_last_layer(context, classes, weight, bias, inputs)


def _balanced_fit(
    inputs: np.ndarray, labels: np.ndarray, groups: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    chosen = _balanced(groups, rng)
    missing = np.setdiff1d(np.unique(labels), labels[chosen])
    chosen = np.concatenate([chosen, *[np.flatnonzero(labels == m) for m in missing]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=500).fit(inputs[chosen], labels[chosen])
    if len(model.coef_) > 1:
        return model.coef_, model.intercept_
    half = model.coef_[0] / 2, model.intercept_[0] / 2  # two classes: scikit-learn keeps one row
    return np.stack([-half[0], half[0]]), np.array([-half[1], half[1]])


def _balanced(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return rows with as many of each group as the smallest has (at least 8 of each, drawn again where needed)."""
    names, counts = np.unique(groups, return_counts=True)
    size = max(int(counts.min()), 8)
    return np.concatenate(
        [
            rng.choice(np.flatnonzero(groups == g), size=size, replace=c < size)
            for g, c in zip(names, counts, strict=True)
        ]
    )


def _best_strength(inputs: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """Return the regularisation under which the worst group does best on held-out halves."""
    rng = np.random.default_rng(seed)
    half = rng.random(len(labels)) < 0.5
    scores = []
    for strength in STRENGTHS:
        weight, bias = _balanced_fit(inputs[half], labels[half], groups[half], strength, np.random.default_rng(seed))
        classes = np.unique(labels[half])
        right = classes[(inputs[~half] @ weight.T + bias).argmax(1)] == labels[~half]
        scores.append(min((right[groups[~half] == g].mean() for g in np.unique(groups[~half])), default=0.0))
    return STRENGTHS[int(np.argmax(scores))]


def _with_last_layer(
    context: Context, classes: np.ndarray, weight: np.ndarray, bias: np.ndarray, inputs: np.ndarray
) -> nn.Module:
    model = copy.deepcopy(context.split.model)
    _, layer = last_linear(model, context.split.n_classes)
    old_weight = layer.weight.detach().cpu().double().numpy()[classes]
    old_bias = layer.bias.detach().cpu().double().numpy()[classes] if layer.bias is not None else np.zeros(len(classes))
    old, new = inputs @ old_weight.T + old_bias, inputs @ weight.T + bias
    scale = old.std() / max(new.std(), 1e-12) if len(classes) < context.split.n_classes else 1.0
    shift = (old.mean() - scale * new.mean()) if len(classes) < context.split.n_classes else 0.0
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros(layer.out_features, device=layer.weight.device, dtype=layer.weight.dtype))
    with torch.no_grad():
        rows = torch.as_tensor(classes, device=layer.weight.device)
        layer.weight[rows] = torch.as_tensor(scale * weight).to(layer.weight)
        layer.bias[rows] = torch.as_tensor(scale * bias + shift).to(layer.bias)
    return model
