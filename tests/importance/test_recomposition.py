import numpy as np
import pytest
import torch

from conceptatlas.importance.recomposition import Decomposition, in_batches
from conceptatlas.importance.targets import as_target


def build(planted, **options):
    return Decomposition.build(planted.split_model, planted.features, planted.U, planted.W, as_target(1), **options)


def test_all_ones_gives_the_prediction_with_its_residual(bending):
    scores = build(bending).scores(np.ones((1, 8), dtype=np.float32), np.arange(6))
    assert scores[0] == pytest.approx(bending.split_model.head(bending.features)[:, 1].numpy(), abs=1e-5)


def test_a_mask_scales_one_concept_at_all_positions_and_keeps_the_rest(bending):
    masks = torch.ones(1, 8)
    masks[0, 2] = 0.25
    rescaled = build(bending).rescaled(torch.tensor([4]), masks).positions[0]
    expected = bending.features.positions[4] - 0.75 * bending.U[4, :, 2:3] * bending.W[2]
    assert torch.allclose(rescaled, expected, atol=1e-6)


def test_slopes_are_the_derivatives_by_the_masks(make_planted):
    parts = build(make_planted("bending", dtype=torch.float64, prefix=True))
    masks, images = np.full((2, 8), 0.5), np.array([1, 3])
    values, slopes = parts.scores_and_slopes(masks, images)
    assert values == pytest.approx(parts.scores(masks, images))
    for concept in range(8):
        step = np.zeros(8)
        step[concept] = 1e-5
        difference = (parts.scores(masks + step, images) - parts.scores(masks - step, images)) / 2e-5
        assert slopes[:, concept] == pytest.approx(difference, abs=1e-6)


def test_batches_shrink_with_the_activation_and_are_what_was_asked_for(make_planted):
    small, large = make_planted(width=24), make_planted(width=100_000, n_images=1, n_concepts=2)
    assert build(small).rows() == 1024
    assert build(large).rows() == 2
    assert build(small, batch_size=3).rows() == 3


def test_memory_errors_at_one_row_are_raised():
    def fail(part):
        raise torch.OutOfMemoryError("no")

    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches(fail, 4, 4))


def test_every_row_is_in_one_batch():
    assert list(in_batches(lambda part: list(range(10))[part], 10, 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
