"""A model in two halves: images to activations, activations to logits, and nothing lost between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from conceptatlas.extraction.anatomy import Anatomy, anatomy
from conceptatlas.extraction.cutpoints import as_model, find_cut_point
from conceptatlas.extraction.errors import LayerError, UserError
from conceptatlas.extraction.features import Features, to_features, to_value
from conceptatlas.extraction.locality import reading_offset
from conceptatlas.extraction.pairs import Stretch, as_pair
from conceptatlas.extraction.points import CutPoint
from conceptatlas.extraction.products import products_by_onednn
from conceptatlas.extraction.tracing import OutputFunction, evaluated

__all__ = ["Features", "SplitModel", "split"]

Layer = str | CutPoint
_OFFSET_IMAGES = 16  # of noise


class SplitModel:
    """A model cut at one layer: ``head(encode(images))`` equals ``model(images)``.

    Each call runs in evaluation mode and leaves every module in the mode in which it was. Gradients flow unless the
    caller turns them off.

    Attributes
    ----------
    model
        The model itself, unchanged.
    layer
        The cut point.
    cut_points
        All cut points of the model, in order of depth.
    choice
        How the layer was chosen: ``method`` ("asked", "measured", "structure"), ``layer``, ``reason`` and, where it was
        measured, a ``table`` with a row for each candidate.
    n_classes
        The length of the output; for an embedding model, that of the embedding.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: CutPoint,
        found: Anatomy,
        *,
        output_fn: OutputFunction | None = None,
        choice: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.layer = layer
        self.cut_points = list(found.points)
        self.n_classes = found.n_outputs
        self.choice = choice or {"method": "asked", "layer": layer.name, "reason": "named by the caller"}
        self._anatomy = found
        self._output_fn = output_fn
        self._root = found.root(model, output_fn)
        self._parts = list(model.modules())
        self._offsets: dict[str, tuple[float, float]] = {}

    @property
    def device(self) -> torch.device:
        """The device of the model's parameters."""
        return next(self.model.parameters(), torch.empty(0)).device

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self._anatomy.input_size

    def to(self, device: torch.device | str) -> SplitModel:
        """Move the model, and with it both halves, to a device; returns itself, as torch does."""
        self.model.to(device)
        for name in self._anatomy.trace.constants if self._anatomy.trace is not None else ():
            constant = getattr(self._root, name)
            setattr(self._root, name, constant.to(device) if isinstance(constant, torch.Tensor) else constant)
        return self

    def __reduce__(self) -> tuple[Callable[..., SplitModel], tuple[Any, ...]]:
        """Pickle and copy by the model and the layer's name; the copy is traced again."""
        size = (self._anatomy.channels, *self.input_size)
        return _rebuilt, (self.model, self.layer.name, size, self._output_fn, self.choice)

    def at(self, layer: Layer) -> SplitModel:
        """Return the same model cut at another layer, without tracing it again."""
        point = find_cut_point(layer, self._anatomy, self.model)
        return SplitModel(self.model, point, self._anatomy, output_fn=self._output_fn)

    def encode(self, images: torch.Tensor) -> Features:
        """Return the activations of normalised ``images`` (B, C, H, W) at the layer.

        Raises UserError where the images do not have the size for which the model was split.
        """
        return self._features(self._run(None, self.layer, self._checked(images)), self.layer)

    def head(self, features: Features) -> torch.Tensor:
        """Return the output (B, n_classes) for activations, in any batch size."""
        self._check_features(features)
        value = to_value(features, self.layer.layout).to(self.device)
        output = self._run(self.layer, None, value)
        return output if output.ndim == 2 else output.unsqueeze(1)

    def encode_through(self, images: torch.Tensor, layers: Sequence[Layer]) -> tuple[Features, ...]:
        """Return the activations at each earlier layer and, lastly, at `layer`, from one forward pass.

        They are joined by autograd: each later one is computed from the positions (and prefix) of the one before it, so
        that ``torch.autograd.grad(f(last.positions), earlier.positions)`` works, whether or not parameters or images
        need gradients.

        Parameters
        ----------
        images
            (B, C, H, W), normalised.
        layers
            Cut points before `layer`, in order of depth.
        """
        points = [find_cut_point(layer, self._anatomy, self.model) for layer in layers] + [self.layer]
        if any(a.index >= b.index for a, b in zip(points, points[1:], strict=False)):
            names = ", ".join(point.name for point in points)
            raise LayerError(f"the layers must come one after another before {self.layer.name!r}, but are {names}")
        value, start, found = self._checked(images), None, []
        for point in points:
            features = _differentiable(self._features(self._run(start, point, value), point))
            found.append(features)
            if point is not self.layer:
                value, start = to_value(features, point.layout), point
        return tuple(found)

    def reading_offset(self, layer: Layer | None = None, *, grid: tuple[int, ...] | None = None) -> tuple[float, float]:
        """Return how far below and to the right of its place a position of a layer reads the image, in cells.

        The cells are those of the layer, or of a coarser `grid` to which its own is pooled. Measured once, by gradients
        on noise (`locality.reading_offset`); 0 for layers that have no grid or no gradient.
        """
        point = self.layer if layer is None else find_cut_point(layer, self._anatomy, self.model)
        if point.name not in self._offsets:
            self._offsets[point.name] = self._measured_offset(point)
        down, right = self._offsets[point.name]
        if grid is None or point.grid is None:
            return down, right
        return down * grid[0] / point.grid[0], right * grid[1] / point.grid[1]

    def _measured_offset(self, point: CutPoint) -> tuple[float, float]:
        if point.grid is None or min(point.grid) < 2:
            return 0.0, 0.0
        shape = (_OFFSET_IMAGES, self._anatomy.channels, *self.input_size)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode(False), torch.enable_grad():
            return reading_offset(
                lambda pixels: self._features(self._run(None, point, pixels), point).positions,
                self._checked(images),
                point.grid,
            )

    @cached_property
    def head_is_affine(self) -> bool:
        """Whether the output is an affine function of the mean over positions (and of the prefix tokens).

        Decided numerically, once, on random activations: f(a) + f(b) - f(0) = f(a + b),
        f(t a) - f(0) = t (f(a) - f(0)), and f(a) = f(mean of a over the positions).
        """
        from conceptatlas.extraction.probe import is_affine

        return is_affine(self)

    def _run(self, start: CutPoint | None, stop: CutPoint | None, value: torch.Tensor) -> Any:
        part: Stretch = self._anatomy.stretch(self._root, start, stop)
        with self._evaluated(), products_by_onednn():
            return part(value)

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        if any(part.training for part in self._parts):
            with evaluated(self.model):
                yield
        else:
            yield

    def _features(self, value: torch.Tensor, point: CutPoint) -> Features:
        return to_features(value, point.layout, point.grid, point.prefix_tokens)

    def _checked(self, images: torch.Tensor) -> torch.Tensor:
        expected = (self._anatomy.channels, *self.input_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise UserError(
                f"images of shape {tuple(images.shape)} given to a model that was split for {('B', *expected)}; "
                f"resize them, or split with input_size={tuple(images.shape[-2:])}"
            )
        parameter = next(self.model.parameters(), images)
        return images.to(device=parameter.device, dtype=parameter.dtype if parameter.is_floating_point() else None)

    def _check_features(self, features: Features) -> None:
        tokens = 0 if features.prefix is None else features.prefix.shape[1]
        rows, width = features.positions.shape[1:]
        expected = self._features(torch.empty(1, *self.layer.shape, device="meta"), self.layer)
        wanted = tuple(expected.positions.shape[1:])
        if (rows, width) != wanted or tokens != self.layer.prefix_tokens:
            raise UserError(
                f"the layer {self.layer.name!r} has positions (B, {wanted[0]}, {wanted[1]}) and "
                f"{self.layer.prefix_tokens} prefix tokens, not {tuple(features.positions.shape)} and {tokens}"
            )


def _differentiable(features: Features) -> Features:
    """Make positions and prefix nodes of the autograd graph, also where nothing before them needs a gradient."""
    if not torch.is_grad_enabled() or features.positions.requires_grad:
        return features
    prefix = None if features.prefix is None else features.prefix.detach().requires_grad_()
    return features.replace(positions=features.positions.detach().requires_grad_(), prefix=prefix)


def _rebuilt(
    model: nn.Module, layer: str, size: tuple[int, ...], output_fn: OutputFunction | None, choice: dict[str, Any]
) -> SplitModel:
    found = anatomy(model, size, output_fn)
    return SplitModel(model, find_cut_point(layer, found, model), found, output_fn=output_fn, choice=choice)


def split(
    model: nn.Module | str | tuple[Callable[..., Any], Callable[..., Any]],
    layer: Layer = "auto",
    *,
    input_size: int | tuple[int, ...] | None = None,
    probe: torch.Tensor | None = None,
    output_fn: OutputFunction | None = None,
) -> SplitModel:
    """Cut a model in two at a layer.

    Parameters
    ----------
    model
        A model, the name of one, or a pair of callables ``(encoder, head)``.
    layer
        The name of a cut point, a CutPoint, or ``"auto"``: the deepest layer where the image still sits in the
        positions (`probe.choose_layer`).
    input_size
        (height, width) of the images; None for the size that the model was made for.
    probe
        Normalised images (B, C, H, W) on which ``"auto"`` measures; 32 to 128 of the user's own are enough.
    output_fn
        Takes the logits (B, n) from what the model returns, where that is no tensor.

    Raises
    ------
    LayerError
        The layer does not exist, or the model cannot be cut there; the message lists the nearest valid names.

    Examples
    --------
    >>> pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *pool, nn.Linear(4, 2))
    >>> halves = split(model, "1", input_size=(8, 8))
    >>> images = torch.rand(5, 3, 8, 8)
    >>> features = halves.encode(images)
    >>> features.positions.shape, torch.equal(halves.head(features), model(images)), halves.head_is_affine
    (torch.Size([5, 64, 4]), True, True)
    """
    whole = as_pair(model) if isinstance(model, (tuple, list)) else as_model(model)
    found = anatomy(whole, input_size, output_fn)
    if isinstance(layer, str) and layer == "auto":
        from conceptatlas.extraction.probe import choose_layer

        return choose_layer(SplitModel(whole, found.points[-1], found, output_fn=output_fn), probe)
    return SplitModel(whole, find_cut_point(layer, found, whole), found, output_fn=output_fn)
