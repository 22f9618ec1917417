"""Search by text over the contrasts that the banks keep."""

from dataclasses import replace

import numpy as np
import pytest

from conceptatlas.extraction.errors import UserError


class Words:
    """An encoder of three words; its space has one axis for each."""

    id, dim, templates = "words", 3, ("{}",)
    known = ("stripes", "wing", "sky")

    def encode_images(self, images):
        raise AssertionError("a search embeds no image")

    def encode_texts(self, texts):
        return np.eye(3, dtype=np.float32)[[self.known.index(text) for text in texts]]


@pytest.fixture
def searched(atlas):
    """The atlas with stripes in "ant" 1 and a little less of them in "bee / <b>" 0."""
    contrasts = {"ant": [[0, 0.1, 0], [0.5, 0, 0], [0, 0, 0.3]], "bee / <b>": [[0.4, 0, 0], [0, 0, 0.2], [0, 0, 0]]}
    members = {}
    for name, rows in contrasts.items():
        bank = replace(atlas[name].bank, embeddings=np.array(rows, dtype=np.float32))
        concepts = atlas[name].concepts.assign(place_known=True)
        members[name] = replace(atlas[name], bank=bank, concepts=concepts)
    return replace(atlas, members=members, run={**atlas.run, "names": {"encoder": "words", "source": None}})


def test_concepts_of_all_classes_answer_best_first(searched):
    found = searched.search("stripes", encoder=Words())
    assert list(zip(found["class"], found["concept"], strict=True))[:2] == [("ant", 1), ("bee / <b>", 0)]
    assert found["score"].tolist()[:2] == pytest.approx([0.5, 0.4])
    assert found["z"].iloc[0] > 1 > found["z"].iloc[-1]


def test_of_several_words_the_best_counts(searched):
    found = searched.search(["wing", "sky"], encoder=Words(), most=2)
    assert found["score"].tolist() == pytest.approx([0.3, 0.2])


def test_crops_and_maps_come_with_a_concept(searched):
    found = searched.search("sky", encoder=Words()).set_index(["class", "concept"])
    assert found.loc[("ant", 2), "map_rows"] == [0]
    assert found.loc[("ant", 1), "map_rows"] == []


def test_another_encoder_is_refused(searched):
    other = Words()
    other.id = "other"
    with pytest.raises(UserError, match="another space"):
        searched.search("sky", encoder=other)


def test_without_an_encoder_the_message_says_which(searched):
    with pytest.raises(UserError, match="words"):
        searched.search("sky")
    with pytest.raises(UserError, match="needs words"):
        searched.search("  ", encoder=Words())


def test_an_atlas_without_names_says_so(atlas):
    with pytest.raises(UserError, match="without a text-image encoder"):
        atlas.search("sky", encoder=Words())
