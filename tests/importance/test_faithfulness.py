import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from conceptatlas.concepts import nnls
from conceptatlas.importance import c_deletion, c_insertion, c_mufidelity, contributions
from conceptatlas.importance.faithfulness import random_directions

METRICS = [c_deletion, c_insertion, c_mufidelity]


def importance_of(planted, target=2):
    return contributions(planted.split_model, planted.features, planted.U, planted.W, target).values


def run(metric, planted, importance, **options):
    return metric(planted.split_model, planted.features, planted.U, planted.W, importance, 2, **options)


def areas_of_all_orders(planted, k, typical=None):
    """Return the area of every order of removal, image by image, from the target under every subset."""
    subsets = torch.tensor(list(itertools.product([0.0, 1.0], repeat=k)))
    A, target = planted.features.positions, {}
    for kept in subsets:
        change = (planted.U * (kept - 1)) @ planted.W
        if typical is not None:  # as much of it as of the activation goes, along the activation
            change = change - (change * A).sum(2, keepdim=True) / (A * A).sum(2, keepdim=True) * typical
        outputs = planted.split_model.head(planted.features.replace(positions=A + change))
        target[tuple(kept.tolist())] = outputs[:, 2].numpy()
    areas = []
    for order in itertools.permutations(range(k)):
        steps = [target[tuple(float(i not in order[:step]) for i in range(k))] for step in range(k + 1)]
        areas.append((np.sum(steps, axis=0) - (steps[0] + steps[-1]) / 2) / k)
    return np.array(areas)


def test_no_order_beats_that_of_the_contributions_under_an_affine_head(make_planted):
    planted = make_planted(n_concepts=5, n_images=3)
    importance, areas = importance_of(planted), areas_of_all_orders(planted, 5)
    assert run(c_deletion, planted, importance).concepts.values == pytest.approx(areas.min(0), abs=1e-4)
    assert run(c_insertion, planted, importance).concepts.values == pytest.approx(areas.max(0), abs=1e-4)


def test_mufidelity_of_the_contributions_is_one_under_an_affine_head(affine):
    found = run(c_mufidelity, affine, importance_of(affine))
    assert found.score == pytest.approx(1.0, abs=1e-3)
    assert found.random_importance.score < 0.6


def test_the_typical_activation_takes_the_place_of_given_and_of_random_concepts(make_planted):
    planted = make_planted(n_concepts=5, n_images=3)
    typical = torch.randn(24, generator=torch.Generator().manual_seed(1))
    random = random_directions(planted.W, 0)
    other = replace(planted, U=nnls(planted.features.positions, random), W=random)
    importance = contributions(planted.split_model, planted.features, planted.U, planted.W, 2, typical=typical).values
    given, chance = (areas_of_all_orders(each, 5, typical) for each in (planted, other))
    deletion, insertion = (run(metric, planted, importance, typical=typical) for metric in (c_deletion, c_insertion))
    assert deletion.concepts.values == pytest.approx(given.min(0), abs=1e-4)
    assert insertion.concepts.values == pytest.approx(given.max(0), abs=1e-4)
    assert deletion.random_concepts.values == pytest.approx(chance.min(0), abs=1e-4)
    assert insertion.random_concepts.values == pytest.approx(chance.max(0), abs=1e-4)
    fidelity = run(c_mufidelity, planted, importance, typical=typical)
    assert fidelity.score == pytest.approx(1.0, abs=1e-3)
    assert fidelity.random_concepts.score == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_shuffled_importances_change_the_score(bending, metric):
    importance = importance_of(bending)
    shuffled = importance[:, torch.randperm(8, generator=torch.Generator().manual_seed(1))]
    given, other = run(metric, bending, importance), run(metric, bending, shuffled)
    assert abs(given.score - other.score) > 1e-3
    better = given.score > other.score if given.higher_is_better else given.score < other.score
    assert better


@pytest.mark.parametrize("metric", METRICS)
def test_the_importances_beat_shuffled_ones(affine, metric):
    found = run(metric, affine, importance_of(affine))
    gap = found.concepts.score - found.random_importance.score
    assert gap > 0 if found.higher_is_better else gap < 0


def test_deletion_starts_at_the_prediction_and_insertion_ends_there(affine):
    importance = importance_of(affine)
    output = affine.split_model.head(affine.features)[:, 2].mean().item()
    deletion, insertion = (run(metric, affine, importance) for metric in (c_deletion, c_insertion))
    for row in deletion.rows:
        assert row.curve[0] == pytest.approx(output, abs=1e-4)
    for row in insertion.rows:
        assert row.curve[-1] == pytest.approx(output, abs=1e-4)
    assert len(deletion.concepts.curve) == 9


def test_the_interval_contains_the_score_and_the_table_has_three_rows(affine):
    found = run(c_deletion, affine, importance_of(affine))
    for row in found.rows:
        assert row.low <= row.score <= row.high
        assert row.values.shape == (6,)
    assert found.to_frame()["row"].tolist() == ["concepts", "random importance", "random concepts"]


def test_importances_for_all_images_are_broadcast(affine):
    assert (
        run(c_deletion, affine, np.arange(8.0)).score == run(c_deletion, affine, np.tile(np.arange(8.0), (6, 1))).score
    )


def test_the_same_seed_gives_the_same_table(affine):
    first, again = (run(c_mufidelity, affine, importance_of(affine), seed=3).to_frame() for _ in range(2))
    assert first.equals(again)


def test_importances_of_another_shape_are_refused(affine):
    with pytest.raises(ValueError, match=r"\(6, 8\) or \(8,\), got \(7,\)"):
        run(c_deletion, affine, np.zeros(7))
