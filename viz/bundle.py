"""The single-file edition of the site: every page a template, every picture base64, one document."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from conceptatlas.viz.render import template_text

if TYPE_CHECKING:
    from conceptatlas.viz.site import SiteBuilder


def bundle(builder: SiteBuilder) -> str:
    """Return the whole site as one HTML document.

    Parameters
    ----------
    builder
        A builder made with ``single_file=True``.
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    from conceptatlas.viz.site import Page

    pictures = [(path, base64.b64encode(content).decode()) for path, content in builder.pictures()]
    # Markup: what an escaping template has written is not escaped a second time.
    templates = [(page, Markup(builder.render(page, body_only=True))) for page in builder.pages()]
    templates.sort(key=lambda entry: entry[0].path != "index.html")
    context = {
        "templates": templates,
        "pictures": pictures,
        "css": Markup(template_text("site.css")),
        "js": Markup(inert(template_text("site.js"))),
        "plotly": Markup(inert(get_plotlyjs())),
    }
    return builder.render(Page("index.html", "bundle.html", "Classes", context))


def inert(script: str) -> str:
    r"""Return a script in which nothing can end the ``<script>`` element that holds it.

    >>> inert('"</script>"')
    '"<\\/script>"'
    """
    return script.replace("</script", "<\\/script").replace("</SCRIPT", "<\\/SCRIPT").replace("<!--", "<\\!--")
