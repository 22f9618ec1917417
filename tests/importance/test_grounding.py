import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score

from conceptatlas.importance.grounding import (
    average_precision,
    energy_in_mask,
    energy_ratio,
    iou,
    peak_of,
    pointing_chance,
    pointing_game,
    top_region,
)


@pytest.fixture
def mask():
    found = np.zeros((12, 16), dtype=bool)
    found[3:6, 4:9] = True
    return found


def test_the_mask_itself_as_a_map_is_perfect_by_every_measure(mask):
    assert pointing_game(mask.astype(float), mask) == 1.0
    assert iou(mask.astype(float), mask) == 1.0
    assert average_precision(mask.astype(float), mask) == 1.0
    assert energy_in_mask(mask.astype(float), mask) == 1.0
    assert energy_ratio(mask.astype(float), mask) == pytest.approx(mask.size / mask.sum())


def test_a_constant_map_scores_chance_and_never_points(mask):
    flat = np.full(mask.shape, 0.3)
    area = mask.mean()
    assert pointing_game(flat, mask) == 0.0
    assert average_precision(flat, mask) == pytest.approx(area)
    assert energy_in_mask(flat, mask) == pytest.approx(area)
    assert energy_ratio(flat, mask) == pytest.approx(1.0)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_average_precision_agrees_with_scikit_learn_ties_included(seed):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 4, size=(5, 6)).astype(float)
    truth = generator.random((5, 6)) < 0.3
    truth[0, 0] = True
    assert average_precision(values, truth) == pytest.approx(average_precision_score(truth.ravel(), values.ravel()))


@given(hnp.arrays(np.float64, (4, 5), elements=st.floats(0, 9)), st.floats(0.1, 8.0))
@settings(max_examples=40, deadline=None)
def test_no_measure_depends_on_the_scale_of_the_map(values, factor):
    values = np.round(values, 3)
    truth = np.zeros((4, 5), dtype=bool)
    truth[1:3, 1:3] = True
    for measure in (pointing_game, average_precision, energy_in_mask):
        np.testing.assert_allclose(measure(values * factor, truth), measure(values, truth), rtol=1e-9)


def test_pointing_tolerance_is_a_distance_in_pixels(mask):
    values = np.zeros(mask.shape)
    values[3, 11] = 1.0  # three columns to the right of the mask's last one
    assert pointing_game(values, mask, tolerance=2.9) == 0.0
    assert pointing_game(values, mask, tolerance=3.0) == 1.0


def test_the_chance_of_pointing_is_the_share_of_pixels_that_would_hit(mask):
    hits = [pointing_game(one, mask, tolerance=2) for one in np.eye(mask.size).reshape(-1, *mask.shape)]
    assert pointing_chance(mask, tolerance=2) == pytest.approx(np.mean(hits))


def test_iou_of_half_shifted_boxes_is_known():
    truth, values = np.zeros((4, 8), dtype=bool), np.zeros((4, 8))
    truth[:, :4], values[:, 2:6] = True, 1.0
    assert iou(values, truth) == pytest.approx(8 / 24)
    assert iou(values, truth, share=0.5) == pytest.approx(8 / 24)


def test_top_region_has_exactly_the_share_and_holds_the_strongest():
    values = np.random.default_rng(0).random((3, 10, 10))
    region = top_region(values, 0.05)
    assert region.sum(axis=(1, 2)).tolist() == [5, 5, 5]
    assert values[region].min() > np.quantile(values, 0.9)


def test_an_empty_mask_is_undefined_and_not_zero(mask):
    empty = np.zeros_like(mask)
    values = np.random.default_rng(1).random(mask.shape)
    for measure in (pointing_game, iou, average_precision, energy_ratio):
        assert np.isnan(measure(values, empty))
    assert np.isnan(energy_in_mask(np.zeros(mask.shape), mask))


def test_a_plateau_points_at_its_middle():
    values = np.zeros((9, 9))
    values[2:7, 1:4] = 1.0
    assert peak_of(values).tolist() == [4, 2]


def test_leading_dimensions_are_kept(mask):
    stack = np.random.default_rng(2).random((2, 3, *mask.shape))
    masks = np.broadcast_to(mask, stack.shape)
    for measure in (pointing_game, iou, average_precision, energy_in_mask, energy_ratio):
        assert measure(stack, masks).shape == (2, 3)
        assert measure(stack, masks)[1, 2] == measure(stack[1, 2], mask)


def test_wrong_inputs_are_refused_with_the_remedy(mask):
    with pytest.raises(ValueError, match="upsample the maps"):
        iou(np.zeros((7, 7)), mask)
    with pytest.raises(TypeError, match="boolean"):
        iou(np.zeros(mask.shape), mask.astype(float))
    with pytest.raises(ValueError, match="non-negative"):
        energy_in_mask(-np.ones(mask.shape), mask)
    with pytest.raises(ValueError, match="NaN"):
        average_precision(np.full(mask.shape, np.nan), mask)
    with pytest.raises(ValueError, match="share"):
        top_region(np.zeros((2, 2)), 0.0)
