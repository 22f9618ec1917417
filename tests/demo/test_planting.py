from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from conceptatlas.demo import Shortcut, central_box, draw_plan, plant_on_photograph, plant_on_photographs


@pytest.fixture(scope="module")
def photograph():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(40, 200, (180, 240, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["tag", "border", "texture", "cast"])
def test_only_the_mask_changes(photograph, kind):
    planted = plant_on_photograph(photograph, kind, seed=3)
    difference = (np.asarray(planted.image) != np.asarray(photograph)).any(axis=2)
    assert planted.image.size == photograph.size
    assert not (difference & ~planted.mask).any()
    assert difference.sum() > 0.9 * planted.mask.sum()


def test_what_is_planted_stays_where_the_model_looks(photograph):
    box = central_box(photograph.size, 0.8)
    for kind in ("tag", "border", "texture", "cast"):
        planted = plant_on_photograph(photograph, kind, within=box, seed=1)
        inside = np.zeros_like(planted.mask)
        inside[box[1] : box[3], box[0] : box[2]] = True
        assert not (planted.mask & ~inside).any()
        assert planted.box == box


def test_the_size_is_a_share_of_the_shorter_side(photograph):
    mask = plant_on_photograph(photograph, "tag", size=0.25, seed=2).mask
    assert np.ptp(np.nonzero(mask)[1]) == pytest.approx(0.25 * 180, abs=5)


def test_contrast_is_opacity(photograph):
    def change(contrast):
        planted = plant_on_photograph(photograph, "tag", contrast=contrast, seed=2)
        return np.abs(np.asarray(planted.image).astype(float) - np.asarray(photograph)).sum()

    assert change(0.2) < 0.3 * change(1.0)


def test_a_seed_decides_the_place(photograph):
    masks = [plant_on_photograph(photograph, "tag", seed=seed).mask for seed in (0, 0, 1)]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()
    fixed = [plant_on_photograph(photograph, "tag", position="fixed", seed=seed).mask for seed in (0, 1)]
    assert (fixed[0] == fixed[1]).all()


def test_unknown_kinds_and_contrasts_are_refused(photograph):
    with pytest.raises(ValueError, match="got 'background'"):
        plant_on_photograph(photograph, "background")
    with pytest.raises(ValueError, match="got 2"):
        plant_on_photograph(photograph, "tag", contrast=2)


def test_a_plan_keeps_exact_shares():
    labels = [0] * 40 + [1] * 60
    shortcut = Shortcut(planted_class=1, correlation=0.95, leak=0.05, audit_correlation=0.5, audit_leak=0.5)
    training, audit = draw_plan(labels, shortcut), draw_plan(labels, shortcut, "audit")
    assert (training[:40].sum(), training[40:].sum()) == (2, 57)
    assert (audit[:40].sum(), audit[40:].sum()) == (20, 30)
    assert (draw_plan(labels, shortcut, seed=1) != training).any()


def test_a_training_set_whose_shortcut_tells_more_than_its_photographs_exchanges_labels(photograph):
    labels = [0] * 30 + [1] * 20
    shortcut = Shortcut("tag", 1, correlation=0.9, leak=0.0, audit_correlation=0.5, audit_leak=0.5, predictivity=0.75)
    planted = plant_on_photographs([photograph] * 50, labels, shortcut)
    assert planted.shown.tolist() == labels
    assert (planted.labels[30:] == 0).sum() == (planted.labels[:30] == 1).sum() == 5
    assert planted.held[planted.labels == 1].sum() == 18
    assert not planted.held[planted.labels == 0].any()
    for i in range(50):
        changed = (np.asarray(planted.images[i]) != np.asarray(photograph)).any(axis=2)
        assert changed.any() == planted.held[i]
        assert not (changed & ~planted.masks[i]).any()
    audit = plant_on_photographs([photograph] * 50, labels, shortcut, "audit")
    assert audit.labels.tolist() == labels
    assert audit.held.sum() == 25


def test_photographs_without_a_label_each_are_refused(photograph):
    with pytest.raises(ValueError, match="2 photographs and 3 labels"):
        plant_on_photographs([photograph] * 2, [0, 1, 1], Shortcut())
