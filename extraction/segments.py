"""Stretches of a graph as plain functions, and the shapes that its values have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from conceptatlas.extraction.liveness import image_values
from conceptatlas.extraction.readout import compute_what_is_read

Visitor = Callable[[fx.Node, Any], None]


@dataclass(frozen=True)
class BatchShape:
    """A tensor's shape as a function of the batch size: each length is ``slope * batch + constant``.

    >>> BatchShape.between((2, 8, 7), (3, 12, 7), torch.float32).at(5)
    (5, 20, 7)
    """

    slopes: tuple[int, ...]
    constants: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def between(cls, two: Sequence[int], three: Sequence[int], dtype: torch.dtype) -> BatchShape:
        """Return the shape that is ``two`` for a batch of two and ``three`` for a batch of three."""
        slopes = tuple(b - a for a, b in zip(two, three, strict=True))
        return cls(slopes, tuple(a - 2 * slope for a, slope in zip(two, slopes, strict=True)), dtype)

    def at(self, batch: int) -> tuple[int, ...]:
        """Return the shape for a batch size."""
        return tuple(slope * batch + constant for slope, constant in zip(self.slopes, self.constants, strict=True))

    @property
    def per_image(self) -> tuple[int, ...] | None:
        """The shape of one image's value, or None where the first axis is not the batch, or another one is, too."""
        if not self.slopes or self.slopes[0] != 1 or self.constants[0] != 0 or any(self.slopes[1:]):
            return None
        return self.constants[1:]

    def stand_in(self, batch: int, device: torch.device) -> torch.Tensor:
        """Return a tensor of this shape that takes no memory; only its shape, type and device are ever read."""
        return torch.zeros((), dtype=self.dtype, device=device).expand(self.at(batch))


def interpret(nodes: Sequence[fx.Node], root: nn.Module, images: torch.Tensor, visit: Visitor) -> Any:
    """Run the nodes one by one on ``images``, show each value to ``visit`` and return the output."""
    last_use = {node: user for user in nodes for node in user.all_input_nodes}
    values: dict[fx.Node, Any] = {}
    for node in nodes:
        if node.op == "output":
            return map_arg(node.args[0], values.__getitem__)
        values[node] = images if node.op == "placeholder" else _run(node, root, values)
        visit(node, values[node])
        for used in node.all_input_nodes:
            if last_use[used] is node:
                del values[used]
    return None


def _run(node: fx.Node, root: nn.Module, values: dict[fx.Node, Any]) -> Any:
    args, kwargs = map_arg(node.args, values.__getitem__), map_arg(node.kwargs, values.__getitem__)
    if node.op == "get_attr":
        return reduce(getattr, str(node.target).split("."), root)
    if node.op == "call_module":
        return root.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if not callable(node.target):
        raise TypeError(f"a graph node of kind {node.op} cannot be run")
    return node.target(*args, **kwargs)


@dataclass(frozen=True)
class Segment:
    """The part of a graph from one value to another, as a function of the first value.

    Values that depend on the shapes of earlier tensors are computed afresh from stand-ins, for the batch size at hand.
    """

    function: Callable[..., Any]
    stand_ins: tuple[BatchShape, ...]

    def __call__(self, root: nn.Module, value: torch.Tensor) -> Any:
        """Return the last value for the first ``value``, reading parameters from ``root``."""
        shaped = (shape.stand_in(len(value), value.device) for shape in self.stand_ins)
        return self.function(root, value, *shaped)


def segment(
    nodes: Sequence[fx.Node],
    shapes: dict[fx.Node, BatchShape],
    start: fx.Node | None,
    stop: fx.Node | None,
    root: nn.Module,
) -> Segment:
    """Compile the part of a graph of ``root`` from ``start`` (None: the images) to ``stop`` (None: the output)."""
    first = start if start is not None else next(node for node in nodes if node.op == "placeholder")
    last = stop if stop is not None else nodes[-1]
    needed, shaped = _between(nodes, first, last)
    graph = fx.Graph()
    copies = {first: graph.placeholder("value")}
    for number, node in enumerate(shaped):
        copies[node] = graph.placeholder(f"shaped_{number}")
    for node in nodes:
        if node in needed and node.op != "output":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(map_arg(last.args[0], copies.__getitem__) if last.op == "output" else copies[last])
    lengths = {copy: shapes[node].at(2) for node, copy in copies.items() if node in shapes}
    compute_what_is_read(graph, lengths, root)
    return Segment(_compiled(graph), tuple(shapes[node] for node in shaped))


def _between(nodes: Sequence[fx.Node], first: fx.Node, last: fx.Node) -> tuple[set[fx.Node], list[fx.Node]]:
    """Return the nodes to run, and the earlier ones of which only the shape is read."""
    order = {node: position for position, node in enumerate(nodes)}
    carried = image_values(nodes)
    needed: set[fx.Node] = set()
    shaped: dict[fx.Node, None] = {}
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node is first or node in needed or node in shaped:
            continue
        if node in carried and order[node] < order[first]:
            shaped[node] = None
            continue
        needed.add(node)
        waiting.extend(node.all_input_nodes)
    return needed, sorted(shaped, key=order.__getitem__)


def _compiled(graph: fx.Graph) -> Callable[..., Any]:
    code = graph.python_code(root_module="self")
    scope: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<segment of a traced model>", "exec"), scope)  # noqa: S102 - torch.fx's own source
    return scope["forward"]


def measure_shapes(
    nodes: Sequence[fx.Node], root: nn.Module, images: torch.Tensor, visit: Visitor
) -> tuple[dict[fx.Node, BatchShape], Any]:
    """Run the graph on two and on all three of ``images``; return every tensor's shape and the output for two.

    ``visit`` is shown the values of the run on three images.
    """
    two: dict[fx.Node, torch.Size] = {}
    shapes: dict[fx.Node, BatchShape] = {}

    def note(node: fx.Node, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            two[node] = value.shape

    def compare(node: fx.Node, value: Any) -> None:
        if isinstance(value, torch.Tensor) and len(two.get(node, ())) == value.ndim:
            shapes[node] = BatchShape.between(two[node], value.shape, value.dtype)
        visit(node, value)

    output = interpret(nodes, root, images[:2], note)
    interpret(nodes, root, images, compare)
    return shapes, output
