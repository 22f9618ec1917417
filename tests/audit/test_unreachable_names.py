"""An audit whose text-image model cannot be had: it goes on without names, or refuses what is wrong."""

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image

from conceptatlas.audit import Settings, audit
from conceptatlas.extraction.errors import UserError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def run(folder, encoder):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2).eval()
    model.pretrained_cfg.update(input_size=(3, 32, 32), crop_pct=1.0)
    settings = Settings(max_probe=2, n_examples=2, umap=False)
    return audit(model, folder, encoder=encoder, n_concepts=2, min_images=2, progress=False, settings=settings)


def test_without_a_network_the_audit_says_how_to_use_local_weights_and_goes_on_without_names(
    folder, monkeypatch, caplog
):
    def offline(*args, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", offline)
    atlas = run(folder, "ViT-B-32")
    assert "local-dir:/folder" in caplog.text
    assert "goes on without names" in caplog.text
    assert atlas.run["names"]["encoder"] is None
    assert all((atlas[name].concepts["name_status"] == "unnamed").all() for name in atlas)


@pytest.mark.parametrize("encoder", ["local-dir:/nowhere", "ViT-B32"])
def test_a_wrong_folder_or_name_is_refused_before_anything_is_computed(folder, encoder):
    with pytest.raises(UserError, match=r"/nowhere|ViT-B-32"):
        run(folder, encoder)


def test_what_is_no_encoder_is_refused_before_anything_is_computed(folder):
    with pytest.raises(UserError, match="lacks id, dim"):
        run(folder, 42)
