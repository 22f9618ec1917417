import numpy as np
import pytest
import torch

from conceptatlas.importance.masks import MaskFunction

MASKS = np.random.default_rng(0).random((6, 3)).astype(np.float32)


def test_a_numpy_function_stays_with_numpy():
    seen = []
    masked = MaskFunction(lambda m: seen.append(type(m)) or m.sum(1), 3, None)
    assert masked.values(MASKS)[:, 0] == pytest.approx(MASKS.sum(1))
    assert not masked.differentiable(MASKS[:1])
    assert set(seen) == {np.ndarray}


def test_a_module_is_given_tensors_and_differentiated():
    module = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0))
    masked = MaskFunction(module, 3, None)
    assert masked.differentiable(MASKS[:1])
    values, gradients = masked.values_and_gradients(MASKS)
    assert values.shape == (6, 1)
    assert np.allclose(gradients[:, :, 0], module[0].weight.detach().numpy())


def test_a_module_whose_output_does_not_depend_on_the_masks_by_gradient_is_not_differentiable():
    linear = torch.nn.Linear(3, 1)
    masked = MaskFunction(lambda m: linear(m.detach())[:, 0], 3, None)
    assert not masked.differentiable(MASKS[:1])


def test_a_function_that_lists_its_values_is_understood():
    masked = MaskFunction(lambda m: [float(row.sum()) for row in m], 3, None)
    assert masked.values(MASKS)[:, 0] == pytest.approx(MASKS.sum(1))


def test_given_gradients_of_the_wrong_shape_are_refused():
    masked = MaskFunction(lambda m: m.sum(1), 3, lambda m: m.sum(1))
    with pytest.raises(ValueError, match=r"\(6,\) for masks of shape \(6, 3\)"):
        masked.values_and_gradients(MASKS)


def test_rows_are_counted():
    masked = MaskFunction(lambda m: m.sum(1), 3, np.ones_like)
    masked.values(MASKS)
    masked.values_and_gradients(MASKS)
    assert (masked.n_evaluations, masked.n_gradients) == (12, 6)
