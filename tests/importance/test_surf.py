import numpy as np
import pytest
import torch

from conceptatlas.importance import surf


@pytest.fixture
def exact(make_planted):
    """A planted decomposition without a residual, non-negative as nnls expects, the same bank for every class."""
    planted = make_planted(residual=0.0, n_images=20)
    banks = dict.fromkeys(range(5), planted.W)
    return planted, banks


def test_perfect_concepts_and_effects_rebuild_every_logit(exact):
    planted, banks = exact
    found = surf(planted.split_model, planted.features, banks)
    assert found.mae.score < 1e-3
    assert found.emd.score < 1e-3


@pytest.mark.parametrize("seed", range(8))
def test_perfect_beats_random_importance_beats_random_concepts(make_planted, seed):
    planted = make_planted(residual=0.0, n_images=20, seed=seed)
    found = surf(planted.split_model, planted.features, dict.fromkeys(range(5), planted.W), seed=seed)
    for metric in (found.mae, found.emd):
        assert not metric.higher_is_better
        assert metric.concepts.score < metric.random_importance.score < metric.random_concepts.score


def test_shuffled_effects_change_both_errors(exact):
    planted, banks = exact
    effects = {index: banks[index] @ planted.split_model.module.weight[index] / 4 for index in banks}
    given = surf(planted.split_model, planted.features, banks, effects=effects)
    other = surf(planted.split_model, planted.features, banks, effects={i: e.roll(1) for i, e in effects.items()})
    assert given.mae.score < 1e-3 < other.mae.score
    assert given.emd.score < other.emd.score


def test_the_table_is_in_the_units_of_the_logits(exact):
    planted, banks = exact
    found = surf(planted.split_model, planted.features, banks, effects={index: torch.zeros(8) for index in banks})
    logits = planted.split_model.head(planted.features)
    constant = planted.split_model.module.bias
    assert found.mae.score == pytest.approx((logits - constant).abs().mean().item(), rel=1e-3)
    assert 0 <= found.emd.score <= 1


def test_features_made_in_inference_mode_are_taken(exact):
    planted, banks = exact
    with torch.inference_mode():
        features = planted.features.replace(positions=planted.features.positions.clone())
    assert surf(planted.split_model, features, banks).mae.score < 1e-3


def test_one_class_and_wrong_effects_are_refused(exact):
    planted, banks = exact
    with pytest.raises(ValueError, match="banks of 1"):
        surf(planted.split_model, planted.features, {0: planted.W})
    with pytest.raises(ValueError, match=r"\(8,\), got \(3,\)"):
        surf(planted.split_model, planted.features, banks, effects={0: np.zeros(3)})
