"""A model as a graph: traced once with torch.fx, in evaluation mode, with nothing of the model changed."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torchvision.models import feature_extraction as torchvision_features

logger = logging.getLogger(__name__)

OutputFunction = Callable[[Any], torch.Tensor]

ROOT = "model"  # the attribute of `Root` that holds the user's model; stripped from every name


class Root(nn.Module):
    """The user's model called with one argument, so that its optional arguments keep their defaults when traced."""

    def __init__(self, model: nn.Module, output_fn: OutputFunction | None = None) -> None:
        super().__init__()
        self.model = model
        self.output_fn = output_fn

    def forward(self, images: torch.Tensor) -> Any:
        """Return the logits in what the model returns for ``images`` (B, C, H, W)."""
        return self.logits_of(self.model(images))

    def logits_of(self, output: Any) -> Any:
        """Return what ``output_fn`` takes out of an output; where there is none, what `logits_in` does."""
        return logits_in(output) if self.output_fn is None else self.output_fn(output)


def logits_in(output: Any) -> Any:
    """Return what is named ``logits`` in an output, or the one tensor that it holds; else the output itself.

    >>> logits_in({"logits": torch.zeros(2, 5), "hidden": torch.zeros(2, 9)}).shape
    torch.Size([2, 5])
    """
    known = (torch.Tensor, fx.Proxy)
    if isinstance(output, known):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if named is not None:
        return named
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    tensors = [value for value in values if isinstance(value, known)]
    return tensors[0] if len(tensors) == 1 else output


@contextmanager
def evaluated(*modules: nn.Module) -> Iterator[None]:
    """Put the modules in evaluation mode, and each of their submodules back in its own mode at the end.

    >>> layer = nn.Dropout().train()
    >>> with evaluated(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    training = [part for module in modules for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def attributes_kept(module: nn.Module) -> Iterator[None]:
    """Undo what a traced forward writes on its modules (caches, statistics): it would be symbols, not tensors."""
    kept = [(part, dict(vars(part)), dict(part._buffers)) for part in module.modules()]
    try:
        yield
    finally:
        for part, attributes, buffers in kept:
            vars(part).clear()
            vars(part).update(attributes)
            part._buffers.clear()
            part._buffers.update(buffers)


class PathTracer(fx.Tracer):
    """A tracer that knows which module each node belongs to, and which modules' output it is.

    timm's and torchvision's own leaf modules and functions are kept whole. So is a module that cannot be traced
    (control flow on values), and one that carries hooks, so that the hooks fire as they do in the model.
    """

    def __init__(self) -> None:
        from timm.layers._fx import get_notrace_functions, get_notrace_modules

        defaults = torchvision_features._set_default_tracer_kwargs(None)
        super().__init__(
            autowrap_modules=defaults["autowrap_modules"],
            autowrap_functions=tuple(f for f in get_notrace_functions() if callable(f)),
            param_shapes_constant=True,
        )
        self.leaf_types = (*defaults["leaf_modules"], *get_notrace_modules())
        self.path = ""
        self.scopes: dict[fx.Node, str] = {}
        self.order: dict[fx.Node, int] = {}
        self.outputs: dict[fx.Node, list[tuple[str, int]]] = defaultdict(list)
        self.passed: dict[fx.Node, list[tuple[str, int]]] = defaultdict(list)
        self.calls: Counter[str] = Counter()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether a module becomes one node: torch.nn's own, registered leaves, and modules with hooks."""
        hooked = bool(m._forward_hooks or m._forward_pre_hooks) and module_qualified_name != ROOT
        return hooked or isinstance(m, self.leaf_types) or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Create a node and remember in which module's forward it was made."""
        node = super().create_node(*args, **kwargs)
        self.scopes[node] = self.path
        self.order[node] = len(self.order)
        return node

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace through a module, or keep it whole where it is a leaf or cannot be traced."""
        path, outer, before = self.path_of_module(m), self.path, len(self.order)
        self.calls[path] += 1
        call = self.calls[path]
        self.path = path
        try:
            if self.is_leaf_module(m, path):
                output = self.create_proxy("call_module", path, args, kwargs)
            else:
                output = self._through(path, forward, args, kwargs)
        finally:
            self.path = outer
        if isinstance(output, fx.Proxy):
            made_here = self.order.get(output.node, -1) >= before
            (self.outputs if made_here else self.passed)[output.node].append((path, call))
        return output

    def _through(self, path: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        before = len(self.graph.nodes)
        try:
            return forward(*args, **kwargs)
        except Exception as error:
            if path == ROOT:
                raise
            logger.debug("%s is kept whole: %s", path, error)
            for node in reversed(list(self.graph.nodes)[before:]):
                self.graph.erase_node(node)
            return self.create_proxy("call_module", path, args, kwargs)


@dataclass(frozen=True, eq=False)
class Trace:
    """The graph of a model. It holds no reference to the model, so that it can be kept for as long as the model lives.

    Attributes
    ----------
    nodes
        The nodes that the output needs, in the order in which they run; the last one is the output.
    names
        For each node the module paths whose output it is, innermost first; ``"path#2"`` where a module runs more
        than once.
    aliases
        For each node further paths that hand it on unchanged.
    scopes
        For each node the path of the module in whose forward it was made.
    calls
        How often each module path ran.
    constants
        Tensors made while tracing, by the name under which the graph reads them from the root.
    """

    nodes: tuple[fx.Node, ...]
    names: dict[fx.Node, tuple[str, ...]]
    aliases: dict[fx.Node, tuple[str, ...]]
    scopes: dict[fx.Node, str]
    calls: dict[str, int]
    constants: dict[str, Any] = field(repr=False)

    def root(self, model: nn.Module, output_fn: OutputFunction | None = None) -> Root:
        """Return the module from which the graph's nodes read their parameters."""
        root = Root(model, output_fn)
        for name, value in self.constants.items():
            setattr(root, name, value)
        return root


def trace(model: nn.Module, output_fn: OutputFunction | None = None) -> Trace:
    """Trace ``model`` symbolically; its mode, hooks, attributes and parameters are as before afterwards.

    Raises whatever the model's forward raises on symbols (control flow on values at the top level, say).

    >>> found = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    >>> [found.names[node] for node in found.nodes if node.op == "call_module"]
    [('0',), ('1',)]
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("it is TorchScript: its forward is no longer Python")
    root = Root(model, output_fn)
    own = set(vars(root))
    tracer = PathTracer()
    with evaluated(model), attributes_kept(model):
        graph = tracer.trace(root)
    constants = {name: value for name, value in vars(root).items() if name not in own}
    _use_results_of_in_place_calls(graph)
    nodes = _needed(graph)
    known = set(nodes)
    return Trace(
        nodes=nodes,
        names={node: _labels(found, tracer.calls) for node, found in tracer.outputs.items() if node in known},
        aliases={node: _labels(found, tracer.calls) for node, found in tracer.passed.items() if node in known},
        scopes={node: _stripped(tracer.scopes[node]) for node in nodes},
        calls={_stripped(path): count for path, count in tracer.calls.items()},
        constants=constants,
    )


def _stripped(path: str) -> str:
    return path.removeprefix(ROOT).removeprefix(".")


def _labels(found: list[tuple[str, int]], calls: Counter[str]) -> tuple[str, ...]:
    named = [(_stripped(path), call, calls[path]) for path, call in found]
    return tuple(path if total == 1 else f"{path}#{call}" for path, call, total in named if path)


def _is_in_place(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_method", "call_function") and name.endswith("_") and not name.endswith("__")


def _use_results_of_in_place_calls(graph: fx.Graph) -> None:
    """Let later users of a value that an in-place call has changed read the call's result: so it counts as used."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if _is_in_place(node) and node.args and isinstance(node.args[0], fx.Node):
            node.args[0].replace_all_uses_with(node, delete_user_cb=lambda user, node=node: order[user] > order[node])


def _needed(graph: fx.Graph) -> tuple[fx.Node, ...]:
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    needed, waiting = {output}, [output]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in needed:
                needed.add(node)
                waiting.append(node)
    return tuple(node for node in graph.nodes if node in needed)
