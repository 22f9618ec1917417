"""The command line on a real model and real photographs, where CONCEPTATLAS_REAL_DATA names them."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from conceptatlas.audit import Atlas

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
REAL = os.environ.get("CONCEPTATLAS_REAL_DATA")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REAL is None, reason="CONCEPTATLAS_REAL_DATA is not set")]


def cpu_seconds():
    """Of all child processes so far; wall time on a shared machine says how busy it is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("real")
    root = Path(REAL)
    before = cpu_seconds()
    weights = root / "deit_tiny_patch16_224.fp16.safetensors"
    audit = [
        "audit", "--model", "deit_tiny_patch16_224", "--checkpoint", str(weights),
        "--images", str(root / "hymenoptera" / "train"), "--out", str(out / "run"), "--quiet",
    ]  # fmt: skip
    for arguments in (audit, ["site", str(out / "run"), str(out / "site")]):
        command = [sys.executable, "-m", "conceptatlas", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
    return Atlas.load(out / "run"), out / "site", cpu_seconds() - before


def test_audit_and_site_take_at_most_what_two_cores_do_in_five_minutes(run):
    assert run[2] <= 600


def test_ants_and_bees_are_fitted_and_labelled(run):
    atlas, _, _ = run
    labelled = atlas.images["label_index"].notna().mean()
    assert labelled == 1.0
    assert {309, 310} <= set(atlas.classes.loc[atlas.classes["fitted"], "index"])


def test_the_layer_is_where_the_image_still_sits_in_the_patches(run):
    atlas, _, _ = run
    assert atlas.run["layer"]["choice"]["method"] == "measured"
    assert atlas.run["layer"]["grid"] == [14, 14]
    assert not atlas.run["layer"]["name"].startswith("blocks.11")


def test_each_fitted_class_has_a_page(run):
    atlas, site, _ = run
    pages = [p.name for p in site.rglob("*.html")]
    assert len(pages) > len(atlas)
