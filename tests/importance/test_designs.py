import numpy as np
import pytest

from conceptatlas.importance import design
from conceptatlas.importance.designs import pick_freeze


@pytest.mark.parametrize("sampler", ["halton", "latin", "sobol", "halton-unscrambled"])
def test_points_lie_in_the_unit_cube(sampler):
    points = design(32, 50, sampler=sampler, seed=1)
    assert points.shape == (32, 50)
    assert points.min() >= 0
    assert points.max() < 1


@pytest.mark.parametrize("sampler", ["halton", "latin", "sobol"])
def test_scrambled_designs_are_uniform_in_every_coordinate_also_in_fifty_dimensions(sampler):
    points = np.concatenate([design(32, 50, sampler=sampler, seed=seed) for seed in range(40)])
    assert np.abs(points.mean(0) - 0.5).max() < 0.05
    assert np.abs(points.var(0) - 1 / 12).max() < 0.02


def test_the_unscrambled_design_is_not():
    points = design(32, 50, sampler="halton-unscrambled")
    assert points[:, 49].mean() < 0.1


@pytest.mark.parametrize("sampler", ["halton", "latin", "sobol"])
def test_the_seed_alone_decides(sampler):
    first, again, other = (design(16, 4, sampler=sampler, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_first_points_of_a_longer_sobol_design_are_the_shorter_one():
    assert np.array_equal(design(64, 5, sampler="sobol", seed=3)[:16], design(16, 5, sampler="sobol", seed=3))


def test_a_swap_changes_one_column_alone():
    halves = pick_freeze(8, 5, seed=0)
    changed = halves.swapped(2) != halves.base
    assert changed[:, 2].all()
    assert changed.sum() == 8
    assert np.array_equal(halves.swapped(2)[:, 2], halves.other[:, 2])


def test_rows_are_the_base_and_one_block_for_each_swap():
    halves = pick_freeze(4, 3, seed=0)
    rows = halves.rows()
    assert rows.shape == (16, 3)
    assert np.array_equal(rows[:4], halves.base)
    assert np.array_equal(rows[8:12], halves.swapped(1))


@pytest.mark.parametrize(("n", "dimension", "sampler"), [(0, 2, "sobol"), (4, 0, "sobol"), (4, 2, "grid")])
def test_designs_that_cannot_be_are_refused(n, dimension, sampler):
    with pytest.raises(ValueError, match="got|unknown"):
        design(n, dimension, sampler=sampler)
