"""Taking a concept out: what exceeds the reference goes, and an image that has less of it stays as it is."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conceptatlas.audit.causal import Probe, removal_effect
from conceptatlas.extraction import Features

DIRECTIONS = torch.eye(2)
SPLIT = SimpleNamespace(
    head=lambda f: torch.stack([torch.zeros(len(f.positions)), f.positions[..., 1].sum(1)], 1), n_classes=2
)


def removed(amounts, reference):
    """Change of the class's probability in one image of four positions, whose logit is the sum of their amounts."""
    positions = torch.tensor([[[1.0, amount] for amount in amounts]])
    features = Features(positions, None, (2, 2))
    probe = Probe.build(SPLIT, np.array([0]), features, DIRECTIONS)
    return removal_effect(SPLIT, probe, DIRECTIONS, 1, 1, torch.tensor([0.0, reference])).change


def test_what_is_in_one_place_is_taken_from_there_and_not_spread_over_the_others():
    expected = torch.sigmoid(torch.tensor(0.5)) - torch.sigmoid(torch.tensor(2.0))
    assert removed([2.0, 0.0, 0.0, 0.0], 0.5) == pytest.approx(float(expected), abs=1e-5)


def test_an_image_with_less_than_the_reference_stays_as_it_is():
    assert removed([0.1, 0.0, 0.2, 0.0], 0.5) == 0.0
