"""Size, speed and sameness of the static site: ten classes with ten concepts and ten crops each, and a large index.

``OMP_NUM_THREADS=1 python benchmarks/site.py [--quick] [--classes 1000] [--browser /usr/bin/chromium]``.
The atlases are the synthetic ones of the tests, written to disk and opened again. Build times are CPU seconds of one
process. With a browser (and playwright) the first paint, the first figure and a search are timed too, in seconds of the
wall clock, the best of three: on a busy machine they say how busy it is.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from conceptatlas.audit import Atlas, storage
from conceptatlas.viz import export_site

TESTS = Path(__file__).resolve().parents[1] / "tests" / "viz" / "conftest.py"
TEN = {"n_classes": 10, "n_concepts": 10, "n_images": 100, "n_views": 100, "n_examples": 10, "side": 160}
MANY = {"n_concepts": 10, "n_images": 12, "n_views": 6, "n_examples": 1, "side": 48}
SEARCH = """async () => {
  const q = document.querySelector('#q'), list = document.querySelector('#concept-results ul');
  const before = list.innerHTML, start = performance.now();
  q.value = 'stripes'; q.dispatchEvent(new Event('input'));
  while (list.innerHTML === before) await new Promise(done => setTimeout(done, 2));
  return (performance.now() - start) / 1000;
}"""


def synthetic_atlas(root: Path, **sizes: int) -> Atlas:
    """Return the tests' atlas of a size, written to a run's folder and opened again."""
    spec = importlib.util.spec_from_file_location("atlas_of_the_tests", TESTS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    made: Atlas = module.synthetic(root, module.Size(**sizes))
    for name in made:
        storage.save_class(root, made[name], pd.DataFrame({"concept": [0]}))
    for name, table in (("images", made.images), ("skipped", made.skipped), ("classes", made.classes)):
        storage.write_table(root, name, table)
    storage.write_table(root, "shortcuts", made.shortcut_table)
    storage.write_json(root / "run.json", {**made.run, "finished": True})
    return Atlas.load(root)


def built(run: Path, out: Path) -> tuple[Path, float]:
    """Return the site of a saved run and the CPU seconds that opening and writing took."""
    start = time.process_time()
    index = export_site(Atlas.load(run), out)
    return index.parent, time.process_time() - start


def files_of(root: Path) -> dict[str, bytes]:
    """Return the content of every file by its path."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@contextmanager
def browser(executable: Path) -> Iterator[Any]:
    """Start a browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(executable), args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


def best_of(times: int, measure: Callable[[], float]) -> float:
    """Return the smallest of some measurements."""
    return min(measure() for _ in range(times))


def first_paint(launched: Any, page_path: Path) -> float:
    """Return the seconds until the browser paints the page's content."""
    page = launched.new_page()
    page.goto(page_path.as_uri())
    wait = "performance.getEntriesByName('first-contentful-paint').length > 0"
    page.wait_for_function(wait)
    found = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
    page.close()
    return float(found)


def first_figure(launched: Any, page_path: Path) -> float:
    """Return the seconds until the page's first figure is drawn."""
    page = launched.new_page()
    start = time.perf_counter()
    page.goto(page_path.as_uri())
    page.locator(".plot[data-figure=graph]").scroll_into_view_if_needed()
    page.wait_for_selector(".plot[data-figure=graph][data-drawn]")
    found = time.perf_counter() - start
    page.close()
    return found


def search(launched: Any, index: Path) -> float:
    """Return the seconds from a key press to the list of concepts, 0.06 of which wait for the next key."""
    page = launched.new_page()
    page.goto(index.as_uri())
    found = float(page.evaluate(SEARCH))
    page.close()
    return found


def report(what: str, value: str, limit: str) -> None:
    """Print one line."""
    print(f"{what:<58} {value:>14}   {limit}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="An index of 60 classes.")
    parser.add_argument("--classes", type=int, default=1000, help="Classes of the large index.")
    parser.add_argument("--browser", type=Path, default=Path(os.environ.get("CHROMIUM", "/usr/bin/chromium")))
    options = parser.parse_args()
    n_many = 60 if options.quick else options.classes
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        synthetic_atlas(root / "ten", **TEN)
        site, took = built(root / "ten", root / "site")
        again, _ = built(root / "ten", root / "again")
        files = files_of(site)
        pages = [len(content) for name, content in files.items() if name.startswith("classes/")]
        report(
            "10 classes x 10 concepts x 10 crops, all files", f"{sum(map(len, files.values())) / 1e6:.2f} MB", "10 MB"
        )
        report("largest class page", f"{max(pages) / 1e3:.0f} kB", "200 kB")
        report("build from the saved run, CPU", f"{took:.1f} s", "60 s on two cores")
        report("built twice, files that differ", str(sum(files[k] != v for k, v in files_of(again).items())), "0")
        synthetic_atlas(root / "many", n_classes=n_many, **MANY)
        many, took_many = built(root / "many", root / "many-site")
        report(f"index of {n_many:,} classes", f"{(many / 'index.html').stat().st_size / 1e6:.2f} MB", "1 MB")
        report(f"build of {n_many:,} classes, CPU", f"{took_many:.0f} s", "")
        if options.browser.is_file() and importlib.util.find_spec("playwright"):
            time_in_browser(options.browser, site, many / "index.html", n_many)


def time_in_browser(executable: Path, site: Path, large_index: Path, n_many: int) -> None:
    """Print what a reader waits for."""
    page = next((site / "classes").glob("*.html"))
    with browser(executable) as launched:
        report("class page, first paint", f"{best_of(3, lambda: first_paint(launched, page)):.2f} s", "2 s")
        report("class page, first figure drawn", f"{best_of(3, lambda: first_figure(launched, page)):.2f} s", "")
        paint = best_of(3, lambda: first_paint(launched, large_index))
        report(f"index of {n_many:,} classes, first paint", f"{paint:.2f} s", "2 s")
        found = best_of(3, lambda: search(launched, large_index))
        report(f"search in {n_many:,} classes", f"{found:.2f} s", "without lag")


if __name__ == "__main__":
    main()
