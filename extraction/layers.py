"""The table of a model's cut points, with the one that ``layer="auto"`` would take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from conceptatlas.extraction.cutpoints import as_model
from conceptatlas.extraction.points import CutPoint
from conceptatlas.extraction.split import split
from conceptatlas.extraction.tracing import OutputFunction

_LARGE = 100_000_000  # parameters; a larger model that is given by name is laid out without allocating them


@dataclass(frozen=True)
class LayerRow:
    """One cut point, as a person reads it.

    Attributes
    ----------
    point
        The cut point: name, shape, grid, prefix tokens, layout, sign and depth.
    auto
        Whether ``layer="auto"`` takes it.
    reason
        Why, where it does; empty elsewhere.
    """

    point: CutPoint
    auto: bool
    reason: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text: name, shape, layout, grid, prefix tokens, sign, share of the depth.

        >>> LayerRow(CutPoint("layer4", 3, (512, 7, 7), (7, 7), 0, "NCHW", False, 0.96), True).cells
        ('layer4', '512 x 7 x 7', 'NCHW', '7 x 7', '0', 'no', '96 %')
        """
        point = self.point
        grid = "-" if point.grid is None else f"{point.grid[0]} x {point.grid[1]}"
        signed = {True: "yes", False: "no", None: "?"}[point.signed]
        shape = " x ".join(map(str, point.shape))
        return (
            point.name,
            shape,
            point.layout,
            grid,
            str(point.prefix_tokens),
            signed,
            f"{point.depth:.0%}"[:-1] + " %",
        )


HEADER = ("layer", "shape", "layout", "grid", "prefix tokens", "signed", "depth")


def layers_table(
    model: nn.Module | str,
    input_size: int | tuple[int, ...] | None = None,
    *,
    probe: torch.Tensor | None = None,
    output_fn: OutputFunction | None = None,
) -> list[LayerRow]:
    """Return a row for each cut point, in order of depth; the one that ``layer="auto"`` takes is marked.

    A model given by name is made without its published weights; they change nothing here. One with more than 100
    million parameters is made without memory for any (on the meta device), so that the table of a giant takes seconds.

    Parameters
    ----------
    model, input_size, probe, output_fn
        As for `split`. With ``probe`` images the choice is measured, and the model must come with its weights.

    Examples
    --------
    >>> pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    >>> table = layers_table(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *pool, nn.Linear(4, 2)), (8, 8))
    >>> [(row.point.name, row.auto) for row in table]
    [('0', False), ('1', True), ('2', False)]
    """
    whole = unweighted_model(model) if isinstance(model, str) and probe is None else as_model(model)
    halves = split(whole, "auto", input_size=input_size, probe=probe, output_fn=output_fn)
    reason = str(halves.choice["reason"])
    taken = [point.name == halves.layer.name for point in halves.cut_points]
    return [LayerRow(p, auto, reason if auto else "") for p, auto in zip(halves.cut_points, taken, strict=True)]


def unweighted_model(name: str) -> nn.Module:
    """Return the model of that name without its published weights, on the meta device where it is a giant."""
    from conceptatlas.extraction.models import load_model

    try:
        with torch.device("meta"):
            outline = load_model(name, pretrained=False)
    except (NotImplementedError, RuntimeError):  # constructors that compute with their tensors
        return load_model(name, pretrained=False)
    if sum(parameter.numel() for parameter in outline.parameters()) > _LARGE:
        return outline
    return load_model(name, pretrained=False)
