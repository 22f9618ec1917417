"""The bank: edits make new banks, reach the history, and a person's judgement survives a save and a new run."""

import json
import logging
import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from conceptatlas.concepts.bank import ConceptBank
from conceptatlas.concepts.names import Name
from conceptatlas.concepts.records import ConceptRecord
from conceptatlas.extraction.errors import UserError

NASTY = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def bank():
    rng = np.random.default_rng(0)
    directions = rng.random((4, 16)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    names = (Name(("stripes",), "named", score=0.2, heldout_auc=0.97), None, Name((), "unnamed"), None)
    records = tuple(ConceptRecord(i, name=name, quality={"coherence": 0.1 * i}) for i, name in enumerate(names))
    return ConceptBank(directions, "layer4", "zebra", 340, records, {"seed": 0}, {"root": [0, 1]})


def test_edits_leave_the_old_bank_alone_and_reach_the_history(bank):
    edited = bank.rename(0, "mane").tag(1, "spurious").note(1, "only in zoo photographs")
    assert bank.labels == ["stripes", "concept 1", "concept 2", "concept 3"]
    assert bank.history == ()
    assert edited.labels[0] == "mane"
    assert (edited.record(1).tag, edited.record(1).note) == ("spurious", "only in zoo photographs")
    assert [(e.action, e.concepts, e.after) for e in edited.history] == [
        ("rename", (0,), "mane"),
        ("tag", (1,), "spurious"),
        ("note", (1,), "only in zoo photographs"),
    ]


def test_an_empty_title_gives_the_automatic_name_back(bank):
    assert bank.rename(0, "mane").rename(0, "").labels[0] == "stripes"


def test_a_bank_cannot_be_changed_in_place(bank):
    with pytest.raises(FrozenInstanceError):
        bank.layer = "other"
    with pytest.raises(ValueError, match="read-only"):
        bank.directions[0, 0] = 1.0


def test_drop_keeps_the_ids_of_the_others_and_lifts_the_children(bank):
    child = replace(bank, concepts=(*bank.concepts[:3], replace(bank.concepts[3], parent=1)))
    child = replace(child, concepts=(child.concepts[0], replace(child.concepts[1], parent=0), *child.concepts[2:]))
    left = child.drop(1)
    assert left.ids == [0, 2, 3]
    assert left.record(3).parent == 0
    np.testing.assert_array_equal(left.directions, bank.directions[[0, 2, 3]])
    with pytest.raises(UserError, match="no concept 1 in 'zebra'"):
        left.rename(1, "x")


def test_dropping_every_concept_is_refused(bank):
    with pytest.raises(UserError, match="leave no concept"):
        bank.drop([0, 1, 2, 3])


def test_merge_takes_the_weighted_direction_at_unit_norm_and_forgets_the_name(bank):
    merged = bank.tag(0, "core").tag(2, "core").note(0, "a").note(2, "b").merge([2, 0], weights=[3, 1])
    expected = 3 * bank.directions[2] + bank.directions[0]
    assert merged.ids == [1, 2, 3]
    np.testing.assert_allclose(merged.directions[1], expected / np.linalg.norm(expected), rtol=1e-6)
    record = merged.record(2)
    assert (record.name, record.tag, record.note, record.quality) == (None, "core", "b\na", {})


def test_merge_of_differing_tags_is_unclear_and_a_title_is_kept(bank):
    record = bank.tag(0, "core").tag(1, "spurious").rename(1, "fence").merge([0, 1]).record(0)
    assert (record.tag, record.title) == ("unclear", "fence")


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, math.nan]])
def test_merge_refuses_weights_that_do_not_fit(bank, weights):
    with pytest.raises(UserError, match="weights"):
        bank.merge([0, 1], weights=weights)


def test_concepts_that_point_opposite_ways_are_not_merged_into_nothing():
    opposite = ConceptBank(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32), "layer4", "zebra", 340)
    with pytest.raises(UserError, match="cancel out"):
        opposite.merge([0, 1])


def test_an_id_may_be_a_numpy_integer(bank, tmp_path):
    edited = bank.drop(np.int64(1)).rename(np.int64(2), "mane")
    edited.save(tmp_path)
    assert ConceptBank.load(tmp_path).labels == ["stripes", "mane", "concept 3"]


def test_merge_of_one_concept_is_refused(bank):
    with pytest.raises(UserError, match="two or more"):
        bank.merge([1, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.tag(0, "bad"), "core, spurious, unclear"),
        (lambda b: b.rename(9, "x"), r"it has \[0, 1, 2, 3\]"),
        (lambda b: b.rename(0, 3), "title is text, not 3"),
        (lambda b: b.rename(0, "x" * 201), "at most 200"),
        (lambda b: b.with_names([None]), "1 names do not fit 4"),
        (lambda b: b.with_quality(coherence=[1.0]), "'coherence' do not fit"),
    ],
)
def test_a_bad_edit_says_what_would_do(bank, change, message):
    with pytest.raises(UserError, match=message):
        change(bank)


@pytest.mark.parametrize(
    ("directions", "records", "message"),
    [
        (np.zeros((2, 0)), (), "one row per concept"),
        (np.zeros(3), (), "one row per concept"),
        (np.full((1, 3), np.nan), (), "NaN"),
        (np.eye(2), (ConceptRecord(0),), "1 for 2"),
        (np.eye(2), (ConceptRecord(0), ConceptRecord(0)), "must differ"),
    ],
)
def test_parts_that_do_not_fit_are_refused(directions, records, message):
    with pytest.raises(UserError, match=message):
        ConceptBank(directions, "layer4", "zebra", 340, records)


def test_directions_may_be_a_tensor():
    assert ConceptBank(torch.eye(2, 3, requires_grad=True), "l", "c", 0).directions.dtype == np.float32


def test_site_edits_are_applied_to_their_own_class_only(bank, tmp_path):
    edits = [
        {"class": "zebra", "concept": 0, "title": "mane", "tag": "core", "note": ""},
        {"class": "ant", "concept": 17, "title": "leg"},
        {"class": 340, "concept": 2, "tag": "unclear"},
        {"concept": 1, "note": NASTY},
    ]
    file = tmp_path / "edits.json"
    file.write_text(json.dumps({"edits": edits}))
    edited = bank.apply_edits(file)
    assert edited == bank.apply_edits(edits) == bank.apply_edits({"edits": edits})
    assert [r.title for r in edited.concepts] == ["mane", None, None, None]
    assert [r.tag for r in edited.concepts] == ["core", None, "unclear", None]
    assert edited.record(1).note == NASTY
    assert len(edited.history) == 4


def test_an_edit_that_changes_nothing_leaves_no_trace(bank):
    assert bank.apply_edits({"concept": 0, "title": "", "tag": None}).history == ()


@pytest.mark.parametrize("edits", ["missing.json", 3, [1], {"concept": "0"}, {"title": "x"}, {"concept": True}])
def test_edits_that_do_not_read_are_refused(bank, edits):
    with pytest.raises(UserError, match=r"[Ee]dit"):
        bank.apply_edits(edits)


def test_judgement_is_carried_to_the_same_concept_of_another_run(bank):
    old = bank.rename(1, "fence").tag(1, "spurious").note(3, "odd")
    rng = np.random.default_rng(1)
    noisy = bank.directions[[3, 2, 1, 0]] + 0.01 * rng.standard_normal((4, 16)).astype(np.float32)
    new = ConceptBank(noisy, "layer4", "zebra", 340).carry_over(old)
    assert [r.title for r in new.concepts] == [None, None, "fence", None]
    assert (new.record(2).tag, new.record(0).note) == ("spurious", "odd")
    assert [e.action for e in new.history] == ["rename", "tag", "note", "carry_over", "carry_over"]


def test_what_the_new_bank_already_says_stays(bank):
    new = bank.rename(1, "newer").carry_over(bank.rename(1, "older").tag(1, "core"))
    assert (new.record(1).title, new.record(1).tag) == ("newer", "core")


def test_judgement_of_a_concept_that_is_gone_is_logged_and_kept_in_the_history(bank, caplog):
    other = ConceptBank(np.eye(1, 16, 5), "layer4", "zebra", 340)
    with caplog.at_level(logging.WARNING):
        new = other.carry_over(bank.rename(1, "fence"))
    assert "'fence'" in caplog.text
    assert new.record(0).title is None
    assert new.history[-1].before["title"] == "fence"


def test_judgement_does_not_pass_between_layers(bank):
    with pytest.raises(UserError, match="within one layer"):
        replace(bank, layer="layer3").carry_over(bank)


def test_the_table_has_one_row_per_concept_with_evidence_and_measures(bank):
    frame = bank.tag(2, "unclear").to_frame()
    assert frame["label"].tolist() == ["stripes", "concept 1", "concept 2", "concept 3"]
    assert frame["name_status"].isna().tolist() == [False, True, False, True]
    assert frame["name_status"].dropna().tolist() == ["named", "unnamed"]
    assert frame.loc[0, "name_auc"] == 0.97
    assert frame["coherence"].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert frame["parent"].isna().all()


def test_fault_66_notebook_table_escapes_what_came_from_outside(bank):
    html = replace(bank, class_name=NASTY).rename(0, NASTY).note(1, NASTY)._repr_html_()
    assert "<img" not in html
    assert "</script" not in html
    assert html.count("&lt;img src=x onerror") == 3


def test_names_and_measures_are_added_in_the_order_of_the_rows(bank):
    named = bank.with_names([None, Name(("grass",), "weak"), None, None]).with_quality(stability=[1, 2, 3, 4])
    assert named.labels[:2] == ["concept 0", "grass?"]
    assert named.record(3).quality == pytest.approx({"coherence": 0.3, "stability": 4.0})


def test_equality_is_by_value(bank):
    assert bank == replace(bank)
    assert bank != bank.rename(0, "x")
    assert bank != replace(bank, embeddings=np.ones((4, 2)))
    assert bank != "bank"
