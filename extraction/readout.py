"""What is computed for tokens that nobody reads: a class token's head needs the last block for this one token alone.

A vision transformer ends in ``norm(x)[:, 0]``. Everything in front of that works token by token, back to the last
attention, of which only the keys and values mix tokens: so its queries, its projection and the last block's MLP are
needed for one token of all. Fewer rows, the same numbers within rounding.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

Lengths = Mapping[fx.Node, tuple[int, ...]]
EVERY = slice(None)
BY_TOKEN = {"Linear", "LayerNorm", "Identity", "Dropout", "GELU", "SiLU", "ReLU", "LayerScale", "DropPath"}


def compute_what_is_read(graph: fx.Graph, lengths: Lengths, root: nn.Module) -> None:
    """Rewrite a graph so that what leads to the one token that is read is computed for this token alone.

    Parameters
    ----------
    graph
        The graph, which is changed.
    lengths
        The shape of each tensor for some batch.
    root
        The module that the graph runs on.
    """
    for read in [node for node in graph.nodes if _token_read(node, lengths) is not None]:
        token = _token_read(read, lengths)
        narrowed = _narrowed(graph, read, lengths, root)
        if token is None or not narrowed:
            continue
        one, cut = slice(token, token + 1), dict[fx.Node, fx.Node]()
        for node in narrowed:
            attention = _attention(node, lengths)
            if attention is not None:
                query = attention.args[0]
                with graph.inserting_before(attention):
                    attention.update_arg(0, graph.call_function(operator.getitem, (query, (EVERY, EVERY, one))))
                node.update_arg(2, 1)
                continue
            for whole in node.all_input_nodes:
                if whole in narrowed or len(lengths.get(whole, ())) != 3:
                    continue
                if whole not in cut:
                    with graph.inserting_after(whole):
                        cut[whole] = graph.call_function(operator.getitem, (whole, (EVERY, one)))
                node.replace_input_with(whole, cut[whole])
        read.update_arg(1, (EVERY, 0))


def _token_read(node: fx.Node, lengths: Lengths) -> int | None:
    """Return the number of the one token that a node reads of tokens (B, N, p), or None where it is no such node."""
    if node.op != "call_function" or node.target is not operator.getitem:
        return None
    index: Any = node.args[1]
    if len(lengths.get(node.args[0], ())) != 3 or not isinstance(index, tuple) or len(index) != 2:  # type: ignore[arg-type]
        return None
    return index[1] if index[0] == EVERY and isinstance(index[1], int) and index[1] >= 0 else None


def _narrowed(graph: fx.Graph, read: fx.Node, lengths: Lengths, root: nn.Module) -> set[fx.Node]:
    """Return the nodes, all on tokens (B, N, p), that only lead to what is read, and treat each token by itself."""
    tokens, found = lengths[read.args[0]][1], set[fx.Node]()  # type: ignore[index]
    for node in reversed(graph.nodes):
        shape = lengths.get(node, ())
        if len(shape) != 3 or shape[1] != tokens or not node.users or not set(node.users) <= found | {read}:
            continue
        if _is_by_token(node, lengths, root) or _attention(node, lengths) is not None:
            found.add(node)
    return found


def _is_by_token(node: fx.Node, lengths: Lengths, root: nn.Module) -> bool:
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        known = type(module).__name__ in BY_TOKEN and type(module).__module__.startswith(("torch.", "timm."))
        return known and len(getattr(module, "normalized_shape", (1,))) == 1
    if node.target is operator.add:
        return all(isinstance(part, fx.Node) and lengths.get(part) == lengths[node] for part in node.args)
    return node.target is F.layer_norm and len(node.args) == 2 and len(node.args[1]) == 1  # type: ignore[arg-type]


def _attention(node: fx.Node, lengths: Lengths) -> fx.Node | None:
    """Return the attention (B, heads, N, q) of which a node is the result as tokens, where nothing else reads it."""
    if node.op != "call_method" or node.target != "reshape" or len(node.args) != 4:
        return None
    turned = node.args[0]
    if not isinstance(turned, fx.Node) or turned.target != "transpose" or turned.args[1:] != (1, 2):
        return None
    attention = turned.args[0]
    if not isinstance(attention, fx.Node) or attention.target is not F.scaled_dot_product_attention:
        return None
    plain = attention.kwargs.get("attn_mask") is None and not attention.kwargs.get("is_causal")
    alone = len(turned.users) == 1 and len(attention.users) == 1 and len(attention.args) == 3
    shape = lengths.get(attention, ())
    return attention if plain and alone and len(shape) == 4 and shape[2] == lengths[node][1] else None
