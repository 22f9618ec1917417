"""Matching and merging records."""

import numpy as np

from conceptatlas.concepts.judgement import matched_rows, merged_record, survivor, unit_rows
from conceptatlas.concepts.records import ConceptRecord


def test_matching_undoes_a_permutation_and_leaves_strangers_out():
    rng = np.random.default_rng(0)
    old = rng.standard_normal((6, 40))
    order = rng.permutation(6)
    new = np.vstack([old[order], rng.standard_normal((2, 40))])
    matches = matched_rows(old, 7.0 * new, 0.9)
    assert {i: row for i, (row, _) in matches.items()} == {int(o): i for i, o in enumerate(order)}
    assert matched_rows(old, rng.standard_normal((3, 40)), 0.9) == {}


def test_each_new_concept_takes_one_judgement_only():
    assert len(matched_rows(np.ones((3, 2)), np.ones((1, 2)), 0.9)) == 1


def test_the_survivor_is_the_nearest_ancestor_that_is_left():
    assert survivor(None, {1: None}) is None
    assert survivor(2, {2: 1, 1: None}) is None
    assert survivor(7, {2: 1}) == 7


def test_a_merged_record_is_not_its_own_parent():
    assert merged_record([ConceptRecord(1, parent=2), ConceptRecord(2, parent=5)]).parent == 5


def test_zero_rows_stay_zero():
    assert not unit_rows(np.zeros((2, 3))).any()
