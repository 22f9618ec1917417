"""Importance on planted scenes, where it is known what a model can go by."""

import numpy as np
import pytest

from benchmarks.planted_importance import COMMON, by_labels, redrawn, switch_indices, things_of, things_table
from conceptatlas.demo import SceneConfig, make_split


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


def test_indices_of_switches_are_shares_of_what_each_moves():
    bits = np.array([[setting >> i & 1 for i in range(3)] for setting in range(8)])
    assert switch_indices(bits @ np.array([3.0, -1.0, 0.0])) == pytest.approx([0.9, 0.1, 0.0])
    assert switch_indices(bits[:, 0] * bits[:, 1] * 1.0) == pytest.approx([2 / 3, 2 / 3, 0.0])


def test_a_scene_is_drawn_again_without_a_thing_and_otherwise_alike():
    config = SceneConfig(seed=1)
    split = make_split(config, "audit", 12)
    number = next(i for i, spec in enumerate(split.specs) if len(spec.parts) == 4 and any(spec.tag))
    spec, whole = split.specs[number], split[number]
    assert np.array_equal(np.asarray(redrawn(config, spec, ()).image), np.asarray(whole.image))
    for thing in things_of(spec):
        left = redrawn(config, spec, [thing])
        assert not np.array_equal(np.asarray(left.image), np.asarray(whole.image))
        assert set(COMMON if thing == "common parts" else [thing]).isdisjoint(left.parts)
    assert redrawn(config, spec, ["ground"]).attributes["background"] != spec.background


@pytest.mark.slow
def test_importance_follows_what_the_network_relies_on_and_what_was_planted():
    table = things_table("cnn", 240, 12, 0)
    planted = table[table["class"] == "ambril"].iloc[0]
    assert planted["first"] == "tag"
    assert planted["tag rank"] == 1
    assert (table["first"] != "tag").sum() == len(table) - 1
    assert table["rho relied"].mean() > 0.6
    assert table["auc relied"].mean() > 0.9
    assert table["rho planted"].mean() > 0.4
    assert table["auc planted"].mean() > 0.85


@pytest.mark.slow
def test_importance_follows_what_a_transformer_relies_on():
    table = things_table("vit", 240, 12, 0)
    assert table[table["class"] == "ambril"].iloc[0]["first"] == "tag"
    assert table["rho relied"].mean() > 0.55
    assert table["auc relied"].mean() > 0.9
    assert table["rho signed"].mean() > 0.5
    assert table["auc signed"].mean() > 0.85
