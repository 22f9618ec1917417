"""What is odd about the folder stands in the run: empty class folders, files that are there twice, no classes."""

import logging
import shutil

import numpy as np
import pytest
import timm
from PIL import Image

import conceptatlas as ca
from conceptatlas.audit import Settings
from conceptatlas.audit.inventory import inventory
from conceptatlas.extraction import Preprocess, as_source
from conceptatlas.extraction.errors import UserError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("ants", "bees"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    (tmp_path / "images" / "wasps").mkdir()
    shutil.copy(tmp_path / "images/ants/0.png", tmp_path / "images/bees/copy.png")
    shutil.copy(tmp_path / "images/ants/1.png", tmp_path / "images/ants/again.png")
    return tmp_path / "images"


def audited(folder, out, **options):
    model = timm.create_model("test_resnet", num_classes=3).eval()
    return ca.audit(
        model,
        folder,
        out=out,
        class_names=["ants", "bees", "wasps"],
        preprocess=Preprocess(size=32),
        layer="layer3",
        n_concepts=2,
        progress=False,
        min_images=4,
        settings=Settings(umap=False, n_examples=1, max_views=2, max_probe=4),
        **options,
    )


def test_fault_29_equal_files_are_reported_with_whether_their_labels_differ(folder, caplog):
    with caplog.at_level(logging.WARNING):
        found = inventory(as_source(folder))
    assert found["n_duplicates"] == 2
    assert found["n_duplicates_across_labels"] == 1
    assert ["ants/0.png", "bees/copy.png"] in found["duplicates"]
    assert "2 groups of files have equal content, 1 of them under different labels" in caplog.text


def test_fault_31_a_class_without_images_is_listed_and_the_others_go_on(folder, tmp_path):
    atlas = audited(folder, tmp_path / "run")
    assert atlas.run["data"]["empty_folders"] == ["wasps"]
    listed = atlas.classes.set_index("name")
    assert "wasps" in listed.index
    assert len(atlas) >= 1
    assert atlas.run["data"]["n_duplicates"] == 2


def test_images_that_are_no_files_have_no_inventory():
    found = inventory(as_source([(Image.new("RGB", (8, 8)), 0)] * 3))
    assert found == {"empty_folders": [], "n_duplicates": 0, "n_duplicates_across_labels": 0, "duplicates": []}


def test_fault_44_a_model_without_classes_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="num_classes=0"):
        ca.audit(timm.create_model("test_resnet", num_classes=0), folder, out=tmp_path / "run", progress=False)
