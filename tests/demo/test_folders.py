from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from conceptatlas.demo import contact_sheet, make_split, read_masks, write_demo_images, write_folder


@pytest.fixture(scope="module")
def split(config):
    return make_split(config, "audit", 10)


def test_images_lie_in_class_folders(split, tmp_path):
    written = write_folder(split, tmp_path / "scenes")
    assert [path.parent.name for path in written] == [split[i].class_name for i in range(10)]
    assert len(list((tmp_path / "scenes").rglob("*.png"))) == 10


def test_png_keeps_every_pixel(split, tmp_path):
    path = write_folder(split, tmp_path)[3]
    assert (np.asarray(Image.open(path)) == np.asarray(split[3].image)).all()


def test_jpeg_is_nearly_the_same(split, tmp_path):
    path = write_folder(split, tmp_path, image_format="jpg")[3]
    difference = np.asarray(Image.open(path)).astype(int) - np.asarray(split[3].image)
    assert np.abs(difference).mean() < 6


def test_masks_lie_beside_the_images_never_among_them(split, tmp_path):
    written = write_folder(split, tmp_path / "scenes", masks=True)
    assert all(path.suffix == ".png" for path in (tmp_path / "scenes").rglob("*") if path.is_file())
    truth = tmp_path / "scenes-truth" / written[2].parent.name / written[2].stem
    masks = read_masks(truth.with_suffix(".npz"))
    assert masks.keys() == split[2].parts.keys()
    assert all((masks[name] == split[2].parts[name]).all() for name in masks)
    assert json.loads(truth.with_suffix(".json").read_text())["animal"] == split[2].class_name


def test_another_format_is_refused(split, tmp_path):
    with pytest.raises(ValueError, match="got 'gif'"):
        write_folder(split, tmp_path, image_format="gif")


def test_demo_images_are_the_audit_split(tmp_path, config):
    split = write_demo_images(tmp_path, n_per_class=2)
    assert len(split) == 2 * config.n_classes
    assert len(list(tmp_path.rglob("*.png"))) == len(split)
    assert split.split == "audit"


def test_a_contact_sheet_holds_every_image():
    images = [Image.new("RGB", (4, 4), (k, 0, 0)) for k in range(5)]
    sheet = np.asarray(contact_sheet(images, columns=2))
    assert sheet.shape == (12, 8, 3)
    assert [sheet[4 * (k // 2), 4 * (k % 2), 0] for k in range(5)] == list(range(5))
