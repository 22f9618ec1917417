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


def decisions(planted, image, change):
    """Return the class that is decided for under every set of changes to one image."""
    pooled = planted.U.mean(1)
    ceiling = torch.quantile(pooled, 0.95, dim=0)
    moves = -planted.U[image] if change == "remove" else (ceiling - pooled[image]).clamp(min=0).expand(4, -1)
    sets = [each for size in range(9) for each in itertools.combinations(range(8), size)]
    chosen = torch.stack([torch.tensor([float(i in each) for i in range(8)]) for each in sets])
    positions = planted.features.positions[image] + (moves * chosen[:, None]) @ planted.W
    outputs = planted.split_model.head(planted.features.replace(positions=positions))
    return dict(zip(sets, outputs.argmax(1).tolist(), strict=True))


@pytest.mark.parametrize("change", ["remove", "add"])
@pytest.mark.parametrize("seed", range(3))
def test_no_smaller_set_changes_the_decision_under_an_affine_head(make_planted, seed, change):
    planted = make_planted(n_images=12, residual=0.02, seed=seed)
    found = run(planted, change=change)
    assert any(each.flipped and (len(each.concepts) > 1 or change == "add") for each in found)
    predicted = planted.split_model.head(planted.features).argmax(1)
    for image, each in enumerate(found):
        decided = decisions(planted, image, change)
        sizes = [len(concepts) for concepts, now in decided.items() if now != predicted[image]]
        assert each.exact
        assert each.flipped == bool(sizes)
        assert each.becomes == decided[tuple(sorted(each.concepts))]
        if each.flipped:
            assert len(each.concepts) == min(sizes)
            assert each.becomes != predicted[image]


def test_the_rival_that_takes_fewest_is_found_and_named_where_the_second_class_takes_more(make_planted):
    planted = make_planted(n_concepts=3, width=3, n_classes=3, residual=0.0)
    planted.W[:] = torch.eye(3)
    planted.U[:] = 1.0
    planted.features.positions[:] = planted.U @ planted.W
    weight = torch.tensor([[2.0, 2, 2], [1.6, 1.6, 1.6], [0, 2.2, 2.2]])  # the third needs the first concept gone
    planted.split_model.module.weight.data = weight
    planted.split_model.module.bias.data = torch.zeros(3)
    found = run(planted)[0]
    assert (found.concepts, found.becomes) == ((0,), 2)
    assert found.target == margin(0, 2).label
    assert (found.before, found.after) == pytest.approx((1.6, -0.4), abs=1e-5)


def test_a_bending_head_is_decided_otherwise_too(make_planted):
    planted = make_planted("bending", n_images=12)
    predicted = planted.split_model.head(planted.features).argmax(1)
    found = run(planted)
    assert any(each.flipped for each in found)
    for image, each in enumerate(found):
        decided = decisions(planted, image, "remove")
        assert not each.exact
        assert each.flipped == (decided[tuple(sorted(each.concepts))] != predicted[image])


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
