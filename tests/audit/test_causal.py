"""Taking a concept out: what exceeds the reference goes, and an image that has less of it stays as it is."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conceptatlas.audit.causal import Probe, addition_effect, removal_effect
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


def probed(split, positions, directions=DIRECTIONS):
    features = Features(torch.tensor(positions), None, (1, len(positions[0])))
    return Probe.build(split, np.arange(len(positions)), features, directions)


def added(split, positions, donor):
    """Effect of putting concept 1 into images, from one donor, on the probability of class 1."""
    return addition_effect(split, probed(split, positions), probed(split, donor), DIRECTIONS, 1, 1)


NORMALISED = SimpleNamespace(
    head=lambda f: (f.positions / f.positions.norm(dim=-1, keepdim=True).clamp(min=1e-9)).amax(1) * 8, n_classes=2
)


def test_what_is_put_in_takes_the_place_of_what_was_there():
    """A network that normalises each position would not see it on top of a large activation."""
    found = added(NORMALISED, [[[30.0, 0.0]]], [[[0.1, 3.0]]])
    assert found.change > 0.9
    assert found.flipped == 1.0


def test_hiding_what_was_there_is_no_effect_of_what_is_put_in():
    """The donor's place is half the concept's; class 1 needs no more than less of concept 0."""
    less = SimpleNamespace(
        head=lambda f: torch.stack([f.positions[..., 0].sum(1), torch.ones(len(f.positions))], 1), n_classes=2
    )
    found = added(less, [[[1.5, 0.0]]], [[[2.0, 2.0]]])
    assert found.change == pytest.approx(0.0, abs=1e-6)
    assert found.flipped == 0.0


class Wide:
    """Concept 1 as a property of whole images."""

    def __len__(self):
        return 1

    def scores(self, features):
        return features.positions[..., 1].mean(1, keepdim=True)


def test_a_property_of_whole_images_hides_nothing():
    features = [Features(torch.tensor([[x]]), None, (1, 1)) for x in ([2.0, 0.0], [0.0, 3.0])]
    both = SimpleNamespace(head=lambda f: f.positions.sum(1), n_classes=2)
    image, donor = (Probe.build(both, np.array([0]), f, DIRECTIONS, Wide()) for f in features)
    found = addition_effect(both, image, donor, DIRECTIONS, 1, 1)
    before, after = torch.sigmoid(torch.tensor([-2.0, 1.0])).tolist()
    assert found.change == pytest.approx(after - before, abs=1e-5)
