"""Images at addresses, and folders that stand for an address."""

from pathlib import Path

import fsspec
import numpy as np
import pytest

from conceptatlas.extraction import FolderSource, ImageError, SourceError, UserError, as_source
from conceptatlas.extraction.remote import Mirror


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def mirrors(tmp_path, monkeypatch):
    monkeypatch.setenv("CONCEPTATLAS_MIRRORS", str(tmp_path / "mirrors"))
    return tmp_path / "mirrors"


@pytest.fixture
def folder(image_folder):
    root = image_folder(ants=2, bees=1)
    (root / "ants" / "._0.jpg").write_bytes(b"x")
    (root / "bees" / "broken.png").write_bytes(b"")
    (root / "notes.txt").write_text("x")
    return root


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_an_address_gives_what_the_folder_gives(kind, folder, memory):
    if kind == "memory":
        memory.put(str(folder), "/photographs", recursive=True)
    here = FolderSource(folder)
    there = as_source("memory://photographs" if kind == "memory" else f"file://{folder}")
    assert there.ids == here.ids
    assert there.labels == here.labels
    assert np.array_equal(np.asarray(there[0].image), np.asarray(here[0].image))
    for source in (here, there):
        with pytest.raises(ImageError) as caught:
            source[3]
        assert caught.value.cause == "empty"


def test_an_image_that_goes_is_missing(folder, memory):
    memory.put(str(folder), "/photographs", recursive=True)
    source = as_source("memory://photographs")
    memory.rm("/photographs/ants/0.jpg")
    with pytest.raises(ImageError, match="missing"):
        source[0]


def test_an_image_that_cannot_be_fetched_is_one_image(folder, memory, monkeypatch):
    def refuse(path):
        raise ConnectionError("reset by peer")

    memory.put(str(folder), "/photographs", recursive=True)
    source = as_source("memory://photographs")
    monkeypatch.setattr(memory, "cat_file", refuse)
    with pytest.raises(ImageError, match=r"unreadable \(ConnectionError: reset by peer\)"):
        source[0]


@pytest.mark.parametrize(("address", "said"), [("memory://nowhere", "no folder"), ("warp://x", "warp")])
def test_an_address_that_leads_nowhere_is_named(address, said, memory):
    with pytest.raises(UserError, match=said):
        as_source(address)


def test_an_address_without_images_is_refused(memory):
    memory.pipe_file("/empty/notes.txt", b"x")
    with pytest.raises(SourceError, match="no image"):
        as_source("memory://empty")


def test_a_mirror_brings_back_what_it_pushed(memory, mirrors):
    first = Mirror("memory://runs/one")
    (first.path / "tables").mkdir(parents=True)
    (first.path / "tables" / "a").write_bytes(b"a")
    (first.path / "run.json").write_bytes(b"{}")
    (first.path / "lock").write_bytes(b"1")
    first.push()
    assert sorted(memory.find("/runs")) == ["/runs/one/run.json", "/runs/one/tables/a"]
    for path in sorted(mirrors.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    again = Mirror("memory://runs/one").pull(without=("tables",))
    assert [path.name for path in again.iterdir() if not path.name.startswith(".")] == ["run.json"]


def test_a_mirror_moves_only_what_has_changed(memory, monkeypatch):
    mirror = Mirror("memory://runs/one")
    mirror.path.mkdir(parents=True)
    for name in ("a", "b"):
        (mirror.path / name).write_bytes(b"1")
    mirror.push()
    moved = []
    for kind in ("put_file", "get_file"):
        monkeypatch.setattr(
            memory.__class__, kind, lambda self, *paths, k=kind, **o: moved.append((k, Path(paths[1]).name))
        )
    mirror.push()
    mirror.pull()
    assert moved == []
    (mirror.path / "b").write_bytes(b"2")
    mirror.pull()  # what is newer here stays
    mirror.push()
    assert moved == [("put_file", "b")]


def test_a_file_that_leads_out_of_the_mirror_is_refused(memory, monkeypatch):
    memory.pipe_file("/runs/two/x", b"x")
    monkeypatch.setattr(memory.__class__, "find", lambda self, root, **o: [f"{root}/../../../x"])
    with pytest.raises(UserError, match="leads out"):
        Mirror("memory://runs/two").pull()


def test_pictures_at_an_address_are_read_by_several_threads(folder, memory, tiny_split, small_input, tmp_path):
    from conceptatlas.extraction import extract

    memory.put(str(folder), "/photographs", recursive=True)
    options = {"shard_size": 2, "max_error_rate": 0.5, "threads": 3}
    there = extract(tiny_split(), "memory://photographs", small_input, tmp_path / "there", **options)
    here = extract(tiny_split(), folder, small_input, tmp_path / "here", **options)
    assert np.array_equal(there.store.rows()[0], here.store.rows()[0])
