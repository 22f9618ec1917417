"""The audit from end to end on a tiny model: what it writes, what it refuses, and that it resumes."""

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image

from conceptatlas.audit import Atlas, Settings, audit, compare, reopen
from conceptatlas.extraction import ActivationStore
from conceptatlas.extraction.errors import UserError

SMALL = Settings(max_probe=4, n_examples=3, sobol_images=2, umap=False)


def network(name="test_resnet", seed=0):
    torch.manual_seed(seed)
    model = (
        timm.create_model(name, num_classes=3, img_size=32) if "vit" in name else timm.create_model(name, num_classes=3)
    )
    model.pretrained_cfg.update(input_size=(3, 32, 32), crop_pct=1.0)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for label in ("left", "right"):
        (root / label).mkdir()
        for i in range(14):
            pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            pixels[:, :16] += np.uint8(120) if label == "left" else np.uint8(0)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    (root / "left" / "broken.jpg").write_bytes(b"no image")
    return root


def run(model, folder, out=None, **options):
    defaults = {"n_concepts": 3, "min_images": 4, "progress": False, "settings": SMALL, "max_error_rate": 0.2}
    return audit(model, folder, out=out, **{**defaults, **options})


@pytest.fixture(scope="module", params=["test_resnet", "test_vit"])
def done(request, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    model = network(request.param)
    return model, run(model, folder, out, class_names=["left", "right", "other"]), out


def test_every_image_is_used_or_listed_as_skipped(done):
    _, atlas, _ = done
    assert atlas.run["data"]["n_seen"] == 29
    assert len(atlas.images) == 28
    assert atlas.skipped["sample_id"].str.contains("broken").tolist() == [True]


def test_each_class_is_fitted_or_says_why_not(done):
    _, atlas, _ = done
    listed = atlas.classes.set_index("name")
    assert set(listed.index) >= {"left", "right"}
    assert (listed.loc[~listed["fitted"], "reason"] != "").all()
    assert listed["n_images"].sum() == 28


def test_the_logit_is_the_sum_of_its_parts(done):
    model, atlas, _ = done
    for name in atlas:
        member = atlas[name]
        total = member.contributions.sum(1) + member.residual + member.bias
        np.testing.assert_allclose(total, member.images["logit"], atol=1e-4, rtol=1e-4)


def test_tables_agree_with_the_arrays(done):
    _, atlas, _ = done
    for name in atlas:
        member = atlas[name]
        assert sorted(member.concepts["concept"]) == member.bank.ids == [0, 1, 2]
        assert member.coefficients.shape == (member.n_images, 3)
        assert member.examples["map_row"].max() < len(member.maps)
        assert member.strategies["prevalence"].sum() == pytest.approx(1)
        assert np.allclose(np.linalg.norm(member.bank.directions, axis=1), 1, atol=1e-5)


def test_what_flips_an_image_is_smallest_where_the_head_is_affine(done):
    model, atlas, _ = done
    for name in atlas:
        images = atlas[name].images
        tried = images[images["flips_to"].notna()]
        affine = isinstance(atlas.run["layer"]["head_is_affine"], bool) and atlas.run["layer"]["head_is_affine"]
        assert len(tried) == (len(images) if affine else SMALL.sobol_images)
        assert (tried["flips_to"] != name).all()
        assert bool(tried["smallest"].all()) == affine
        assert all(set(ids) <= {0, 1, 2} for ids in tried["counterfactual"])


def test_recursion_leaves_a_tree_with_the_bank(folder):
    atlas = run(network(), folder, recursion="all", class_names=["left", "right", "other"])
    for name in atlas:
        tree = atlas[name].bank.tree
        assert [node.id for node in tree.roots] == atlas[name].bank.ids
        assert tree.layers[0] == atlas.run["layer"]["name"]
        assert set(atlas[name].parts["node"]) == {node.id for node in tree.nodes if node.parent is not None}


def test_an_unknown_recursion_is_refused(folder):
    with pytest.raises(UserError, match="recursion must be one of"):
        run(network(), folder, recursion="always")


def test_labels_are_matched_to_classes_by_name(done):
    _, atlas, _ = done
    assert atlas.images["label_index"].tolist() == [0.0] * 14 + [1.0] * 14


def test_the_atlas_opens_again_without_model_and_images(done, tmp_path):
    _, atlas, _ = done
    copy = Atlas.load(atlas.save(tmp_path / "copy"))
    name = next(iter(copy))
    shown = copy[name].examples.iloc[0]
    assert copy.view(shown["view"]).size == (32, 32)
    pd.testing.assert_frame_equal(copy.shortcuts(), atlas.shortcuts())


def test_a_second_run_resumes_and_changes_nothing(done, folder):
    model, atlas, out = done
    written = {p: p.stat().st_mtime_ns for p in (out / "concepts").rglob("*") if p.is_file()}
    again = run(model, folder, out, class_names=["left", "right", "other"])
    assert {p: p.stat().st_mtime_ns for p in (out / "concepts").rglob("*") if p.is_file()} == written
    pd.testing.assert_frame_equal(again.to_frame(), atlas.to_frame())


def test_fault_36_another_audit_in_the_same_folder_is_refused(done, folder):
    model, _, out = done
    with pytest.raises(UserError, match="another audit"):
        run(model, folder, out, class_names=["left", "right", "other"], seed=5)


def test_the_same_seed_gives_the_same_atlas(done, folder, tmp_path):
    model, atlas, _ = done
    other = run(model, folder, tmp_path / "other", class_names=["left", "right", "other"])
    for name in atlas:
        np.testing.assert_array_equal(atlas[name].bank.directions, other[name].bank.directions)
        np.testing.assert_array_equal(atlas[name].contributions, other[name].contributions)


def test_an_atlas_compared_with_itself_keeps_every_concept(done):
    _, atlas, _ = done
    result = compare(atlas, atlas)
    assert set(result.concepts["status"]) == {"kept"}
    assert result.concepts["shift"].abs().max() == 0


def test_a_run_opens_again_with_its_model_and_refuses_another(done):
    model, atlas, _ = done
    context = reopen(atlas, model)
    assert len(context.store) == 28
    other = network("test_vit" if "vit" in type(model).__name__.lower() else "test_resnet", seed=9)
    with pytest.raises(UserError, match="not the ones of the atlas"):
        reopen(atlas, other)


def test_without_matching_folder_names_the_images_count_as_unlabelled(folder, tmp_path):
    atlas = run(network(), folder, tmp_path / "run")
    assert atlas.images["label_index"].isna().all()
    assert atlas.run["data"]["accuracy"] is None
    assert set(atlas.shortcuts()["grade"]) <= {"C", "D"}


def test_a_map_of_labels_gives_them_classes(folder, tmp_path):
    atlas = run(network(), folder, tmp_path / "run", labels={"left": 2, "right": "class 0"})
    assert set(atlas.images["label_index"]) == {2.0, 0.0}


def test_without_a_folder_the_atlas_lives_in_a_temporary_one(folder):
    atlas = run(network(), folder)
    assert atlas.path.is_dir()
    path = atlas.path
    del atlas
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "mentioned"),
    [
        ({"layer": "layer99"}, "layer99"),
        ({"classes": ["wasp"]}, "wasp"),
        ({"classes": [7]}, "7"),
        ({"class_names": ["one"]}, "1 names"),
        ({"device": "warp"}, "warp"),
        ({"factorizer": "magic"}, "magic"),
        ({"labels": {"left": "wasp"}}, "wasp"),
        ({"engine": "steam"}, "steam"),
        ({"unit": "superpixel"}, "superpixel"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(folder, tmp_path, options, mentioned):
    with pytest.raises(UserError, match=mentioned):
        run(network(), folder, tmp_path / "run", **options)


def test_fault_30_an_empty_folder_is_refused_before_the_model_is_touched(tmp_path):
    with pytest.raises(UserError, match="image"):
        audit("no_such_model", tmp_path, progress=False)


def test_fault_35_an_output_folder_that_cannot_be_made_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="file"):
        run(network(), folder, tmp_path / "file" / "run")


def test_fault_32_a_class_with_a_single_image_is_listed_and_not_fitted(folder, tmp_path):
    atlas = run(network(), folder, tmp_path / "run", min_images=15, classes=None)
    small = atlas.classes[atlas.classes["n_images"] < 15]
    assert not small["fitted"].any()
    assert small["reason"].str.contains("15 are needed").all()


def test_fault_65_the_order_of_the_files_changes_nothing(folder, tmp_path):
    paths = sorted(str(p) for p in folder.rglob("*.png"))
    one, other = (
        run(network(), files, tmp_path / name) for name, files in (("one", paths), ("other", list(reversed(paths))))
    )
    for name in one:
        first = one[name].images.set_index("sample_id")["logit"].sort_index()
        second = other[name].images.set_index("sample_id")["logit"].sort_index()
        pd.testing.assert_series_equal(first, second, check_exact=False, rtol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_concepts_can_be_fitted_on_crops_and_are_measured_on_whole_images(name, folder, tmp_path):
    model = network(name)
    atlas = run(model, folder, tmp_path / "run", unit="crop", n_concepts="auto", class_names=["left", "right", "other"])
    crops = ActivationStore(tmp_path / "run" / "crops")
    assert (atlas.run["unit"], crops.unit, len(crops)) == ("crop", "crop", 28)
    for title in atlas:
        member = atlas[title]
        assert member.bank.provenance["rows"] == member.n_images * len(crops.boxes)
        total = member.contributions.sum(1) + member.residual + member.bias
        np.testing.assert_allclose(total, member.images["logit"], atol=1e-4, rtol=1e-4)


def test_a_run_of_crops_is_not_resumed_as_one_of_positions(folder, tmp_path):
    run(network(), folder, tmp_path / "run", unit="crop")
    with pytest.raises(UserError, match="different unit"):
        run(network(), folder, tmp_path / "run")
