import numpy as np
import pytest

from conceptatlas.importance.intervals import jackknife_error, mean_error, student_quantile


def test_the_jackknife_of_a_mean_is_its_standard_error():
    samples = np.random.default_rng(0).normal(size=(20, 1))
    replicates = np.stack([np.delete(samples, i, axis=0).mean(0) for i in range(20)])
    assert jackknife_error(replicates)[0] == pytest.approx(samples.std(ddof=1) / np.sqrt(20))


def test_student_quantiles_are_the_known_ones():
    assert student_quantile(0.95, 9) == pytest.approx(2.262, abs=1e-3)
    assert student_quantile(0.95, 10**6) == pytest.approx(1.960, abs=1e-3)


@pytest.mark.parametrize("n", [5, 20])
def test_the_interval_of_a_mean_of_skewed_indices_covers_nine_times_in_ten(n):
    rng, inside = np.random.default_rng(0), []
    for _ in range(200):
        samples = rng.beta(0.5, 3.0, size=(n, 3))
        below, above = mean_error(samples, 0.95)
        mean = samples.mean(0)
        inside.append((mean - below <= 0.5 / 3.5) & (mean + above >= 0.5 / 3.5))
    assert np.mean(inside) >= 0.9


def test_one_image_has_no_scatter():
    below, above = mean_error(np.array([[0.3, 0.7]]), 0.95)
    assert below.tolist() == above.tolist() == [0.0, 0.0]


def test_equal_images_leave_no_doubt():
    below, above = mean_error(np.full((7, 2), 0.5), 0.95)
    assert np.allclose([below, above], 0.0)
