import itertools

import numpy as np
import pytest
import torch

from conceptatlas.importance import as_target, counterfactual, margin


def run(planted, *arguments, **options):
    return counterfactual(planted.split_model, planted.features, planted.U, planted.W, *arguments, **options)


def target_without(planted, image, concepts, target):
    kept = torch.ones(planted.W.shape[0])
    kept[list(concepts)] = 0
    change = (planted.U[image] * (kept - 1)) @ planted.W
    positions = planted.features.positions[image] + change
    return target(planted.split_model.head(planted.features.replace(positions=positions[None])))[0].item()


def test_no_smaller_set_flips_the_class_under_an_affine_head(make_planted):
    planted = make_planted(n_images=12, residual=0.02)
    found = run(planted)
    assert any(each.flipped and len(each.concepts) > 1 for each in found)
    outputs = planted.split_model.head(planted.features)
    for image, each in enumerate(found):
        assert each.exact
        first, second = outputs[image].topk(2).indices.tolist()
        target = margin(first, second)
        assert each.before == pytest.approx(target(outputs[[image]])[0].item(), abs=1e-4)
        assert each.after == pytest.approx(target_without(planted, image, each.concepts, target), abs=1e-3)
        sizes = range(len(each.concepts)) if each.flipped else range(9)
        for size in sizes:
            for concepts in itertools.combinations(range(8), size):
                assert target_without(planted, image, concepts, target) >= -1e-4


def test_greedy_sets_reach_the_threshold_and_none_of_their_concepts_is_superfluous(make_planted):
    planted = make_planted("bending", n_images=12)
    values = planted.split_model.head(planted.features)[:, 1]
    threshold = (values.mean() - values.std()).item()
    found = run(planted, 1, threshold=threshold)
    assert any(each.flipped and len(each.concepts) > 1 for each in found)
    for image, each in enumerate(found):
        assert not each.exact
        assert each.before == pytest.approx(values[image].item(), abs=1e-4)
        if each.flipped:
            assert each.after < threshold
            for concept in each.concepts:
                rest = [kept for kept in each.concepts if kept != concept]
                assert target_without(planted, image, rest, as_target(1)) >= threshold - 1e-4


def test_greedy_and_exact_agree_in_size_where_both_apply(make_planted):
    planted = make_planted(n_images=12)
    exact = run(planted)
    planted.split_model.head_is_affine = False
    greedy = run(planted)
    assert [len(each.concepts) for each in exact if each.flipped] == [
        len(each.concepts) for each in greedy if each.flipped
    ]


def test_additions_stay_within_what_other_images_show(make_planted):
    planted = make_planted(n_images=30)
    found = run(planted, change="add")
    assert any(each.flipped for each in found)
    pooled = planted.U.mean(1)
    ceiling = torch.quantile(pooled, 0.95, dim=0)
    for image, each in enumerate(found):
        assert each.change == "add"
        assert each.in_range
        assert all(pooled[image, concept] < ceiling[concept] for concept in each.concepts)


def test_removal_of_what_every_image_has_is_out_of_range(make_planted):
    planted = make_planted(n_images=8)
    planted.U[:] += 1.0
    found = run(planted)
    assert all(not each.in_range for each in found if each.concepts)


def test_a_target_below_the_threshold_needs_no_change(affine):
    found = run(affine, 2, threshold=1e6)
    assert all(each.concepts == () and each.flipped and each.after == each.before for each in found)


def test_what_cannot_flip_is_said_so(affine):
    found = run(affine, 2, threshold=-1e6)
    assert not any(each.flipped for each in found)
    assert all(each.after <= each.before for each in found)


def test_prefix_tokens_pass_through(make_planted):
    planted = make_planted("bending", prefix=True, n_images=3)
    outputs = planted.split_model.head(planted.features)
    for image, each in enumerate(run(planted)):
        top = outputs[image].topk(2).values
        assert each.before == pytest.approx((top[0] - top[1]).item(), abs=1e-4)


def test_an_unknown_change_is_refused(affine):
    with pytest.raises(ValueError, match="swap"):
        run(affine, change="swap")


def test_reference_coefficients_set_the_ceiling(make_planted):
    planted = make_planted(n_images=4)
    nothing = run(planted, change="add", reference=np.zeros((5, 8)))
    assert all(each.concepts == () for each in nothing)
