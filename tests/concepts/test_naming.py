"""Naming with an encoder that knows its attributes: right in every case, silent on the rest."""

import time

import numpy as np
import pytest

from conceptatlas.concepts.encoders import embed_words
from conceptatlas.concepts.names import Name
from conceptatlas.concepts.naming import name_concepts, split_groups
from conceptatlas.concepts.naming_rules import NamingRules
from conceptatlas.concepts.vocabulary import Vocabulary, load_vocabulary
from conceptatlas.extraction.errors import UserError

ATTRIBUTES = ("stripes", "spots", "wing", "tag", "snow", "rust")
STRANGERS = ("dog", "clock", "phone", "bridge", "candle", "boat", "spoon", "violin", "cactus", "ladder")


def _names(regions, words, **options):
    T = embed_words(regions.encoder, words)
    return name_concepts(regions.embeddings, regions.presence, regions.groups, T, words, **options)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_names_are_right_in_every_case(planted_regions, seed, share):
    regions = planted_regions(ATTRIBUTES, seed=seed, share=share)
    names = _names(regions, ATTRIBUTES + STRANGERS, seed=seed)
    assert [name.words[:1] for name in names] == [(word,) for word in ATTRIBUTES]
    assert {name.status for name in names} == {"named"}
    for name in names:
        assert name.p_null < 0.01
        assert name.heldout_auc >= 0.9
        assert name.margin > 0
        assert name.coherence > 0
        assert name.mad > 1
        assert name.reason == ""


@pytest.mark.parametrize("seed", range(10))
def test_unknown_words_name_nothing(planted_regions, seed):
    names = _names(planted_regions(ATTRIBUTES, seed=seed), STRANGERS, seed=seed)
    assert not [name for name in names if name.status == "named"]
    assert all(name.reason for name in names)


@pytest.mark.parametrize("seed", range(5))
def test_the_built_in_words_hold_the_right_ones_among_thousands(planted_regions, seed):
    vocabulary = load_vocabulary()
    known = ("stripes", "spots", "wing", "watermark")
    regions = planted_regions(known, seed=seed)
    T = regions.encoder.encode_texts(vocabulary.words)
    names = name_concepts(regions.embeddings, regions.presence, regions.groups, T, vocabulary, seed=seed)
    for name, word in zip(names, known, strict=True):
        assert name.status == "named"
        assert word in name.words[0]


@pytest.mark.parametrize("seed", range(10))
def test_a_concept_of_chance_is_not_named(planted_regions, seed):
    regions = planted_regions(ATTRIBUTES, seed=seed)
    presence = np.random.default_rng(seed).random(regions.presence.shape)
    T = embed_words(regions.encoder, ATTRIBUTES)
    names = name_concepts(regions.embeddings, presence, regions.groups, T, ATTRIBUTES, seed=seed)
    assert {name.status for name in names} <= {"unnamed", "weak"}
    assert sum(name.status == "weak" for name in names) <= 1


def test_the_word_of_another_concept_of_the_class_is_not_taken(planted_regions):
    regions = planted_regions(("wing", "wing tip"), share=0.3)
    names = _names(regions, ("wing", "wing tip", *STRANGERS))
    assert names[1].words[0] == "wing tip"


def test_near_synonyms_are_one_word_and_do_not_shrink_the_margin(planted_regions):
    regions = planted_regions(("stripes", "spots"))
    words = ("stripes", "spots", *STRANGERS)
    T = embed_words(regions.encoder, words)
    twin = T[:1] + 0.02 * np.random.default_rng(0).standard_normal((1, T.shape[1])) / 8
    twin /= np.linalg.norm(twin)
    together = name_concepts(
        regions.embeddings, regions.presence, regions.groups, np.vstack([T, twin]), (*words, "striped")
    )
    assert {*together[0].words[:1], *together[0].synonyms} == {"stripes", "striped"}
    assert together[0].margin > 0.05


@pytest.mark.parametrize("seed", range(4))
def test_a_concept_of_two_things_together_gets_two_words(planted_regions, seed):
    regions = planted_regions(("red", "round", "wing"), share=0.5, n_images=300, seed=seed)
    both = (regions.truth[:, 0] & regions.truth[:, 1]).astype(float)
    T = embed_words(regions.encoder, ("red", "round", "wing", *STRANGERS))
    words = ("red", "round", "wing", *STRANGERS)
    alone, pair = (
        name_concepts(regions.embeddings, both[:, None], regions.groups, T, words, rules=rules)[0]
        for rules in (NamingRules(max_words=1, weak_alpha=0.1), NamingRules(weak_alpha=0.1))
    )
    assert set(pair.words) == {"red", "round"}
    assert pair.heldout_auc > alone.heldout_auc
    assert pair.residual < alone.residual


def test_the_same_seed_gives_the_same_names(planted_regions):
    regions = planted_regions(ATTRIBUTES)
    words = ATTRIBUTES + STRANGERS
    assert _names(regions, words, seed=3) == _names(regions, words, seed=3)


def test_words_the_encoder_is_not_competent_on_are_left_out(planted_regions):
    regions = planted_regions(ATTRIBUTES)
    words = ATTRIBUTES + STRANGERS
    competent = np.array([word != "tag" for word in words])
    names = _names(regions, words, competent=competent)
    assert all("tag" not in name.words and "tag" not in dict(name.candidates) for name in names)
    assert names[3].status != "named"
    assert names[0].words == ("stripes",)
    nothing = _names(regions, words, competent=np.zeros(len(words), dtype=bool))
    assert {name.reason for name in nothing} == {"no word that the encoder knows"}


@pytest.mark.parametrize("seed", range(5))
def test_a_concept_of_six_images_is_tested_on_three_in_each_half(planted_regions, seed):
    regions = planted_regions(ATTRIBUTES, per_image=2, n_images=120, seed=seed)
    rare = np.flatnonzero(regions.truth[:, 0])
    keep = np.flatnonzero(~regions.truth[:, 0] | np.isin(regions.groups, np.unique(regions.groups[rare])[:6]))
    T = embed_words(regions.encoder, ATTRIBUTES + STRANGERS)
    names = name_concepts(
        regions.embeddings[keep],
        regions.presence[keep],
        regions.groups[keep],
        T,
        ATTRIBUTES + STRANGERS,
        seed=seed,
    )
    assert np.isfinite(names[0].heldout_auc)
    assert names[0].candidates[0][0] == ATTRIBUTES[0]


def test_halves_never_share_an_image():
    codes = np.repeat(np.arange(31), 5)
    half = split_groups(codes, seed=4)
    assert not set(codes[half]) & set(codes[~half])
    assert len(set(codes[half])) == 15


def test_a_concept_that_is_the_same_everywhere_is_unnamed_with_the_reason(planted_regions):
    regions = planted_regions(("tag", "wing"))
    presence = regions.presence.copy()
    presence[:, 1] = 0.7
    T = embed_words(regions.encoder, ("tag", "wing", *STRANGERS))
    words = ("tag", "wing", *STRANGERS)
    names = name_concepts(regions.embeddings, presence, regions.groups, T, words)
    assert names[0].status == "named"
    assert names[1] == Name((), "unnamed", reason="its presence is the same in every region")


def test_nan_in_one_concepts_presence_costs_that_concept_only(planted_regions):
    regions = planted_regions(("tag", "wing"))
    presence = regions.presence.copy()
    presence[3, 1] = np.nan
    T = embed_words(regions.encoder, ("tag", "wing", *STRANGERS))
    names = name_concepts(regions.embeddings, presence, regions.groups, T, ("tag", "wing", *STRANGERS))
    assert [name.status for name in names] == ["named", "unnamed"]
    assert "NaN" in names[1].reason


@pytest.mark.parametrize(("n_images", "per_image"), [(0, 1), (1, 50), (3, 4), (6, 1)])
def test_too_few_regions_end_as_unnamed_with_a_reason(planted_regions, n_images, per_image):
    names = _names(planted_regions(("tag", "wing"), n_images=max(n_images, 1), per_image=per_image), ATTRIBUTES)
    if n_images:
        assert [name.status for name in names] == ["unnamed", "unnamed"]
        assert all(name.reason for name in names)
    empty = name_concepts(np.zeros((0, 8)), np.zeros((0, 2)), [], np.eye(8)[:2], ["a", "b"])
    assert [name.reason for name in empty] == ["no regions", "no regions"]


def test_one_concept_alone_is_named(planted_regions):
    names = _names(planted_regions(("tag",)), ("tag", *STRANGERS))
    assert [(name.status, name.words) for name in names] == [("named", ("tag",))]


def test_one_word_alone_is_at_most_weak(planted_regions):
    (name,) = _names(planted_regions(("tag",)), ("tag",))
    assert name.status == "weak"
    assert "too few other words" in name.reason


def test_no_concepts_give_no_names(planted_regions):
    regions = planted_regions(("tag",))
    assert name_concepts(regions.embeddings, regions.presence[:, :0], regions.groups, np.eye(64)[:2], ["a", "b"]) == []


def test_zero_embeddings_name_nothing():
    presence = np.random.default_rng(0).random((200, 1))
    (name,) = name_concepts(np.zeros((200, 8)), presence, np.arange(200), np.eye(8)[:3], ["a", "b", "c"])
    assert name.status == "unnamed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.ones(5)}, "are matrices"),
        ({"presence": np.ones((4, 1))}, "5 regions"),
        ({"groups": [1, 2]}, "5 regions"),
        ({"word_embeddings": np.ones((2, 4))}, r"are \(2, 3\), not \(2, 4\)"),
        ({"vocabulary": ["a"]}, "1 words"),
        ({"embeddings": np.full((5, 3), np.nan)}, "NaN"),
        ({"word_embeddings": np.full((2, 3), np.inf)}, "NaN or infinite"),
    ],
)
def test_shapes_that_do_not_fit_and_nan_are_refused(change, message):
    arguments = {
        "embeddings": np.ones((5, 3)),
        "presence": np.ones((5, 1)),
        "groups": np.arange(5),
        "word_embeddings": np.ones((2, 3)),
        "vocabulary": Vocabulary(("a", "b"), ("", "")),
    }
    with pytest.raises(UserError, match=message):
        name_concepts(**{**arguments, **change})


@pytest.mark.slow
def test_twenty_thousand_words_against_five_thousand_regions_take_seconds():
    rng = np.random.default_rng(0)
    E, T = (rng.standard_normal((n, 512), dtype=np.float32) for n in (5000, 20_000))
    presence = rng.random((5000, 25), dtype=np.float32)
    words = [f"word {i}" for i in range(20_000)]
    start = time.process_time()
    names = name_concepts(E, presence, np.arange(5000) // 10, T, words)
    assert len(names) == 25
    assert time.process_time() - start < 20  # 2 s on an idle core; the bound only catches another order of growth
