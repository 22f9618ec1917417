"""A model laid open: traced, run once on noise, checked against itself, and remembered for as long as it lives."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from conceptatlas.extraction.errors import LayerError, UserError
from conceptatlas.extraction.layouts import Grid, Layout, Surroundings, declared_prefix_tokens, layout_of, patch_grid
from conceptatlas.extraction.liveness import bottlenecks, image_values
from conceptatlas.extraction.locality import is_scrambled, noise_images
from conceptatlas.extraction.pairs import Pair, Stretch, encoder_of, head_of, is_several, packed
from conceptatlas.extraction.points import CutPoint, Group, cut_points_of, group_cuts
from conceptatlas.extraction.segments import BatchShape, Segment, measure_shapes, segment
from conceptatlas.extraction.sizes import image_shape
from conceptatlas.extraction.tracing import OutputFunction, Root, Trace, evaluated, trace

logger = logging.getLogger(__name__)

WHOLE = "forward_features"  # the one cut point of a model that is taken as a pair of functions

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}  # of the output's largest value; half precision: 2 %
_remembered: WeakKeyDictionary[nn.Module, dict[Any, Anatomy]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What is known of a model for images of one size. It holds no reference to the model.

    Attributes
    ----------
    points
        The cut points, in the order in which they run.
    n_outputs
        The length of the output for one image.
    input_size, channels
        What the images must have.
    method
        ``"traced"``, or ``"forward_features"`` where the model is used as a pair of functions.
    parts
        Where the encoder of a pair returns several tensors, the shape of each for one image; they are one row then.
    """

    points: tuple[CutPoint, ...]
    n_outputs: int
    input_size: Grid
    channels: int
    method: str
    trace: Trace | None = None
    nodes: tuple[fx.Node, ...] = ()
    shapes: dict[fx.Node, BatchShape] = field(default_factory=dict, repr=False)
    segments: dict[tuple[int | None, int | None], Segment] = field(default_factory=dict, repr=False)
    parts: tuple[tuple[int, ...], ...] = ()

    def root(self, model: nn.Module, output_fn: OutputFunction | None) -> Root:
        """Return the module on which `stretch` runs."""
        return Root(model, output_fn) if self.trace is None else self.trace.root(model, output_fn)

    def stretch(self, root: Root, start: CutPoint | None, stop: CutPoint | None) -> Stretch:
        """Return the function from the value at ``start`` (None: the images) to that at ``stop`` (None: the output)."""
        if self.trace is None:
            return head_of(root, self.parts) if start is not None else encoder_of(root.model)
        key = (start.index if start else None, stop.index if stop else None)
        if key not in self.segments:
            nodes = (self.nodes[start.index] if start else None, self.nodes[stop.index] if stop else None)
            self.segments[key] = segment(self.trace.nodes, self.shapes, *nodes, root)
        part = self.segments[key]
        return lambda value: part(root, value)


def anatomy(model: nn.Module, input_size: Any = None, output_fn: OutputFunction | None = None) -> Anatomy:
    """Return the anatomy of ``model`` for one image size: found once, then remembered until the model changes.

    Raises
    ------
    LayerError
        The model can be neither traced nor used through ``forward_features`` and ``forward_head``.
    UserError
        The output is no tensor (B, n), or the model does not take images of this size.
    """
    height, width, channels = image_shape(model, input_size)
    known = _remembered.setdefault(model, {})
    key = (height, width, channels, output_fn, _fingerprint(model))
    if key not in known:
        known.clear() if len(known) >= 8 else None
        known[key] = _study(model, (height, width), channels, output_fn)
    return known[key]


def _fingerprint(model: nn.Module) -> int:
    """Return a number that changes when modules are replaced, hooked or given other settings."""
    simple = (str, int, float, bool, type(None))
    parts = []
    for name, part in model.named_modules():
        settings = tuple((k, v) for k, v in vars(part).items() if k != "training" and isinstance(v, simple))
        parts.append((name, type(part), bool(part._forward_hooks), bool(part._forward_pre_hooks), settings))
    first = next(model.parameters(), None)
    return hash((tuple(parts), None if first is None else (first.is_meta, first.dtype)))


def _study(model: nn.Module, input_size: Grid, channels: int, output_fn: OutputFunction | None) -> Anatomy:
    if isinstance(model, Pair):
        return _whole_anatomy(model, input_size, channels, output_fn)
    try:
        return _traced_anatomy(model, input_size, channels, output_fn)
    except UserError:
        raise
    except Exception as error:
        logger.debug("%s cannot be traced: %s", type(model).__name__, error)
        _check_output(model, input_size, channels, output_fn)
        if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
            raise LayerError(
                f"{type(model).__name__} cannot be cut in two ({_first_line(error)}); pass a pair of callables "
                "(encoder, head) instead of the model"
            ) from error
        return _whole_anatomy(model, input_size, channels, output_fn)


def _whole_anatomy(model: nn.Module, input_size: Grid, channels: int, output_fn: OutputFunction | None) -> Anatomy:
    """Return the anatomy of a model that is used as a pair of functions."""
    try:
        return _pair_anatomy(model, input_size, channels, output_fn)
    except UserError:
        raise
    except Exception as error:  # the user's functions may raise anything
        size = "x".join(map(str, input_size))
        raise LayerError(
            f"the encoder and the head of {type(model).__name__} do not make one model on images of {channels} "
            f"channels and {size} pixels ({_first_line(error)}); the head must take what the encoder returns, both "
            "must give the same for the same images, and input_size=(height, width) must be what they take"
        ) from error


def _check_output(model: nn.Module, input_size: Grid, channels: int, output_fn: OutputFunction | None) -> None:
    """Raise UserError where the model runs, but returns something other than a tensor (B, n)."""
    try:
        with evaluated(model), torch.no_grad():
            output = Root(model, output_fn)(noise_images(model, input_size, channels)[:2])
    except Exception as error:
        size = "x".join(map(str, input_size))
        raise UserError(
            f"{type(model).__name__} does not run on images of {channels} channels and {size} pixels "
            f"({_first_line(error)}); give the size that it takes as input_size=(height, width)"
        ) from error
    output_length(output, 2)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class _Watch:
    """What is kept of the values at the cuts while the graph runs on the three noise images."""

    def __init__(self, nodes: Sequence[fx.Node]) -> None:
        self.nodes = set(nodes)
        self.minima: dict[fx.Node, float] = {}
        self.changes: dict[fx.Node, torch.Tensor] = {}

    def __call__(self, node: fx.Node, value: Any) -> None:
        if node not in self.nodes or not isinstance(value, torch.Tensor) or value.is_meta or value.numel() == 0:
            return
        self.minima[node] = float(value.min())
        if value.ndim == 3 and len(value) == 3:
            self.changes[node] = (value[1:] - value[:1]).float().abs().sum(-1)


def _traced_anatomy(model: nn.Module, input_size: Grid, channels: int, output_fn: OutputFunction | None) -> Anatomy:
    found = trace(model, output_fn)
    root = found.root(model, output_fn)
    images = noise_images(model, input_size, channels)
    watch = _Watch(bottlenecks(found.nodes, image_values(found.nodes)))
    with evaluated(model), torch.no_grad():
        shapes, output = measure_shapes(found.nodes, root, images, watch)
        if not isinstance(output, torch.Tensor):
            output = root(images[:2])  # to name its type as the model does
        n_outputs = output_length(output, 2)
        if not images.is_meta:
            _verify(output, root(images[:2]))
    groups = group_cuts(found, model, root, shapes, input_size)
    if not groups:
        raise RuntimeError("at no place does one value carry all of the image")
    scrambled = {group.node for group in groups if _is_out_of_order(group, watch.changes)}
    points = cut_points_of(found, root, groups, shapes, watch.minima, scrambled)
    nodes = tuple(group.node for group in groups)
    return Anatomy(points, n_outputs, input_size, channels, "traced", found, nodes, shapes)


def output_length(output: Any, batch: int) -> int:
    """Return the length n of an output (B, n); a (B,) one has length 1. Raise UserError for anything else."""
    if not isinstance(output, torch.Tensor):
        raise UserError(
            f"the model returns a {type(output).__name__}, not a tensor; say which part to explain, "
            "for example output_fn=lambda output: output[0], or wrap the model in one that returns it"
        )
    if output.ndim not in (1, 2) or len(output) != batch:
        raise UserError(
            f"the model's output for {batch} images has the shape {tuple(output.shape)}, not (images, n); "
            "pass output_fn= to make it so"
        )
    return output.shape[1] if output.ndim == 2 else 1


def _verify(output: torch.Tensor, expected: torch.Tensor) -> None:
    """Raise unless the graph, or the pair, gives what the model itself gives."""
    scale = float(expected.abs().max())
    error = float((output - expected).abs().max())
    if error > _TOLERANCE.get(expected.dtype, 2e-2) * scale:
        raise RuntimeError(f"two runs of it differ by {error:g} where the output reaches {scale:g}")


def _is_out_of_order(group: Group, changes: dict[fx.Node, torch.Tensor]) -> bool:
    layout, change = group.layout, changes.get(group.node)
    if layout.kind != "NLC" or layout.grid is None or change is None:
        return False
    return is_scrambled(change[:, layout.prefix_tokens :], layout.grid)


def _pair_anatomy(model: Any, input_size: Grid, channels: int, output_fn: OutputFunction | None) -> Anatomy:
    images = noise_images(model, input_size, channels)
    root = Root(model, output_fn)
    with evaluated(model), torch.no_grad():
        several = model.forward_features(images)
        parts = tuple(tuple(part.shape[1:]) for part in several) if is_several(several) else ()
        value = packed(several)
        if not isinstance(value, torch.Tensor):
            raise UserError(f"the encoder returns a {type(value).__name__}, not a tensor (images, ...)")
        output = head_of(root, parts)(value)
        n_outputs = output_length(output, len(images))
        if not images.is_meta:
            _verify(output, root(images))
    point = _described(model, value, input_size)
    return Anatomy((point,), n_outputs, input_size, channels, WHOLE, parts=parts)


def _described(model: nn.Module, value: torch.Tensor, input_size: Grid) -> CutPoint:
    around = Surroundings(input_size, declared_prefix_tokens(model), patch_grid(model, input_size))
    shape = tuple(value.shape[1:])
    layout = layout_of(shape, around, None)
    if layout is None and len(shape) != 2:
        raise UserError(
            f"activations of shape {tuple(value.shape)} have no known layout: (B, C, h, w) or (B, tokens, C)"
        )
    layout = layout or Layout("NLC", None)
    signed = True if value.is_meta or bool((value < 0).any()) else None
    return CutPoint(WHOLE, 0, shape, layout.grid, layout.prefix_tokens, layout.kind, signed, 1.0)
