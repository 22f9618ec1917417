"""A small atlas made by hand, for tests that need no model."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conceptatlas.audit import Atlas, ClassAtlas, storage
from conceptatlas.concepts import ConceptBank, ConceptRecord


def hand_made_class(index, name, rng, n=12, k=3):
    directions = rng.normal(size=(k, 5)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    bank = ConceptBank(directions, "layer", name, index, tuple(ConceptRecord(id=i) for i in range(k)))
    concepts = pd.DataFrame({"concept": [2, 0, 1], "importance": [0.6, 0.3, 0.1], "map": "coefficients", "name": None})
    images = pd.DataFrame({"sample_id": [f"{name}/{i}.png" for i in range(n)], "row": np.arange(n), "dominant": 2})
    examples = pd.DataFrame({"concept": [2], "rank": [0], "sample_id": [f"{name}/0.png"], "view": ["views/one.webp"],
                             "map_row": [0]})  # fmt: skip
    return ClassAtlas(
        index=index,
        name=name,
        slug=storage.slug_of(index, name),
        bank=bank,
        concepts=concepts,
        images=images,
        coefficients=rng.random((n, k)).astype(np.float32),
        contributions=rng.normal(size=(n, k)).astype(np.float32),
        residual=np.zeros(n, np.float32),
        bias=np.zeros(n, np.float32),
        strategies=pd.DataFrame({"concept": [2], "prevalence": [1.0]}),
        examples=examples,
        maps=np.full((1, 4, 4), 255, np.uint8),
    )


def write_atlas(root, members, shortcuts):
    for member in members:
        storage.save_class(root, member, pd.DataFrame({"concept": [0]}))
    listing = pd.DataFrame(
        [(m.index, m.name, m.n_images, True, "", m.slug) for m in members]
        + [(9, "rare", 2, False, "2 images", "0009-rare")],
        columns=["index", "name", "n_images", "fitted", "reason", "slug"],
    )
    storage.write_table(root, "images", pd.DataFrame({"sample_id": ["a"], "predicted": ["ant"]}))
    storage.write_table(root, "skipped", pd.DataFrame({"sample_id": [], "path": [], "cause": []}))
    storage.write_table(root, "classes", listing)
    storage.write_table(root, "shortcuts", shortcuts)
    (root / "views").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(root / "views" / "one.webp")
    run = {"schema": storage.SCHEMA, "finished": True, "data": {"n_used": 1, "n_seen": 1}}
    storage.write_json(root / "run.json", run)
    return Atlas.load(root)


@pytest.fixture
def atlas(tmp_path):
    rng = np.random.default_rng(0)
    members = [hand_made_class(0, "ant", rng), hand_made_class(1, "bee / <b>", rng)]
    shortcuts = pd.DataFrame(
        {"class": ["bee / <b>", "ant"], "concept": [2, 1], "name": None, "grade": ["B", "D"], "suspicion": [0.5, 0.0]}
    )
    root = tmp_path / "run"
    root.mkdir()
    return write_atlas(root, members, shortcuts)
