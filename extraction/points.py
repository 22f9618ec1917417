"""Cut points: the values of a traced model that carry all of the image, named and described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx, nn

from conceptatlas.extraction.layouts import (
    Grid,
    Layout,
    Surroundings,
    channels_last_near,
    declared_prefix_tokens,
    layout_of,
    makes_grid,
    patch_grid,
)
from conceptatlas.extraction.liveness import bottlenecks, image_values, non_negative, only_moves, target_name
from conceptatlas.extraction.segments import BatchShape
from conceptatlas.extraction.tracing import Trace


@dataclass(frozen=True)
class CutPoint:
    """A place where a model can be cut in two: after it, nothing else derived from the image is still needed.

    Attributes
    ----------
    name
        The path of the module whose output is cut; ``blocks.3.add`` for an operation in a module's forward;
        ``relu#2`` for the second call of a module that runs more than once.
    index
        Its place in the list of the model's cut points.
    shape
        The value's shape for one image, without the batch.
    grid
        (h, w) of the positions; None after pooling, and for tokens that do not lie row by row on the image.
    prefix_tokens
        Class, distillation and register tokens in front of the positions.
    layout
        ``"NCHW"``, ``"NHWC"``, ``"NLC"`` or ``"NC"``.
    signed
        False where the operations before it leave no negative values, True where there can be some, None where the
        operations do not tell and none was seen.
    depth
        Share of the network's operations up to here, in (0, 1].
    is_block
        Whether it is the output of one of the model's numbered blocks, and not a place inside one.
    aliases
        Other names under which the same cut is found.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    grid: Grid | None
    prefix_tokens: int
    layout: str
    signed: bool | None
    depth: float
    is_block: bool = False
    aliases: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_spatial(self) -> bool:
        """Whether the layer has more than one row and column of positions."""
        return self.grid is not None and min(self.grid) >= 2

    @property
    def n_features(self) -> int:
        """The number of features p per position."""
        return self.shape[0] if self.layout == "NCHW" else self.shape[-1]


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes that hold the same values, one after another; the cut is made at ``node``."""

    node: fx.Node
    layout: Layout
    members: tuple[fx.Node, ...]


def group_cuts(
    trace: Trace, model: nn.Module, root: nn.Module, shapes: dict[fx.Node, BatchShape], input_size: Grid
) -> list[Group]:
    """Return the places where the graph can be cut and whose layout is known, in the order in which they run."""
    modules = dict(root.named_modules())
    places = bottlenecks(trace.nodes, image_values(trace.nodes))
    layouts = _layouts(trace, model, modules, shapes, input_size)
    groups: list[list[fx.Node]] = []
    for node in places:
        before = groups[-1][-1] if groups else next(node for node in trace.nodes if node.op == "placeholder")
        joins = only_moves(node, modules) and before in node.all_input_nodes
        if joins and not groups:
            groups.append([before])  # the images themselves, which are no layer
        if joins:
            groups[-1].append(node)
        else:
            groups.append([node])
    last = trace.nodes[-1].all_input_nodes
    ends = {*last, next(node for node in trace.nodes if node.op == "placeholder")}
    kept = [members for members in groups if not ends.intersection(members)]
    found = []
    for members in kept:
        known = [node for node in members if node in layouts]
        if known:  # where rows and columns are axes of their own, the grid is certain
            node = next((node for node in known if layouts[node].kind in ("NCHW", "NHWC")), known[0])
            found.append(Group(node, layouts[node], tuple(members)))
    return found


def _layouts(
    trace: Trace,
    model: nn.Module,
    modules: dict[str, nn.Module],
    shapes: dict[fx.Node, BatchShape],
    input_size: Grid,
) -> dict[fx.Node, Layout]:
    """Return the layout of every node that has one, with the grids of earlier convolutions to go by."""
    declared, patches = declared_prefix_tokens(model), patch_grid(model, input_size)
    seen: list[Grid] = []
    found: dict[fx.Node, Layout] = {}
    for node in trace.nodes:
        shape = shapes[node].per_image if node in shapes else None
        if shape is None or node.op in ("placeholder", "get_attr"):
            continue
        around = Surroundings(input_size, declared, (*reversed(seen), *patches))
        layout = layout_of(shape, around, channels_last_near(node, modules) if len(shape) == 3 else None)
        if layout is not None:
            found[node] = layout
        if layout is not None and layout.kind == "NCHW" and layout.grid and makes_grid(node, modules):
            seen = [grid for grid in seen if grid != layout.grid] + [layout.grid]
    return found


def cut_points_of(
    trace: Trace,
    root: nn.Module,
    groups: Sequence[Group],
    shapes: dict[fx.Node, BatchShape],
    minima: dict[fx.Node, float],
    scrambled: set[fx.Node],
) -> tuple[CutPoint, ...]:
    """Describe the groups.

    ``minima`` holds the least value that was seen at a node, where the model was run; ``scrambled`` the nodes whose
    tokens were found not to lie row by row on the image.
    """
    modules = dict(root.named_modules())
    positive = non_negative(trace.nodes, modules)
    carried = [node for node in trace.nodes if node in image_values(trace.nodes)]
    depth = {node: (order + 1) / len(carried) for order, node in enumerate(carried)}
    names = unique_names(trace, groups)
    points = []
    for index, group in enumerate(groups):
        node, layout = group.node, group.layout
        points.append(
            CutPoint(
                name=names[index][0],
                index=index,
                shape=shapes[node].per_image or (),
                grid=None if node in scrambled else layout.grid,
                prefix_tokens=layout.prefix_tokens,
                layout=layout.kind,
                signed=False if node in positive else _seen_sign(minima.get(node)),
                depth=round(depth[node], 4),
                is_block=any(_is_block(path, modules) for path in _paths(trace, group)),
                aliases=names[index][1:],
            )
        )
    return tuple(points)


def _seen_sign(minimum: float | None) -> bool | None:
    return None if minimum is not None and minimum >= 0 else True


def _paths(trace: Trace, group: Group) -> list[str]:
    return [path for node in group.members for path in trace.names.get(node, ())]


def _is_block(path: str, modules: dict[str, nn.Module]) -> bool:
    """Say whether a path names a composite module that is an element of a list or sequence of modules."""
    if "#" in path:
        return False
    module, parent = modules.get(f"model.{path}"), modules.get(f"model.{path}".rpartition(".")[0])
    return isinstance(parent, (nn.Sequential, nn.ModuleList)) and module is not None and any(module.children())


def preferred_name(paths: Sequence[str]) -> str:
    """Return the most telling of several module paths with one output: the outermost one that ends in a digit.

    >>> preferred_name(["layer4.1.act2", "layer4.1", "layer4"])
    'layer4'
    >>> preferred_name(["blocks.11", "blocks", "norm"])
    'blocks.11'
    """
    numbered = [path for path in paths if path[-1].isdigit() and "#" not in path]
    return min(numbered or list(paths), key=lambda path: path.count("."))


def unique_names(trace: Trace, groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Return for each group its name, then its other names; no name belongs to two groups."""
    taken: set[str] = set()
    found = []
    for group in groups:
        paths = _paths(trace, group)
        name = preferred_name(paths) if paths else _operation_name(trace, group.node)
        base, number = name, 1
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        others = [path for node in group.members for path in trace.aliases.get(node, ())]
        aliases = [path for path in dict.fromkeys(paths + others) if path != name and path not in taken]
        taken.update((name, *aliases))
        found.append((name, *aliases))
    return found


def _operation_name(trace: Trace, node: fx.Node) -> str:
    scope = trace.scopes[node]
    return f"{scope}.{target_name(node)}" if scope else target_name(node)
