"""Concept cards: the right numbers, on bars that stand for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conceptatlas.viz.cards import Bar, Card, build_cards, importance_bar, share_bar
from conceptatlas.viz.concepts import Neighbour
from conceptatlas.viz.example import example_class
from conceptatlas.viz.palette import class_styles
from conceptatlas.viz.text import percent


def cards() -> dict[int, Card]:
    example = example_class()
    near = {0: [Neighbour("ant", 2, "legs", 0.8)]}
    return {card.concept: card for card in build_cards(example, class_styles(example), {}, near)}


def bar(card: Card, label: str) -> Bar:
    return next(b for b in card.bars if b.label == label)


def test_cards_stand_in_the_order_of_importance() -> None:
    example = example_class()
    ids = [card.concept for card in build_cards(example, {}, {}, {})]
    assert ids == example.concepts["concept"].tolist()
    assert [card.rank for card in cards().values()] == [1, 2, 3, 4]


def test_a_negative_importance_grows_to_the_left_of_the_middle() -> None:
    drawn = importance_bar({"importance": -0.2}, 0.4)
    assert (drawn.start, drawn.end, drawn.kind) == (25.0, 50.0, "against")


def test_intervals_are_whiskers_on_the_same_scale() -> None:
    drawn = importance_bar({"importance": 0.2, "importance_low": 0.1, "importance_high": 0.3}, 0.4)
    assert (drawn.low, drawn.high) == (62.5, 87.5)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_an_unknown_share_has_no_bar(value: float | None) -> None:
    drawn = share_bar("Reliability", "", {"r": value}, "r")
    assert (drawn.value, drawn.start, drawn.end) == ("–", None, None)


def test_reliability_comes_with_the_interval_of_its_strategy() -> None:
    example = example_class()
    row = example.strategies.iloc[0]
    drawn = bar(cards()[int(row["concept"])], "Reliability")
    assert drawn.low == pytest.approx(100 * row["reliability_low"], abs=0.01)


def test_a_place_that_is_not_known_is_said_beside_the_score() -> None:
    found = cards()
    assert "place not known" in bar(found[2], "Localisation").note
    assert "place not known" not in bar(found[0], "Localisation").note


def test_measures_stand_beside_what_chance_would_give() -> None:
    card = cards()[0]
    for label in ("Importance", "Influence", "Prevalence"):
        assert "chance 25\u00a0%" in bar(card, label).note
    precision = example_class().images["correct"].mean()
    assert bar(card, "Reliability").note == f"class {percent(precision)}"
    assert bar(card, "Reliability").tick == pytest.approx(100 * precision, abs=0.01)


def test_names_come_with_their_evidence_and_the_honest_wording() -> None:
    found = cards()
    assert found[0].evidence.startswith("Text that retrieves these crops: held-out AUC 0.95")
    assert (found[0].status, found[3].status) == ("named", "weak")


def test_without_naming_the_card_says_so() -> None:
    example = example_class()
    bare = replace(example.bank, concepts=tuple(replace(r, name=None) for r in example.bank.concepts))
    card = build_cards(example.with_bank(bare), {}, {}, {})[0]
    assert (card.status, card.evidence) == ("unnamed", "Naming did not run.")


def test_dropped_concepts_have_no_card() -> None:
    example = example_class()
    assert 1 not in {c.concept for c in build_cards(example.with_bank(example.bank.drop(1)), {}, {}, {})}


def test_sub_concepts_are_listed_with_their_parent() -> None:
    example = example_class()
    records = tuple(replace(r, parent=0 if r.id == 3 else None) for r in example.bank.concepts)
    found = build_cards(example.with_bank(replace(example.bank, concepts=records)), {}, {}, {})
    assert found[0].parts == ((3, "red plate?"),)


def test_similar_concepts_of_other_classes_are_kept_in_order() -> None:
    assert cards()[0].neighbours[0].class_name == "ant"
