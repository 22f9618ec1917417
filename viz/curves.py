"""Curves: what taking concepts away does to the score, and how the number of concepts was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from conceptatlas.extraction.errors import UserError
from conceptatlas.viz.canvas import QUIET, axis, base_layout
from conceptatlas.viz.palette import COLOURS, GREY
from conceptatlas.viz.tables import known_numbers, numbers_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from conceptatlas.audit import ClassAtlas

RANDOM_ORDERS = 20


@dataclass(frozen=True)
class Curve:
    """Mean score after each step, for one order of concepts.

    Attributes
    ----------
    name
        What the concepts are ordered by.
    score
        (k + 1,) mean score of the class's images with 0, 1, ... k concepts taken away (or put back).
    low, high
        Range over random orders; None for a single order.
    """

    name: str
    score: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @property
    def area(self) -> float:
        """Mean of the curve: lower is better for deletion, higher for insertion."""
        return float(self.score.mean())


def deletion_curves(class_atlas: ClassAtlas, *, seed: int = 0) -> tuple[Curve, ...]:
    """Return the mean score as concepts are set to zero in turn, for three orders and at random.

    The score without a set of concepts is the score minus their contributions: exact where the head is affine, the
    first-order estimate elsewhere. Orders: each image's own contributions (optimal for an affine head), the class's
    signed importance, total Sobol index, and the mean of random orders.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> own, _, _, chance = deletion_curves(example_class())
    >>> own.area < chance.area
    True
    """
    values = class_atlas.contributions.astype(float)
    start = values.sum(1) + class_atlas.residual + class_atlas.bias
    curves = [Curve("own contributions", _removed(values, start, np.argsort(-values, axis=1, kind="stable")))]
    for name, column in (("importance", "importance"), ("Sobol index", "sobol")):
        order = class_atlas.concepts.sort_values(column, ascending=False, kind="stable")["concept"].to_numpy(dtype=int)
        curves.append(Curve(name, _removed(values, start, np.tile(order, (len(values), 1)))))
    return (*curves, _random(values, start, seed))


def faithfulness_curves(
    class_atlas: ClassAtlas, *, kind: Literal["deletion", "insertion"] = "deletion", seed: int = 0
) -> go.Figure:
    """Return C-deletion or C-insertion curves over the class's images, with random orders as the baseline.

    Parameters
    ----------
    class_atlas
        One class of an atlas.
    kind
        ``"deletion"``: the score as concepts are taken away (lower is better); ``"insertion"``: as they are put back,
        from none (higher is better).
    seed
        Seed of the random orders.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> [trace.name for trace in faithfulness_curves(example_class()).data][-1]
    'random (1.9)'
    """
    import plotly.graph_objects as go

    if kind not in ("deletion", "insertion"):
        raise UserError(f"kind must be 'deletion' or 'insertion', not {kind!r}")
    looks = zip((*COLOURS[:3], GREY), ("solid", "dash", "dashdot", "dot"), strict=True)
    traces: list[dict[str, Any]] = []
    for curve, (colour, dash) in zip(deletion_curves(class_atlas, seed=seed), looks, strict=True):
        shown = curve if kind == "deletion" else _inserted(curve)
        if shown.low is not None and shown.high is not None:
            traces.append(_band(shown.low, shown.high))
        traces.append(_curve(f"{shown.name} ({shown.area:.1f})", shown.score, colour, dash))
    done = "taken away" if kind == "deletion" else "put back"
    layout = base_layout(height=380) | {
        "xaxis": axis(f"concepts {done}", dtick=max(1, len(class_atlas.concepts) // 8)),
        "yaxis": axis("mean score (logit)"),
    }
    return go.Figure({"data": traces, "layout": layout})


def choice_curve(class_atlas: ClassAtlas) -> go.Figure:
    """Return the curves from which the number of concepts was chosen, with the choice marked.

    Raises
    ------
    UserError
        Where the number was given and no curve was recorded.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> [trace.name for trace in choice_curve(example_class()).data]
    ['explained', 'stability']
    """
    import plotly.graph_objects as go

    rows = class_atlas.bank.provenance.get("n_components_curve")
    if not rows:
        raise UserError(f"the number of concepts of class {class_atlas.name!r} was given, so no curve was recorded")
    curve = pd.DataFrame(rows)
    at, traces = curve["n_components"].tolist(), []
    for (column, dash), colour in zip(
        (("explained", "solid"), ("stability", "dash"), ("kept", "dot")), COLOURS, strict=False
    ):
        if len(known_numbers(curve, column)):
            traces.append({**_curve(column, numbers_of(curve, column), colour, dash), "x": at, "mode": "lines+markers"})
    chosen = len(class_atlas.bank.directions)
    line = {"type": "line", "x0": chosen, "x1": chosen, "y0": 0, "y1": 1, "yref": "paper"}
    layout = base_layout(height=320) | {
        "xaxis": axis("number of concepts"),
        "yaxis": axis("share", rangemode="tozero"),
        "shapes": [{**line, "line": {"color": QUIET, "width": 1, "dash": "dot"}}],
    }
    return go.Figure({"data": traces, "layout": layout})


def _removed(values: np.ndarray, start: np.ndarray, order: np.ndarray) -> np.ndarray:
    taken = np.cumsum(np.take_along_axis(values, order, axis=1), axis=1)
    return np.concatenate([[start.mean()], (start[:, None] - taken).mean(0)])


def _random(values: np.ndarray, start: np.ndarray, seed: int) -> Curve:
    rng = np.random.default_rng(seed)
    columns = np.tile(np.arange(values.shape[1]), (len(values), 1))
    runs = np.array([_removed(values, start, rng.permuted(columns, axis=1)) for _ in range(RANDOM_ORDERS)])
    return Curve("random", runs.mean(0), runs.min(0), runs.max(0))


def _inserted(curve: Curve) -> Curve:
    """Putting concepts in is taking them away, backwards: S(all) + S(none) - deletion."""
    ends = curve.score[0] + curve.score[-1]
    low = None if curve.high is None else ends - curve.high
    high = None if curve.low is None else ends - curve.low
    return Curve(curve.name, ends - curve.score, low, high)


def _curve(name: str, values: np.ndarray, colour: str, dash: str) -> dict[str, Any]:
    look = {"color": colour, "dash": dash, "width": 2}
    steps = list(range(len(values)))
    return {"type": "scatter", "x": steps, "y": values.round(4).tolist(), "mode": "lines", "name": name, "line": look}


def _band(low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    steps = list(range(len(low)))
    outline = [*high.round(4).tolist(), *low[::-1].round(4).tolist()]
    fill = {"fill": "toself", "mode": "none", "fillcolor": "rgba(124,127,133,0.2)", "hoverinfo": "skip"}
    return {"type": "scatter", "x": steps + steps[::-1], "y": outline, "showlegend": False, **fill}
