"""Suspected shortcuts and slices as the pages show them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conceptatlas.audit.atlas import Atlas
from conceptatlas.viz.evidence import contrasts
from conceptatlas.viz.findings import Finding, cell_text, findings, slices_of, table_rows
from conceptatlas.viz.overview import shortcuts_context


def test_findings_stand_in_the_order_of_the_table(atlas: Atlas) -> None:
    table = atlas.shortcuts()
    assert [(f.class_name, f.concept) for f in findings(atlas)] == list(
        zip(table["class"], table["concept"], strict=True)
    )


def test_a_persons_judgement_stands_beside_the_evidence(atlas: Atlas) -> None:
    found = next(f for f in findings(atlas) if (f.class_name, f.concept) == ("class 0", 1))
    assert found.tag == "spurious"


def test_a_suspect_that_the_same_images_hold_as_one_before_is_said_to_be_it_again(atlas: Atlas) -> None:
    first, second, third = [f for f in findings(atlas) if f.class_name == "class 0"][:3]
    member = atlas["class 0"]
    scores = np.zeros((10, member.n_concepts), np.float32)
    scores[:5, [first.concept, second.concept]], scores[5:, third.concept] = 1.0, 1.0
    held = replace(atlas, members={**dict(atlas.members), "class 0": replace(member, everywhere_scores=scores)})
    told = [f.text for f in findings(held) if f.class_name == "class 0"]
    assert "same thing" not in told[0]
    assert f"the same thing as suspect {first.rank}, “{first.label}”: 100 % of the images" in told[1].replace(
        "\xa0", " "
    )
    assert "same thing" not in told[2]


def test_dropped_concepts_are_no_longer_suspected(atlas: Atlas) -> None:
    member = atlas["class 0"].with_bank(atlas["class 0"].bank.drop(0))
    fewer = replace(atlas, members={**dict(atlas.members), "class 0": member})
    # the atlas itself looks labels up by position: only the sites' own list is asked here
    table = atlas.shortcut_table
    keep = ~((table["class"] == "class 0") & (table["concept"] == 4))
    fewer = replace(fewer, shortcut_table=table[keep])
    assert ("class 0", 0) not in {(f.class_name, f.concept) for f in findings(fewer)}


def test_each_comparison_puts_both_rates_on_one_scale() -> None:
    row = {"class": "bee", "false_positive_with": 0.4, "false_positive_without": 0.02}
    (contrast,) = contrasts(row)
    assert [line.width for line in contrast.lines] == [40.0, 2.0]


def test_effects_carry_their_sign_and_how_many_images_change() -> None:
    row = {"class": "bee", "ablation_effect": -0.35, "ablation_flips": 0.5, "n_ablated": 40, "addition_effect": 0.2}
    (contrast,) = contrasts(row)
    assert [(line.value, line.kind) for line in contrast.lines] == [("−0.35", "against"), ("+0.20", "for")]
    assert "of 40 images change class" in contrast.note


def test_nothing_known_gives_no_comparison() -> None:
    assert contrasts({"class": "bee", "accuracy_with": np.nan}) == ()


def test_a_slice_is_raised_only_above_its_class_and_its_control(atlas: Atlas) -> None:
    first, second = slices_of(atlas["class 0"])
    assert first.raised
    assert not second.raised
    assert [(c, z) for c, _, z in first.concepts] == [(0, "+2.1"), (1, "−1.3")]


def test_slices_read_back_from_parquet_are_the_same(atlas: Atlas, tmp_path: object) -> None:
    member = atlas["class 0"]
    stored = member.slices.assign(
        concepts=[np.array([np.array([0.0, 2.1]), np.array([1.0, -1.3])], dtype=object), None]
    )
    assert slices_of(replace(member, slices=stored))[0].concepts == slices_of(member)[0].concepts


@pytest.mark.parametrize(("value", "text"), [((1, 0.5), "1, 0.5"), (pd.NA, "–"), (False, "no"), ("a", "a")])
def test_cells_of_every_kind_become_text(value: object, text: str) -> None:
    assert cell_text(value) == text


def test_an_empty_table_has_no_columns() -> None:
    assert table_rows(pd.DataFrame(columns=["a"])) == {"columns": [], "rows": []}


def test_a_long_list_of_findings_is_shown_in_part_and_counted(atlas: Atlas) -> None:
    context = shortcuts_context(findings(atlas) * 100)
    assert (len(context["found"]), len(context["rest"])) == (30, 1000)
    assert context["n_unlisted"] == 1500 - 1030


def test_only_suspects_are_shown_with_all_their_evidence(atlas: Atlas) -> None:
    context = shortcuts_context(found := findings(atlas))
    assert {finding.grade for finding in context["found"]} <= {"A", "B", "C"}
    assert {finding.grade for finding in context["rest"]} == {"D"}
    assert len(context["found"]) + len(context["rest"]) == len(found)


def test_a_line_of_the_table_carries_the_numbers_that_it_sorts_by() -> None:
    row = {"false_positive_gap": 0.31, "accuracy_gap": None, "ablation_effect": -0.25, "addition_effect": 0.5}
    finding = Finding(1, "D", "bee", 0, 0, "x", "", (), (), row, "", "")
    assert finding.brief == (("+31", 0.31), ("–", -9.0), ("−0.25", -0.25), ("+0.50", 0.5))
