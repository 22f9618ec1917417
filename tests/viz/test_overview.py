"""The page that compares two atlases."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from conceptatlas.audit.atlas import Atlas
from conceptatlas.audit.comparison import Comparison
from conceptatlas.viz import export_site


def test_a_comparison_gets_its_own_page_and_a_place_in_the_menu(atlas: Atlas, tmp_path: Path) -> None:
    row = {"class": "<b>bee</b>", "status": "lost", "label_a": "red plate", "importance_a": 0.4}
    shortcuts = pd.DataFrame([{"class": "<b>bee</b>", "status": "fixed", "label_a": "red plate"}])
    found = Comparison(concepts=pd.DataFrame([row]), shortcuts=shortcuts, classes=pd.DataFrame())
    index = export_site(atlas, tmp_path, comparison=found)
    text = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "concepts 1 lost; suspected shortcuts 1 fixed" in text
    assert "&lt;b&gt;bee&lt;/b&gt;" in text
    assert "comparison.html" in index.read_text(encoding="utf-8")
