import pytest
import torch

from conceptatlas.importance import ablate, ablate_features, project, project_features


def test_zero_ablation_removes_the_concept_and_keeps_the_rest(affine):
    outputs = ablate(affine.split_model, affine.features, affine.U, affine.W, 3, mode="zero")
    expected = affine.split_model.head(
        affine.features.replace(positions=affine.features.positions - affine.U[..., 3:4] * affine.W[3])
    )
    assert torch.allclose(outputs, expected, atol=1e-5)


def test_ablating_nothing_gives_the_prediction_with_its_residual(bending):
    outputs = ablate(bending.split_model, bending.features, bending.U, bending.W, [])
    assert torch.allclose(outputs, bending.split_model.head(bending.features), atol=1e-6)


def test_mean_ablation_leaves_the_batch_mean_under_an_affine_head(affine):
    outputs = ablate(affine.split_model, affine.features, affine.U, affine.W, [0, 5])
    assert torch.allclose(outputs.mean(0), affine.split_model.head(affine.features).mean(0), atol=1e-4)
    assert not torch.allclose(outputs, affine.split_model.head(affine.features), atol=1e-2)


def test_a_reference_sets_the_coefficient(affine):
    reference = torch.full((8,), 2.0)
    changed = ablate_features(affine.features, affine.U, affine.W, 1, reference=reference)
    coefficients = affine.U.clone()
    coefficients[..., 1] = 2.0
    expected = affine.features.positions + (coefficients - affine.U) @ affine.W
    assert torch.allclose(changed.positions, expected, atol=1e-5)


def test_projection_leaves_nothing_along_the_concepts(affine):
    changed = project_features(affine.features, affine.W, [2, 4])
    assert (changed.positions @ affine.W[[2, 4]].T).abs().max() < 1e-5
    assert project(affine.split_model, affine.features, affine.W, [2, 4]).shape == (6, 5)


def test_projection_of_the_same_direction_twice_takes_out_no_other():

    direction = torch.eye(4)[:1].repeat(2, 1)
    from dataclasses import make_dataclass

    Box = make_dataclass("Box", ["positions", "prefix"], frozen=True)
    changed = project_features(Box(torch.ones(1, 1, 4), None), direction, [0, 1])
    assert torch.allclose(changed.positions, torch.tensor([[[0.0, 1.0, 1.0, 1.0]]]), atol=1e-6)


def test_prefix_tokens_pass_through(make_planted):
    planted = make_planted(prefix=True)
    changed = ablate_features(planted.features, planted.U, planted.W, [0])
    assert changed.prefix is planted.features.prefix


def test_batches_change_nothing(bending):
    arguments = (bending.split_model, bending.features, bending.U, bending.W, [1, 2])
    assert torch.allclose(ablate(*arguments), ablate(*arguments, batch_size=2), atol=1e-3)


@pytest.mark.parametrize("wrong", [8, -1, [0, 8]])
def test_a_concept_that_does_not_exist_is_refused(affine, wrong):
    with pytest.raises(ValueError, match="does not exist"):
        ablate(affine.split_model, affine.features, affine.U, affine.W, wrong)


def test_an_unknown_mode_is_refused(affine):
    with pytest.raises(ValueError, match="median"):
        ablate(affine.split_model, affine.features, affine.U, affine.W, 0, mode="median")
