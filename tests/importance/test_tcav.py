import numpy as np
import pytest
import torch

from conceptatlas.importance import tcav
from conceptatlas.importance.tcav import benjamini_hochberg


def test_the_score_is_the_share_of_images_whose_target_grows(bending):
    found = tcav(bending.split_model, bending.features, bending.W, 1)
    step = 1e-3
    for concept in range(8):
        moved = bending.features.replace(positions=bending.features.positions + step * bending.W[concept])
        grows = bending.split_model.head(moved)[:, 1] > bending.split_model.head(bending.features)[:, 1]
        assert found.score[concept] == pytest.approx(grows.float().mean().item(), abs=0.17)


def test_under_an_affine_head_the_sensitivity_is_the_weight_along_the_concept(affine):
    found = tcav(affine.split_model, affine.features, affine.W, 2)
    along = affine.W @ affine.split_model.module.weight[2]
    assert np.allclose(found.sensitivity, along, atol=1e-4)
    assert np.array_equal(found.score, (along > 0).double().numpy())


def test_the_class_weight_itself_is_significant_and_an_orthogonal_direction_is_not(affine):
    weight = affine.split_model.module.weight[2]
    orthogonal = affine.W[0] - (affine.W[0] @ weight) / (weight @ weight) * weight
    found = tcav(affine.split_model, affine.features, torch.stack([weight, orthogonal]), 2)
    assert found.p_value[0] < 0.05
    assert found.p_value[1] > 0.5


def test_random_directions_are_rarely_significant(make_planted):
    planted = make_planted("affine", n_images=40, n_concepts=24)
    rows = planted.features.positions.flatten(0, 1)
    weights = torch.randn(200, len(rows), generator=torch.Generator().manual_seed(9))
    chance = torch.nn.functional.normalize(weights @ (rows - rows.mean(0)), dim=1)
    found = tcav(planted.split_model, planted.features, chance, 2)
    assert (found.p_value < 0.05).mean() == pytest.approx(0.05, abs=0.04)
    assert (found.q_value < 0.05).sum() <= 2


def test_the_length_of_a_direction_does_not_matter_for_its_test(affine):
    one, ten = (tcav(affine.split_model, affine.features, scale * affine.W, 2).p_value for scale in (1.0, 10.0))
    assert np.allclose(one, ten)


def test_corrected_values_are_never_smaller_and_keep_the_order():
    p_value = np.random.default_rng(0).random(30)
    corrected = benjamini_hochberg(p_value)
    assert (corrected >= p_value - 1e-12).all()
    assert (np.diff(corrected[np.argsort(p_value)]) >= -1e-12).all()
    assert corrected.max() <= 1


def test_no_random_directions_are_refused(affine):
    with pytest.raises(ValueError, match="got 0"):
        tcav(affine.split_model, affine.features, affine.W, 2, n_random=0)
