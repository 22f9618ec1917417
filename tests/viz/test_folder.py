"""Files are written whole, and only our own are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from conceptatlas.extraction.errors import UserError
from conceptatlas.viz.folder import SiteFolder, write_whole


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a/b.html", b"text")
    assert path.read_bytes() == b"text"
    assert [p.name for p in path.parent.iterdir()] == ["b.html"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write_whole(tmp_path / "file/page.html", b"")
    with pytest.raises(UserError, match="file"):
        SiteFolder(tmp_path / "file/site")


def test_text_that_utf8_cannot_hold_is_replaced(tmp_path: Path) -> None:
    path = SiteFolder(tmp_path).write("a.html", "x\ud800")
    assert path.read_text(encoding="utf-8") == "x?"


def test_a_torn_list_of_files_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".conceptatlas-site.json").write_text("{torn")
    folder = SiteFolder(tmp_path)
    folder.write("index.html", "new")
    folder.finish()
    assert (tmp_path / "index.html").is_file()
