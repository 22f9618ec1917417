"""The static site: from a saved atlas to pages that open from ``file://``, with no model, no server and no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from conceptatlas.viz import overview
from conceptatlas.viz.class_page import class_context, class_data
from conceptatlas.viz.concepts import Neighbours
from conceptatlas.viz.findings import findings
from conceptatlas.viz.folder import SiteFolder
from conceptatlas.viz.gallery import CROP_SIDE, Gallery, budget_per_class, build_gallery
from conceptatlas.viz.links import SUSPECT_GRADES, ClassLink, class_links
from conceptatlas.viz.overlays import outlined_crop
from conceptatlas.viz.render import common, environment, script_json, template_text
from conceptatlas.viz.sprites import Sheet, pack
from conceptatlas.viz.versus import Versus

if TYPE_CHECKING:
    from conceptatlas.audit import Atlas, ClassAtlas
    from conceptatlas.audit.comparison import Comparison

THUMB_SIDE, THUMBS_PER_SHEET, SHOWN_CROPS = 48, 100, 8


@dataclass(frozen=True)
class Picture:
    """One cell of a sheet, by the sheet's path from the site's root."""

    path: str
    sheet: Sheet
    cell: int


@dataclass(frozen=True)
class Page:
    """A page before it is written.

    Attributes
    ----------
    path
        From the site's root.
    template, title, context
        What is filled in.
    data
        What its script reads; None for nothing.
    """

    path: str
    template: str
    title: str
    context: dict[str, Any]
    data: dict[str, Any] | None = None


def export_site(
    atlas: Atlas, out: str | Path, *, single_file: bool = False, comparison: Comparison | None = None
) -> Path:
    """Write the atlas as a static site and return the path of its ``index.html``.

    The same atlas gives the same bytes. Files of an earlier export into the same folder that are no longer needed are
    removed; other files are left alone.

    Parameters
    ----------
    atlas
        A loaded atlas; neither its model nor its images are needed.
    out
        Folder to write into.
    single_file
        Put everything into one ``index.html`` (about a third larger than the folder).
    comparison
        What ``compare`` found between this atlas and another; gets a page of its own.

    Raises
    ------
    UserError
        Where `out` is a file, an audit's folder, or cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> from conceptatlas.viz.example import example_atlas
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_site(example_atlas(), folder).name
    'index.html'
    """
    folder = SiteFolder(out)
    builder = SiteBuilder(atlas, single_file=single_file, comparison=comparison)
    if single_file:
        from conceptatlas.viz.bundle import bundle

        folder.write("index.html", bundle(builder))
    else:
        for relative, content in builder.files():
            folder.write(relative, content)
    folder.finish()
    return folder.path / "index.html"


class SiteBuilder:
    """Turns an atlas into files, one at a time.

    Parameters
    ----------
    atlas
        The atlas.
    single_file
        Whether the pages will stand in one document.
    comparison
        A comparison that gets its own page.
    """

    def __init__(self, atlas: Atlas, *, single_file: bool = False, comparison: Comparison | None = None) -> None:
        self.atlas = atlas
        self.single = single_file
        self._versus = Versus(comparison) if comparison is not None else None
        self.links = class_links(atlas)
        self.by_name = {link.name: link for link in self.links}
        self.found = findings(atlas)
        self._environment = environment()
        self._neighbours = Neighbours(atlas)
        self._galleries: dict[str, Gallery] = {}
        self._thumbs: dict[tuple[str, int], Picture] = {}
        self._common = common(atlas, self._nav())

    def files(self) -> Iterator[tuple[str, str | bytes]]:
        """Yield (path, content) of every file of the site."""
        from plotly.offline import get_plotlyjs

        yield "assets/site.css", template_text("site.css")
        yield "assets/site.js", template_text("site.js")
        yield "assets/plotly.min.js", get_plotlyjs()
        yield from self.pictures()
        for page in self.pages():
            if page.data is not None:
                entry = f"{script_json(page.path)}:{script_json(page.data)}"
                name = page.path.rsplit("/", 1)[-1].removesuffix(".html")
                yield f"data/{name}.js", f"window.conceptatlas={{data:{{{entry}}}}};\n"
            yield page.path, self.render(page)

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Yield (path, bytes) of every sheet, and remember where each picture is: `pages` needs that."""
        budget = budget_per_class(len(self.links))
        for link in self.links:
            gallery = build_gallery(self.atlas[link.name], self.atlas.view, budget=budget)
            for kind, sheet in gallery.sheets().items():
                yield sheet_path(link, kind), sheet.data
            self._galleries[link.name] = gallery.without_bytes()
        self._thumbs, files = index_thumbs(self.atlas, self.links)
        yield from files.items()
        if self._versus is not None:
            yield from self._versus.picture()

    def pages(self) -> Iterator[Page]:
        """Yield every page; to be called after `pictures` has run to its end."""
        for link in self.links:
            yield self._class_page(link)
        context = overview.index_context(self.atlas, self.links, self.found)
        yield Page("index.html", "index.html", "Classes", {**context, "thumbs": self._thumbs})
        yield Page("shortcuts.html", "shortcuts.html", "Suspected shortcuts", overview.shortcuts_context(self.found))
        yield Page("slices.html", "slices.html", "Error slices", overview.slices_context(self.atlas, self.links))
        yield Page("skipped.html", "skipped.html", "Skipped images", overview.skipped_context(self.atlas))
        yield Page("methods.html", "methods.html", "Methods", overview.methods_context(self.atlas))
        if self._versus is not None:
            yield Page("comparison.html", "comparison.html", "Comparison", self._versus.context())

    def render(self, page: Page, *, body_only: bool = False) -> str:
        """Return a page's HTML, or only what stands between its header and its footer."""
        root = "../" * page.path.count("/")
        context = {**self._common, **page.context, "root": root, "path": page.path, "title": page.title}
        context |= {"single": self.single, "data": page.data, "source": self._source(root)}
        context |= {"links_by_name": self.by_name, "crops_of": self.crops_of}
        context["layout"] = "bare.html" if body_only else "base.html"
        return self._environment.get_template(page.template).render(context)

    def crops_of(self, class_name: str, concept: int, most: int = SHOWN_CROPS) -> list[Picture]:
        """Return the best crops of a concept of any class."""
        gallery, link = self._galleries.get(class_name), self.by_name.get(class_name)
        if gallery is None or link is None or gallery.crops is None:
            return []
        cells = [shot.crop for shot in gallery.shots.get(concept, ()) if shot.crop is not None]
        return [Picture(sheet_path(link, "crops"), gallery.crops, cell) for cell in cells[:most]]

    def _source(self, root: str) -> Callable[[str], Any]:
        from markupsafe import Markup

        if self.single:
            return lambda path: Markup('data-asset="{}"').format(path)
        return lambda path: Markup('src="{}"').format(root + path)

    def _nav(self) -> list[dict[str, str]]:
        items = [("Classes", "index.html"), ("Shortcuts", "shortcuts.html"), ("Errors", "slices.html")]
        items += [("Comparison", "comparison.html")] if self._versus is not None else []
        items += [("Skipped", "skipped.html"), ("Methods", "methods.html")]
        return [{"name": name, "href": href} for name, href in items]

    def _class_page(self, link: ClassLink) -> Page:
        member, gallery, at = self.atlas[link.name], self._galleries[link.name], self.links.index(link)
        near = self._neighbours.of(member)
        data = class_data(member, gallery, near, self.atlas.view)
        data["sheets"] = {
            kind: {"path": sheet_path(link, kind), "columns": sheet.columns, "cell": list(sheet.cell)}
            for kind, sheet in gallery.sheets().items()
        }
        context = {
            **class_context(member, gallery, near, self.atlas.images),
            "link": link,
            "previous": self.links[at - 1] if at else None,
            "following": self.links[at + 1] if at + 1 < len(self.links) else None,
            "suspects": [f for f in self.found if f.class_name == link.name and f.grade in SUSPECT_GRADES],
        }
        context |= {f"{kind}_path": sheet_path(link, kind) for kind in ("crops", "views", "heats", "parts")}
        return Page(f"classes/{link.slug}.html", "class.html", link.shown, context, data)


def sheet_path(link: ClassLink, kind: str) -> str:
    """Return where a class's sheet lies, from the site's root."""
    return f"sprites/{link.slug}-{kind}.webp"


def index_thumbs(atlas: Atlas, links: list[ClassLink]) -> tuple[dict[tuple[str, int], Picture], dict[str, bytes]]:
    """Return the best crop of each concept in the list of classes, by (class, concept), and the sheets' files."""
    held = [
        ((link.name, top.concept), tile)
        for link in links
        for top in link.tops
        if (tile := _thumb(atlas[link.name], top.concept, atlas.view)) is not None
    ]
    thumbs: dict[tuple[str, int], Picture] = {}
    files: dict[str, bytes] = {}
    for start in range(0, len(held), THUMBS_PER_SHEET):
        chosen = held[start : start + THUMBS_PER_SHEET]
        sheet = pack([tile for _, tile in chosen])
        path = f"sprites/index-{start // THUMBS_PER_SHEET}.webp"
        files[path] = sheet.data
        for cell, (key, _) in enumerate(chosen):
            thumbs[key] = Picture(path, replace(sheet, data=b""), cell)
    return thumbs, files


def _thumb(member: ClassAtlas, concept: int, view: Callable[[str], Image.Image]) -> Image.Image | None:
    best = member.examples[member.examples["concept"] == concept] if len(member.examples) else None
    if best is None or not len(best):
        return None
    row = best.iloc[0]
    try:
        image = view(str(row["view"]))
    except (OSError, ValueError):
        return None
    box = (row["left"], row["top"], row["right"], row["bottom"])
    return outlined_crop(image, None, box, size=CROP_SIDE).resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.LANCZOS)
