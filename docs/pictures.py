"""The README's pictures, taken of the demo's own site in a browser without a window: ``make pictures``.

``python docs/pictures.py RUN [--browser /usr/bin/chromium]``: RUN is the folder of a finished audit.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from conceptatlas.audit import Atlas
from conceptatlas.viz import export_site
from conceptatlas.viz.text import slug

OUT = Path(__file__).resolve().parent / "pictures"
WIDTH, HEIGHT, WIDEST, LARGEST = 1180, 760, 1180, 90_000
QUALITIES = (82, 74, 66, 56, 45)


def class_top(page: Any) -> bytes:
    """The head of a class's page, with the strategic cluster graph."""
    page.wait_for_selector(".plot[data-figure=graph][data-drawn]", timeout=120_000)
    page.wait_for_selector(".plot[data-figure=reliability][data-drawn]", timeout=120_000)
    page.evaluate("scrollTo(0, document.querySelector('main').offsetTop)")
    page.wait_for_timeout(500)
    return page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": 1040})


def card(page: Any) -> bytes:
    """The first concept that has parts, with its parts; else the first concept."""
    parts = page.locator("article.card:has(details.parts)")
    chosen = parts.first if parts.count() else page.locator("article.card").first
    chosen.scroll_into_view_if_needed()
    chosen.evaluate("card => card.querySelectorAll('details.parts').forEach(d => { d.open = true; })")
    loaded = (
        "card => Promise.all([...card.querySelectorAll('img')].map(i => { i.loading = 'eager'; return i.decode(); }))"
    )
    chosen.evaluate(loaded)
    return chosen.screenshot()


def panel(page: Any) -> bytes:
    """One image, explained."""
    page.locator(".card .crops button").first.click()
    page.wait_for_selector("dialog[open] .fall li")
    page.locator("dialog[open]").evaluate("d => Promise.all([...d.querySelectorAll('img')].map(i => i.decode()))")
    return page.locator("dialog[open]").screenshot()


def finding(page: Any) -> bytes:
    """The first suspected shortcut."""
    first = page.locator("#shortcut-1")
    first.scroll_into_view_if_needed()
    first.evaluate(
        "e => Promise.all([...e.querySelectorAll('img')].map(i => { i.loading = 'eager'; return i.decode(); }))"
    )
    return first.screenshot()


def save(png: bytes, name: str) -> Path:
    """Write a screenshot as WebP, at the first quality that is small enough."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    for quality in QUALITIES:
        stream = io.BytesIO()
        image.save(stream, "WEBP", quality=quality, method=6)
        if stream.tell() <= LARGEST:
            break
    path = OUT / f"{name}.webp"
    path.write_bytes(stream.getvalue())
    return path


def take(run: Path, executable: Path) -> None:
    """Take every picture of a run's site."""
    from playwright.sync_api import sync_playwright

    atlas = Atlas.load(run)
    first = str(atlas.shortcuts().iloc[0]["class"])
    shots: dict[str, tuple[str, Callable[[Any], bytes]]] = {
        "class": ("class", class_top),
        "concept": ("class", card),
        "image": ("class", panel),
        "shortcut": ("shortcuts.html", finding),
    }
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = export_site(atlas, folder).parent
        class_page = site / "classes" / f"{slug(first)}.html"
        browser = playwright.chromium.launch(executable_path=str(executable), args=["--no-sandbox", "--disable-gpu"])
        for name, (where, shoot) in shots.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT + 300}, color_scheme="light")
            page.goto((class_page if where == "class" else site / where).as_uri())
            path = save(shoot(page), name)
            sys.stdout.write(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB\n")
            page.close()
        browser.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--browser", type=Path, default=Path(os.environ.get("CHROMIUM", "/usr/bin/chromium")))
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    take(options.run, options.browser)


if __name__ == "__main__":
    main()
