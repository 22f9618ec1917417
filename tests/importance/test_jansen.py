import numpy as np
import pytest

from conceptatlas.importance.jansen import craft_indices, is_flat, jansen_indices


def test_estimates_approach_the_truth_as_designs_grow():
    size = np.full(4, 0.8)
    variance = size**2 / 3
    truth = (variance * np.prod(1 + variance) / (1 + variance) / (np.prod(1 + variance) - 1))[0]

    def function(masks):
        return np.prod(1 + size * (2 * masks.astype(float) - 1), axis=1)[:, None]

    errors = [
        np.mean(
            [np.abs(jansen_indices(function, 4, n_designs=n, sampler=None, seed=s).total - truth) for s in range(5)]
        )
        for n in (32, 2048)
    ]
    assert errors[1] < 0.25 * errors[0]
    assert errors[1] < 0.02


def test_several_functions_on_one_design_are_estimated_as_each_alone():
    functions = [lambda m: np.sin(3 * m).sum(1), lambda m: m[:, 0] * m[:, 1] + m[:, 2] ** 2]
    both = jansen_indices(
        lambda m: np.stack([f(m) for f in functions], axis=1), 3, n_designs=16, sampler="latin", seed=2
    )
    for column, function in enumerate(functions):
        alone = jansen_indices(lambda m, f=function: f(m)[:, None], 3, n_designs=16, sampler="latin", seed=2)
        assert np.allclose(both.total[:, [column]], alone.total)


def test_replicates_are_bounded_however_many_designs():
    estimate = jansen_indices(lambda m: np.sin(3 * m).sum(1, keepdims=True), 2, n_designs=500, sampler=None, seed=0)
    assert estimate.replicates.shape == (64, 2, 1)


def test_the_interval_lies_within_zero_and_one_and_around_the_estimate():
    estimate = jansen_indices(lambda m: np.exp(5 * m[:, :1]) + m[:, 1:2], 3, n_designs=8, sampler=None, seed=0)
    low, high = estimate.interval(0.95)
    assert (low >= 0).all()
    assert (high <= np.maximum(1.0, estimate.total)).all()
    assert ((low <= estimate.total) & (estimate.total <= high)).all()


def test_the_published_formula_is_reproduced_term_by_term():
    from scipy.stats import qmc

    points = qmc.Halton(6, scramble=False).random(32).astype(np.float32)

    def function(masks):
        return (masks[:, 0] * masks[:, 1] + masks[:, 2]).astype(float)

    base, other = points[:, :3], points[:, 3:]
    expected = []
    for concept in range(3):
        swapped = base.copy()
        swapped[:, concept] = other[:, concept]
        change = function(base) - function(swapped)
        expected.append((change**2).sum() / (2 * 32 * function(base).var(ddof=1)))
    found = craft_indices(lambda m: function(m)[:, None], 3, n_designs=32)
    assert found[:, 0] == pytest.approx(np.array(expected))


def test_flat_means_within_the_rounding_of_float32():
    values = np.array([[1.0, 1.0, 0.0], [1.0 + 1e-7, 1.1, 0.0]])
    assert is_flat(values).tolist() == [True, False, True]


def test_too_few_designs_are_refused():
    with pytest.raises(ValueError, match="at least 4"):
        jansen_indices(lambda m: m, 2, n_designs=2, sampler=None, seed=0)
