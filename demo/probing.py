"""Linear probes: a frozen network with a new last layer, fitted in seconds on images in which something was planted."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def linear_probe(
    model: nn.Module, images: torch.Tensor, labels: NDArray[np.int64], class_names: Sequence[str], *, batch: int = 32
) -> nn.Module:
    """Return a copy of a timm classifier whose last layer was fitted anew by logistic regression.

    Parameters
    ----------
    model
        A timm model with ``forward_features``, ``forward_head`` and ``reset_classifier``.
    images
        (n, 3, h, w), normalised.
    labels
        (n,) class indices, 0 to ``len(class_names) - 1``.
    class_names
        Names of the new classes; kept in the model's configuration.
    batch
        Images per forward pass.

    Raises
    ------
    ValueError
        If fewer than two classes have images.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        raise ValueError("a probe needs images of at least two classes")
    probe: Any = copy.deepcopy(model).eval()
    with torch.inference_mode():
        seen = [probe.forward_head(probe.forward_features(x), pre_logits=True) for x in images.split(batch)]
    inputs = torch.cat(seen).double().numpy()
    mean, spread = inputs.mean(0), inputs.std(0) + 1e-6
    fitted = LogisticRegression(C=0.1, max_iter=2000).fit((inputs - mean) / spread, labels)
    weight, bias = np.zeros((len(class_names), inputs.shape[1])), np.full(len(class_names), -20.0)
    rows, offsets = fitted.coef_, fitted.intercept_
    if len(rows) == 1:
        rows, offsets = np.concatenate([-rows / 2, rows / 2]), np.concatenate([-offsets / 2, offsets / 2])
    weight[fitted.classes_] = rows / spread
    bias[fitted.classes_] = offsets - weight[fitted.classes_] @ mean
    probe.reset_classifier(len(class_names))
    last = [m for m in probe.modules() if isinstance(m, nn.Linear) and m.out_features == len(class_names)][-1]
    with torch.no_grad():
        last.weight.copy_(torch.as_tensor(weight))
        last.bias.copy_(torch.as_tensor(bias))
    probe.pretrained_cfg = {**probe.pretrained_cfg, "num_classes": len(class_names), "label_names": tuple(class_names)}
    return probe.eval()
