"""The loop of extraction against a bare loop, and what it does when images or the model misbehave."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conceptatlas.extraction import (
    CropSpec,
    DatasetSource,
    FolderSource,
    LayerError,
    SourceError,
    StoreError,
    UserError,
    cut_crops,
    extract,
    split,
)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def bare_loop(halves, source, preprocess):
    images = torch.stack([preprocess(source[index].image) for index in range(len(source))])
    halves.model.eval()
    with torch.inference_mode():
        features = halves.encode(images)
        return features.positions.numpy(), halves.head(features).numpy()


def test_store_holds_what_a_bare_loop_computes(image_folder, tiny_split, small_input, tmp_path):
    source, halves = FolderSource(image_folder(ants=5, bees=4)), tiny_split()
    result = extract(halves, source, small_input, tmp_path / "store", shard_size=4, batch_size=3)
    positions, logits = bare_loop(halves, source, small_input)
    assert np.allclose(result.store.rows()[0].reshape(9, 16, 5), positions, atol=1e-6)
    assert np.allclose(result.store.logits, logits, atol=1e-6)
    assert result.store.sample_ids == source.ids
    assert result.store.labels == source.labels
    assert result.store.grid == (4, 4)
    assert (result.skipped, result.n_seen) == ([], 9)


def test_shards_hold_a_fixed_number_of_samples(image_folder, tiny_split, small_input, tmp_path):
    extract(tiny_split(), image_folder(ants=9), small_input, tmp_path / "s", shard_size=4)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "manifest.jsonl",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
        "shard-00002.safetensors",
    ]


def test_second_run_gives_the_same_bytes(image_folder, tiny_split, small_input, tmp_path):
    root = image_folder(ants=7)
    for name in ("a", "b"):
        extract(tiny_split(), root, small_input, tmp_path / name, shard_size=3, threads=3)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_finished_store_is_not_computed_again(image_folder, tiny_split, small_input, tmp_path):
    root = image_folder(ants=5)
    extract(tiny_split(), root, small_input, tmp_path / "s")
    before, again = bytes_of(tmp_path / "s"), tiny_split()
    assert len(extract(again, root, small_input, tmp_path / "s").store) == 5
    assert again.batches == []
    assert bytes_of(tmp_path / "s") == before


def test_only_missing_shards_are_computed(image_folder, tiny_split, small_input, tmp_path):
    root = image_folder(ants=9)
    extract(tiny_split(), root, small_input, tmp_path / "s", shard_size=3)
    before = bytes_of(tmp_path / "s")
    (tmp_path / "s" / "shard-00001.safetensors").unlink()
    again = tiny_split()
    extract(again, root, small_input, tmp_path / "s", shard_size=3)
    assert again.batches == [3]
    assert bytes_of(tmp_path / "s") == before


def test_progress_counts_images_and_starts_where_the_store_is(image_folder, tiny_split, small_input, tmp_path):
    root, calls = image_folder(ants=5), []
    options = {"shard_size": 2, "batch_size": 2, "progress": lambda done, total: calls.append((done, total))}
    extract(tiny_split(), root, small_input, tmp_path / "s", **options)
    assert calls == [(0, 5), (2, 5), (4, 5), (5, 5)]
    calls.clear()
    extract(tiny_split(), root, small_input, tmp_path / "s", **options)
    assert calls == [(5, 5)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3)])
def test_precision_on_disk(image_folder, tiny_split, small_input, tmp_path, dtype, tolerance):
    source, halves = FolderSource(image_folder(ants=3)), tiny_split()
    result = extract(halves, source, small_input, tmp_path / "s", dtype=dtype)
    positions, _ = bare_loop(halves, source, small_input)
    assert np.allclose(result.store.rows()[0], positions.reshape(-1, 5), rtol=tolerance, atol=tolerance)


class TestCrops:
    def test_rows_are_the_mean_activations_of_resized_crops(self, image_folder, tiny_split, small_input, tmp_path):
        source, halves, spec = FolderSource(image_folder(ants=3)), tiny_split(), CropSpec(16, 0.0)
        store = extract(halves, source, small_input, tmp_path / "s", crops=spec).store
        assert (store.grid, store.unit, len(store)) == ((2, 2), "crop", 3)
        assert store.boxes.tolist() == [[0, 0, 16, 16], [16, 0, 32, 16], [0, 16, 16, 32], [16, 16, 32, 32]]
        halves.model.eval()
        images = torch.stack([small_input(source[index].image) for index in range(3)])
        crops = cut_crops(images, spec.boxes((32, 32))[1], size=(32, 32))
        with torch.inference_mode():
            expected = halves.encode(crops).positions.mean(dim=1)
            assert np.allclose(store.rows()[0], expected, atol=1e-6)
            assert np.allclose(store.logits, halves.head(halves.encode(images)), atol=1e-6)

    def test_native_crops_keep_their_size(self, image_folder, tiny_split, small_input, tmp_path):
        source, halves = FolderSource(image_folder(ants=1)), tiny_split()
        spec = CropSpec(16, 0.0, native=True)
        store = extract(halves, source, small_input, tmp_path / "s", crops=spec).store
        halves.model.eval()
        with torch.inference_mode():
            part = halves.encode(small_input(source[0].image)[None, :, :16, 16:])
            assert np.allclose(store.features([0]).positions[0, 1], part.positions[0].mean(dim=0), atol=1e-6)

    def test_native_crops_of_a_real_split(self, image_folder, small_input, tmp_path):
        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(3, 4, 8, 8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(4, 2)).eval()
        source = FolderSource(image_folder(ants=2))
        spec = CropSpec(16, 0.0, native=True)
        store = extract(split(model, "1", input_size=(32, 32)), source, small_input, tmp_path / "s", crops=spec).store
        with torch.inference_mode():
            part = model[:2](small_input(source[1].image)[None, :, 16:, :16])
        assert np.allclose(store.features([1]).positions[0, 2], part.mean(dim=(2, 3))[0], atol=1e-6)


class TestErrors:
    @pytest.mark.parametrize(
        "options",
        [{"on_error": "x"}, {"max_error_rate": 2}, {"dtype": "int8"}, {"batch_size": 0}, {"precision": "int4"}],
    )
    def test_argument_out_of_range_is_named(self, options, image_folder, tiny_split, small_input, tmp_path):
        with pytest.raises(UserError, match=next(iter(options))):
            extract(tiny_split(), image_folder(ants=1), small_input, tmp_path / "s", **options)
        assert not (tmp_path / "s").exists()

    def broken(self, image_folder, good, bad):
        root = image_folder(ants=good)
        for number in range(bad):
            (root / "ants" / f"broken{number}.jpg").write_bytes(b"")
        return root

    def test_broken_image_is_skipped_recorded_and_logged_once(
        self, image_folder, tiny_split, small_input, tmp_path, caplog
    ):
        root = self.broken(image_folder, 8, 2)
        result = extract(tiny_split(), root, small_input, tmp_path / "s", max_error_rate=0.2, shard_size=3)
        assert [entry.sample_id for entry in result.skipped] == ["ants/broken0.jpg", "ants/broken1.jpg"]
        entry = result.skipped[0]
        assert (entry.cause, entry.stage) == ("empty", "decode")
        assert entry.path == str(root / "ants" / "broken0.jpg")
        assert len(result.store) == 8
        assert result.n_seen == 10
        assert caplog.text.count("skipping") == 1

    def test_skipped_images_are_remembered_by_the_store(self, image_folder, tiny_split, small_input, tmp_path, caplog):
        root = self.broken(image_folder, 3, 1)
        first = extract(tiny_split(), root, small_input, tmp_path / "s", on_error="skip").skipped
        assert extract(tiny_split(), root, small_input, tmp_path / "s").skipped == first
        assert not caplog.records

    def test_raise_ends_the_run_with_the_path(self, image_folder, tiny_split, small_input, tmp_path):
        root = self.broken(image_folder, 3, 1)
        with pytest.raises(SourceError, match=r"broken0\.jpg.*empty"):
            extract(tiny_split(), root, small_input, tmp_path / "s", on_error="raise")

    def test_too_many_failures_end_the_run(self, image_folder, tiny_split, small_input, tmp_path):
        root = self.broken(image_folder, 8, 2)
        with pytest.raises(SourceError, match=r"too many.*2 x empty of 10.*max_error_rate above 0.05"):
            extract(tiny_split(), root, small_input, tmp_path / "s")

    def test_no_usable_image_leaves_nothing_behind(self, image_folder, tiny_split, small_input, tmp_path):
        root = self.broken(image_folder, 0, 1)
        with pytest.raises(SourceError, match="none of the 1 images"):
            extract(tiny_split(), root, small_input, tmp_path / "s", max_error_rate=1.0)
        assert not (tmp_path / "s").exists()

    def test_function_that_fails_on_an_image_skips_it(self, image_folder, tiny_split, small_input, tmp_path):
        root = image_folder(ants=5)

        def function(image, calls=[]):  # noqa: B006 - counts over calls
            calls.append(1)
            if len(calls) == 5:
                raise RuntimeError("odd image")
            return small_input(image)

        result = extract(tiny_split(), root, function, tmp_path / "s", threads=1)
        assert [(entry.stage, entry.error) for entry in result.skipped] == [("preprocess", "RuntimeError: odd image")]
        assert len(result.store) == 4

    def test_images_of_different_sizes_are_refused(self, image_folder, picture, tiny_split, tmp_path):
        root = image_folder(ants=1)
        picture(64, 64).save(root / "ants" / "z.png")

        def function(image):
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()

        with pytest.raises(SourceError, match="different sizes"):
            extract(tiny_split(), root, function, tmp_path / "s")


def test_ids_that_are_not_unique_are_refused(image_folder, tiny_split, small_input, tmp_path):
    source = FolderSource(image_folder(ants=3))
    source.ids[2] = source.ids[1]
    with pytest.raises(SourceError, match=r"2 images have the id 'ants/1\.jpg'"):
        extract(tiny_split(), source, small_input, tmp_path / "s")


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_autocast_is_near_and_recorded(precision, image_folder, tiny_split, small_input, tmp_path):
    root = image_folder(ants=3)
    exact = extract(tiny_split(), root, small_input, tmp_path / "exact").store
    store = extract(tiny_split(), root, small_input, tmp_path / "s", precision=precision).store
    assert store.header["precision"] == precision
    assert np.allclose(store.rows()[0], exact.rows()[0], atol=0.05)
    assert np.array_equal(store.rows()[0], exact.rows()[0]) == (precision == "float32")


def test_changed_images_are_refused(image_folder, tiny_split, small_input, tmp_path):
    root = image_folder(ants=3)
    extract(tiny_split(), root, small_input, tmp_path / "s")
    (root / "ants" / "0.jpg").rename(root / "ants" / "new.jpg")
    with pytest.raises(StoreError, match=r"have changed.*'ants/0\.jpg'"):
        extract(tiny_split(), root, small_input, tmp_path / "s")
    assert len(extract(tiny_split(), root, small_input, tmp_path / "s", resume=False).store) == 3


@pytest.mark.parametrize("change", ["weights", "layer", "transform", "dtype"])
def test_store_of_another_run_is_refused(change, image_folder, tiny_split, small_input, tmp_path):
    root, halves, options = image_folder(ants=2), tiny_split(), {}
    extract(halves, root, small_input, tmp_path / "s")
    if change == "weights":
        halves = tiny_split(seed=1)
    elif change == "layer":
        halves.layer = type("Other", (), {"name": "other", "layout": "NCHW"})
    elif change == "transform":
        small_input = type(small_input)((32, 32), 0.9, "bilinear")
    else:
        options["dtype"] = "float16"
    with pytest.raises(StoreError, match=f"its {change} is"):
        extract(halves, root, small_input, tmp_path / "s", **options)


def test_dataset_is_extracted_and_resumed(picture, tiny_split, small_input, tmp_path):
    dataset = [(picture(40, 40, seed=seed), seed % 2) for seed in range(5)]
    result = extract(tiny_split(), DatasetSource(dataset), small_input, tmp_path / "s", shard_size=2)
    assert result.store.labels == [0, 1, 0, 1, 0]
    again = tiny_split()
    extract(again, DatasetSource(dataset), small_input, tmp_path / "s", shard_size=2)
    assert again.batches == []
    with pytest.raises(StoreError, match="have changed"):
        extract(again, DatasetSource(dataset[::-1]), small_input, tmp_path / "s", shard_size=2)


def test_dead_shard_after_a_living_one_is_kept(image_folder, tiny_split, small_input, tmp_path, monkeypatch):
    halves = tiny_split()
    encode, calls = halves.encode, []

    def dying(images):
        calls.append(1)
        features = encode(images)
        return features if len(calls) == 1 else features.replace(positions=features.positions * 0)

    monkeypatch.setattr(halves, "encode", dying)
    result = extract(halves, image_folder(ants=4), small_input, tmp_path / "s", shard_size=2)
    assert len(result.store) == 4


def test_layer_without_one_row_per_image_is_refused(image_folder, tiny_split, small_input, tmp_path, monkeypatch):
    halves = tiny_split()
    encode = halves.encode
    monkeypatch.setattr(
        halves, "encode", lambda images: encode(images).replace(positions=encode(images).positions.flatten(0, 1)[None])
    )
    with pytest.raises(LayerError, match="one row per image"):
        extract(halves, image_folder(ants=3), small_input, tmp_path / "s")


@pytest.mark.parametrize(("name", "layer"), [("test_resnet", "auto"), ("test_vit", "blocks.1")])
def test_real_split_gives_the_models_own_logits(name, layer, image_folder, tmp_path):
    from conceptatlas.extraction import Preprocess, load_model

    torch.manual_seed(0)
    model = load_model(name, pretrained=False, num_classes=4)
    source = FolderSource(image_folder(ants=3))
    result = extract(split(model, layer), source, None, tmp_path / "s")
    preprocess = Preprocess.for_model(model)
    with torch.inference_mode():
        expected = model(torch.stack([preprocess(source[index].image) for index in range(3)]))
    assert np.allclose(result.store.logits, expected, rtol=1e-4, atol=1e-5)


def test_warning_is_logged_by_the_package(image_folder, tiny_split, small_input, tmp_path, caplog):
    root = image_folder(ants=3)
    (root / "ants" / "x.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="conceptatlas"):
        extract(tiny_split(), root, small_input, tmp_path / "s")
    assert {record.name.split(".")[0] for record in caplog.records} == {"conceptatlas"}


REPOSITORY = Path(__file__).parents[2]
PEAK = """
import sys
from pathlib import Path

import torch

from conceptatlas.extraction import Preprocess, extract, load_model, split

torch.set_num_threads(1)
halves = split(load_model("test_resnet", pretrained=False, num_classes=4), "layer1", input_size=(64, 64))
half = (0.5, 0.5, 0.5)
result = extract(halves, sys.argv[1], Preprocess((64, 64), 1.0, "bilinear", half, half), sys.argv[2])
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(peak, result.store.n_features * result.store.grid[0] ** 2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
def test_peak_memory_does_not_grow_with_the_number_of_images(image_folder, tmp_path):
    peaks = []
    for count in (200, 2000):
        root = image_folder(tmp_path / f"images{count}", ants=count)
        command = [sys.executable, "-c", PEAK, str(root), str(tmp_path / f"store{count}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=300)
        peak, numbers = (int(part) for part in done.stdout.split())
        peaks.append(peak)
    assert numbers * 2000 * 4 / 1024 > 40_000  # in kB: what is written would be seen
    assert peaks[1] - peaks[0] < 20_000
