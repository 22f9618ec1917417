"""Masks that put the typical activation in the place of what they take out."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conceptatlas.extraction.features import Features
from conceptatlas.importance import concept_importance, contributions, counterfactual
from conceptatlas.importance.recomposition import Decomposition
from conceptatlas.importance.targets import as_target

HEAD = SimpleNamespace(head=lambda features: features.positions.mean(1), head_is_affine=True)


@pytest.fixture
def planted():
    torch.manual_seed(0)
    U, W, typical = torch.rand(5, 9, 3), torch.randn(3, 6), torch.randn(6)
    return Features(U @ W, None, (3, 3)), U, W, typical


def test_with_all_concepts_masked_the_typical_activation_is_left(planted):
    features, U, W, typical = planted
    parts = Decomposition.build(HEAD, features, U, W, as_target(0), typical=typical)
    left = parts.rescaled(torch.arange(5), torch.zeros(5, 3)).positions
    assert torch.allclose(left, typical.expand_as(left), atol=1e-4)


def test_masks_of_one_change_nothing(planted):
    features, U, W, typical = planted
    parts = Decomposition.build(HEAD, features, U, W, as_target(0), typical=typical)
    assert torch.equal(parts.rescaled(torch.arange(5), torch.ones(5, 3)).positions, features.positions)


def test_closed_form_is_what_masked_activations_give(planted):
    features, U, W, typical = planted
    exact = concept_importance(HEAD, features, U, W, 0, typical=typical)
    assert exact.method == "affine"
    fitted = concept_importance(HEAD, features, U, W, 0, method="chaos", typical=typical)
    np.testing.assert_allclose(exact.local, fitted.local, atol=1e-3)
    assert not np.allclose(exact.local, concept_importance(HEAD, features, U, W, 0).local, atol=1e-2)


def test_a_concept_that_is_everywhere_the_typical_activation_counts_for_nothing():
    torch.manual_seed(0)
    W = torch.randn(2, 6)
    U = torch.zeros(4, 9, 2)
    U[:, :7, 0], U[:, 7:, 1] = 2.0, 3.0
    features = Features(U @ W, None, (3, 3))
    plain = concept_importance(HEAD, features, U, W, 0).total
    typical = concept_importance(HEAD, features, U, W, 0, typical=2.0 * W[0]).total
    assert plain[0] > 0.1
    assert typical == pytest.approx([0.0, 1.0], abs=1e-6)


def test_a_typical_activation_of_another_width_is_refused(planted):
    features, U, W, _ = planted
    with pytest.raises(ValueError, match="typical must have shape"):
        concept_importance(HEAD, features, U, W, 0, typical=torch.zeros(5))


def test_contributions_are_told_against_the_typical_activation(planted):
    features, U, W, typical = planted
    found = contributions(HEAD, features, U, W, 0, typical=typical)
    parts = Decomposition.build(HEAD, features, U, W, as_target(0), typical=typical)
    every, whole = torch.arange(5), torch.ones(5, 3)
    for concept in range(3):
        without = parts.score(every, whole - torch.eye(3)[concept])
        assert torch.allclose(found.values[:, concept], found.output - without, atol=1e-4)
    assert torch.allclose(found.bias, typical[0].expand(5), atol=1e-4)


def test_the_gradient_halfway_is_complete_where_the_head_is_quadratic(planted):
    features, U, W, typical = planted
    head = SimpleNamespace(head=lambda features: features.positions.square().mean(1), head_is_affine=False)
    found = contributions(head, features, U, W, 1, method="integrated", steps=1, typical=typical)
    assert torch.allclose(found.bias, typical[1].square().expand(5), atol=1e-4)
    assert found.values.sum(1) + found.residual + found.bias == pytest.approx(found.output, abs=1e-4)


def test_an_output_that_is_given_is_not_computed_again(planted):
    features, U, W, typical = planted
    calls = []
    head = SimpleNamespace(head=lambda f: (calls.append(1), f.positions.mean(1))[1], head_is_affine=True)
    given = contributions(HEAD, features, U, W, 0, typical=typical).output
    found = contributions(head, features, U, W, 0, method="integrated", steps=1, typical=typical, output=given)
    assert torch.equal(found.output, given)
    assert len(calls) == 1


def test_occlusion_with_a_residual_adds_up_under_an_affine_head(planted):
    features, U, W, typical = planted
    noisy = Features(features.positions + 0.1 * torch.randn(5, 9, 6), None, (3, 3))
    found = contributions(HEAD, noisy, U, W, 0, method="occlusion", typical=typical)
    assert torch.allclose(found.bias, typical[0].expand(5), atol=1e-4)


@pytest.mark.parametrize("affine", [True, False])
def test_concepts_removed_for_another_decision_leave_the_typical_activation(planted, affine):
    features, U, W, typical = planted
    head = SimpleNamespace(head=HEAD.head, head_is_affine=affine)
    parts = Decomposition.build(HEAD, features, U, W, as_target(0), typical=typical)
    masks = torch.tensor(list(product([1.0, 0.0], repeat=3)))
    for image, found in enumerate(counterfactual(head, features, U, W, typical=typical)):
        outputs = parts.outputs(torch.full((8,), image), masks)
        other = outputs.argmax(1) != outputs[0].argmax()
        assert found.flipped == bool(other.any())
        if found.flipped:
            assert len(found.concepts) == int(3 - masks[other].sum(1).max())
            left = torch.ones(3).index_fill(0, torch.tensor(found.concepts), 0.0)
            after = parts.outputs(torch.tensor([image]), left[None])[0]
            assert int(after.argmax()) == found.becomes
