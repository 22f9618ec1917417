"""Prevalence against reliability: the numbers of the table, and labels that can be read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conceptatlas.viz import prevalence_reliability
from conceptatlas.viz.example import example_class


def test_reliability_is_drawn_against_prevalence_with_intervals() -> None:
    example = example_class()
    figure = prevalence_reliability(example)
    drawn = {t.customdata[0]: (t.x[0], t.y[0], t.error_y.array[0], t.error_y.arrayminus[0]) for t in figure.data}
    for row in example.strategies.to_dict("records"):
        x, y, up, down = drawn[row["concept"]]
        assert (x, y) == pytest.approx((row["prevalence"], row["reliability"]), abs=1e-4)
        assert (y + up, y - down) == pytest.approx((row["reliability_high"], row["reliability_low"]), abs=2e-4)


def test_without_labels_the_figure_says_so() -> None:
    example = example_class()
    unlabelled = replace(example, strategies=example.strategies.assign(reliability=np.nan))
    figure = prevalence_reliability(unlabelled)
    assert len(figure.data) == 0
    assert figure.layout.annotations[0].text == "no image has a label"


def test_labels_of_strategies_that_lie_close_stand_on_different_sides() -> None:
    example = example_class(400)
    close = example.strategies.assign(prevalence=[0.50, 0.46, 0.42, 0.40], reliability=1.0)
    sides = [trace.textposition for trace in prevalence_reliability(replace(example, strategies=close)).data]
    assert len(set(sides)) >= 3


def test_an_importance_that_is_not_known_still_gives_a_marker() -> None:
    example = example_class()
    unknown = replace(example, concepts=example.concepts.assign(importance=np.nan))
    assert all(trace.marker.size > 0 for trace in prevalence_reliability(unknown).data)
