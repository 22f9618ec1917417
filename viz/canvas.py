"""The sheet that every figure is drawn on: fonts, margins and quiet axes."""

from __future__ import annotations

from typing import Any

INK, QUIET, RULE, PAPER = "#26282c", "#5c6068", "#d9dadd", "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def base_layout(*, title: str = "", height: int = 420) -> dict[str, Any]:
    """Return the layout that every figure starts from, as plain values.

    Examples
    --------
    >>> base_layout(title="Strategies")["title"]["text"]
    'Strategies'
    """
    return {
        "template": "none",
        "height": height,
        "autosize": True,
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "font": {"family": FONT, "size": 12, "color": INK},
        "title": {"text": title, "x": 0, "xanchor": "left", "font": {"size": 15}, "pad": {"l": 12}},
        "margin": {"l": 56, "r": 16, "t": 40 if title else 16, "b": 48},
        "hoverlabel": {"align": "left", "bgcolor": PAPER, "bordercolor": RULE, "font": {"color": INK, "size": 12}},
        "legend": {"orientation": "h", "x": 0, "y": -0.18, "yanchor": "top", "itemsizing": "constant"},
    }


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """Return the settings of a quiet axis with a title.

    >>> axis("prevalence", tickformat=".0%")["tickformat"]
    '.0%'
    """
    quiet = {"gridcolor": RULE, "linecolor": RULE, "zeroline": False, "tickfont": {"color": QUIET}}
    return {"title": {"text": title, "font": {"size": 12, "color": QUIET}}, "automargin": True, **quiet, **settings}


HIDDEN_AXIS: dict[str, Any] = {"visible": False, "showgrid": False, "zeroline": False}
