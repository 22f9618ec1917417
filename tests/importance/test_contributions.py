import pytest
import torch

from conceptatlas.importance import contributions, margin, similarity


def planted_contributions(planted, target):
    """What each concept adds: mean coefficient times the class weight along its direction."""
    return planted.U.mean(1) * (planted.W @ planted.split_model.module.weight[target])


@pytest.mark.parametrize("method", ["gradient", "integrated", "occlusion"])
def test_all_methods_give_the_planted_contributions_under_an_affine_head(affine, method):
    found = contributions(affine.split_model, affine.features, affine.U, affine.W, 2, method=method)
    assert torch.allclose(found.values, planted_contributions(affine, 2), atol=1e-5)


@pytest.mark.parametrize("method", ["gradient", "integrated", "occlusion"])
def test_contributions_residual_and_bias_add_up_to_the_output(affine, method):
    found = contributions(affine.split_model, affine.features, affine.U, affine.W, 2, method=method)
    assert torch.allclose(found.values.sum(1) + found.residual + found.bias, found.output, atol=1e-5)
    assert torch.allclose(found.output, affine.split_model.head(affine.features)[:, 2], atol=1e-5)
    assert torch.allclose(found.bias, affine.split_model.module.bias[2].expand(6), atol=1e-4)


def test_prefix_tokens_belong_to_the_bias(make_planted):
    planted = make_planted("affine", prefix=True)
    found = contributions(planted.split_model, planted.features, planted.U, planted.W, 1)
    empty = planted.features.replace(positions=torch.zeros_like(planted.features.positions))
    assert torch.allclose(found.bias, planted.split_model.head(empty)[:, 1], atol=1e-4)


def test_integrated_gradients_are_complete_where_the_head_bends(bending):
    found = contributions(
        bending.split_model, bending.features, bending.U, bending.W, margin(0, 3), method="integrated", steps=64
    )
    empty = bending.features.replace(positions=torch.zeros_like(bending.features.positions))
    nothing = bending.split_model.head(empty)
    assert torch.allclose(found.bias, nothing[:, 0] - nothing[:, 3], atol=2e-2)


def test_occlusion_is_the_drop_as_one_concept_is_removed(bending):
    found = contributions(bending.split_model, bending.features, bending.U, bending.W, 4, method="occlusion")
    without = bending.features.positions - bending.U[..., 3:4] * bending.W[3]
    drop = found.output - bending.split_model.head(bending.features.replace(positions=without))[:, 4]
    assert torch.allclose(found.values[:, 3], drop, atol=1e-5)


def test_the_gradient_times_input_matches_finite_differences(make_planted):
    planted = make_planted("bending", dtype=torch.float64)
    target = similarity(torch.ones(5, dtype=torch.float64))
    found = contributions(planted.split_model, planted.features, planted.U, planted.W, target)
    step = 1e-6 * planted.U[..., 2:3] * planted.W[2]
    up, down = (
        target(planted.split_model.head(planted.features.replace(positions=planted.features.positions + sign * step)))
        for sign in (1, -1)
    )
    assert torch.allclose(found.values[:, 2], (up - down) / 2e-6, atol=1e-7)


def test_completeness_is_one_without_a_residual_and_less_with_one(make_planted):
    exact, noisy = make_planted(residual=0.0), make_planted(residual=1.0)
    whole, part = (contributions(p.split_model, p.features, p.U, p.W, 0) for p in (exact, noisy))
    assert torch.allclose(whole.completeness, torch.ones(6), atol=1e-4)
    assert (part.completeness < 0.999).all()


def test_batches_change_nothing(bending):
    arguments = (bending.split_model, bending.features, bending.U, bending.W, 1)
    for method in ("gradient", "integrated", "occlusion"):
        whole = contributions(*arguments, method=method)
        pieces = contributions(*arguments, method=method, batch_size=1)
        assert torch.allclose(whole.values, pieces.values, atol=1e-5)


def test_numpy_coefficients_are_accepted(affine):
    found = contributions(affine.split_model, affine.features, affine.U.numpy(), affine.W.numpy(), 2)
    assert found.values.shape == (6, 8)


def test_gradients_work_under_no_grad(affine):
    with torch.no_grad():
        assert contributions(affine.split_model, affine.features, affine.U, affine.W, 2).values.shape == (6, 8)


def test_shapes_that_do_not_agree_are_refused_with_both(affine):
    with pytest.raises(ValueError, match=r"U must have shape \(6, 4, 8\), got \(6, 4, 7\)"):
        contributions(affine.split_model, affine.features, affine.U[..., :7], affine.W, 2)
    with pytest.raises(ValueError, match=r"W must have shape \(k, 24\), got \(8, 23\)"):
        contributions(affine.split_model, affine.features, affine.U, affine.W[:, :23], 2)
    with pytest.raises(ValueError, match="saliency"):
        contributions(affine.split_model, affine.features, affine.U, affine.W, 2, method="saliency")
