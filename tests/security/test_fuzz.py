"""Readers of files from elsewhere, given damaged and invented ones: they read, or say what is wrong, and nothing else.

Each test goes on for its share of ``CONCEPTATLAS_FUZZ_SECONDS`` (60 by default).
"""

import io
import json
import os
import time
import warnings
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from conceptatlas.audit import Atlas, ClassAtlas, storage
from conceptatlas.concepts import ConceptBank, ConceptRecord
from conceptatlas.extraction import ActivationStore, ImageError, UserError, merge, read_checkpoint
from conceptatlas.extraction.decode import decode_image
from conceptatlas.extraction.manifest import MANIFEST, line_of
from conceptatlas.extraction.writer import StoreWriter

pytestmark = pytest.mark.slow

N_TESTS = 9
SECONDS = float(os.environ.get("CONCEPTATLAS_FUZZ_SECONDS", "60")) / N_TESTS

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
paths = st.sampled_from(
    ["../../x", "/etc/passwd", "..", ".", "", "a/../../b", "C:\\x", "\x00", "shard-00000.safetensors"]
)
values = st.recursive(
    scalars | paths, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
damage = st.lists(
    st.tuples(st.integers(0, 2**16), st.sampled_from(["flip", "cut", "insert", "drop"]), st.binary(max_size=9)),
    min_size=1,
    max_size=4,
)


def damaged(data, edits):
    """Return bytes with flips, insertions and cuts."""
    out = bytearray(data)
    for place, kind, more in edits:
        at = place % (len(out) + 1)
        if kind == "cut":
            del out[at:]
        elif kind == "insert":
            out[at:at] = more
        elif kind == "drop":
            del out[at : at + len(more)]
        else:
            out[at : at + len(more)] = more
    return bytes(out)


@st.composite
def changed(draw, document):
    """Draw a document of JSON in which some values, at any depth, are others, or missing."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        node = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = node[key]
            if isinstance(inner, (dict, list)) and inner and draw(st.booleans()):
                node = inner
                continue
            if draw(st.integers(0, 3)) == 0:
                del node[key]
            else:
                node[key] = draw(values)
            break
    return document


def hammer(strategy, check, *, errors):
    """Call `check` on what `strategy` draws until the time is up; only `errors` may come out of it."""

    def attempt(drawn):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                check(drawn)
        except errors as error:
            if not str(error).strip():
                raise AssertionError("an error that says nothing") from error

    end = time.monotonic() + SECONDS
    for number in count():
        if time.monotonic() > end:
            return
        quiet = settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        seed(number)(quiet(given(strategy)(attempt)))()


def picture(kind):
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    if kind == "PNG16":
        Image.fromarray(rng.integers(0, 65535, (9, 7)).astype(np.uint16)).save(stream, "PNG")
    else:
        image = Image.fromarray(rng.integers(0, 255, (24, 18, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6
        image.convert("P" if kind == "GIF" else "RGB").save(stream, kind, exif=exif)
    return stream.getvalue()


PICTURES = [picture(kind) for kind in ("JPEG", "PNG", "PNG16", "GIF", "TIFF", "WEBP", "BMP")]


def test_damaged_images_are_read_or_refused():
    drawn = st.tuples(st.sampled_from(PICTURES), damage).map(lambda pair: damaged(*pair)) | st.binary(max_size=200)

    def check(data):
        image = decode_image(data, name="x")
        assert image.mode == "RGB"
        assert image.size[0] * image.size[1] <= 200_000_000

    hammer(drawn, check, errors=ImageError)


@pytest.fixture
def store_folder(tmp_path):
    identity = {
        "model": "m", "weights": "w", "layer": "l", "dtype": "float32", "unit": "position", "crops": None,
        "n_samples": 4, "shard_size": 2,
    }  # fmt: skip
    shapes = {"grid": [2, 2], "n_features": 3, "prefix_tokens": 1, "n_classes": 2, "view": [8, 8]}
    with StoreWriter(tmp_path / "store", identity) as writer:
        writer.begin(shapes)
        for index in range(2):
            tensors = {
                "positions": np.ones((2, 4, 3), np.float32),
                "logits": np.ones((2, 2), np.float32),
                "prefix": np.ones((2, 1, 3), np.float32),
            }
            names = [f"{index}-{i}" for i in range(2)]
            writer.write(index, (2 * index, 2 * index + 2), tensors, sample_ids=names, labels=["a", None])
    return tmp_path / "store"


def use_store(folder):
    store = ActivationStore(folder)
    assert store.verify() == store.verify()
    store.rows(max_rows=3)
    store.features([0])
    assert len(store.logits) == len(store)
    list(store.blocks())
    assert len(store.boxes) == store.grid[0] * store.grid[1]
    store.complete  # noqa: B018 - it must not fail
    repr(store)


def test_damaged_manifests_are_read_or_refused(store_folder):
    data = (store_folder / MANIFEST).read_bytes()

    def check(edits):
        (store_folder / MANIFEST).write_bytes(damaged(data, edits))
        use_store(store_folder)

    hammer(damage, check, errors=UserError)


def test_invented_manifests_are_read_or_refused(store_folder):
    records = [json.loads(line)["record"] for line in (store_folder / MANIFEST).read_bytes().splitlines()]

    def check(drawn):
        lines = [line_of(record) if isinstance(record, dict) else b"\n" for record in drawn]
        (store_folder / MANIFEST).write_bytes(b"".join(lines))
        use_store(store_folder)

    hammer(changed(records).filter(_json_ready), check, errors=UserError)


def test_invented_parts_are_merged_or_refused(store_folder):
    records = [json.loads(line)["record"] for line in (store_folder / MANIFEST).read_bytes().splitlines()]

    def check(drawn):
        for path in store_folder.glob("*.jsonl"):
            path.unlink()
        lines = [line_of(record) if isinstance(record, dict) else b"\n" for record in drawn]
        (store_folder / "manifest.0-of-1.jsonl").write_bytes(b"".join(lines))
        merge(store_folder)

    hammer(changed(records).filter(_json_ready), check, errors=UserError)


def _json_ready(document):
    try:
        json.dumps(document)
    except (ValueError, TypeError):
        return False
    return True


@pytest.fixture
def bank():
    return ConceptBank(np.eye(3, 5, dtype=np.float32), "layer", "ant", 0, tuple(ConceptRecord(id=i) for i in range(3)))


def test_damaged_and_invented_banks_are_read_or_refused(bank, tmp_path):
    bank.save(tmp_path / "bank")
    files = {path: path.read_bytes() for path in (tmp_path / "bank").iterdir()}
    document_path = next(path for path in files if path.suffix == ".json")
    document = json.loads(files[document_path])

    def check(drawn):
        for path, data in files.items():
            path.write_bytes(data)
        if isinstance(drawn, dict):
            from conceptatlas.concepts.bank_file import _digest

            if isinstance(drawn.get("bank"), dict) and _strict(drawn["bank"]):
                drawn["digest"] = _digest(drawn["bank"])
            document_path.write_text(json.dumps(drawn))
        else:
            number, edits = drawn
            path = sorted(files)[number % len(files)]
            path.write_bytes(damaged(files[path], edits))
        ConceptBank.load(tmp_path / "bank")

    hammer(changed(document) | st.tuples(st.integers(0, 5), damage), check, errors=UserError)


def _strict(document):
    try:
        json.dumps(document, allow_nan=False)
    except ValueError:
        return False
    return True


def test_invented_edits_are_applied_or_refused(bank, tmp_path):
    sound = [{"class": "ant", "concept": 1, "title": "mane", "tag": "core", "note": "seen"}] * 2

    def check(drawn):
        path = tmp_path / "edits.json"
        path.write_bytes(drawn if isinstance(drawn, bytes) else json.dumps(drawn).encode())
        bank.apply_edits(path).save(tmp_path / "bank")
        ConceptBank.load(tmp_path / "bank")

    hammer(changed(sound) | changed({"edits": sound}) | values | st.binary(max_size=50), check, errors=UserError)


@pytest.fixture
def run_folder(tmp_path, bank):
    root = tmp_path / "run"
    root.mkdir()
    table = pd.DataFrame({"concept": [0, 1, 2], "importance": [0.5, 0.3, 0.2], "map": "coefficients", "name": None})
    images = pd.DataFrame({"sample_id": ["a", "b"], "row": [0, 1], "dominant": 0})
    member = ClassAtlas(
        index=0, name="ant", slug=storage.slug_of(0, "ant"), bank=bank, concepts=table, images=images,
        coefficients=np.ones((2, 3), np.float32), contributions=np.ones((2, 3), np.float32),
        residual=np.zeros(2, np.float32), bias=np.zeros(2, np.float32),
        strategies=pd.DataFrame({"concept": [0], "prevalence": [1.0]}),
        examples=pd.DataFrame({"concept": [0], "rank": [0], "sample_id": ["a"], "map_row": [0]}),
        maps=np.ones((1, 2, 2), np.uint8),
    )  # fmt: skip
    storage.save_class(root, member, pd.DataFrame({"concept": [0]}))
    columns = ["index", "name", "n_images", "fitted", "reason", "slug"]
    storage.write_table(root, "classes", pd.DataFrame([(0, "ant", 2, True, "", member.slug)], columns=columns))
    storage.write_table(root, "images", pd.DataFrame({"sample_id": ["a", "b"], "predicted": ["ant", "ant"]}))
    storage.write_table(root, "skipped", pd.DataFrame({"sample_id": [], "path": [], "cause": []}))
    storage.write_table(root, "shortcuts", pd.DataFrame({"class": ["ant"], "concept": [0], "grade": ["D"]}))
    run = {"schema": 1, "finished": True, "data": {"n_used": 2, "n_seen": 2}, "class_names": ["ant"], "key": {"a": "b"}}
    storage.write_json(root / "run.json", run)
    return root


def test_damaged_and_invented_runs_are_read_or_refused(run_folder):
    files = {path: path.read_bytes() for path in sorted(run_folder.rglob("*")) if path.is_file()}
    document = json.loads(files[run_folder / "run.json"])

    def check(drawn):
        for path, data in files.items():
            path.write_bytes(data)
        if isinstance(drawn, dict):
            (run_folder / "run.json").write_text(json.dumps(drawn))
        else:
            number, edits = drawn
            path = list(files)[number % len(files)]
            path.write_bytes(damaged(files[path], edits))
        atlas = Atlas.load(run_folder)
        for name in atlas:
            assert atlas[name].n_images == len(atlas[name].coefficients)

    hammer(changed(document) | st.tuples(st.integers(0, 100), damage), check, errors=UserError)


def test_slugs_and_names_stay_inside_the_run(run_folder):
    def check(text):
        slug = storage.slug_of(3, text)
        assert (run_folder / "concepts" / slug).resolve().parent == (run_folder / "concepts").resolve()
        try:
            target = storage.inside(run_folder, text)
        except (UserError, ValueError, OSError):
            return
        assert run_folder.resolve() in (target, *target.parents)

    hammer(paths | st.text(max_size=300), check, errors=())


def test_damaged_checkpoints_are_read_or_refused(tmp_path):
    tensors = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
    stream = io.BytesIO()
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, stream)
    sound = [("x.safetensors", save(tensors)), ("x.pt", stream.getvalue())]

    def check(drawn):
        (name, data), edits = drawn
        path = Path(tmp_path / name)
        path.write_bytes(damaged(data, edits))
        for value in read_checkpoint(path).values():
            assert value.numel() < 10**6

    hammer(st.tuples(st.sampled_from(sound), damage), check, errors=UserError)
