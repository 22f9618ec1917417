import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from conceptatlas.importance import concept_importance, contributions, margin, signed_shares, similarity, total_sobol


def affine_truth(planted, weight) -> np.ndarray:
    effects = (planted.U.double().mean(1) * (planted.W.double() @ weight.double())).numpy()
    return effects**2 / (effects**2).sum(1, keepdims=True)


def test_an_affine_head_gets_the_closed_form_without_a_masked_evaluation(affine):
    found = concept_importance(affine.split_model, affine.features, affine.U, affine.W, 2)
    assert found.method == "affine"
    assert found.n_evaluations == 0
    assert affine.split_model.rows == 1
    assert np.abs(found.local - affine_truth(affine, affine.split_model.module.weight[2])).max() < 1e-6
    assert np.allclose(found.total, found.local.mean(0))


def test_a_margin_stays_affine_and_a_similarity_does_not(affine):
    arguments = (affine.split_model, affine.features, affine.U, affine.W)
    weight = affine.split_model.module.weight
    found = concept_importance(*arguments, margin(1, 3))
    assert np.abs(found.local - affine_truth(affine, weight[1] - weight[3])).max() < 1e-6
    assert concept_importance(*arguments, similarity(torch.ones(5))).method == "chaos"


@pytest.mark.parametrize("method", ["chaos", "jansen"])
def test_the_sampled_estimators_agree_with_the_closed_form(affine, method):
    arguments = (affine.split_model, affine.features, affine.U, affine.W, 2)
    exact = concept_importance(*arguments)
    sampled = concept_importance(*arguments, method=method)
    assert sampled.method == method
    assert np.abs(sampled.local - exact.local).max() < 1e-4
    assert np.allclose(sampled.high - sampled.low, exact.high - exact.low, atol=1e-3)


@pytest.mark.parametrize("prefix", [False, True])
def test_a_batch_gives_what_each_image_gives_alone(make_planted, prefix, relative):
    planted = make_planted("bending", n_images=3, prefix=prefix)
    found = concept_importance(planted.split_model, planted.features, planted.U, planted.W, 1, tolerance=0.02)
    for image in range(3):
        features = planted.features.replace(positions=planted.features.positions[[image]])
        if prefix:
            features = features.replace(prefix=planted.features.prefix[[image]])

        def function(masks, features=features, image=image):
            change = (planted.U[image] * (torch.as_tensor(masks)[:, None] - 1)) @ planted.W
            rows = features.replace(positions=features.positions + change)
            if prefix:
                rows = rows.replace(prefix=features.prefix.expand(len(masks), -1, -1))
            return planted.split_model.head(rows)[:, 1]

        reference = total_sobol(function, 8, method="jansen", n_designs=2048).total
        assert relative(found.local[image], reference) < 0.06
        assert np.abs(found.local[image] - reference).max() < 0.05


def test_batches_change_nothing(bending):
    arguments = (bending.split_model, bending.features, bending.U, bending.W, 1)
    whole = concept_importance(*arguments, n_designs=16)
    bending.split_model.largest = 0
    pieces = concept_importance(*arguments, n_designs=16, batch_size=7)
    assert bending.split_model.largest == 7
    assert np.allclose(whole.local, pieces.local, atol=1e-4)


def test_batches_are_halved_where_memory_runs_out(bending, caplog):
    head = bending.split_model.head

    def small(features):
        if len(features.positions) > 8:
            raise torch.OutOfMemoryError("too many rows")
        return head(features)

    arguments = (bending.features, bending.U, bending.W, 1)
    whole = concept_importance(bending.split_model, *arguments, n_designs=16)
    bending.split_model.head = small
    pieces = concept_importance(bending.split_model, *arguments, n_designs=16)
    assert "out of memory" in caplog.text
    assert np.allclose(whole.local, pieces.local, atol=1e-4)


def test_a_head_without_gradients_is_sampled(bending):
    head = bending.split_model.head
    bending.split_model.head = lambda features: head(features).detach()
    arguments = (bending.split_model, bending.features, bending.U, bending.W, 1)
    assert concept_importance(*arguments).method == "jansen"
    with pytest.raises(ValueError, match="jansen"):
        concept_importance(*arguments, method="chaos")


def test_inference_mode_changes_nothing(bending):
    plain = concept_importance(bending.split_model, bending.features, bending.U, bending.W, 1)
    with torch.inference_mode():
        features = bending.features.replace(positions=bending.features.positions.clone())
        inside = concept_importance(bending.split_model, features, bending.U.clone(), bending.W.clone(), 1)
    outside = concept_importance(bending.split_model, features, bending.U, bending.W, 1)
    assert inside.method == outside.method == "chaos"
    assert np.allclose(inside.local, plain.local)
    assert np.allclose(outside.local, plain.local)


def test_fault_42_an_image_without_concepts_has_no_importance_and_spoils_no_mean(make_planted):
    for head in ("affine", "bending"):
        planted = make_planted(head)
        planted.U[0] = 0
        for method in ("auto", "jansen", "craft"):
            found = concept_importance(planted.split_model, planted.features, planted.U, planted.W, 0, method=method)
            assert not found.local[0].any()
            assert found.local[1:].any(1).all()
            assert np.isfinite(found.total).all()


def test_the_class_interval_covers_the_mean_of_all_images(make_planted):
    everyone = make_planted("bending", n_images=200, seed=3)
    truth = concept_importance(everyone.split_model, everyone.features, everyone.U, everyone.W, 0, tolerance=0.02).total
    inside = []
    for start in range(0, 200, 10):
        some = slice(start, start + 10)
        features = everyone.features.replace(positions=everyone.features.positions[some])
        found = concept_importance(everyone.split_model, features, everyone.U[some], everyone.W, 0)
        inside.append((found.low <= truth) & (truth <= found.high))
    assert np.mean(inside) >= 0.9


def test_the_ranking_of_a_bending_head_agrees_with_a_long_reference(bending):
    arguments = (bending.split_model, bending.features, bending.U, bending.W, 3)
    reference = concept_importance(*arguments, method="jansen", n_designs=1024)
    found = concept_importance(*arguments)
    assert spearmanr(found.total, reference.total).statistic > 0.95


def test_signed_shares_keep_the_sign_that_sobol_drops(affine):
    arguments = (affine.split_model, affine.features, affine.U, affine.W, 2)
    values = contributions(*arguments).values
    shares = signed_shares(values)
    assert np.array_equal(np.sign(shares.share), np.sign(values.mean(0).numpy()))
    assert (shares.share < 0).any()
    assert (concept_importance(*arguments).total >= 0).all()
    assert np.abs(shares.share).sum() == pytest.approx(1.0)
    assert (shares.low <= shares.share).all()
    assert (shares.share <= shares.high).all()


def test_shares_of_the_sum_and_of_the_magnitude_agree_where_all_help():
    values = np.abs(np.random.default_rng(0).normal(size=(30, 4)))
    assert np.allclose(signed_shares(values).share, signed_shares(values, of="sum").share)


def test_shares_of_nothing_are_zero():
    assert signed_shares(np.zeros((3, 2))).share.tolist() == [0.0, 0.0]


def test_shares_of_no_images_are_refused():
    with pytest.raises(ValueError, match="B at least 1"):
        signed_shares(np.zeros((0, 2)))
