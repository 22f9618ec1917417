"""The places where a model can be cut, as a list, a table and by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import nn

from conceptatlas.extraction.anatomy import Anatomy, anatomy
from conceptatlas.extraction.errors import LayerError, UserError
from conceptatlas.extraction.points import CutPoint
from conceptatlas.extraction.tracing import OutputFunction

__all__ = ["CutPoint", "cut_points", "find_cut_point"]


def cut_points(
    model: nn.Module | str,
    input_size: int | tuple[int, ...] | None = None,
    *,
    output_fn: OutputFunction | None = None,
) -> list[CutPoint]:
    """Return every place where ``model`` can be cut in two, in order of depth.

    The model is traced symbolically and run on five noise images, in evaluation mode; nothing of it is changed.

    Parameters
    ----------
    model
        A model, or the name of one, which is then made without its published weights.
    input_size
        (height, width) of the images; None for the size that the model was made for.
    output_fn
        Takes the logits (B, n) from what the model returns, where that is no tensor.

    Raises
    ------
    LayerError
        The model can be neither traced nor used through ``forward_features`` and ``forward_head``.

    Examples
    --------
    >>> pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *pool, nn.Linear(4, 2))
    >>> [(point.name, point.shape, point.signed) for point in cut_points(model, (8, 8))]
    [('0', (4, 8, 8), True), ('1', (4, 8, 8), False), ('2', (4, 1, 1), False)]
    """
    return list(anatomy(as_model(model, pretrained=False), input_size, output_fn).points)


def as_model(model: nn.Module | str, *, pretrained: bool | None = None) -> nn.Module:
    """Return the model itself, or the one of that name; compiled and data-parallel models are unwrapped."""
    if isinstance(model, str):
        from conceptatlas.extraction.models import load_model

        return load_model(model, pretrained=pretrained)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model must be a torch module, the name of one, or a pair of callables (encoder, head), not "
            f"{type(model).__name__}."
        )
    for wrapper in ("_orig_mod", "module"):
        inner = getattr(model, wrapper, None)
        if isinstance(inner, nn.Module) and len(list(model.children())) == 1 and _is_wrapper(model):
            return as_model(inner)
    return model


def _is_wrapper(model: nn.Module) -> bool:
    return type(model).__name__ in ("OptimizedModule", "DataParallel", "DistributedDataParallel")


def find_cut_point(layer: str | CutPoint, found: Anatomy, model: nn.Module) -> CutPoint:
    """Return the cut point that ``layer`` names. Raise LayerError with the reason and the nearest valid names."""
    name: Any = layer.name if isinstance(layer, CutPoint) else layer
    if not isinstance(name, str):
        raise LayerError(f"layer={layer!r} is neither a name nor a CutPoint")
    for point in found.points:
        if name == point.name:
            return point
    for point in found.points:
        if name in point.aliases:
            return point
    names = ", ".join(repr(near) for near in nearest_names(name, found.points))
    raise LayerError(f"{_reason(name, found, model)}; the nearest places to cut are {names}")


def _reason(name: str, found: Anatomy, model: nn.Module) -> str:
    if not name or name not in dict(model.named_modules()):
        return f"the model has no layer {name!r}"
    count = found.trace.calls.get(name, 0) if found.trace is not None else None
    if count == 0:
        return f"the layer {name!r} does not run by itself in the model's forward pass"
    if count is not None and count > 1:
        return f"the layer {name!r} runs {count} times in one forward pass"
    return f"the model cannot be cut after {name!r}, because other values are still needed there"


def nearest_names(name: str, points: Sequence[CutPoint], count: int = 5) -> list[str]:
    """Return the names that are most like ``name``, then the deepest ones, at most ``count``.

    >>> point = CutPoint("layer4", 0, (8, 7, 7), (7, 7), 0, "NCHW", False, 0.9)
    >>> nearest_names("layr4", [point])
    ['layer4']
    """
    owner = {label: point.name for point in points for label in (*point.aliases, point.name)}
    inside = [point.name for point in points if point.name.startswith(f"{name}.") or point.name.startswith(f"{name}#")]
    outside = [owner[name[:end]] for end in range(len(name), 0, -1) if name[:end] in owner]
    similar = [owner[label] for label in difflib.get_close_matches(name, list(owner), n=count, cutoff=0.5)]
    deepest = [point.name for point in reversed(points) if point.is_spatial]
    return list(dict.fromkeys([*inside[-2:], *outside[:1], *similar, *deepest, *(p.name for p in points)]))[:count]
