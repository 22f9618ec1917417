"""Evidence of shortcuts, on populations whose truth is planted."""

import numpy as np
import pandas as pd
import pytest

from conceptatlas.audit.causal import Effect
from conceptatlas.audit.shortcuts import (
    FEW,
    Population,
    acquitted,
    finish,
    in_steps,
    observed,
    presence_thresholds,
    stratified_permutation,
    told_within_labels,
)


def planted(n=400, seed=0, follow=0.9):
    """Concept 0 goes with the label, concept 1 is a tag that the model follows, concept 2 is noise."""
    rng = np.random.default_rng(seed)
    label = rng.random(n) < 0.4
    tag = rng.random(n) < 0.5
    predicted = np.where(rng.random(n) < follow, tag, label)
    score = np.stack([label * 1.0, tag * 1.0, rng.random(n) < 0.5], axis=1) + rng.random((n, 3)) * 0.2
    return Population(np.arange(n), np.ones(n), predicted, label.astype(float), score), tag


def test_thresholds_recover_who_holds_the_planted_concept():
    population, tag = planted()
    present = population.score >= presence_thresholds(population)
    np.testing.assert_array_equal(present[:, 1], tag)


def test_of_three_levels_the_highest_is_what_holds_the_concept():
    rng = np.random.default_rng(0)
    level = rng.choice([0.0, 2.0, 5.0], size=400, p=[0.4, 0.35, 0.25])
    score = (level + rng.uniform(0, 0.5, 400))[:, None] ** 2
    labelled = (rng.random(400) < 0.5).astype(float)
    for predicted in (labelled == 1, level == 5.0):  # nothing misleads the model, or the highest level does
        population = Population(np.arange(400), np.ones(400), predicted, labelled, score)
        np.testing.assert_array_equal((score >= presence_thresholds(population))[:, 0], level == 5.0)


def test_of_scores_without_levels_those_hold_the_concept_that_lead_the_model_astray():
    rng = np.random.default_rng(0)
    holds, labelled = rng.random(400) < 0.5, (rng.random(400) < 0.5).astype(float)
    score = (rng.normal(4, 0.7, 400) + 1.8 * holds)[:, None] ** 2
    predicted = np.where(rng.random(400) < 0.7, holds, labelled == 1)
    population = Population(np.arange(400), np.ones(400), predicted, labelled, score)
    present = (score >= presence_thresholds(population))[:, 0]
    assert 0.4 < present.mean() < 0.6
    assert (present == holds).mean() > 0.9


def test_a_followed_tag_misleads_and_is_missed_with_intervals_that_exclude_nothing_found():
    population, tag = planted()
    row = observed(population, tag, population.score[:, 1])
    assert row["false_positive_gap_low"] > 0.5
    assert row["accuracy_gap_low"] > 0.5
    assert row["prediction_association"] > 0.9
    assert abs(row["label_association"] - 0.5) < 0.1


def test_what_the_model_follows_is_told_within_labels_by_its_concept_alone():
    population, _ = planted()
    told = told_within_labels(population.score, population.predicted, population.labelled)
    assert told[1] > 0.9
    assert abs(told[0] - 0.5) < 0.1
    assert abs(told[2] - 0.5) < 0.1


def test_where_the_model_is_never_wrong_nothing_tells_what_it_follows():
    population, _ = planted()
    right = population.labelled.astype(bool)
    assert np.isnan(told_within_labels(population.score, right, population.labelled)).all()


def test_a_noise_concept_shows_no_gap():
    population, _ = planted()
    present = population.score[:, 2] > 0.5
    row = observed(population, present, population.score[:, 2])
    assert row["false_positive_gap_low"] < 0.1
    assert row["accuracy_gap_low"] < 0.1


def test_false_positive_rates_count_a_sampled_row_for_all_that_it_stands_for():
    n = 100
    predicted = np.arange(n) < 10
    weight = np.where(predicted, 1.0, 9.0)
    population = Population(np.arange(n), weight, predicted, np.zeros(n), np.zeros((n, 1)))
    row = observed(population, np.ones(n, bool), np.zeros(n))
    assert row["false_positive_with"] == pytest.approx(10 / (10 + 90 * 9))


def test_permutation_p_values_find_the_tag_and_spare_label_and_noise():
    population, _ = planted()
    p_label, p_tag, p_noise = stratified_permutation(population)
    assert p_tag < 0.01
    assert min(p_label, p_noise) > 0.01


def test_permutation_p_values_are_uniform_where_nothing_is_followed():
    values = [stratified_permutation(planted(seed=s, n=120, follow=0.0)[0], seed=s)[2] for s in range(60)]
    noise = [v for v in values if not np.isnan(v)]
    assert not noise  # predictions equal labels: nothing varies inside a label, so nothing can be said


def test_without_labels_there_are_associations_with_the_prediction_only():
    population, tag = planted()
    bare = Population(population.rows, population.weight, population.predicted, np.full(400, np.nan), population.score)
    row = observed(bare, tag, bare.score[:, 1])
    assert "accuracy_gap" not in row
    assert row["prediction_association"] > 0.9
    assert np.isnan(row["label_association"])


def evidence_row(**changes):
    row = {
        "class": "bee", "concept": 0, "name": None, "property": None, "importance": 0.4, "told": 0.5,
        "presence_in_class": 0.5, "presence_elsewhere": 0.5, "foreground_share": np.nan, "foreground_area": np.nan,
        "accuracy_gap": 0.6, "accuracy_gap_low": 0.4, "false_positive_gap": 0.6, "false_positive_gap_low": 0.4,
        "ablation_effect": -0.5, "ablation_flips": 0.5, "addition_flips": 0.6, "p_raw": 0.001,
    }  # fmt: skip
    return {**row, **changes}


def test_grades_fall_with_the_evidence():
    rows = [
        evidence_row(concept=0),
        evidence_row(concept=1, accuracy_gap_low=0.0),
        evidence_row(concept=2, false_positive_gap_low=0.0),
        evidence_row(concept=3, **STILL),
        evidence_row(concept=4, p_raw=0.9),
        evidence_row(concept=5, accuracy_gap_low=0.0, presence_in_class=0.95, presence_elsewhere=0.2),
    ]
    graded = finish(pd.DataFrame(rows)).set_index("concept")["grade"]
    assert graded.loc[[0, 1, 2, 3, 4, 5]].tolist() == ["A", "B", "C", "C", "D", "C"]


def test_a_property_of_whole_images_is_not_graded_where_a_more_suspect_concept_acts_and_tells_as_much():
    weak = {"accuracy_gap_low": 0.2, "false_positive_gap_low": 0.2, "property": "bluish"}
    rows = [
        evidence_row(concept=0, told=0.95),
        evidence_row(concept=1, told=0.99, **weak),
        evidence_row(concept=0, told=0.6, **{"class": "another"}),
        evidence_row(concept=1, told=0.99, **weak, **{"class": "another"}),
    ]
    graded = finish(pd.DataFrame(rows)).set_index(["class", "concept"])["grade"]
    first = rows[0]["class"]
    assert graded[first, 0] == "A"
    assert graded[first, 1] == "D"
    assert graded["another", 1] == "A"


def test_a_property_that_moves_more_only_where_it_is_put_in_comes_after_the_concept_in_its_place():
    """A dark frame also darkens its image; darkness is put into every position, the frame along the edge."""
    seen = {"told": 0.95, "ablation_effect": -0.2, "addition_flips": 0.1}
    rows = [
        evidence_row(concept=0, **seen),
        evidence_row(concept=1, **{**seen, "ablation_effect": -0.1, "addition_flips": 0.9, "property": "dark"}),
    ]
    found = finish(pd.DataFrame(rows))
    assert found["concept"].tolist() == [0, 1]
    assert found["grade"].tolist() == ["A", "D"]


STILL = {"ablation_effect": 0.0, "ablation_flips": 0.0, "addition_flips": 0.0}


def grades(*rows):
    table = [evidence_row(concept=i, **row) for i, row in enumerate(rows)]
    return finish(pd.DataFrame(table)).sort_values("concept")["grade"].tolist()


def test_what_is_plain_in_the_images_is_a_b_although_editing_it_changes_nothing():
    assert grades(
        {**STILL, "accuracy_gap_low": 0.2, "false_positive_gap_low": 0.7},
        {**STILL, "accuracy_gap_low": 0.2, "false_positive_gap_low": 0.3},  # less plain
        {**STILL, "accuracy_gap_low": 0.0, "false_positive_gap_low": 0.9},  # but one of the two
        {**STILL, "accuracy_gap_low": 0.7, "false_positive_gap_low": 0.7, "p_raw": 0.9},
    ) == ["B", "C", "D", "D"]


@pytest.mark.parametrize("moved", [{"ablation_effect": -0.3}, {"ablation_flips": 0.2}, {"addition_flips": 0.2}])
def test_one_edit_that_moves_or_flips_predictions_shows_that_they_follow(moved):
    barely = {"ablation_effect": -0.05, "ablation_flips": 0.05, "addition_flips": 0.05, "accuracy_gap_low": 0.2}
    assert grades(barely, barely | moved) == ["C", "A"]


def test_what_belongs_to_the_class_is_no_b_however_plain_it_is():
    """Wrong labels look so: images of the class that are labelled otherwise hold its parts and are called the class."""
    plain = {**STILL, "accuracy_gap_low": 0.6, "false_positive_gap_low": 0.6, "presence_in_class": 0.8}
    assert grades({**plain, "presence_elsewhere": 0.5}, {**plain, "presence_elsewhere": 0.02}) == ["B", "C"]


def test_what_the_class_is_missed_without_is_a_b_where_it_lies_off_the_object_and_is_found_elsewhere_as_often():
    missed = {"false_positive_gap_low": 0.0, "foreground_area": 0.3}
    assert grades(
        {**missed, "foreground_share": 0.2},
        {**missed, "foreground_share": 0.9},
        {**missed, "foreground_share": np.nan},
        {**missed, "foreground_share": 0.2, "presence_elsewhere": 0.1},
        {**missed, "foreground_share": 0.2, **STILL},
    ) == ["B", "C", "C", "C", "D"]


def test_what_leads_astray_comes_before_what_is_merely_followed():
    rows = [
        evidence_row(concept=0, accuracy_gap_low=0.1, false_positive_gap_low=0.1),
        evidence_row(concept=1, ablation_effect=0.0, addition_flips=0.0),
    ]
    assert finish(pd.DataFrame(rows))["concept"].tolist() == [1, 0]


def test_the_most_suspect_comes_first():
    rows = [evidence_row(concept=0, ablation_effect=-0.1, addition_flips=0.0), evidence_row(concept=1)]
    assert finish(pd.DataFrame(rows))["concept"].tolist() == [1, 0]


def test_no_evidence_at_all_gives_an_empty_table_with_its_columns():
    frame = finish(pd.DataFrame())
    assert len(frame) == 0
    assert {"class", "concept", "grade"} <= set(frame.columns)


def edited(change, flipped, asked):
    def effect_on(some):
        asked.extend(some.tolist())
        return Effect(float(np.mean(change[some])), float(np.mean(flipped[some])), len(some))

    return effect_on


def test_an_edit_that_does_nothing_to_a_few_images_is_not_tried_on_more():
    asked = []
    assert in_steps(edited(np.zeros(32), np.zeros(32), asked), 32, 32).n == FEW
    assert asked == list(range(FEW))


@pytest.mark.parametrize("n", [3, FEW, 20, 32])
def test_an_edit_that_does_something_is_measured_on_every_image_once(n):
    rng, asked = np.random.default_rng(0), []
    change, flipped = rng.uniform(-1, -0.2, n), rng.integers(0, 2, n)
    found = in_steps(edited(change, flipped, asked), n, 32)
    assert asked == list(range(n))
    assert found == Effect(pytest.approx(change.mean()), pytest.approx(flipped.mean()), n)


def test_only_labels_acquit_a_concept():
    nothing = {
        "accuracy_gap": 0.1,
        "accuracy_gap_low": -0.2,
        "false_positive_gap": np.nan,
        "false_positive_gap_low": -1.0,
    }
    assert acquitted(nothing)
    assert not acquitted(nothing | {"false_positive_gap": 0.5, "false_positive_gap_low": 0.1})
    assert not acquitted({})
    assert finish(pd.DataFrame([evidence_row(**nothing)])).loc[0, ["grade", "suspicion"]].tolist() == ["D", 0.0]
