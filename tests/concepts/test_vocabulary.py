"""Vocabularies: our own list is whole, files of every form read, and what is no word is refused."""

import json

import pytest

from conceptatlas.concepts.vocabulary import BUILTIN, Vocabulary, load_descriptors, load_vocabulary
from conceptatlas.extraction.errors import UserError

GROUPS = {
    "object", "animal", "part", "material", "texture", "colour", "shape", "scene", "plant", "food", "vehicle",
    "person", "clothing", "lighting", "artefact",
}  # fmt: skip


def test_the_built_in_list_has_about_two_thousand_words_in_every_group():
    vocabulary = load_vocabulary()
    assert 2000 <= len(vocabulary) <= 3000
    assert set(vocabulary.groups) == GROUPS
    for word in ("watermark", "border", "logo", "blur", "tag", "sticker", "stripes", "wing", "grass", "wood"):
        assert vocabulary.group_of(word)


def test_the_built_in_file_has_no_word_twice_and_no_stray_space():
    lines = [line for line in BUILTIN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    words = [line.split("\t")[0] for line in lines]
    assert all(line.count("\t") == 1 for line in lines)
    assert len({word.casefold() for word in words}) == len(words) == len(load_vocabulary())
    assert all(word == " ".join(word.split()) for word in words)


def test_every_form_reads_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff# mine\nstripes\n\n  long   wing \nStripes\n", encoding="utf-8")
    (tmp_path / "b.tsv").write_text("stripes\ttexture\nlong wing\tpart\n")
    (tmp_path / "c.json").write_text(json.dumps(["stripes", "long wing"]))
    (tmp_path / "d.json").write_text(json.dumps({"texture": ["stripes"], "part": ["long wing"]}))
    for source in (tmp_path / "a.txt", str(tmp_path / "c.json"), ["stripes", "long wing"]):
        assert load_vocabulary(source) == Vocabulary(("stripes", "long wing"), ("", ""))
    grouped = Vocabulary(("stripes", "long wing"), ("texture", "part"))
    for source in (tmp_path / "b.tsv", tmp_path / "d.json", {"texture": ["stripes"], "part": ["long wing"]}, grouped):
        assert load_vocabulary(source) == grouped


def test_banned_words_are_left_out_whatever_their_case():
    assert load_vocabulary(["Dog", "cat", "hot dog"], banned=["dog", " CAT "]).words == ("hot dog",)


def test_banning_every_word_is_refused():
    with pytest.raises(UserError, match="at least one word"):
        load_vocabulary(["dog"], banned=["dog"])


def test_only_keeps_groups_and_names_those_there_are():
    vocabulary = load_vocabulary({"texture": ["dots"], "part": ["wing"]})
    assert vocabulary.only("part").words == ("wing",)
    with pytest.raises(UserError, match="'parts'.*texture, part"):
        vocabulary.only("parts")


def test_descriptors_of_the_class_join_the_vocabulary(tmp_path):
    file = tmp_path / "descriptors.json"
    file.write_text(json.dumps({"great_white shark": ["a dorsal fin", "wing"], "zebra": ["stripes"]}))
    vocabulary = Vocabulary(("wing",), ("part",)).with_descriptors(load_descriptors(file), "Great White Shark")
    assert list(zip(vocabulary.words, vocabulary.groups, strict=True)) == [
        ("wing", "part"),
        ("a dorsal fin", "descriptor"),
    ]
    assert vocabulary.with_descriptors(load_descriptors(file), "ant") == vocabulary


def test_a_vocabulary_carries_descriptors_and_offers_them_to_their_class_alone():
    vocabulary = load_vocabulary(["wing", "paw"], descriptors={"polar_bear": ["white fur", "paw", "claws"]})
    assert vocabulary.words == ("wing", "paw")
    assert vocabulary.for_class("Polar Bear").words == ("wing", "paw", "white fur", "claws")
    assert vocabulary.for_class("ant").words == vocabulary.words
    assert vocabulary.plus(["tail"]).without(["Claws"]).for_class("polar bear").words == (
        "wing",
        "paw",
        "tail",
        "white fur",
    )


def test_the_digest_is_that_of_words_and_descriptors():
    words = load_vocabulary(["wing", "paw"])
    more = load_vocabulary(words, descriptors={"ant": ["six legs"]})
    assert words.digest == load_vocabulary(["wing", "paw"]).digest
    assert len({words.digest, more.digest, load_vocabulary(["paw", "wing"]).digest}) == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "at least one word"),
        (["", "  "], "at least one word"),
        (["dog", 3], "words, not 3"),
        ({"part": "wing"}, "as 'wing' .in group 'part'"),
        (3, "not as 3"),
        (["x" * 121], "at most 120"),
        ("/nowhere/words.txt", "cannot be read"),
    ],
)
def test_what_is_no_vocabulary_is_refused(source, message):
    with pytest.raises(UserError, match=message):
        load_vocabulary(source)


@pytest.mark.parametrize("text", ["{", '["stripes"]', '{"zebra": "stripes"}', '{"zebra": [1]}'])
def test_what_are_no_descriptors_is_refused(tmp_path, text):
    file = tmp_path / "descriptors.json"
    file.write_text(text)
    with pytest.raises(UserError):
        load_descriptors(file)


def test_words_and_groups_must_be_as_many():
    with pytest.raises(UserError, match="one group per word"):
        Vocabulary(("a",), ())
