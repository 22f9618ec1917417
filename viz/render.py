"""Templates to HTML: one environment, escaping everywhere, JSON that cannot end its script."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from conceptatlas.viz import text
from conceptatlas.viz.methods import counts, layer_name, model_name

if TYPE_CHECKING:
    from jinja2 import Environment

    from conceptatlas.audit import Atlas


@cache
def template_text(name: str) -> str:
    """Return the source of a file in the templates' folder.

    >>> template_text("site.js").startswith('"use strict"')
    True
    """
    return (files("conceptatlas.viz") / "templates" / name).read_text(encoding="utf-8")


def environment() -> Environment:
    """Return the templates' environment: every value is escaped, unknown names are errors."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FunctionLoader(template_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "visible": text.visible,
        "shorten": text.shorten,
        "percent": text.percent,
        "number": text.number,
        "signed": text.signed,
        "share": text.signed_share,
        "tojson": lambda value: Markup(script_json(value)),
    }
    return made


def script_json(value: Any) -> str:
    r"""Return JSON that may stand inside a ``<script>``: no character of it can end the script or open a comment.

    Raises
    ------
    ValueError
        Where a number is not finite.

    Examples
    --------
    >>> script_json("</script>")
    '"\\u003c/script\\u003e"'
    """
    plain = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False, ensure_ascii=True)
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("'", "\\u0027")


def run_id(atlas: Atlas) -> str:
    """Return a short name of the run, under which a browser keeps a person's edits.

    The same audit keeps its edits when its site is written again; another one does not see them.
    """
    told = json.dumps(
        [atlas.run.get("key"), atlas.run.get("model"), atlas.run.get("layer")], sort_keys=True, default=str
    )
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def common(atlas: Atlas, nav: list[dict[str, str]]) -> dict[str, Any]:
    """Return what every page's template needs."""
    return {
        "nav": nav,
        "model": model_name(atlas),
        "layer": layer_name(atlas),
        "counts": counts(atlas),
        "run_id": run_id(atlas),
    }
