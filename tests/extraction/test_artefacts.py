"""Which positions count as artefacts of a transformer."""

import numpy as np
import pytest
import torch

from conceptatlas.extraction import artefact_positions, extract
from conceptatlas.extraction.artefacts import outlying


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.5])
def test_no_artefact_among_log_normal_norms(spread):
    norms = np.exp(np.random.default_rng(0).normal(3, spread, size=(200, 196)))
    assert not outlying(norms).any()


def test_planted_norms_are_found_and_no_other():
    rng = np.random.default_rng(0)
    norms = np.exp(rng.normal(3, 0.2, size=(100, 196)))
    planted = rng.random(norms.shape) < 0.02
    norms[planted] *= 12
    assert np.array_equal(outlying(norms), planted)


def test_equal_norms_and_zeros_are_no_artefacts():
    assert not outlying(np.ones((3, 4))).any()
    assert not outlying(np.zeros((3, 4))).any()
    assert not outlying(np.zeros((0, 4))).any()


def test_artefacts_are_left_out_of_the_rows(image_folder, tiny_split, small_input, tmp_path):
    halves = tiny_split()
    encode = halves.encode

    def with_artefact(images):
        positions = encode(images).positions.abs() + 1
        positions[:, 7] *= 100
        return encode(images).replace(positions=positions)

    halves.encode = with_artefact
    store = extract(halves, image_folder(ants=5), small_input, tmp_path / "s").store
    found = artefact_positions(store)
    assert found[:, 7].all()
    assert found.sum() == 5
    rows, samples, positions = store.rows(keep=~found)
    assert len(rows) == 5 * 15
    assert 7 not in positions
    drawn, samples, positions = store.rows([1, 3], max_rows=9, seed=1, keep=~found)
    assert torch.equal(torch.from_numpy(drawn), store.features(range(5)).positions[samples, positions])
    assert set(samples) <= {1, 3}
    assert 7 not in positions
