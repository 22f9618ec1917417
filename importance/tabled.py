"""How results show themselves: as a table, and in notebooks as HTML in which everything from outside is escaped."""

from __future__ import annotations

from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


class Tabled:
    """A dataclass whose one-axis arrays, one value per concept, are the columns of its table.

    Examples
    --------
    >>> from conceptatlas.importance.shares import Shares
    >>> Shares(np.array([0.75, -0.25]), np.array([0.7, -0.3]), np.array([0.8, -0.2])).to_frame().columns.tolist()
    ['concept', 'share', 'low', 'high']
    """

    def to_frame(self) -> pd.DataFrame:
        """Return one row per concept."""
        import pandas as pd

        held = _values(self)
        columns = {name: value for name, value in held.items() if isinstance(value, np.ndarray) and value.ndim == 1}
        k = len(next(iter(columns.values()), ()))
        return pd.DataFrame({"concept": np.arange(k), **columns})

    def _repr_html_(self) -> str:
        facts = [f"{name.replace('_', ' ')} {value}" for name, value in _values(self).items() if _is_plain(value)]
        head = f"<p>{escape(', '.join([type(self).__name__, *facts]))}</p>"
        table = self.to_frame().to_html(index=False, border=0, escape=True, float_format=lambda v: f"{v:.3g}")
        return head + table


def _values(result: Any) -> dict[str, Any]:
    return {item.name: getattr(result, item.name) for item in fields(result)}


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and value != ""
