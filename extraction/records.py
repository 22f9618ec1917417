"""Whether what a manifest says can be true: types and ranges, before anything is done with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_LARGEST = 2**31
_LARGEST_FILE = 2**48
_LARGEST_SIZE = 2**26  # positions of a grid, or pixels of a view: 8192 x 8192


def is_count(value: object, low: int = 0) -> bool:
    """Return whether a value is a whole number from `low` to 2 ** 31.

    >>> is_count(3), is_count(True), is_count(-1)
    (True, False, False)
    """
    return type(value) is int and low <= value <= _LARGEST


def is_file_size(value: object) -> bool:
    """Return whether a value is a number of bytes that a file can have.

    >>> is_file_size(2**33), is_file_size(2**70)
    (True, False)
    """
    return type(value) is int and 0 <= value <= _LARGEST_FILE


def is_size(value: object) -> bool:
    """Return whether a value is a pair of positive whole numbers, with a product that a model can have seen.

    >>> is_size([2, 3]), is_size([2]), is_size([2**20, 2**20])
    (True, False, False)
    """
    if not (isinstance(value, list) and len(value) == 2 and all(is_count(part, 1) for part in value)):
        return False
    return value[0] * value[1] <= _LARGEST_SIZE


def is_text(value: object) -> bool:
    """Return whether a value is text.

    >>> is_text("a"), is_text(None)
    (True, False)
    """
    return isinstance(value, str)


def is_texts(value: object) -> bool:
    """Return whether a value is a tuple of texts.

    >>> is_texts(("a",)), is_texts("a")
    (True, False)
    """
    return isinstance(value, tuple) and all(isinstance(part, str) for part in value)


def is_labels(value: object) -> bool:
    """Return whether a value is a tuple of labels.

    >>> is_labels(("ant", 3, None)), is_labels((0.5,))
    (True, False)
    """
    return isinstance(value, tuple) and all(part is None or type(part) in (str, int) for part in value)


SHARD: Mapping[str, Callable[[object], bool]] = {
    "index": is_count,
    "start": is_count,
    "stop": is_count,
    "file": is_text,
    "size": is_file_size,
    "checksum": is_text,
    "sample_ids": is_texts,
    "labels": is_labels,
}
SKIPPED: Mapping[str, Callable[[object], bool]] = dict.fromkeys(
    ("sample_id", "path", "cause", "error", "stage"), is_text
)
HEADER: Mapping[str, Callable[[object], bool]] = {
    "n_samples": is_count,
    "dtype": lambda value: value in ("float32", "float16"),
    "unit": lambda value: value in ("position", "crop"),
    "layer": is_text,
    "crops": lambda value: value is None or isinstance(value, dict),
}
SHAPES: Mapping[str, Callable[[object], bool]] = {
    "grid": is_size,
    "view": is_size,
    "n_features": lambda value: is_count(value, 1),
    "prefix_tokens": is_count,
    "n_classes": is_count,
}


def first_wrong(values: Mapping[str, Any], rules: Mapping[str, Callable[[object], bool]]) -> str | None:
    """Return the first name whose value is missing or breaks its rule; None where all is well.

    >>> first_wrong({"grid": [2, 2]}, {"grid": is_size, "view": is_size})
    'view'
    """
    return next((name for name, rule in rules.items() if name not in values or not rule(values[name])), None)
