"""The static site, as files: complete, escaped, linked, small, the same twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from conceptatlas.audit.atlas import Atlas
from conceptatlas.concepts.bank import ConceptBank
from conceptatlas.extraction.errors import UserError
from conceptatlas.viz import export_site

PAGES = {"index.html", "shortcuts.html", "slices.html", "skipped.html", "methods.html"}


class Reader(HTMLParser):
    """Collects what a browser would act on: elements, their attributes, ids, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("textarea", "script"):
            self.text.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


@pytest.fixture(scope="module")
def site(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_site(atlas, tmp_path_factory.mktemp("site")).parent


@pytest.fixture(scope="module")
def hostile_site(hostile_atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_site(hostile_atlas, tmp_path_factory.mktemp("hostile")).parent


def pages_of(root: Path) -> list[Path]:
    return sorted(root.rglob("*.html"))


def test_every_page_and_shared_asset_is_written(site: Path, atlas: Atlas) -> None:
    assert {p.name for p in site.glob("*.html")} == PAGES
    assert len(list((site / "classes").glob("*.html"))) == len(atlas)
    assert {p.name for p in (site / "assets").iterdir()} == {"plotly.min.js", "site.css", "site.js"}


def test_every_link_and_picture_of_every_page_exists(hostile_site: Path) -> None:
    for page in pages_of(hostile_site):
        for tag, attributes in read(page).elements:
            for name in ("href", "src"):
                target = attributes.get(name)
                if target is None or target.startswith("#") or tag == "use":
                    continue
                parts = urlsplit(target)
                assert parts.scheme == "", (page.name, target)
                assert parts.netloc == "", (page.name, target)
                assert (page.parent / unquote(parts.path)).is_file(), (page.name, target)


def test_every_fragment_link_points_at_an_element(site: Path) -> None:
    ids = {p: {a.get("id") for _, a in read(p).elements} for p in pages_of(site)}
    for page in pages_of(site):
        for tag, attributes in read(page).elements:
            if tag == "a" and "#" in (attributes.get("href") or ""):
                path, fragment = (attributes["href"] or "").split("#")
                target = (page.parent / path).resolve() if path else page
                assert fragment in ids[target], (page.name, attributes["href"])


def test_ids_are_unique_on_every_page(site: Path) -> None:
    for page in pages_of(site):
        ids = [a["id"] for _, a in read(page).elements if "id" in a]
        assert len(ids) == len(set(ids)), page.name


def test_fault_66_no_payload_becomes_an_element_or_an_attribute(hostile_site: Path) -> None:
    for page in pages_of(hostile_site):
        reader = read(page)
        handlers = [(t, k) for t, a in reader.elements for k in a if k.startswith("on")]
        assert handlers == [], page.name
        assert not [a for t, a in reader.elements if t == "img" and a.get("src") == "x"]
        links = [a.get("href") or "" for t, a in reader.elements if t == "a"]
        assert not [link for link in links if link.lower().startswith(("javascript:", "data:", "//"))]


def test_fault_66_scripts_are_only_our_own(hostile_site: Path) -> None:
    for page in pages_of(hostile_site):
        source = page.read_text(encoding="utf-8")
        assert "document.title=1337</script>" not in source
        assert "<script>document.title" not in source
        assert source.count("<script") == source.count("</script>")


def test_fault_66_template_expressions_in_names_are_not_evaluated(hostile_site: Path) -> None:
    text = "".join(read(hostile_site / "index.html").text)
    assert "{{7*7}}" in text


def test_direction_overrides_in_shown_names_are_removed(hostile_site: Path) -> None:
    assert all("\u202e" not in "".join(read(p).text) for p in pages_of(hostile_site))


def test_fault_67_nothing_refers_to_another_host(hostile_site: Path) -> None:
    for path in [*pages_of(hostile_site), hostile_site / "assets/site.css", hostile_site / "assets/site.js"]:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|url\((?!#)|@import", text), path.name


def test_data_of_a_page_is_json_that_cannot_end_its_script(hostile_site: Path) -> None:
    for path in (hostile_site / "data").glob("*.js"):
        text = path.read_text(encoding="ascii")
        assert "<" not in text
        body = text.removeprefix("window.conceptatlas={data:{").removesuffix("}};\n")
        page, data = json.loads("{" + body + "}").popitem()
        assert (hostile_site / page).is_file()
        assert set(data) >= {"images", "figures", "heat", "labels", "styles"}


def test_decomposition_in_the_data_adds_up_to_the_score(site: Path) -> None:
    text = next((site / "data").glob("class-0-*.js")).read_text()
    images = json.loads("{" + text.removeprefix("window.conceptatlas={data:{").removesuffix("}};\n") + "}").popitem()[
        1
    ]["images"]
    for i, logit in enumerate(images["logit"]):
        total = sum(images["contributions"][i]) + images["residual"][i] + images["bias"][i]
        assert total == pytest.approx(logit, abs=0.01)


def test_the_same_atlas_gives_the_same_bytes(atlas: Atlas, site: Path, tmp_path: Path) -> None:
    again = export_site(atlas, tmp_path / "again").parent
    first = {p.relative_to(site): p.read_bytes() for p in site.rglob("*") if p.is_file()}
    assert {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()} == first


def test_a_second_export_removes_only_its_own_old_files(make_atlas: Callable[..., Atlas], tmp_path: Path) -> None:
    small = {"n_concepts": 2, "n_images": 12, "n_views": 12}
    export_site(make_atlas(n_classes=3, **small), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    export_site(make_atlas(n_classes=2, **small), tmp_path)
    assert len(list((tmp_path / "classes").glob("*.html"))) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_tampered_list_of_files_cannot_remove_files_outside(atlas: Atlas, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("keep")
    site = tmp_path / "site"
    site.mkdir()
    (site / ".conceptatlas-site.json").write_text(json.dumps({"files": ["../precious.txt", str(precious), 3]}))
    export_site(atlas, site)
    assert precious.read_text() == "keep"


def test_names_that_differ_never_share_a_page(hostile_site: Path, hostile_atlas: Atlas) -> None:
    assert len(list((hostile_site / "classes").glob("*.html"))) == len(hostile_atlas)
    assert all(len(p.name) < 80 for p in (hostile_site / "classes").iterdir())


def test_an_empty_atlas_still_gives_a_site(atlas: Atlas, tmp_path: Path) -> None:
    from dataclasses import replace

    empty = replace(atlas, members={}, shortcut_table=atlas.shortcut_table.iloc[:0])
    text = "".join(read(export_site(empty, tmp_path)).text)
    assert "0 classes" in text


def test_a_persons_title_tag_and_note_stand_on_the_page(atlas: Atlas, tmp_path: Path) -> None:
    from dataclasses import replace

    member = atlas["class 1"]
    bank = member.bank.rename(0, "My own title").tag(0, "core").note(0, "seen twice")
    site = export_site(
        replace(atlas, members={**dict(atlas.members), "class 1": member.with_bank(bank)}), tmp_path
    ).parent
    text = "".join(read(next((site / "classes").glob("class-1-*.html"))).text)
    assert "My own title" in text
    assert "seen twice" in text


def test_a_missing_view_leaves_its_crop_out(
    make_atlas: Callable[..., Atlas], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    atlas = make_atlas(n_classes=1, n_concepts=2, n_images=12, n_views=12)
    (atlas.path / "views/00003.webp").unlink()
    export_site(atlas, tmp_path)
    assert "cannot be shown" in caplog.text


def test_edits_of_the_page_are_what_the_bank_reads(atlas: Atlas) -> None:
    bank: ConceptBank = atlas["class 0"].bank
    exported = {
        "schema": 1,
        "edits": [{"class": "class 0", "concept": 2, "title": "seen", "tag": "unclear", "note": "?"}],
    }
    record = bank.apply_edits(exported).concepts[2]
    assert (record.label, record.tag, record.note) == ("seen", "unclear", "?")


def test_single_file_holds_every_page_and_loads_nothing(hostile_atlas: Atlas, tmp_path: Path) -> None:
    path = export_site(hostile_atlas, tmp_path, single_file=True)
    reader = read(path)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["index.html"]
    templates = [a for t, a in reader.elements if t == "template"]
    assert len(templates) == len(hostile_atlas) + len(PAGES)
    assert not [a for t, a in reader.elements if t in ("script", "img", "link") and (a.get("src") or a.get("href"))]


@pytest.mark.parametrize("kind", ["file", "run"])
def test_a_file_or_a_run_folder_is_refused_as_target(atlas: Atlas, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("x")
    else:
        target.mkdir()
        (target / "run.json").write_text("{}")
    with pytest.raises(UserError, match="target"):
        export_site(atlas, target)


@pytest.mark.slow
def test_fault_68_ten_classes_stay_within_the_size_budget(make_atlas: Callable[..., Atlas], tmp_path: Path) -> None:
    atlas = make_atlas(n_classes=10, n_concepts=10, n_images=100, n_views=100, side=160)
    site = export_site(atlas, tmp_path).parent
    assert max(p.stat().st_size for p in pages_of(site)) <= 200_000
    assert sum(p.stat().st_size for p in site.rglob("*") if p.is_file()) <= 10_000_000


@pytest.mark.slow
def test_index_of_a_thousand_classes_is_at_most_a_megabyte(thousand_site: Path) -> None:
    assert (thousand_site / "index.html").stat().st_size <= 1_000_000
