"""What changes whole images at once: found where a prediction follows it, and not where it does not."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from conceptatlas.audit.context import Settings
from conceptatlas.audit.statistics import auc
from conceptatlas.audit.wide import _weights, find_wide, no_properties, wide_of
from conceptatlas.concepts import ConceptBank, ConceptRecord
from conceptatlas.extraction import Features

P, POSITIONS = 96, 16


def planted(*, followed, n=160, seed=0, labelled=True):
    """Images of which half have a red tint; it moves every position along one axis, what they show moves them more.

    Feature 0 is what the class's logit reads, feature 1 carries the tint: `followed` is how much of it is read too.
    """
    rng = np.random.default_rng(seed)
    tinted, label = rng.random(n) < 0.5, rng.random(n) < 0.5
    shade = rng.normal(0, 12, (n, 3))
    views = [
        Image.fromarray(
            (rng.normal(110, 25, (32, 32, 3)) + tone + (np.array([50, -15, -5]) if red else 0))
            .clip(0, 255)
            .astype(np.uint8)
        )
        for tone, red in zip(shade, tinted, strict=True)
    ]
    rows = rng.normal(size=(n, POSITIONS, P)) * 2 + rng.normal(size=(n, 1, P)) * 0.3
    rows[..., 0] += 2 * label[:, None] - 1
    rows[..., 1] = 2.0 * tinted[:, None] + rng.normal(size=(n, POSITIONS)) * 0.3
    weights = torch.zeros(P, 2)
    weights[0, 1], weights[1, 1] = 1.0, followed
    bias = torch.tensor([0.0, -followed])
    features = Features(torch.tensor(rows, dtype=torch.float32), None, (4, 4))
    split = SimpleNamespace(head=lambda f: 2 * (f.positions.mean(1) @ weights + bias), device="cpu", n_classes=2)
    logits = split.head(features).numpy()
    predicted = logits.argmax(1)
    images = pd.DataFrame({"predicted_index": predicted, "label_index": label * 1.0 if labelled else np.nan})

    def take(chosen):
        return features.replace(positions=features.positions[torch.as_tensor(np.asarray(chosen))])

    context = SimpleNamespace(
        settings=Settings(), split=split, images=images, features=take,
        store=SimpleNamespace(n_features=P, logits_of=lambda chosen: logits[chosen]),
        blocks=lambda chosen: [(chosen, take(chosen))],
        readable_views=lambda chosen: {int(row): views[int(row)] for row in chosen},
    )  # fmt: skip
    return context, features, tinted


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_tint_that_the_prediction_follows_is_found_read_and_said(seed, labelled):
    context, features, tinted = planted(followed=0.8, seed=seed, labelled=labelled)
    wide = find_wide(context, 1)
    assert len(wide) == 1
    assert auc(wide.scores(features)[:, 0].numpy(), tinted) > 0.95
    assert "reddish" in wide.properties[0]
    assert wide.directions[0, 1] > 0.7  # towards the class; of 96 features the tint's


@pytest.mark.parametrize("seed", range(3))
def test_for_the_other_class_it_is_the_lack_of_it(seed):
    context, features, tinted = planted(followed=0.8, seed=seed)
    wide = find_wide(context, 0)
    assert auc(wide.scores(features)[:, 0].numpy(), ~tinted) > 0.95
    assert "greenish" in wide.properties[0]


@pytest.mark.parametrize("seed", range(6))
def test_a_tint_that_the_prediction_does_not_follow_is_no_concept(seed):
    assert len(find_wide(planted(followed=0.0, seed=seed)[0], 1)) == 0


def test_too_few_images_whose_pixels_can_be_read_give_none():
    context, _, _ = planted(followed=0.8)
    context.readable_views = lambda chosen: {}
    assert len(find_wide(context, 1)) == 0


def test_images_that_are_all_alike_give_none():
    context, _, _ = planted(followed=0.8)
    context.readable_views = lambda chosen: {int(row): Image.new("RGB", (8, 8), "grey") for row in chosen}
    assert len(find_wide(context, 1)) == 0


def test_it_comes_back_from_a_banks_provenance():
    context, features, _ = planted(followed=0.8)
    wide = find_wide(context, 1)
    directions = np.concatenate([np.eye(2, P, dtype=np.float32), wide.directions])
    provenance = {"image_wide": {"concepts": [2], **wide.to_dict()}, "stability": [0.9, 0.9, 0.8]}
    bank = ConceptBank(directions, "layer", "bee", 1, tuple(ConceptRecord(i) for i in range(3)), provenance=provenance)
    again = wide_of(bank)
    np.testing.assert_allclose(again.scores(features), wide.scores(features), rtol=1e-3, atol=1e-3)
    assert again.properties == wide.properties
    bare = ConceptBank(directions, "layer", "bee", 1, tuple(ConceptRecord(i) for i in range(3)))
    assert len(wide_of(bare)) == len(no_properties(P)) == 0


def test_what_sets_the_classes_apart_and_goes_with_no_prediction_inside_them_weighs_nothing():
    """Images of one class are brighter; redness moves the margin of both."""
    rng = np.random.default_rng(0)
    label, measured = rng.integers(0, 2, 400), rng.normal(size=(400, 9))
    measured[:, 0] += 4 * label
    weights = _weights(measured, 5.0 * label + 2.0 * measured[:, 4], label)
    assert np.abs(weights).argmax() == 4
    assert np.abs(np.delete(weights, 4)).max() < 0.1 * weights[4]
