"""Which values of a graph carry the image, where one of them carries all of it, and which can be negative."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx, nn

_SHAPE_ATTRIBUTES = {"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "itemsize", "layout", "is_meta"}
_SHAPE_METHODS = {
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "get_device", "__len__"),
    *("is_floating_point", "is_contiguous", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
}
_SHAPE_FUNCTIONS = {
    *(torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like, torch.rand_like, torch.randn_like),
    *(torch.numel, torch.is_floating_point, torch.is_tensor, len),
}
_MOVES = {
    *("view", "reshape", "permute", "transpose", "contiguous", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("clone", "to", "type_as", "float", "movedim", "swapaxes", "t", "detach", "view_as", "reshape_as", "dropout"),
    *("alpha_dropout", "feature_dropout", "dropout2d"),
}
_MOVING_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
_POSITIVE_MODULES = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Softplus, nn.Softmax, nn.Softmax2d)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)  # timm's carry their activation with them
_POSITIVE = {"relu", "relu6", "sigmoid", "hardsigmoid", "softplus", "softmax", "abs", "square", "exp"}
_KEEPS_SIGN_MODULES = (
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.PixelShuffle),
    *(nn.PixelUnshuffle, nn.AdaptiveAvgPool1d, nn.ChannelShuffle),
)
_KEEPS_SIGN = {
    *("add", "iadd", "mul", "imul", "cat", "concat", "stack", "mean", "sum", "amax", "max", "getitem", "chunk"),
    *("split", "interpolate", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "sqrt"),
    *("expand", "repeat", "roll", "select", "unbind", "narrow", "pixel_unshuffle", "pixel_shuffle", "channel_shuffle"),
}


def target_name(node: fx.Node) -> str:
    """Return the plain name of the operation of a call_function or call_method node."""
    if isinstance(node.target, str):
        return node.target.strip("_") if node.op == "call_method" else node.target
    return getattr(node.target, "__name__", "").strip("_")


def reads_shape_only(node: fx.Node) -> bool:
    """Say whether a node reads its input's shape, type or device, but none of its values."""
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in _SHAPE_ATTRIBUTES
    return node.target in _SHAPE_FUNCTIONS


def image_values(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the nodes whose value depends on the pixels, and not on the image's shape alone."""
    found: set[fx.Node] = set()
    for node in nodes:
        inputs = found.intersection(node.all_input_nodes)
        if node.op == "placeholder" or (inputs and node.op != "output" and not reads_shape_only(node)):
            found.add(node)
    return found


def bottlenecks(nodes: Sequence[fx.Node], carried: set[fx.Node]) -> list[fx.Node]:
    """Return the nodes after which nothing else derived from the image is still needed, in the order they run."""
    last_use = {
        node: order for order, user in enumerate(nodes) for node in user.all_input_nodes if _uses(user, carried)
    }
    found, needed_until = [], 0
    for order, node in enumerate(nodes):
        if node not in carried or node not in last_use:
            continue
        if needed_until <= order and node.op != "placeholder":
            found.append(node)
        needed_until = max(needed_until, last_use[node])
    return found


def _uses(user: fx.Node, carried: set[fx.Node]) -> bool:
    return user in carried or user.op == "output"


def only_moves(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Say whether a node's values are those of its input, in the same or another arrangement (in evaluation mode)."""
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), _MOVING_MODULES)
    return node.op in ("call_function", "call_method") and target_name(node) in _MOVES


def non_negative(nodes: Sequence[fx.Node], modules: dict[str, nn.Module]) -> set[fx.Node]:
    """Return the nodes whose values cannot be negative, by the operations that made them."""
    found: set[fx.Node] = set()
    for node in nodes:
        if _makes_positive(node, modules) or (_keeps_sign(node, modules) and _inputs_positive(node, found)):
            found.add(node)
    return found


def _makes_positive(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules.get(str(node.target))
        activation = getattr(module, "act", module) if isinstance(module, _NORMS) else module
        return isinstance(activation, _POSITIVE_MODULES)
    if node.op not in ("call_function", "call_method"):
        return False
    name = target_name(node)
    if name in ("clamp", "clamp_min"):
        floor = node.kwargs.get("min", node.args[1] if len(node.args) > 1 else None)
        return isinstance(floor, (int, float)) and floor >= 0
    return name in _POSITIVE


def _keeps_sign(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules.get(str(node.target))
        return isinstance(module, (*_KEEPS_SIGN_MODULES, *_MOVING_MODULES))
    return node.op in ("call_function", "call_method") and (target_name(node) in _KEEPS_SIGN | _MOVES)


def _inputs_positive(node: fx.Node, found: set[fx.Node]) -> bool:
    numbers = [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, (int, float))]
    arithmetic = target_name(node) in ("add", "iadd", "mul", "imul")
    if arithmetic and any(number < 0 for number in numbers):
        return False
    inputs = node.all_input_nodes if node.target is not operator.getitem else node.all_input_nodes[:1]
    return bool(inputs) and all(value in found for value in inputs)


__all__ = ["bottlenecks", "image_values", "non_negative", "only_moves", "reads_shape_only", "target_name"]
