"""Numbers and names as a person reads them: intervals, signs, shares, and names that cannot break a page."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Hashable, Mapping
from typing import Any
from urllib.parse import quote

MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def known(value: object) -> bool:
    """Return whether a number is there and finite.

    >>> known(0.5), known(None), known(float("nan"))
    (True, False, False)
    """
    try:
        return value is not None and math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def number(value: object, digits: int = 2) -> str:
    """Return a number with a true minus sign; an en dash where there is none.

    >>> number(-0.1234), number(float("nan"))
    ('−0.12', '–')
    """
    if not known(value):
        return "–"
    text = f"{float(value):.{digits}f}"  # type: ignore[arg-type]
    return f"{MINUS}{text[1:]}" if text.startswith("-") and float(text) != 0 else text.lstrip("-")


def signed(value: object, digits: int = 2) -> str:
    """Return a number with its sign.

    >>> signed(0.31), signed(-0.31), signed(0)
    ('+0.31', '−0.31', '0.00')
    """
    text = number(value, digits)
    return f"+{text}" if known(value) and float(value) > 0 and float(text) != 0 else text  # type: ignore[arg-type]


def percent(value: object) -> str:
    """Return a share in percent; below 10 % with one decimal.

    >>> percent(0.5) == f"50{SPACE}%", percent(0.042) == f"4.2{SPACE}%", percent(None)
    (True, True, '–')
    """
    if not known(value):
        return "–"
    share = 100 * float(value)  # type: ignore[arg-type]
    return f"{number(share, 1 if 0 < abs(share) < 9.95 else 0)}{SPACE}%"


def signed_share(value: object) -> str:
    """Return a share in whole percent with its sign, empty where it is not known.

    >>> signed_share(-0.08) == f"{MINUS}8{SPACE}%", signed_share(None)
    (True, '')
    """
    return f"{signed(100 * float(value), 0)}{SPACE}%" if known(value) else ""  # type: ignore[arg-type]


def interval(low: object, high: object, *, as_percent: bool = False, digits: int = 2, signs: bool = False) -> str:
    """Return an interval in words, empty where a bound is not known.

    >>> interval(0.25, 0.5), interval(None, 1)
    ('0.25 to 0.50', '')
    """
    if not (known(low) and known(high)):
        return ""
    show = signed if signs and float(low) < 0 else number  # type: ignore[arg-type]
    if as_percent:
        return f"{show(100 * float(low), 0)} to {show(100 * float(high), 0)}{SPACE}%"  # type: ignore[arg-type]
    return f"{show(low, digits)} to {show(high, digits)}"


def p_text(value: object) -> str:
    """Return a p-value as it is written.

    >>> p_text(0.0004), p_text(0.03)
    ('p < 0.001', 'p = 0.030')
    """
    if not known(value):
        return "p not known"
    return "p < 0.001" if float(value) < 0.001 else f"p = {float(value):.3f}"  # type: ignore[arg-type]


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun.

    >>> count(1, "image"), count(1200, "image"), count(2, "class", "classes")
    ('1 image', '1,200 images', '2 classes')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def visible(text: object) -> str:
    """Return text without control characters and direction overrides, which can disguise what stands beside them.

    >>> visible("bee" + chr(0x202E) + chr(10) + "hive")
    'bee hive'
    """
    spaced = re.sub(r"\s+", " ", str(text))
    return "".join(c for c in spaced if unicodedata.category(c) not in _INVISIBLE)


def shorten(text: object, limit: int = 40) -> str:
    """Return visible text cut to `limit` characters, with an ellipsis where something is missing.

    >>> shorten("a very long name indeed", 12)
    'a very long…'
    """
    plain = visible(text)
    return plain if len(plain) <= limit else plain[: limit - 1].rstrip() + "…"


def figure_text(text: object, limit: int = 40) -> str:
    """Return text for a plotly figure, where ``<b>`` and ``<a href>`` would be read as markup, as plain characters.

    >>> figure_text("<b>bee</b>")
    '&lt;b&gt;bee&lt;/b&gt;'
    """
    return shorten(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def slug(name: str) -> str:
    """Return a file name without its ending: what of the name is safe anywhere, and a hash that keeps names apart.

    >>> slug("Black Widow / spider")
    'black-widow-spider-9d8c0e4a'
    >>> slug("a/b") == slug("a.b")
    False
    """
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")[:40].strip("-")
    return f"{words or 'class'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def href(*parts: str, fragment: str = "") -> str:
    """Return a relative link, percent-encoded, that no name can turn into another scheme.

    >>> href("classes", "bee-1.html", fragment="concept-3")
    'classes/bee-1.html#concept-3'
    >>> href("javascript:alert(1)")
    'javascript%3Aalert%281%29'
    """
    path = "/".join(quote(part, safe="") for part in parts)
    return f"{path}#{quote(fragment, safe='')}" if fragment else path


def value_of(row: Mapping[Hashable, Any], key: str) -> Any:
    """Return a cell, None where the column is missing or the value is (NaN, NaT, pandas' NA).

    >>> value_of({"a": float("nan"), "b": 2}, "a"), value_of({"b": 2}, "b"), value_of({}, "c")
    (None, 2, None)
    """
    value = row.get(key)
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
        return None
    return value


def verdict(value: object) -> bool | None:
    """Return whether a prediction is right, None where that is not known (None, NaN, pandas' NA).

    >>> verdict(1.0), verdict(float("nan")), verdict(False)
    (True, None, False)
    """
    plain = value_of({"v": value}, "v")
    return None if plain is None else bool(plain)
