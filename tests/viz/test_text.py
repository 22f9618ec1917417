"""Numbers and names as text."""

from __future__ import annotations

import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptatlas.viz.text import (
    count,
    figure_text,
    href,
    interval,
    known,
    number,
    p_text,
    percent,
    shorten,
    signed,
    slug,
    value_of,
    verdict,
    visible,
)

quick = settings(deadline=None, max_examples=40)


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), pd.NA, "text", pd.NaT])
def test_what_is_not_a_finite_number_is_shown_as_a_dash(missing: object) -> None:
    assert not known(missing)
    assert number(missing) == percent(missing) == signed(missing) == "–"


def test_a_rounded_zero_has_no_sign() -> None:
    assert (number(-0.001), signed(-0.001), signed(0.001)) == ("0.00", "0.00", "0.00")


def test_intervals_below_zero_carry_signs_when_asked() -> None:
    assert interval(-0.2, 0.1, signs=True) == "−0.20 to +0.10"


def test_small_p_values_are_not_printed_as_zero() -> None:
    assert p_text(0.0) == "p < 0.001"


def test_count_groups_thousands() -> None:
    assert count(12345, "image") == "12,345 images"


@quick
@given(st.text())
def test_visible_text_has_no_control_or_direction_characters(text: str) -> None:
    assert not [c for c in visible(text) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@quick
@given(st.text(), st.integers(2, 60))
def test_shortened_text_is_never_longer_than_asked(text: str, limit: int) -> None:
    assert len(shorten(text, limit)) <= limit


@quick
@given(st.text())
def test_figure_text_holds_no_markup(text: str) -> None:
    assert not set(figure_text(text)) & set("<>")


@quick
@given(st.text())
def test_slugs_are_safe_file_names(name: str) -> None:
    assert set(slug(name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert 9 <= len(slug(name)) <= 49


@quick
@given(st.lists(st.text(max_size=12), unique=True, max_size=30))
def test_slugs_of_different_names_differ(names: list[str]) -> None:
    assert len({slug(name) for name in names}) == len(names)


@quick
@given(st.text())
def test_links_have_no_scheme_and_no_markup(name: str) -> None:
    link = href("classes", name.encode("utf-8", "replace").decode(), fragment="x")
    assert not set(link.removeprefix("classes/").removesuffix("#x")) & set(":/\"'<> #?")


def test_value_of_reads_missing_cells_of_every_kind_as_none() -> None:
    row = {"a": np.nan, "b": pd.NA, "c": pd.NaT, "d": 0}
    assert [value_of(row, key) for key in "abcde"] == [None, None, None, 0, None]


def test_verdict_reads_every_kind_of_truth() -> None:
    assert [verdict(v) for v in (True, np.bool_(False), 1.0, pd.NA, None)] == [True, False, True, None, None]
