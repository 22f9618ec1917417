"""Reading a store: by row, by sample and by block, against the arrays that were written."""

import json

import numpy as np
import pytest

from conceptatlas.extraction import ActivationStore, StoreError, has_store
from conceptatlas.extraction.manifest import line_of
from conceptatlas.extraction.writer import StoreWriter

IDENTITY = {"model": "m", "layer": "l", "dtype": "float32", "unit": "position", "crops": None, "n_samples": 8}
SHAPES = {"grid": [2, 3], "n_features": 4, "prefix_tokens": 2, "n_classes": 5, "view": [20, 30]}
SIZES = [3, 0, 3, 1]


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    n = sum(SIZES)
    return {
        "positions": rng.normal(size=(n, 6, 4)).astype(np.float32),
        "prefix": rng.normal(size=(n, 2, 4)).astype(np.float32),
        "logits": rng.normal(size=(n, 5)).astype(np.float32),
    }


@pytest.fixture
def store(arrays, tmp_path):
    """Return a store of four shards, the second of which is empty."""
    return ActivationStore(write(tmp_path / "store", arrays))


def write(folder, arrays, *, stop=4, identity=IDENTITY, **options):
    starts = np.cumsum([0, *SIZES])
    with StoreWriter(folder, identity, **options) as writer:
        for index in range(stop):
            part = slice(starts[index], starts[index + 1])
            tensors = {name: values[part] for name, values in arrays.items()}
            names = [f"s{number}" for number in range(part.start, part.stop)]
            if names:
                writer.begin(SHAPES)
            writer.write(index, (2 * index, 2 * index + 2), tensors, sample_ids=names, labels=[None] * len(names))
    return folder


def test_sizes_and_names(store):
    assert len(store) == 7
    assert store.sample_ids == [f"s{number}" for number in range(7)]
    assert (store.grid, store.n_features, store.n_classes, store.unit) == ((2, 3), 4, 5, "position")
    assert store.complete
    assert "7 samples at 'l'" in repr(store)


def test_logits_are_all_there_in_order(store, arrays):
    assert np.array_equal(store.logits, arrays["logits"])


def test_features_come_in_the_order_asked_for(store, arrays):
    features = store.features([6, 0, 4, 4])
    assert np.array_equal(features.positions, arrays["positions"][[6, 0, 4, 4]])
    assert np.array_equal(features.prefix, arrays["prefix"][[6, 0, 4, 4]])
    assert features.grid == (2, 3)


def test_features_of_no_sample_are_empty(store):
    assert store.features([]).positions.shape == (0, 6, 4)


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_blocks_pass_over_everything_once(store, arrays, batch):
    blocks = list(store.blocks(batch))
    assert max(len(indices) for indices, _ in blocks) <= batch
    assert np.array_equal(np.concatenate([indices for indices, _ in blocks]), np.arange(7))
    for name in ("positions", "prefix"):
        assert np.array_equal(np.concatenate([getattr(block, name) for _, block in blocks]), arrays[name])


class TestRows:
    def test_all_rows_in_order_of_sample_and_position(self, store, arrays):
        rows, samples, positions = store.rows()
        assert np.array_equal(rows, arrays["positions"].reshape(-1, 4))
        assert np.array_equal(samples, np.repeat(np.arange(7), 6))
        assert np.array_equal(positions, np.tile(np.arange(6), 7))

    def test_rows_of_some_samples(self, store, arrays):
        rows, samples, _ = store.rows([5, 1])
        assert np.array_equal(rows, arrays["positions"][[1, 5]].reshape(-1, 4))
        assert set(samples) == {1, 5}

    def test_drawn_rows_are_where_they_say(self, store, arrays):
        rows, samples, positions = store.rows([0, 2, 5, 6], max_rows=9, seed=3)
        assert rows.shape == (9, 4)
        assert np.array_equal(rows, arrays["positions"][samples, positions])
        assert len(set(zip(samples, positions, strict=True))) == 9
        assert set(samples) <= {0, 2, 5, 6}

    def test_draw_depends_on_the_seed_alone(self, store):
        draws = [store.rows(max_rows=9, seed=seed)[0] for seed in (3, 3, 4)]
        assert np.array_equal(draws[0], draws[1])
        assert not np.array_equal(draws[0], draws[2])

    def test_every_row_is_drawn_alike(self, store):
        counts = np.zeros(42)
        for seed in range(400):
            _, samples, positions = store.rows(max_rows=6, seed=seed)
            counts[samples * 6 + positions] += 1
        assert 30 < counts.min() < counts.max() < 90  # 57 expected, deviation 7

    def test_sample_that_is_not_there_is_an_error(self, store):
        with pytest.raises(StoreError, match="samples 0 to 6"):
            store.rows([7])
        with pytest.raises(StoreError, match="samples 0 to 6"):
            store.features([-1])


def test_half_precision_store_is_read_as_float32(arrays, tmp_path):
    halves = {name: values.astype(np.float16) for name, values in arrays.items()} | {"logits": arrays["logits"]}
    store = ActivationStore(write(tmp_path / "half", halves, identity={**IDENTITY, "dtype": "float16"}))
    assert store.rows()[0].dtype == np.float32
    assert store.features([0]).positions.numpy().dtype == np.float32
    assert np.array_equal(store.rows()[0], halves["positions"].reshape(-1, 4).astype(np.float32))


def test_boxes_of_positions_lie_in_the_view(store):
    assert store.boxes.tolist()[5] == [20, 10, 30, 20]


def test_boxes_of_crops_lie_where_the_crops_were(arrays, tmp_path):
    identity = {**IDENTITY, "unit": "crop", "crops": {"size": 10, "overlap": 0.0, "native": False}}
    store = ActivationStore(write(tmp_path / "crops", arrays, identity=identity))
    assert store.boxes.tolist()[5] == [20, 10, 30, 20]


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        ({"size": 10, "overlap": 0.5}, r"crops on a grid of \(3, 5\), and activations on one of \(2, 3\)"),
        ({"size": 1, "overlap": 0.0}, r"crops on a grid of \(20, 30\)"),
        ({"size": "ten"}, "holds no crops"),
        ({"side": 10}, "holds no crops"),
        ({"size": float("nan")}, "holds no crops"),
    ],
    ids=["other grid", "one for every pixel", "no number", "unknown", "nan"],
)
def test_crops_that_contradict_the_activations_are_an_error(crops, message, arrays, tmp_path):
    store = ActivationStore(write(tmp_path / "crops", arrays, identity={**IDENTITY, "unit": "crop", "crops": crops}))
    with pytest.raises(StoreError, match=message):
        store.boxes  # noqa: B018 - reading it must fail


def change(folder, line, **fields):
    """Change fields of one record of a manifest, with its checksum."""
    path = folder / "manifest.jsonl"
    records = [json.loads(text)["record"] for text in path.read_bytes().splitlines()]
    records[line] |= fields
    path.write_bytes(b"".join(map(line_of, records)))


@pytest.mark.parametrize("name", ["grid", "view"])
def test_sizes_that_no_model_has_are_an_error(name, arrays, tmp_path):
    folder = write(tmp_path / "store", arrays)
    change(folder, 1, **{name: [2**20, 2**20]})
    with pytest.raises(StoreError, match=f"no usable {name}"):
        ActivationStore(folder)


@pytest.mark.parametrize("shape", [{"grid": [2000, 3000]}, {"n_features": 2**31}, {"n_classes": 2**31}])
def test_shapes_beyond_the_files_take_no_memory(shape, arrays, tmp_path):
    folder = write(tmp_path / "store", arrays)
    change(folder, 1, **shape)
    with pytest.raises(StoreError, match="do not fit the size of 'shard-00000"):
        ActivationStore(folder)


@pytest.mark.parametrize("read", [lambda s: s.rows(max_rows=3), lambda s: s.features([0]), lambda s: s.logits_of([0])])
def test_forged_sizes_take_no_memory(read, arrays, tmp_path):
    folder = write(tmp_path / "store", arrays)
    change(folder, 1, n_features=2**31, n_classes=2**31)
    for line in (2, 4, 5):
        change(folder, line, size=2**45)
    with pytest.raises(StoreError, match="damaged or missing"):
        read(ActivationStore(folder))


def test_shard_of_more_than_two_gigabytes_is_a_shard(arrays, tmp_path):
    folder = write(tmp_path / "store", arrays)
    change(folder, 2, size=5 * 2**30)
    assert ActivationStore(folder).shards[0].size == 5 * 2**30


def test_sound_store_verifies(store):
    assert store.verify() == []


def test_unfinished_store_says_so(arrays, tmp_path):
    store = ActivationStore(write(tmp_path / "part", arrays, stop=2))
    assert not store.complete
    assert len(store) == 3


def test_two_writers_of_the_same_arrays_give_the_same_bytes(arrays, tmp_path):
    one, other = (write(tmp_path / name, arrays) for name in ("a", "b"))
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_interrupted_and_resumed_store_has_the_same_bytes(arrays, tmp_path):
    whole, parts = write(tmp_path / "whole", arrays), tmp_path / "parts"
    for stop in range(1, len(SIZES) + 1):
        write(parts, arrays, stop=stop)
    assert all((parts / path.name).read_bytes() == path.read_bytes() for path in whole.iterdir())


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_torn_tail_of_the_manifest_costs_one_record(arrays, tmp_path, cut):
    folder = write(tmp_path / "store", arrays)
    whole = (folder / "manifest.jsonl").read_bytes()
    (folder / "manifest.jsonl").write_bytes(whole[:-cut])
    assert len(ActivationStore(folder)) == 6
    write(folder, arrays)
    assert (folder / "manifest.jsonl").read_bytes() == whole


def test_damage_inside_the_manifest_is_an_error(arrays, tmp_path):
    folder = write(tmp_path / "store", arrays)
    data = (folder / "manifest.jsonl").read_bytes()
    (folder / "manifest.jsonl").write_bytes(data.replace(b'"s1"', b'"s9"'))
    with pytest.raises(StoreError, match="damaged at byte"):
        ActivationStore(folder)


def test_other_schema_is_refused(arrays, tmp_path):
    folder = write(tmp_path / "store", arrays)
    (folder / "manifest.jsonl").write_bytes(line_of({"kind": "header", "schema": 99}))
    with pytest.raises(StoreError, match="schema 99"):
        ActivationStore(folder)


def test_other_run_is_refused_by_what_differs(arrays, tmp_path):
    folder = write(tmp_path / "store", arrays)
    with pytest.raises(StoreError, match="its layer is 'l', not 'other'"):
        write(folder, arrays, identity={**IDENTITY, "layer": "other"})


def test_without_resume_another_run_takes_the_place(arrays, tmp_path):
    folder = write(tmp_path / "store", arrays)
    write(folder, arrays, stop=1, identity={**IDENTITY, "layer": "other"}, resume=False)
    store = ActivationStore(folder)
    assert len(store) == 3
    assert store.header["layer"] == "other"
    assert not (folder / "shard-00002.safetensors").exists()


def test_every_line_is_json_with_a_checksum(arrays, tmp_path):
    folder = write(tmp_path / "store", arrays)
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["record"]["kind"] for line in lines]
    assert kinds == ["header", "shapes", "shard", "shard", "shard", "shard"]


def test_store_is_told_from_an_empty_folder(store, tmp_path):
    assert has_store(store.path)
    assert not has_store(tmp_path)
