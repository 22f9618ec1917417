"""The floors of bias discovery on models: planted shortcuts are found, slices are pure, interventions help.

The figures over all settings are printed by benchmarks/bias.py; here each floor is held on as many as a test may take.
"""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks import biased_photographs, biased_scenes
from benchmarks.bias import comparison, interventions

REAL = os.environ.get("CONCEPTATLAS_REAL_DATA")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def tried():
    return interventions("cnn", n_per_class=40)


def test_an_intervention_raises_the_worst_group_by_a_fifth_at_no_cost_on_average(tried):
    gains = {
        method: (found.worst_after - found.worst_before, found.average_after - found.average_before)
        for method, found in tried.items()
    }
    assert any(worst >= 0.2 and average > -0.05 for worst, average in gains.values())


def test_what_only_moves_the_harm_is_not_called_an_improvement(tried):
    assert all(found.worst_after > found.worst_before for found in tried.values() if found.improved)
    assert not tried["zero"].improved
    assert tried["mean"].improved
    assert tried["refit"].improved


def test_in_a_twin_that_was_trained_without_it_the_shortcut_is_gone():
    result = comparison(n_per_class=40)
    assert set(result.shortcuts["status"]) == {"fixed"}  # as many rows as concepts show it
    fixed = result.shortcuts.iloc[0]
    assert fixed["grade_a"] == "A"
    assert result.concepts.set_index("concept_a").loc[fixed["concept_a"], "status"] == "lost"


@pytest.mark.skipif(REAL is None, reason="CONCEPTATLAS_REAL_DATA is not set")
@pytest.mark.parametrize("kind", ["tag", "border"])
def test_what_is_planted_on_photographs_is_the_first_suspect_with_its_place_and_its_effect(kind, tmp_path):
    biased = biased_photographs.biased_probe(Path(str(REAL)), kind)
    verdict = biased_photographs.judge(biased, biased_photographs.audit_of(biased, tmp_path / "run"))
    assert verdict.reliance > 0.3  # else there would be nothing to find
    assert verdict.rank == 1
    assert verdict.first_auc >= 0.9
    assert verdict.grade in ("A", "B")
    assert verdict.pointing >= 0.8
    assert verdict.moved_without < 0.25 * verdict.moved_with


@pytest.mark.skipif(REAL is None, reason="CONCEPTATLAS_REAL_DATA is not set")
def test_a_colour_cast_on_photographs_is_the_first_suspect_with_its_effect(tmp_path):
    biased = biased_photographs.biased_probe(Path(str(REAL)), "cast")
    verdict = biased_photographs.judge(biased, biased_photographs.audit_of(biased, tmp_path / "run"))
    assert verdict.reliance > 0.3
    assert verdict.rank == 1
    assert verdict.first_auc >= 0.9
    assert verdict.grade in ("A", "B")
    assert verdict.moved_without < 0.25 * verdict.moved_with


SOME = [1, 5, 8, 10]  # tag, frame, hatching, cast on the CNN


def test_planted_shortcuts_are_first_among_their_class_and_graded_a_or_b(tmp_path):
    found = []
    for number in SOME:
        setting = biased_scenes.planted_probe(*biased_scenes.shortcut_settings()[number])
        seen = biased_scenes.draw(setting.config, "audit", biased_scenes.N_AUDIT)
        atlas = biased_scenes.audit_scenes(setting, seen, tmp_path / str(number), classes=[biased_scenes.PLANTED])
        found.append(biased_scenes.judge(setting, atlas, seen))
    hits = [one.hit for one in found if one.relied_on]
    assert np.mean(hits) >= 0.9, found


def test_planted_slices_are_pure_and_shuffled_ones_are_not():
    rows = []
    for number in range(20):
        name, network, config = biased_scenes.sliced_setting(number)
        setting = biased_scenes.planted_probe(name, network, config)
        rows.append(biased_scenes.precision_of_slices(setting, biased_scenes.sliced_scenes(config), seed=number))
    assert np.mean([row["concepts"] for row in rows]) >= 0.9
    assert np.mean([row["shuffled"] for row in rows]) < 0.3
