"""Parts of a store, computed apart and merged: the bytes are those of one run."""

from pathlib import Path

import pytest

from conceptatlas.extraction import ActivationStore, RayEngine, StoreError, UserError, extract, merge, parse_shard


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def run(image_folder, tiny_split, small_input, tmp_path):
    root = image_folder(ants=7, bees=6)
    (root / "bees" / "9.jpg").write_bytes(b"no image")

    def extract_into(name, **options):
        options = {"shard_size": 2, "batch_size": 2, "max_error_rate": 0.5, **options}
        return extract(options.pop("split_model", None) or tiny_split(), root, small_input, tmp_path / name, **options)

    return extract_into


@pytest.mark.parametrize("count", [1, 3, 20])
def test_merged_parts_have_the_bytes_of_one_run(count, run, tmp_path):
    run("whole")
    for index in reversed(range(count)):
        run("parts", shard=(index, count))
    store = merge(tmp_path / "parts")
    assert store.complete
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_a_part_holds_its_share_alone(run):
    parts = [run("parts", shard=(index, 3)) for index in range(3)]
    ids = [name for part in parts for name in part.store.sample_ids]
    assert len(ids) == len(set(ids)) == 13
    assert [len(part.skipped) for part in parts] == [0, 0, 1]


def test_a_part_resumes_and_reports_its_own_progress(run, tiny_split):
    run("parts", shard=(1, 3))
    halves, seen = tiny_split(), []
    run("parts", shard=(1, 3), split_model=halves, progress=lambda done, total: seen.append((done, total)))
    assert halves.batches == []
    assert seen == [(4, 4)]


def test_missing_parts_are_named(run, tmp_path):
    run("parts", shard=(0, 3))
    with pytest.raises(StoreError, match=r"5 of 7 shards are missing .*\(2, 3, 4, 5, 6\)"):
        merge(tmp_path / "parts")
    assert (tmp_path / "parts" / "manifest.0-of-3.jsonl").exists()


def test_parts_of_another_model_are_not_merged(run, tiny_split, tmp_path):
    run("parts", shard=(0, 2))
    run("parts", shard=(1, 2), split_model=tiny_split(seed=1))
    with pytest.raises(StoreError, match=r"another run .*weights"):
        merge(tmp_path / "parts")


def test_merging_again_changes_nothing(run, tmp_path):
    for index in range(2):
        run("parts", shard=(index, 2))
    merge(tmp_path / "parts")
    before = bytes_of(tmp_path / "parts")
    merge(tmp_path / "parts")
    assert bytes_of(tmp_path / "parts") == before


def test_nothing_to_merge_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="no parts"):
        merge(tmp_path)


def test_a_whole_run_refuses_parts_that_wait_to_be_merged(run, tmp_path):
    run("parts", shard=(0, 2))
    with pytest.raises(StoreError, match="conceptatlas merge"):
        run("parts")
    assert len(run("parts", resume=False).store) == 13
    assert not list(tmp_path.glob("parts/manifest.*-of-*"))


def test_two_writers_of_one_part_are_refused(run):
    def second():
        with pytest.raises(StoreError, match="being written by"):
            run("parts", shard=(0, 2))

    run("parts", shard=(0, 2), progress=lambda done, total: second() if done == 4 else None)


def test_parts_run_beside_each_other(run, tmp_path):
    run("whole")

    def other(done, total):
        if done == 4:
            run("parts", shard=(1, 2))

    run("parts", shard=(0, 2), progress=other)
    merge(tmp_path / "parts")
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/3", "1/0", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="i/n"):
        parse_shard(text)


def test_unknown_engines_and_absurd_numbers_are_refused(run):
    with pytest.raises(UserError, match="steam"):
        run("s", engine="steam")
    with pytest.raises(UserError, match="workers"):
        RayEngine(workers=0)


def test_without_ray_the_error_says_what_to_install(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"conceptatlas\[ray\]"):
        run("s", engine="ray")


def test_a_finished_store_is_pickled_by_its_path(run):
    import pickle

    store = run("s").store
    copy = pickle.loads(pickle.dumps(store))
    assert isinstance(copy, ActivationStore)
    assert copy.sample_ids == store.sample_ids
    assert len(pickle.dumps(store)) < 1000
