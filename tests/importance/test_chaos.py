import numpy as np
import pytest

from conceptatlas.importance.chaos import Basis, chaos_indices, distance, fit_chaos
from conceptatlas.importance.designs import design


def masks_of(n, k, seed=0):
    return design(n, k, sampler="sobol", seed=seed).astype(np.float32)


def test_the_terms_are_orthonormal():
    terms = Basis(3).values(masks_of(4096, 3))
    assert np.abs(terms.T @ terms / 4096 - np.eye(Basis(3).size)).max() < 0.01


def test_slopes_are_the_derivatives_of_the_terms():
    basis, masks = Basis(4), masks_of(16, 4).astype(np.float64)
    for concept in range(4):
        step = np.zeros(4)
        step[concept] = 1e-4
        difference = (basis.values(masks + step) - basis.values(masks - step)) / 2e-4 / np.sqrt(12)
        where = basis.containing(concept)
        assert np.abs(difference[:, where] - basis.slopes(masks, concept)).max() < 1e-5
        assert np.abs(np.delete(difference, where, axis=1)).max() < 1e-9


def test_a_function_of_the_basis_is_recovered():
    masks, basis = masks_of(32, 5), Basis(5)
    coefficients = np.random.default_rng(0).normal(size=basis.size)
    values = (basis.values(masks) @ coefficients)[:, None]
    gradients = np.stack([basis.slopes(masks, i) @ coefficients[basis.containing(i)] for i in range(5)], axis=1)
    squares = coefficients**2
    truth = np.array([squares[basis.containing(i)].sum() for i in range(5)]) / squares[1:].sum()
    found = fit_chaos(masks, values, gradients[:, :, None] * np.sqrt(12))
    assert np.abs(found.total[:, 0] - truth).max() < 1e-3


def test_scale_and_offset_of_a_function_do_not_matter():
    masks = masks_of(16, 3).astype(np.float64)
    values, gradients = np.sin(3 * masks).sum(1)[:, None], (3 * np.cos(3 * masks))[:, :, None]
    plain = fit_chaos(masks, values, gradients).total
    assert np.allclose(plain, fit_chaos(masks, 1e6 * values + 5e6, 1e6 * gradients).total, atol=1e-6)
    assert np.allclose(plain, fit_chaos(masks, 1e-6 * values, 1e-6 * gradients).total, atol=1e-6)


def test_doubling_stops_for_each_function_as_it_agrees_with_itself():
    asked = []

    def evaluate(masks, which):
        asked.append((len(masks), which.tolist()))
        calm, wild = masks**2, np.sin(25 * masks * (1 + masks[:, ::-1]))
        values = np.stack([calm.sum(1), wild.sum(1)], axis=1)[:, which]
        slope = 25 * np.cos(25 * masks * (1 + masks[:, ::-1])) * (1 + masks[:, ::-1])
        return values, np.stack([2 * masks, slope], axis=2)[:, :, which]

    options = {"n_designs": None, "max_designs": 64, "tolerance": 0.03, "seed": 0}
    result = chaos_indices(evaluate, 4, 2, **options)
    assert asked == [(8, [0, 1]), (8, [0, 1]), (16, [1]), (32, [1])]
    assert result.total[:, 0] / result.total[:, 0].sum() == pytest.approx(0.25, abs=0.01)


def test_a_fixed_number_of_designs_is_kept():
    sizes = []

    def evaluate(masks, which):
        sizes.append(len(masks))
        return (masks**2).sum(1)[:, None], (2 * masks)[:, :, None]

    chaos_indices(evaluate, 4, 1, n_designs=20, max_designs=64, tolerance=0.0, seed=0)
    assert sum(sizes) == 20


@pytest.mark.parametrize("options", [{"n_designs": 4}, {"n_designs": 7}, {"n_designs": None, "max_designs": 5}])
def test_fewer_designs_than_parts_to_leave_out_will_do(options):
    def evaluate(masks, which):
        return masks.sum(1)[:, None], np.ones_like(masks)[:, :, None]

    found = chaos_indices(evaluate, 3, 1, **{"max_designs": 64, "tolerance": 0.0, "seed": 0} | options)
    low, high = found.interval(0.95)
    assert ((low <= 1 / 3) & (high >= 1 / 3)).all()


def test_distance_is_half_the_sum_of_differences_of_shares():
    first, second = np.array([[2.0], [2.0]]), np.array([[1.0], [0.0]])
    assert distance(first, second).tolist() == [0.5]
    assert distance(first, 7 * first).tolist() == [0.0]
    assert distance(np.zeros((2, 1)), np.zeros((2, 1))).tolist() == [0.0]


def test_a_concept_that_saturates_does_not_spoil_what_the_others_are_worth():
    k, rng = 12, np.random.default_rng(1)
    masks, slope = masks_of(32, k), rng.uniform(0.05, 0.3, k - 1)

    def function(m):
        return 3 * m[:, 0] / (m[:, 0] + 0.05) + m[:, 1:] @ slope

    many = design(1 << 14, 1, sampler="sobol", seed=5)[:, 0]
    effects = np.concatenate([[np.var(3 * many / (many + 0.05))], slope**2 / 12])
    steep = 3 * 0.05 / (masks[:, :1] + 0.05) ** 2
    gradients = np.concatenate([steep, np.tile(slope, (32, 1))], axis=1)
    found = fit_chaos(masks, function(masks)[:, None], gradients[:, :, None])
    assert distance(found.total, effects[:, None])[0] < 0.03
    assert (np.argsort(found.total[1:, 0]) == np.argsort(effects[1:])).all()
