"""The page that compares two atlases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from conceptatlas.audit.atlas import Atlas
from conceptatlas.audit.comparison import Comparison
from conceptatlas.viz import export_site
from conceptatlas.viz.links import class_links, index_concepts
from conceptatlas.viz.versus import CROPS, MOST_PAIRS, Versus


def test_a_comparison_gets_its_own_page_and_a_place_in_the_menu(atlas: Atlas, tmp_path: Path) -> None:
    row = {"class": "<b>bee</b>", "status": "lost", "label_a": "red plate", "importance_a": 0.4}
    shortcuts = pd.DataFrame([{"class": "<b>bee</b>", "status": "fixed", "label_a": "red plate"}])
    found = Comparison(concepts=pd.DataFrame([row]), shortcuts=shortcuts, classes=pd.DataFrame())
    index = export_site(atlas, tmp_path, comparison=found)
    text = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "suspected shortcuts 1 fixed; concepts 1 lost" in text
    assert "&lt;b&gt;bee&lt;/b&gt;" in text
    assert "comparison.html" in index.read_text(encoding="utf-8")


def test_both_sides_of_a_pair_stand_with_their_crops(
    atlas: Atlas, tmp_path: Path, compared: Callable[..., Comparison]
) -> None:
    export_site(atlas, tmp_path, comparison=compared(atlas))
    text = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert (tmp_path / "sprites/comparison.webp").is_file()
    assert text.count("has no such concept") == 3
    assert text.index(">new<") < text.index(">fixed<")
    assert "\u221230 points" in text


def test_a_concept_is_cut_out_once_however_often_it_is_shown(atlas: Atlas, compared: Callable[..., Comparison]) -> None:
    versus = Versus(compared(atlas, 9))
    sides = [side for _, pairs in versus.groups for pair in pairs for side in pair.sides if side.concept is not None]
    assert len({side.cells for side in sides}) == 2
    assert versus.sheet is not None
    assert versus.sheet.count == 2 * CROPS


def test_very_many_pairs_are_cut_off_and_counted(atlas: Atlas, compared: Callable[..., Comparison]) -> None:
    context = Versus(compared(atlas, MOST_PAIRS + 7)).context()
    assert context["more_pairs"] == 7


def test_words_that_are_no_name_can_be_searched(atlas: Atlas) -> None:
    concepts, words = index_concepts(atlas, class_links(atlas))
    entry = concepts[0][0]
    record = atlas["class 0"].bank.record(entry[0])
    assert record.name is not None
    near = [words[i] for i in entry[3]]
    assert set(near) <= {word for word, _ in record.name.candidates} | {record.tag}
    assert record.label not in near
