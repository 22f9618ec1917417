from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conceptatlas.demo import BACKGROUNDS, PARTS, SceneConfig, Shortcut, make_scene, make_split


def pixels(scene):
    return np.asarray(scene.image).astype(int)


def changed(first, second):
    return (pixels(first) != pixels(second)).any(axis=2)


def test_equal_seeds_draw_equal_pixels_and_masks(config):
    first, second = make_scene(config, 3, 11, tag=True), make_scene(config, 3, 11, tag=True)
    assert not changed(first, second).any()
    assert first.parts.keys() == second.parts.keys()
    assert all((first.parts[name] == second.parts[name]).all() for name in first.parts)


def test_other_seeds_draw_other_scenes(config):
    assert changed(make_scene(config, 3, 11), make_scene(config, 3, 12)).mean() > 0.5
    assert changed(make_scene(config, 3, 11), make_scene(replace(config, seed=1), 3, 11)).mean() > 0.5


@pytest.mark.parametrize("name", list(PARTS))
def test_another_colour_of_a_part_changes_its_mask_alone(config, name):
    index = next(i for i in range(config.n_classes) if name in config.class_parts(i))
    plain = make_scene(config, index, 5)
    other = make_scene(config, index, 5, colours={name: (0, 255, 255)})
    difference = changed(plain, other)
    assert not (difference & ~plain.parts[name]).any()
    assert difference.sum() > 0.25 * plain.parts[name].sum()


@pytest.mark.parametrize("seed", range(5))
def test_the_tag_changes_its_mask_alone(config, seed):
    without, with_tag = make_scene(config, 2, seed), make_scene(config, 2, seed, tag=True)
    difference, mask = changed(without, with_tag), with_tag.parts["tag"]
    assert not (difference & ~mask).any()
    assert difference.sum() > 0.9 * mask.sum()
    assert "tag" not in without.parts


def test_a_hidden_part_has_no_mask_and_moves_nothing_else(config):
    whole = make_scene(config, 0, 4)
    without = make_scene(config, 0, 4, parts=[name for name in config.class_parts(0) if name != "horns"])
    assert "horns" in whole.parts
    assert "horns" not in without.parts
    assert not (changed(whole, without) & ~whole.parts["horns"]).any()


def test_every_pixel_shows_something(tagged):
    assert np.any(list(tagged.parts.values()), axis=0).all()
    assert all(mask.shape == (96, 96) and mask.dtype == bool and mask.any() for mask in tagged.parts.values())


def test_every_deciding_part_can_be_seen(config):
    for index in range(config.n_classes):
        scene = make_scene(config, index, 100 + index)
        for name in config.class_parts(index):
            assert scene.parts[name].sum() >= 60, name


def test_attributes_say_what_is_shown(tagged):
    assert tagged.class_name == "ambril"
    assert tagged.attributes["animal"] == "ambril"
    assert tagged.attributes["shortcuts"] == ("tag",)
    assert tagged.attributes["background"] in BACKGROUNDS
    assert set(tagged.attributes["parts"]) <= set(tagged.parts)


def test_a_class_that_is_not_there_is_refused(config):
    with pytest.raises(IndexError, match="class 8 is not among 8"):
        make_scene(config, 8, 0)


def test_one_truth_value_per_shortcut_is_asked_for(config):
    with pytest.raises(ValueError, match="needs 1 values"):
        make_scene(config, 0, 0, tag=(True, False))


@pytest.mark.parametrize("size", [48, 96, 160])
def test_the_size_is_a_knob(config, size):
    scene = make_scene(replace(config, size=size), 0, 1, tag=True)
    assert scene.image.size == (size, size)
    share = scene.parts["tag"].mean()
    assert 0.01 < share < 0.05


def test_labels_by_ground_leave_the_pixels_alone(config):
    by_ground = replace(config, labels="background")
    first, second = make_split(config, "audit", 12), make_split(by_ground, "audit", 12)
    for index in range(12):
        assert not changed(first[index], second[index]).any()
        assert second[index].class_name == second[index].attributes["background"]
    assert (second.labels == [second[index].label for index in range(12)]).all()
    assert (first.labels != second.labels).any()


class TestShortcuts:
    """Kinds and availability."""

    @pytest.mark.parametrize(
        ("kind", "share"), [("tag", (0.01, 0.04)), ("border", (0.15, 0.25)), ("cast", (1, 1)), ("texture", (0.3, 0.95))]
    )
    def test_each_kind_has_a_mask_and_stays_inside_it(self, kind, share):
        config = SceneConfig(shortcuts=(Shortcut(kind),))
        without, with_it = make_scene(config, 1, 3), make_scene(config, 1, 3, tag=True)
        mask = with_it.parts[config.shortcuts[0].name]
        assert share[0] <= mask.mean() <= share[1]
        difference = changed(without, with_it)
        assert not (difference & ~mask).any()
        assert difference.sum() > 0.8 * mask.sum()

    def test_a_background_shortcut_is_that_ground(self):
        config = SceneConfig(shortcuts=(Shortcut("background", background="water"),))
        scene = make_scene(config, 1, 3, tag=True)
        assert scene.attributes["background"] == "water"
        assert (scene.parts["water"] == scene.parts["background"]).all()

    def test_a_larger_tag_covers_more(self):
        areas = [
            make_scene(SceneConfig(shortcuts=(Shortcut(size=size),)), 0, 2, tag=True).parts["tag"].sum()
            for size in (10.0, 16.0, 24.0)
        ]
        assert areas[0] < 0.6 * areas[1] < 0.6 * areas[2]

    def test_less_contrast_changes_pixels_less(self):
        changes = []
        for contrast in (0.25, 1.0):
            config = SceneConfig(shortcuts=(Shortcut(contrast=contrast),))
            with_it, without = make_scene(config, 0, 2, tag=True), make_scene(config, 0, 2)
            changes.append(np.abs(pixels(with_it) - pixels(without)).sum())
        assert changes[0] < 0.35 * changes[1]

    def test_a_fixed_tag_is_always_in_the_top_right_corner(self):
        config = SceneConfig(shortcuts=(Shortcut(position="fixed"),))
        masks = [make_scene(config, 0, seed, tag=True).parts["tag"] for seed in range(4)]
        assert all((mask == masks[0]).all() for mask in masks)
        rows, columns = np.nonzero(masks[0])
        assert rows.max() < 20
        assert columns.min() > 70

    def test_a_free_tag_wanders(self):
        masks = [make_scene(SceneConfig(), 0, seed, tag=True).parts["tag"] for seed in range(6)]
        assert len({tuple(np.argwhere(mask)[0]) for mask in masks}) == 6

    def test_two_shortcuts_come_and_go_alone(self):
        config = SceneConfig(shortcuts=(Shortcut("tag"), Shortcut("border", planted_class=2)))
        scene = make_scene(config, 0, 0, tag=(False, True))
        assert "tag" not in scene.parts
        assert "border" in scene.parts


class TestSplits:
    """Shares as configured."""

    def test_training_tags_follow_the_class(self, config):
        split = make_split(config, "train", 6000)
        planted, tags = split.labels == 0, split.tags[:, 0]
        assert tags[planted].mean() == pytest.approx(0.95, abs=0.03)
        assert tags[~planted].mean() == pytest.approx(0.02, abs=0.01)

    @pytest.mark.parametrize("split", ["audit", "test"])
    def test_elsewhere_tags_are_independent_of_the_class(self, config, split):
        scenes = make_split(config, split, 6000)
        planted, tags = scenes.labels == 0, scenes.tags[:, 0]
        assert tags[planted].mean() == pytest.approx(tags[~planted].mean(), abs=0.06)

    def test_rates_of_the_audit_plant_a_slice(self):
        shortcut = Shortcut("border", planted_class=3, audit_correlation=0.92, audit_leak=0.01)
        split = make_split(SceneConfig(shortcuts=(shortcut,)), "audit", 6000)
        planted, there = split.labels == 3, split.tags[:, 0]
        assert 1 - there[planted].mean() == pytest.approx(0.08, abs=0.03)
        assert there[~planted].mean() == pytest.approx(0.01, abs=0.01)

    def test_predictivity_is_the_share_that_shows_its_own_parts(self):
        config = SceneConfig(shortcuts=(Shortcut(predictivity=0.7),))
        for split, planted_share, next_share in (("train", 0.7, 0.9), ("audit", 1.0, 1.0)):
            specs = make_split(config, split, 6000).specs
            for index, share in ((0, planted_share), (1, next_share), (2, 1.0)):
                own = [set(s.parts) <= set(config.class_parts(index)) for s in specs if s.class_index == index]
                assert np.mean(own) == pytest.approx(share, abs=0.045)

    def test_a_background_shortcut_leaves_other_grounds_to_other_scenes(self):
        config = SceneConfig(shortcuts=(Shortcut("background", background="sand"),))
        split = make_split(config, "train", 3000)
        sand = np.array([spec.background == "sand" for spec in split.specs])
        assert (sand == split.tags[:, 0]).all()

    def test_parts_are_missing_as_configured(self, config):
        specs = make_split(replace(config, missing=0.5), "test", 3000).specs
        assert np.mean([len(spec.parts) == 3 for spec in specs]) == pytest.approx(0.5, abs=0.04)
        assert {len(spec.parts) for spec in specs} == {3, 4}

    def test_class_shares_are_kept(self):
        split = make_split(SceneConfig(n_classes=2, class_shares=(0.9, 0.1)), "test", 2000)
        assert (split.labels == 0).mean() == pytest.approx(0.9, abs=0.03)

    def test_splits_show_different_scenes(self, config):
        assert changed(make_split(config, "train", 1)[0], make_split(config, "audit", 1)[0]).mean() > 0.5

    def test_an_index_draws_the_same_scene_whatever_the_length(self, config):
        assert not changed(make_split(config, "audit", 5)[4], make_split(config, "audit", 50)[4]).any()

    def test_an_unknown_split_is_refused(self, config):
        with pytest.raises(ValueError, match="got 'val'"):
            make_split(config, "val", 3)
