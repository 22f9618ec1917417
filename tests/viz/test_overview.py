"""The pages that look across classes: the index, its search, and the comparison of two atlases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conceptatlas.audit.atlas import Atlas
from conceptatlas.audit.comparison import Comparison
from conceptatlas.viz import export_site
from conceptatlas.viz.findings import findings
from conceptatlas.viz.links import MOST_TOPS, class_links, index_concepts
from conceptatlas.viz.overview import index_context, left_out
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


def test_a_class_stands_in_the_list_with_its_precision_and_its_recall(atlas: Atlas) -> None:
    shifted = atlas.images.assign(label_index=np.roll(atlas.images["label_index"].to_numpy(), 7))
    for link in class_links(replace(atlas, images=shifted)):
        called, labelled = shifted["predicted_index"] == link.index, shifted["label_index"] == link.index
        assert link.recall == pytest.approx((called & labelled).sum() / labelled.sum())
        assert link.recall is not None
        assert 0.5 < link.recall < 1
        right = atlas[link.name].images["correct"].dropna().astype(float)
        assert link.precision == pytest.approx(right.mean())


def test_without_labels_neither_precision_nor_recall_is_known(atlas: Atlas) -> None:
    members = {
        name: replace(member, images=member.images.assign(correct=None, label=None)) for name, member in atlas.items()
    }
    bare = replace(atlas, members=members, images=atlas.images.assign(label_index=None, correct=None, label=None))
    assert {(link.precision, link.recall) for link in class_links(bare)} == {(None, None)}


def test_few_classes_show_their_three_most_important_concepts_and_many_one(
    atlas: Atlas, make_atlas: Callable[..., Atlas], monkeypatch: pytest.MonkeyPatch
) -> None:
    for link in class_links(atlas):
        assert [top.concept for top in link.tops] == atlas[link.name].concepts["concept"].tolist()[:MOST_TOPS]
    monkeypatch.setattr("conceptatlas.viz.links.FEW_CLASSES", 2)
    assert {len(link.tops) for link in class_links(atlas)} == {1}


def test_the_index_begins_with_what_is_suspected_and_why(atlas: Atlas) -> None:
    found = findings(atlas)
    context = index_context(atlas, class_links(atlas), found)
    strong = [finding for finding in found if finding.grade in ("A", "B")]
    assert [finding for finding, _ in context["suspects"]] == strong[:6]
    assert all("with it" in gist for _, gist in context["suspects"])
    assert len(context["suspects"]) + context["more_suspects"] == len(strong)


def test_classes_without_concepts_are_grouped_by_the_reason() -> None:
    rows = [
        ("fly", 6, "6 images are predicted as it, 20 are needed"),
        ("tick", 1, "1 image is predicted as it, 20 are needed"),
        ("ant", 40, "not asked for"),
    ]
    frame = pd.DataFrame(rows, columns=["name", "n_images", "reason"]).assign(fitted=False)
    assert [group.classes for group in left_out(frame)] == [(("fly", 6), ("tick", 1)), (("ant", 40),)]


def test_a_class_without_a_visible_name_still_has_a_text_to_choose(atlas: Atlas) -> None:
    link = replace(class_links(atlas)[1], name=" \u200b\u202e")
    assert link.shown == f"class {link.index}"
    assert replace(link, name="bee").shown == "bee"
