"""Sentences say what the numbers say, with their uncertainty, and admit what is not known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conceptatlas.audit.atlas import Atlas
from conceptatlas.viz import describe_class, describe_image, describe_shortcut
from conceptatlas.viz.example import example_class
from conceptatlas.viz.text import percent, signed
from conceptatlas.viz.verbalise import describe_misses, headline

ROW = {
    "class": "bee", "concept": 1, "label": "plate", "grade": "A", "presence_in_class": 0.8, "presence_elsewhere": 0.1,
    "accuracy_with": 0.95, "accuracy_without": 0.5, "accuracy_gap": 0.45, "accuracy_gap_low": 0.3,
    "accuracy_gap_high": 0.6, "false_positive_with": 0.4, "false_positive_without": 0.02, "ablation_effect": -0.35,
    "ablation_flips": 0.5, "n_ablated": 40, "addition_effect": 0.2, "addition_flips": 0.3, "foreground_share": 0.25,
    "p_value": 0.0004,
}  # fmt: skip


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_a_class_is_described_with_its_accuracy_its_concepts_and_their_intervals() -> None:
    example = example_class()
    text = plain(describe_class(example))
    assert f"right in {plain(percent(example.images['correct'].mean()))}" in text
    top = example.concepts.iloc[0]
    assert f"“stripes” ({signed(100 * top['importance'], 0)} %, 95 % interval" in text


def test_the_least_reliable_strategy_is_named_with_its_interval_and_size() -> None:
    example = example_class(200)
    worst = example.strategies.sort_values("reliability").iloc[0]
    assert "Least reliable are those that “red plate?” dominates" in describe_class(example)
    assert f"{int(worst['n_images'])} images)" in describe_class(example)


def test_a_concept_that_speaks_against_the_class_is_said_to() -> None:
    example = example_class()
    table = example.concepts.assign(importance_high=np.where(example.concepts["importance"] < 0, -0.01, 1.0))
    assert (table["importance_high"] < 0).any()
    assert "speaks against it" in describe_class(replace(example, concepts=table))


def test_without_labels_nothing_is_said_about_errors() -> None:
    example = example_class()
    unlabelled = replace(
        example, images=example.images.assign(correct=None), strategies=example.strategies.assign(reliability=np.nan)
    )
    text = describe_class(unlabelled)
    assert "none has a label" in text
    assert "right" not in text


def test_strategies_that_are_equally_reliable_are_not_called_the_least() -> None:
    example = example_class()
    text = plain(describe_class(replace(example, strategies=example.strategies.assign(reliability=1.0, n_images=20))))
    assert "all strategies are equally reliable (100 % right)" in text
    assert "east reliable" not in text


def test_missed_images_of_the_class_are_counted_with_what_they_are_called() -> None:
    rows = [(1, 1, "bee")] * 6 + [(1, 2, "fly")] * 3 + [(1, 3, "ant")] + [(2, 1, "bee")] * 5 + [(np.nan, 1, "bee")]
    images = pd.DataFrame(rows, columns=["label_index", "predicted_index", "predicted"])
    assert plain(describe_misses(images, "bee", 1)) == (
        "Of the 10 images labelled “bee” it recognises 60 %; most of the others are called “fly” (3) and “ant” (1)."
    )
    assert plain(describe_misses(images.iloc[:6], "bee", 1)) == "Of the 6 images labelled “bee” it recognises 100 %."
    assert describe_misses(images.assign(label_index=np.nan), "bee", 1) == ""
    assert describe_misses(images[["predicted"]], "bee", 1) == ""


def test_a_class_is_described_with_its_misses_where_all_images_are_given() -> None:
    example = example_class()
    images = example.images.assign(label_index=0, predicted_index=0, predicted="bee")
    assert f"{describe_misses(images, 'bee', 0)} Of what moves" in describe_class(example, images=images)


def test_places_that_are_not_known_are_counted() -> None:
    assert "maps of 3 of its 4 concepts tell where they come from; for the other one" in describe_class(example_class())


def test_an_image_is_described_with_the_parts_of_its_score() -> None:
    example = example_class()
    text = describe_image(example, 4)
    assert signed(example.images["logit"][4]) in text
    assert signed(example.bias[4]) in text
    assert signed(example.residual[4]) in text


def test_a_wrong_image_is_told_with_its_label() -> None:
    example = example_class()
    wrong = int(np.flatnonzero(~example.images["correct"].to_numpy(dtype=bool))[0])
    assert "its label is “ant”" in describe_image(example, wrong)


@pytest.mark.parametrize(
    "part",
    [
        "“plate” is found in 80 % of the images of “bee” and in 10 % of the others.",
        "recognised in 95 % of cases with it and in 50 % without it (difference +45 points, 95 % interval 30 to 60 %).",
        "called “bee” in 40 % of cases with it and in 2.0 % without it.",
        "in 40 images that hold it changes the probability of “bee” by −0.35 and the prediction in 50 % of them.",
        "Putting it into images of other classes changes the probability of “bee” by +0.20; 30 % of them",
        "25 % of its map lies on the object.",
        "p < 0.001, corrected",
        "Grade A: strong evidence",
    ],
)
def test_every_piece_of_evidence_of_a_shortcut_is_told(part: str) -> None:
    assert part in plain(describe_shortcut(ROW))


def test_the_gist_of_a_shortcut_is_what_it_does() -> None:
    text = plain(headline(ROW))
    assert "40 % are called “bee” with it, 2.0 % without it." in text
    assert "95 % are recognised with it, 50 % without it." in text
    assert text.endswith("Taking it out changes 50 % of 40 decisions.")
    assert headline({"class": "bee"}) == ""


def test_without_masks_the_object_is_only_what_the_features_set_apart() -> None:
    row = {**ROW, "foreground_source": "features", "foreground_area": 0.2}
    told = plain(describe_shortcut(row))
    assert "in the part that the model's features set apart from the rest, which covers 20 % of the images" in told


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("accuracy_with", "accuracy with and without it"),
        ("false_positive_without", "how often it misleads"),
        ("ablation_effect", "the effect of taking it out"),
        ("addition_effect", "the effect of adding it"),
        ("p_value", "its p-value"),
    ],
)
def test_missing_evidence_is_said_to_be_missing(column: str, words: str) -> None:
    assert f"Not known here: {words}." in describe_shortcut({**ROW, column: np.nan})


def test_complete_evidence_leaves_nothing_unknown() -> None:
    assert "Not known here" not in describe_shortcut(ROW)


def test_names_cannot_turn_the_direction_of_the_sentence(hostile_atlas: Atlas) -> None:
    for member in hostile_atlas.values():
        assert "\u202e" not in describe_class(member) + describe_image(member, 0)


def flipped(**values: object) -> str:
    example = example_class()
    keys = ("counterfactual", "flips_to", "flipped", "smallest")
    columns = {key: [values.get(key)] + [None] * (example.n_images - 1) for key in keys}
    return plain(describe_image(replace(example, images=example.images.assign(**columns)), 0))


def test_what_would_change_the_decision_is_said_with_its_concepts() -> None:
    text = flipped(counterfactual=[1, 2], flips_to="ant", flipped=True, smallest=True)
    assert "Without “wing” and “meadow” it would be called “ant”; no smaller set does that." in text
    one = flipped(counterfactual=[1], flips_to="ant", flipped=True, smallest=False)
    assert one.endswith("Without “wing” it would be called “ant”.")


def test_a_decision_that_no_removal_changes_is_said_to_hold() -> None:
    assert "would still not win" in flipped(counterfactual=[0, 1], flips_to="ant", flipped=False, smallest=True)
    assert "Without" not in flipped(flips_to="ant")
