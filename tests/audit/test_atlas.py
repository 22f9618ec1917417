"""The atlas: opens without model and images, keeps a person's judgement, refuses torn and tampered folders."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conceptatlas.audit import Atlas, storage
from conceptatlas.extraction.errors import UserError


def test_an_atlas_maps_class_names_to_classes(atlas):
    assert list(atlas) == ["ant", "bee / <b>"]
    assert atlas["ant"].n_concepts == 3


def test_what_was_saved_is_what_is_loaded(atlas, tmp_path):
    copy = Atlas.load(atlas.save(tmp_path / "copy"))
    for name in atlas:
        one, other = atlas[name], copy[name]
        np.testing.assert_array_equal(one.contributions, other.contributions)
        np.testing.assert_array_equal(one.maps, other.maps)
        assert one.concepts.equals(other.concepts)
        assert one.bank == other.bank


def test_what_a_killed_run_left_of_a_class_goes_when_the_class_is_written(atlas):
    member = next(iter(atlas.values()))
    folder = storage.class_folder(atlas.path, member.slug)
    left = folder.with_name(f".{member.slug}.999999")
    left.mkdir()
    (left / "arrays.safetensors").write_bytes(b"half")
    storage.save_class(atlas.path, member, member.concepts[["concept"]])
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_saving_into_a_folder_that_holds_something_is_refused(atlas, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not empty"):
        atlas.save(tmp_path / "full")


def test_an_unknown_class_lists_the_known_ones(atlas):
    with pytest.raises(KeyError, match="ant"):
        atlas["wasp"]


def test_a_class_that_was_not_fitted_says_why(atlas):
    with pytest.raises(KeyError, match="2 images"):
        atlas["rare"]


def test_the_frame_has_a_row_per_class_and_concept(atlas):
    frame = atlas.to_frame()
    assert frame.groupby("class").size().to_dict() == {"ant": 3, "bee / <b>": 3}
    assert frame["label"].notna().all()


def test_the_overlap_of_two_concepts_counts_the_images_that_hold_them(atlas):
    member = next(iter(atlas.values()))
    scores = np.zeros_like(member.everywhere_scores, shape=(4, member.n_concepts))
    scores[:3, 0], scores[1:, 1] = 1.0, 1.0
    member = replace(member, everywhere_scores=scores, concepts=member.concepts.assign(threshold=0.5))
    assert member.overlap(0, 1) == 0.5
    assert member.overlap(0, 0) == 1.0


def test_the_overlap_is_unknown_where_no_scores_were_kept(atlas):
    member = replace(next(iter(atlas.values())), everywhere_scores=np.zeros((0, 0), np.float32))
    assert np.isnan(member.overlap(0, 1))


def test_edits_from_the_site_are_written_and_read_back(atlas):
    edits = {"schema": 1, "edits": [{"class": "ant", "concept": 2, "title": "legs", "tag": "core", "note": "six"}]}
    atlas.apply_edits(edits)
    again = Atlas.load(atlas.path)
    assert again["ant"].label(2) == "legs"
    assert again["ant"].to_frame().iloc[0]["tag"] == "core"


def test_edits_for_an_unknown_class_change_nothing(atlas):
    edits = {
        "schema": 1,
        "edits": [{"class": "ant", "concept": 2, "title": "legs"}, {"class": "wasp", "concept": 0, "title": "x"}],
    }
    with pytest.raises(UserError, match="wasp"):
        atlas.apply_edits(edits)
    assert Atlas.load(atlas.path)["ant"].label(2) != "legs"


def test_the_gate_fails_on_a_grade_and_passes_below_it(atlas):
    assert not atlas.passed(max_grade="B")
    assert atlas.passed(max_grade="A")


def test_a_concept_that_a_person_calls_core_does_not_fail_the_gate(atlas):
    member = atlas["bee / <b>"]
    assert atlas.with_bank("bee / <b>", member.bank.tag(2, "core")).passed(max_grade="B")


def test_the_gate_refuses_a_grade_that_does_not_exist(atlas):
    with pytest.raises(UserError, match="'E'"):
        atlas.passed(max_grade="E")


def test_html_escapes_names(atlas):
    assert "<b>" not in atlas._repr_html_()
    assert "<b>" not in atlas["bee / <b>"]._repr_html_()


def test_a_folder_without_an_atlas_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"run\.json"):
        Atlas.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema": 99, "finished": true}', '{"schema": 1}', "\x00\x01"])
def test_a_run_file_that_is_torn_newer_or_unfinished_is_refused(atlas, content):
    (atlas.path / "run.json").write_text(content)
    with pytest.raises(UserError):
        Atlas.load(atlas.path)


def test_a_table_with_a_changed_byte_is_refused(atlas):
    path = atlas.path / "tables" / "classes.parquet"
    data = path.read_bytes()
    assert b"0000-ant" in data
    path.write_bytes(data.replace(b"0000-ant", b"0000-bnt"))
    with pytest.raises(UserError, match="not a readable table"):
        Atlas.load(atlas.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.drop(columns="slug"),
        lambda t: t.assign(slug=7),
        lambda t: t.assign(slug=f"x{chr(0)}y"),
        lambda t: t.assign(slug="../../etc"),
        lambda t: t.assign(slug="x" * 5000),
    ],
    ids=["no column", "number", "null byte", "outside", "long"],
)
def test_a_table_of_classes_that_names_no_folders_is_refused(change, atlas):
    storage.write_table(atlas.path, "classes", change(storage.read_table(atlas.path, "classes")))
    with pytest.raises(UserError):
        Atlas.load(atlas.path)["ant"]


def test_arrays_that_do_not_belong_to_the_tables_are_refused(atlas):
    folder = atlas.path / "concepts" / "0000-ant"
    arrays = load_file(folder / "arrays.safetensors")
    save_file({**arrays, "coefficients": arrays["coefficients"][1:].copy()}, folder / "arrays.safetensors")
    with pytest.raises(UserError, match="differ in length"):
        Atlas.load(atlas.path)["ant"]


@pytest.mark.parametrize("name", ["class.json", "arrays.safetensors", "concepts.parquet"])
def test_a_torn_class_folder_is_refused_with_what_to_do(atlas, name):
    path = atlas.path / "concepts" / "0000-ant" / name
    path.write_bytes(path.read_bytes()[:7])
    with pytest.raises(UserError, match="run the audit again"):
        Atlas.load(atlas.path)["ant"]


def test_views_are_read_from_inside_the_run_only(atlas):
    assert atlas.view("views/one.webp").size == (8, 8)
    with pytest.raises(UserError, match="leads out"):
        atlas.view("../outside.webp")


@pytest.mark.parametrize("name", ["..", "con", "a/b", "x" * 300, "日本", "", "<img onerror=alert(1)>"])
def test_fault_27_class_names_become_safe_folders(name):
    slug = storage.slug_of(3, name)
    assert slug.startswith("0003-")
    assert len(slug) < 60
    assert "/" not in slug
    assert slug.isascii()


def test_two_labels_never_share_a_folder():
    assert storage.slug_of(1, "a/b") != storage.slug_of(2, "a b")


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "value.json"
    storage.write_json(path, {"a": np.float32(1)})
    with pytest.raises(TypeError):
        storage.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1.0}
