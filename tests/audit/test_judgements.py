"""A person's word on concepts: out as JSON, in again, and kept when an audit is done afresh."""

import json
import logging

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from conceptatlas.audit import Settings, audit
from conceptatlas.extraction.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(10):
        pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
        pixels[:, :16] += np.uint8(120 * (i % 2))
        Image.fromarray(pixels).save(root / f"{i}.png")
    return root


def run(folder, out, **options):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2).eval()
    model.pretrained_cfg.update(input_size=(3, 32, 32), crop_pct=1.0)
    settings = Settings(max_probe=2, n_examples=2, umap=False)
    options = {"n_concepts": 2, "min_images": 2, "progress": False, "settings": settings, **options}
    return audit(model, folder, out=out, **options)


def test_edits_go_out_as_json_and_come_back(folder, tmp_path):
    atlas = run(folder, tmp_path / "run")
    name = next(iter(atlas))
    assert atlas.edits() == {"edits": []}
    said = {"edits": [{"class": name, "concept": 1, "title": "left <half>", "tag": "spurious", "note": "see 3"}]}
    file = tmp_path / "edits.json"
    file.write_text(json.dumps(said))
    judged = atlas.apply_edits(file)
    assert judged.edits() == said
    assert run(folder, tmp_path / "run").edits() == said
    with pytest.raises(UserError, match="'nobody'"):
        atlas.apply_edits({"edits": [{"class": "nobody", "concept": 0, "title": "x"}]})


def test_an_audit_done_afresh_keeps_what_was_said_of_the_same_concepts(folder, tmp_path):
    atlas = run(folder, tmp_path / "run")
    name = next(iter(atlas))
    said = {"edits": [{"class": name, "concept": 0, "title": "the left half"}]}
    atlas.apply_edits(said)
    again = run(folder, tmp_path / "run", resume=False)
    assert again.edits() == said
    assert not (tmp_path / "run" / "earlier").exists()


def test_what_was_said_of_a_class_that_is_gone_is_not_lost_silently(folder, tmp_path, caplog):
    atlas = run(folder, tmp_path / "run")
    name = next(iter(atlas))
    atlas.apply_edits({"edits": [{"class": name, "concept": 0, "title": "the left half"}]})
    with caplog.at_level(logging.WARNING):
        again = run(folder, tmp_path / "run", resume=False, min_images=11)
    assert name not in list(again)
    assert f"class {name!r} is not in the new run" in caplog.text
