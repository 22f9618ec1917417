"""The bias report: self-contained, complete, escaped, with tables that a spreadsheet does not run."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from conceptatlas.audit.atlas import Atlas
from conceptatlas.extraction.errors import UserError
from conceptatlas.viz import bias_report
from conceptatlas.viz.report import spreadsheet


@pytest.fixture(scope="module")
def report(hostile_atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bias_report(hostile_atlas, tmp_path_factory.mktemp("report"))


def test_the_page_loads_nothing_and_runs_nothing(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert not re.search(r"<[a-z]+[^>]*\son[a-z]+=", text)


def test_every_suspect_of_grade_a_to_c_is_shown_with_pictures_and_words(report: Path, hostile_atlas: Atlas) -> None:
    text = report.read_text(encoding="utf-8")
    graded = hostile_atlas.shortcuts()["grade"].isin(["A", "B", "C"]).sum()
    assert text.count('<li class="shortcut"') == graded
    assert text.count("data:image/webp") == 2 * graded
    assert text.count("Grade A:") == len(hostile_atlas)


def test_counts_metrics_baselines_and_gaps_are_stated(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    for part in ("161 seen, 1 skipped", "What was not checked", "Random baseline", "No intervention was tried"):
        assert part in text


def test_the_parquet_table_is_what_the_atlas_holds(report: Path, hostile_atlas: Atlas) -> None:
    read = pd.read_parquet(report.parent / "shortcuts.parquet")
    assert read["suspicion"].tolist() == hostile_atlas.shortcuts()["suspicion"].tolist()
    assert read["class"].tolist() == hostile_atlas.shortcuts()["class"].tolist()


def test_fault_67_no_cell_of_the_csv_starts_a_formula(report: Path) -> None:
    with (report.parent / "shortcuts.csv").open(newline="", encoding="utf-8") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert "'=HYPERLINK(1)" in cells
    assert not [c for c in cells if c[:1] in "=+@" and c]
    assert not [c for c in cells if c.startswith("-") and not re.fullmatch(r"-[\d.e-]+", c)]


def test_numbers_stay_numbers_in_the_csv() -> None:
    assert spreadsheet(pd.DataFrame({"a": [-1.5]})) == b"a\n-1.5\n"


def test_the_same_atlas_gives_the_same_report(report: Path, hostile_atlas: Atlas, tmp_path: Path) -> None:
    again = bias_report(hostile_atlas, tmp_path)
    assert {p.name: p.read_bytes() for p in again.parent.iterdir()} == {
        p.name: p.read_bytes() for p in report.parent.iterdir()
    }


def test_interventions_are_shown_as_they_were_measured(atlas: Atlas, tmp_path: Path) -> None:
    tried = pd.DataFrame([{"method": "mean ablation", "worst_group_before": 0.1, "worst_group_after": 0.35}])
    text = bias_report(atlas, tmp_path, interventions=tried).read_text(encoding="utf-8")
    assert "mean ablation" in text
    assert "0.35" in text
    assert "No intervention was tried" not in text


def test_an_atlas_without_evidence_says_so(atlas: Atlas, tmp_path: Path) -> None:
    empty = replace(atlas, shortcut_table=atlas.shortcut_table.iloc[:0])
    assert "No evidence on shortcuts was gathered" in bias_report(empty, tmp_path).read_text(encoding="utf-8")


def test_a_file_is_refused_as_folder(atlas: Atlas, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is a file"):
        bias_report(atlas, tmp_path / "x")
