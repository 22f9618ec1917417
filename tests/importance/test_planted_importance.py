"""Importance on planted scenes, where it is known what a model can go by."""

import pytest

from benchmarks.planted_importance import by_labels, predictivity_table


@pytest.fixture(scope="module")
def weighed():
    return by_labels(160, 10, 0)


def test_the_same_concepts_weigh_differently_under_other_labels_of_the_same_pixels(weighed):
    on_ground = weighed.shows_ground > 0.5
    assert 0 < on_ground.sum() < len(on_ground)
    assert weighed.accuracy["animal"] > 0.8
    assert weighed.accuracy["ground"] > 0.8
    assert weighed.ground[on_ground].sum() > weighed.animal[on_ground].sum() + 0.1


def test_importance_of_either_model_is_a_share_of_all_concepts(weighed):
    for indices in (weighed.animal, weighed.ground):
        assert indices.sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
def test_the_planted_tag_is_the_first_concept_of_its_class_and_importance_follows_predictivity():
    table = predictivity_table("cnn", 240, 12, 0)
    planted = table[table["class"] == "ambril"].iloc[0]
    assert planted["first"] == "tag"
    assert planted["tag rank"] == 1
    assert (table["first"] != "tag").sum() == len(table) - 1
    assert table["rho"].mean() > 0.3
    assert table["auc"].mean() > 0.7
