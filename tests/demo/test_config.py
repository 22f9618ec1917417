from __future__ import annotations

from itertools import combinations

import pytest

from conceptatlas.demo import PARTS, SLOTS, SceneConfig, Shortcut
from conceptatlas.demo.config import CLASS_NAMES


def distance(first, second):
    return sum(a != b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("n_classes", "least"), [(8, 3), (9, 3), (12, 1)])
def test_classes_differ_in_their_parts(n_classes, least):
    config = SceneConfig(n_classes=n_classes)
    codes = [config.class_parts(index) for index in range(n_classes)]
    assert min(distance(a, b) for a, b in combinations(codes, 2)) >= least


def test_every_part_is_shared_by_several_classes(config):
    codes = [config.class_parts(index) for index in range(config.n_classes)]
    assert all(sum(name in code for code in codes) >= 2 for name in PARTS)


def test_each_class_has_one_part_per_slot(config):
    for index in range(config.n_classes):
        assert [PARTS[name].slot for name in config.class_parts(index)] == list(SLOTS)


def test_background_labels_name_the_grounds():
    assert SceneConfig(labels="background").class_names[:2] == ("grass", "sand")
    assert SceneConfig(n_classes=4).class_names == CLASS_NAMES[:4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_classes": 1}, "between 2 and 12"),
        ({"size": 8}, "at least 32"),
        ({"class_shares": (0.5, 0.5)}, "needs 8 values, got 2"),
        ({"shortcuts": (Shortcut(planted_class=9),)}, "planted_class"),
    ],
)
def test_impossible_scenes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SceneConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"correlation": 1.2}, "correlation is a share"),
        ({"kind": "sound"}, "got 'sound'"),
        ({"background": "moon"}, "got 'moon'"),
        ({"contrast": 0.0}, "contrast"),
    ],
)
def test_impossible_shortcuts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Shortcut(**arguments)
