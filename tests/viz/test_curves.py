"""Deletion and insertion curves against known answers, and the curve behind the number of concepts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conceptatlas.extraction.errors import UserError
from conceptatlas.viz import choice_curve, faithfulness_curves
from conceptatlas.viz.curves import deletion_curves
from conceptatlas.viz.example import example_class


def test_curves_start_at_the_mean_score_and_end_at_bias_plus_residual() -> None:
    example = example_class()
    for curve in deletion_curves(example):
        assert curve.score[0] == pytest.approx(example.images["logit"].mean(), abs=1e-4)
        assert curve.score[-1] == pytest.approx(float((example.bias + example.residual).mean()), abs=1e-4)


def test_own_contributions_are_the_best_order_of_all() -> None:
    own, *others = deletion_curves(example_class())
    assert all(own.area <= other.area + 1e-9 for other in others)


def test_random_orders_average_to_a_straight_line() -> None:
    random = deletion_curves(example_class(200))[-1]
    straight = np.linspace(random.score[0], random.score[-1], len(random.score))
    assert np.abs(random.score - straight).max() < 0.05 * np.ptp(straight)


def test_insertion_is_deletion_backwards() -> None:
    example = example_class()
    deleted = faithfulness_curves(example).data[0].y
    inserted = faithfulness_curves(example, kind="insertion").data[0].y
    assert np.asarray(deleted) + np.asarray(inserted) == pytest.approx(deleted[0] + deleted[-1], abs=1e-3)


def test_every_figure_of_faithfulness_shows_the_random_baseline() -> None:
    assert any("random" in (trace.name or "") for trace in faithfulness_curves(example_class()).data)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="'removal'"):
        faithfulness_curves(example_class(), kind="removal")  # type: ignore[arg-type]


def test_the_number_in_use_is_marked_on_its_curve() -> None:
    assert choice_curve(example_class()).layout.shapes[0].x0 == 4


def test_without_a_recorded_curve_the_reason_is_said() -> None:
    example = example_class()
    given = example.with_bank(replace(example.bank, provenance={}))
    with pytest.raises(UserError, match="was given"):
        choice_curve(given)
