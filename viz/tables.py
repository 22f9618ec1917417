"""Columns and rows of the atlas's tables as plain arrays and mappings, whatever a column is stored as."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def numbers_of(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as (n,) float64; NaN where it is missing, None, or not a number.

    Examples
    --------
    >>> numbers_of(pd.DataFrame({"correct": pd.array([True, None], dtype="boolean")}), "correct")
    array([ 1., nan])
    >>> numbers_of(pd.DataFrame({"a": [1]}), "b")
    array([nan])
    """
    if column not in frame.columns:
        return np.full(len(frame), np.nan)
    numeric: Any = pd.to_numeric(frame[column].astype(object), errors="coerce")
    return np.asarray(numeric, dtype=np.float64)


def known_numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return the finite values of a column, (m,) float64.

    >>> known_numbers(pd.DataFrame({"a": [1.0, None]}), "a")
    array([1.])
    """
    values = numbers_of(frame, column)
    return values[np.isfinite(values)]


def rows_of(frame: pd.DataFrame, chosen: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Return the rows (those where `chosen` is true) as mappings from column to value.

    >>> rows_of(pd.DataFrame({"a": [1, 2]}), np.array([False, True]))
    [{'a': 2}]
    """
    if not len(frame.columns):
        return []
    kept: Any = frame if chosen is None else frame[np.asarray(chosen, dtype=bool)]
    return [{str(key): value for key, value in row.items()} for row in kept.to_dict("records")]


def unfitted_rows(classes: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of an atlas's table of classes for which no concepts were sought.

    >>> unfitted_rows(pd.DataFrame({"name": ["a", "b"], "fitted": [True, False]}))
    [{'name': 'b', 'fitted': False}]
    """
    return [row for row in rows_of(classes) if not bool(row.get("fitted"))]
