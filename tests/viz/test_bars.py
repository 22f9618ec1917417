"""Importance bars and the waterfall of one image."""

from __future__ import annotations

import numpy as np
import pytest

from conceptatlas.audit.atlas import ClassAtlas
from conceptatlas.extraction.errors import UserError
from conceptatlas.viz import importance_bars, waterfall
from conceptatlas.viz.bars import waterfall_steps
from conceptatlas.viz.example import example_class
from conceptatlas.viz.palette import AGAINST, FOR


def test_bars_carry_the_sign_in_direction_and_colour() -> None:
    bars = importance_bars(example_class()).data[0]
    assert all((colour == FOR) == (x >= 0) for x, colour in zip(bars.x, bars.marker.color, strict=True))
    assert AGAINST in bars.marker.color


def test_the_most_important_concept_is_on_top() -> None:
    bars = importance_bars(example_class()).data[0]
    assert np.argmax(np.abs(bars.x)) == len(bars.x) - 1


@pytest.mark.parametrize("most", [2, 12])
def test_the_parts_of_the_waterfall_add_up_to_the_logit(class_atlas: ClassAtlas, most: int) -> None:
    for row in range(class_atlas.n_images):
        total = sum(value for _, value in waterfall_steps(class_atlas, row, most=most))
        assert total == pytest.approx(class_atlas.images["logit"][row], abs=1e-4)


def test_bias_comes_first_residual_last_then_the_score() -> None:
    names = waterfall(example_class(), 0).data[0].x
    assert (names[0], names[-2], names[-1]) == ("bias", "residual", "score")


def test_concepts_beyond_the_limit_are_added_up() -> None:
    names = waterfall(example_class(), 0, most=1).data[0].x
    assert names[2] == "3 other concepts"


def test_an_image_can_be_named_by_its_id() -> None:
    example = example_class()
    assert waterfall(example, "bee/003.jpg").to_json() == waterfall(example, 3).to_json()


@pytest.mark.parametrize("row", [-1, 48, "nowhere.jpg"])
def test_an_image_that_is_not_there_is_refused(row: int | str) -> None:
    with pytest.raises(UserError, match="bee"):
        waterfall(example_class(), row)


def test_two_concepts_of_one_name_stay_two_bars() -> None:
    example = example_class()
    twins = example.with_bank(example.bank.rename(1, "stripes"))
    assert len(set(importance_bars(twins).data[0].y)) == 4
