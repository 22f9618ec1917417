from __future__ import annotations

import numpy as np

from conceptatlas.demo import BACKGROUNDS, DISTRACTORS, PARTS, captions, make_scene, part_words, words_in_crop
from conceptatlas.demo.captions import PHRASES, all_phrases


def holds(scene, box):
    there, known = words_in_crop(scene, box)
    return {word: bool(a) for word, a, b in zip(all_phrases(), there, known, strict=True) if b}


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


def test_every_thing_of_a_scene_has_words():
    things = {*PARTS, *BACKGROUNDS, *DISTRACTORS, "tag", "border", "head", "legs", "eye"}
    assert things <= set(part_words())
    assert all(phrases[0] == name for name, phrases in PHRASES.items())
    assert len(set(all_phrases())) == len(all_phrases())


def test_a_whole_scene_holds_its_parts_and_no_others(tagged, config):
    words = holds(tagged, (0, 0, 96, 96))
    for name in PARTS:
        assert words[name] == (name in config.class_parts(0)), name
    assert words["tag"]
    assert words[tagged.attributes["background"]]


def test_a_crop_of_a_part_holds_it_and_not_what_is_elsewhere(tagged):
    words = holds(tagged, box_of(tagged.parts["tag"]))
    assert words["tag"]
    assert not words["horns"]
    assert not words["fan tail"]
    words = holds(tagged, box_of(tagged.parts["fan tail"]))
    assert words["fan tail"]
    assert words["blue"]
    assert not words["horns"]


def test_captions_name_everything_then_single_things(config):
    scene = make_scene(config, 4, 9)
    full, *single = captions(scene, np.random.default_rng(0), n_single=4)
    for name in scene.attributes["parts"]:
        assert any(phrase in full for phrase in PHRASES[name])
    assert len(single) == 4
    assert all(any(phrase in caption for phrase in all_phrases()) for caption in single)
    assert captions(scene, np.random.default_rng(0), n_single=4) == [full, *single]
