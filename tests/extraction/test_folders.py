"""What a folder source finds, and what it leaves out."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conceptatlas.extraction import FolderSource, SourceError, duplicate_files


def test_class_folders_become_labels_in_sorted_order(image_folder):
    source = FolderSource(image_folder(bees=1, ants=2))
    assert source.ids == ["ants/0.jpg", "ants/1.jpg", "bees/0.jpg"]
    assert source.labels == ["ants", "ants", "bees"]
    assert source.class_counts == {"ants": 2, "bees": 1}


def test_flat_folder_has_no_labels(picture, tmp_path):
    picture(8, 8).save(tmp_path / "a.png")
    source = FolderSource(tmp_path)
    assert source[0].label is None
    assert source.class_counts == {}


def test_topmost_folder_is_the_label_of_nested_files(picture, tmp_path):
    (tmp_path / "ants" / "summer").mkdir(parents=True)
    picture(8, 8).save(tmp_path / "ants" / "summer" / "a.png")
    assert FolderSource(tmp_path).labels == ["ants"]


def test_ids_do_not_depend_on_the_order_of_creation(picture, tmp_path):
    for name in ("b.png", "a.png", "B.png", "10.png", "9.png"):
        picture(8, 8).save(tmp_path / name)
    assert FolderSource(tmp_path).ids == ["10.png", "9.png", "B.png", "a.png", "b.png"]


def test_folder_that_may_not_be_read_is_said_and_listed(image_folder, monkeypatch, caplog):
    root = image_folder(ants=2, locked=2)
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = FolderSource(root)
    assert source.class_counts == {"ants": 2, "locked": 0}
    assert source.ignored == {"locked": "folder not readable (PermissionError)"}
    assert "1 folders may not be read, so their images are missing: locked" in caplog.text


def test_sample_has_the_pixels_of_its_file(picture, tmp_path):
    picture(9, 7, seed=3).save(tmp_path / "a.png")
    assert np.array_equal(FolderSource(tmp_path)[0].image, picture(9, 7, seed=3))


def test_link_to_a_folder_elsewhere_is_a_class_folder(image_folder, tmp_path):
    elsewhere = image_folder(tmp_path / "elsewhere", ants=2)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "ants").symlink_to(elsewhere / "ants")
    assert FolderSource(tmp_path / "set").ids == ["ants/0.jpg", "ants/1.jpg"]


def test_file_keeps_its_own_name_when_an_earlier_name_links_to_it(image_folder):
    root = image_folder(bees=1)
    (root / "ants").mkdir()
    (root / "ants" / "link.jpg").symlink_to(root / "bees" / "0.jpg")
    source = FolderSource(root)
    assert source.ids == ["bees/0.jpg"]
    assert source.ignored == {"ants/link.jpg": "link to a file that was read"}


def test_files_without_an_image_ending_are_listed_as_ignored(image_folder):
    root = image_folder(ants=1)
    (root / "notes.txt").write_text("x")
    assert FolderSource(root).ignored == {"notes.txt": "not the ending of an image"}


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(SourceError, match="no folder .*nowhere"):
        FolderSource(tmp_path / "nowhere")


def test_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(SourceError, match="is a file"):
        FolderSource(tmp_path / "a.txt")


def test_folder_without_images_says_what_was_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(SourceError, match="no image below .*1 x not the ending of an image"):
        FolderSource(tmp_path)


def test_duplicate_files_are_found_by_content(image_folder):
    root = image_folder(ants=2, bees=1)
    copy = root / "bees" / "copy.jpg"
    copy.write_bytes((root / "ants" / "1.jpg").read_bytes())
    (root / "bees" / "same_size.jpg").write_bytes(b"0" * copy.stat().st_size)
    groups = duplicate_files(FolderSource(root).paths)
    assert groups == [(str(root / "ants" / "1.jpg"), str(copy))]


def test_image_ending_counts_in_any_case(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "A.JPG", "JPEG")
    assert FolderSource(tmp_path).ids == ["A.JPG"]
