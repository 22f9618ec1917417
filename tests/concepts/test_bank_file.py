"""The bank on disk: what is written reads back, a torn or changed folder is refused, a kill leaves a whole bank."""

import json
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conceptatlas.concepts import bank_file
from conceptatlas.concepts.bank import ConceptBank
from conceptatlas.concepts.names import Name
from conceptatlas.concepts.records import ConceptRecord
from conceptatlas.concepts.tree import ConceptNode, ConceptTree
from conceptatlas.extraction.errors import UserError


@pytest.fixture
def bank():
    name = Name(("red", "stripes"), "weak", score=0.2, margin=math.nan, candidates=(("red", 0.2),), reason="held-out")
    records = (ConceptRecord(0, name=name, quality={"hoyer": math.nan}), ConceptRecord(4, note='"ünï', parent=0))
    provenance = {"seed": np.int64(3), "path": Path("a"), "curve": np.ones(2)}
    bank = ConceptBank(np.eye(2, 5), "blocks.8", "a/b", 7, records, provenance, embeddings=np.ones((2, 3)))
    return bank.tag(4, "core")


def _document(folder):
    return json.loads((folder / "bank.json").read_text())


def _rewrite(folder, change):
    document = _document(folder)
    change(document)
    (folder / "bank.json").write_text(json.dumps(document))


def test_a_saved_bank_reads_back_equal(bank, tmp_path):
    loaded = ConceptBank.load(bank.save(tmp_path / "deep" / "bank"))
    assert loaded == bank
    assert loaded.record(0).name.words == ("red", "stripes")
    assert math.isnan(loaded.record(0).name.margin)
    assert math.isnan(loaded.record(0).quality["hoyer"])
    assert loaded.history == bank.history
    assert loaded.provenance == {"seed": 3, "path": "a", "curve": [1.0, 1.0]}


def test_a_tree_with_to_dict_is_kept_as_its_dict(bank, tmp_path):
    class Tree:
        def to_dict(self):
            return {"children": [1, 2]}

    assert ConceptBank.load(replace(bank, tree=Tree()).save(tmp_path)).tree == {"children": [1, 2]}


def test_a_tree_of_concepts_reads_back_as_one(bank, tmp_path):
    tree = ConceptTree((ConceptNode(0, None, 0, 0, "late", (1.0,), 0.5, 80, 20),), ("late", "early"))
    assert ConceptBank.load(replace(bank, tree=tree).save(tmp_path)).tree == tree


def test_saving_over_an_older_bank_leaves_no_stale_file(bank, tmp_path):
    bank.save(tmp_path)
    newer = bank.drop(4)
    newer.save(tmp_path)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]
    assert ConceptBank.load(tmp_path) == newer


def test_nothing_on_disk_is_a_pickle(bank, tmp_path):
    for file in bank.save(tmp_path).iterdir():
        with pytest.raises((pickle.UnpicklingError, ValueError, KeyError, EOFError, IndexError, UnicodeDecodeError)):
            pickle.loads(file.read_bytes())


def test_a_kill_before_the_json_is_in_place_leaves_the_old_bank(bank, tmp_path, monkeypatch):
    bank.save(tmp_path)
    real = Path.replace

    def killed(self, target):
        if Path(target).name == "bank.json":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        bank.drop(4).save(tmp_path)
    assert ConceptBank.load(tmp_path) == bank
    assert not list(tmp_path.glob(".*"))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="no concept bank in"):
        ConceptBank.load(tmp_path / "none")


@pytest.mark.parametrize("keep", [0, 1, 40])
def test_a_torn_json_is_refused(bank, tmp_path, keep):
    file = bank.save(tmp_path) / "bank.json"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match="torn"):
        ConceptBank.load(tmp_path)


def test_a_json_of_another_kind_is_refused(tmp_path):
    (tmp_path / "bank.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="no schema version"):
        ConceptBank.load(tmp_path)


def test_a_newer_schema_says_to_update(bank, tmp_path):
    bank.save(tmp_path)
    _rewrite(tmp_path, lambda d: d.update(schema=bank_file.SCHEMA + 1))
    with pytest.raises(UserError, match="update conceptatlas"):
        ConceptBank.load(tmp_path)


def test_a_json_edited_by_hand_is_refused(bank, tmp_path):
    bank.save(tmp_path)
    _rewrite(tmp_path, lambda d: d["bank"]["concepts"][0].update(title="changed"))
    with pytest.raises(UserError, match="changed or torn"):
        ConceptBank.load(tmp_path)


def test_fault_55_a_torn_tensor_file_is_refused(bank, tmp_path):
    file = next(bank.save(tmp_path).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match="checksum"):
        ConceptBank.load(tmp_path)


def test_fault_59_a_flipped_byte_is_refused(bank, tmp_path):
    file = next(bank.save(tmp_path).glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match="checksum"):
        ConceptBank.load(tmp_path)


def test_a_tensor_file_that_is_gone_is_named(bank, tmp_path):
    file = next(bank.save(tmp_path).glob("*.safetensors"))
    file.unlink()
    with pytest.raises(UserError, match=file.name):
        ConceptBank.load(tmp_path)


@pytest.mark.parametrize("name", ["../directions-x.safetensors", "/etc/passwd", "sub/directions-x", 3, None])
def test_fault_56_a_path_out_of_the_folder_is_refused(bank, tmp_path, name):
    bank.save(tmp_path)
    _rewrite(tmp_path, lambda d: d.update(tensors=name))
    with pytest.raises(UserError, match="not a file of its own"):
        ConceptBank.load(tmp_path)


def test_a_bank_that_lacks_a_part_is_refused(bank, tmp_path):
    values = bank.to_dict()
    del values["concepts"]
    bank_file.write_folder(tmp_path, values, {"directions": bank.directions.copy()})
    with pytest.raises(UserError, match="lacks something"):
        ConceptBank.load(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_fault_35_a_folder_that_cannot_be_written_is_named(bank, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        bank.save(tmp_path / "bank")


def test_fault_35_a_file_in_place_of_the_folder_is_named(bank, tmp_path):
    (tmp_path / "bank").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        bank.save(tmp_path / "bank")


def test_the_hub_may_be_a_local_folder(bank, tmp_path):
    assert bank.push_to_hub(str(tmp_path / "hub")) == str(tmp_path / "hub")
    assert ConceptBank.from_hub(str(tmp_path / "hub")) == bank
    assert ConceptBank.from_hub(tmp_path / "hub") == bank


def test_push_uploads_a_folder_that_reads_back(bank, tmp_path, monkeypatch):
    import huggingface_hub

    calls = {}

    class Api:
        def __init__(self, token):
            calls["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            calls["repo"] = (repo_id, private, exist_ok)

        def upload_folder(self, repo_id, folder_path, revision, commit_message, delete_patterns):
            calls["bank"] = ConceptBank.load(folder_path)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert bank.push_to_hub("me/bank", private=True, token="t") == "https://hub/me/bank"
    assert calls == {"token": "t", "repo": ("me/bank", True, True), "bank": bank}


def test_pull_reads_the_snapshot(bank, tmp_path, monkeypatch):
    import huggingface_hub

    bank.save(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **options: str(tmp_path))
    assert ConceptBank.from_hub("me/bank", revision="main") == bank


def test_no_network_says_to_use_a_folder(bank, monkeypatch):
    import huggingface_hub

    def offline(*args, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", offline)
    with pytest.raises(UserError, match="could not be fetched .*no route.* path of a folder"):
        ConceptBank.from_hub("me/bank")
    with pytest.raises(UserError, match="could not be uploaded"):
        bank.push_to_hub("me/bank")
