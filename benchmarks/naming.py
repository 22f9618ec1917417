"""Which score names concepts best, measured on planted scenes that no model was trained on.

    OMP_NUM_THREADS=1 python benchmarks/naming.py                 # five seeds, CNN and ViT
    OMP_NUM_THREADS=1 python benchmarks/naming.py --seeds 1 --models cnn --json naming.json

For each model and seed: scenes are drawn, each class's activations are factorized, and the crops where its concepts are
strongest, with random crops of the same images, are embedded by the demo's text-image model.

The truth of a concept is the thing in the scenes whose visibility in a crop the concept's presence in that crop tells
best (``crop``), or whose presence in a scene its strength in that scene tells best, among the things that the class's
scenes show (``scene``). The truth is clear where that AUC reaches 0.9.

Vocabularies: ``names`` are the words of the scenes; ``mixed`` those and all words of our own list that share no token
with what the encoder was trained on; ``unknown`` the latter alone; ``wrong`` names of things that no scene of the class
shows.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch

from conceptatlas.audit.examples import crop_box, mean_in_box
from conceptatlas.concepts import (
    CachedEncoder,
    Name,
    OpenClipEncoder,
    embed_words,
    load_vocabulary,
    make_factorizer,
    nnls,
)
from conceptatlas.concepts.evaluation import naming_report
from conceptatlas.concepts.evidence import retrieval_auc
from conceptatlas.concepts.naming import name_concepts
from conceptatlas.concepts.naming_rules import NamingRules
from conceptatlas.concepts.scores import SCORES
from conceptatlas.demo.captions import PHRASES, TEMPLATES, all_phrases, words_in_crop
from conceptatlas.demo.config import SceneConfig
from conceptatlas.demo.models import demo_encoder_path, load_demo_model
from conceptatlas.demo.scenes import Scene
from conceptatlas.demo.splits import make_split
from conceptatlas.extraction import Preprocess, split

SYNONYMS = {name: set(phrases[1:]) for name, phrases in PHRASES.items()}
CLEAR_AUC = 0.9
N_OTHERS = 120
CROPS_PER_CONCEPT, RANDOM_CROPS_PER_IMAGE, IMAGES_WITH_RANDOM_CROPS = 20, 3, 60


@dataclass(frozen=True)
class ClassRegions:
    """One class's regions and concepts, and what the concepts truly are."""

    class_name: str
    embeddings: np.ndarray
    presence: np.ndarray
    groups: np.ndarray
    truths: dict[str, tuple[str | None, ...]]
    aucs: dict[str, tuple[float, ...]]
    absent: tuple[str, ...]


def collect(kind: str, seed: int, encoder: CachedEncoder, *, per_class: int, n_concepts: int) -> list[ClassRegions]:
    """Concepts of every class of a demo model, with the regions that stand for them."""
    config = SceneConfig(seed=1000 + seed)
    scenes = list(make_split(config, "audit", per_class * config.n_classes))
    model = load_demo_model(kind)
    preprocess = Preprocess.for_model(model)
    images = torch.stack([preprocess(scene.image) for scene in scenes])
    cut = split(model, "auto", input_size=preprocess.size, probe=images[:64])
    with torch.no_grad():
        features = [cut.encode(batch) for batch in images.split(64)]
        predicted = torch.cat([cut.head(batch) for batch in features]).argmax(1).numpy()
    A, rng, found = torch.cat([f.positions for f in features]).float(), np.random.default_rng(seed), []
    for index, name in enumerate(config.class_names):
        rows = np.flatnonzero(predicted == index)
        others = rng.permutation(np.flatnonzero(predicted != index))[:N_OTHERS]
        if len(rows) >= 20:
            found.append(_class_regions(name, cut, A, rows, others, scenes, encoder, n_concepts, seed))
    return found


def _class_regions(name, cut, A, rows, others, scenes, encoder, n_concepts, seed) -> ClassRegions:
    own = A[rows].reshape(-1, A.shape[2]).numpy()
    factorizer = make_factorizer("auto", n_concepts, signed=bool((own < 0).any()), seed=seed)
    W = np.asarray(factorizer.fit(own).components_, np.float32)
    grid = cut.layer.grid
    seen = np.concatenate([rows, others])
    U = nnls(A[seen].reshape(-1, A.shape[2]).numpy(), W)
    maps = U.reshape(len(seen), *grid, len(W)).transpose(0, 3, 1, 2)
    shown = [scenes[i] for i in rows]
    places = list(_places(maps[: len(rows)], shown, seed))
    presence = np.stack([mean_in_box(maps[i], box, shown[i].image.size) for i, box in places])
    there = {thing: np.array([_shows(scenes[i], thing) for i in seen]) for thing in PHRASES}
    local = {thing: there[thing] for thing in PHRASES if there[thing][: len(rows)].mean() >= 0.05}
    states = np.stack([_visible(shown[i], box) for i, box in places])
    by_crop = [_best({t: _auc(column, states[:, j]) for j, t in enumerate(PHRASES)}) for column in presence.T]
    by_scene = [_best({t: _auc(maps[:, k].max(axis=(1, 2)), local[t] * 1) for t in local}) for k in range(len(W))]
    truths = {key: tuple(t if a >= CLEAR_AUC else None for t, a in found) for key, found in
              (("crop", by_crop), ("scene", by_scene))}  # fmt: skip
    aucs = {"crop": tuple(a for _, a in by_crop), "scene": tuple(a for _, a in by_scene)}
    absent = tuple(thing for thing in PHRASES if not there[thing][: len(rows)].any())
    embeddings = encoder.encode_images([shown[i].image.crop(box) for i, box in places])
    return ClassRegions(name, embeddings, presence, np.array([i for i, _ in places]), truths, aucs, absent)


def _shows(scene: Scene, thing: str) -> bool:
    return thing in scene.parts or thing == scene.attributes["background"]


def _visible(scene: Scene, box: tuple[int, int, int, int]) -> np.ndarray:
    """For each thing 1 where it is in a crop, 0 where it is not, -1 between."""
    holds, told = words_in_crop(scene, box)
    phrases = all_phrases()
    first = [phrases.index(names[0]) for names in PHRASES.values()]
    return np.where(told[first], holds[first].astype(int), -1)


def _auc(strength: np.ndarray, state: np.ndarray) -> float:
    known = state >= 0
    positive = state[known] == 1
    return retrieval_auc(strength[known], positive) if 5 <= positive.sum() <= len(positive) - 5 else 0.0


def _best(aucs: dict[str, float]) -> tuple[str, float]:
    best = max(aucs, key=aucs.__getitem__)
    return best, aucs[best]


def _places(maps: np.ndarray, scenes: Sequence[Scene], seed: int) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Where each concept is strongest in the images that hold most of it, and random squares."""
    seen = set()
    for k in range(maps.shape[1]):
        strength = maps[:, k].max(axis=(1, 2))
        for i in np.argsort(-strength, kind="stable")[:CROPS_PER_CONCEPT]:
            place = (int(i), crop_box(maps[i, k], scenes[i].image.size))
            if strength[i] > 0 and place not in seen:
                seen.add(place)
                yield place
    rng = np.random.default_rng(seed)
    for i in range(min(len(scenes), IMAGES_WITH_RANDOM_CROPS)):
        size = scenes[i].image.width
        for share in rng.uniform(0.25, 0.6, RANDOM_CROPS_PER_IMAGE):
            side = int(share * size)
            left, top = (int(value) for value in rng.integers(0, size - side + 1, 2))
            yield i, (left, top, left + side, top + side)


def vocabularies(encoder: CachedEncoder) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """The words and their embeddings."""
    tokenizer = open_clip.SimpleTokenizer()
    taught = (*all_phrases(), *TEMPLATES, "an animal with plain fur on")
    known = {token for phrase in taught for token in tokenizer.encode(phrase)}
    strangers = [w for w in load_vocabulary().words if not known & set(tokenizer.encode(w))]
    words = {"names": tuple(PHRASES), "mixed": (*PHRASES, *strangers), "unknown": tuple(strangers)}
    return {name: (chosen, embed_words(encoder, chosen)) for name, chosen in words.items()}


def variants() -> dict[str, NamingRules]:
    """What is compared: every score in the lead, then the default without one of its tests."""
    default = NamingRules()
    scores = {f"score {name}": replace(default, score=name) for name in SCORES}
    return {
        **scores,
        "no rivalry": replace(default, rivalry=0.0),
        "full rivalry": replace(default, rivalry=1.0),
        "one word only": replace(default, max_words=1),
        "no agreement": replace(default, agreement=0),
        "all must agree": replace(default, agreement=3),
        "held-out AUC 0.8": replace(default, named_auc=0.8),
        "held-out AUC 0.95": replace(default, named_auc=0.95),
    }


def evaluate(regions: list[ClassRegions], words: dict, rules: NamingRules, seed: int) -> dict[str, list]:
    """Names by each vocabulary, with the truths beside them."""
    out: dict[str, list] = {key: [] for key in ("crop", "scene", "names", "mixed", "unknown", "wrong")}
    for item in regions:
        for key in ("crop", "scene"):
            out[key] += list(item.truths[key])
        phrases, T = words["names"]
        absent = [phrases.index(thing) for thing in item.absent]
        for key, (vocabulary, vectors) in {**words, "wrong": (item.absent, T[absent])}.items():
            out[key] += name_concepts(
                item.embeddings, item.presence, item.groups, vectors, vocabulary, seed=seed, rules=rules
            )
    return out


def row(results: list[dict[str, list]]) -> dict[str, float]:
    """Rates over all seeds of one model."""
    joined = {key: [value for result in results for value in result[key]] for key in results[0]}
    line: dict[str, float] = {"concepts": len(joined["crop"])}
    for words, truth in product(("names", "mixed"), ("crop", "scene")):
        names, truths = joined[words], joined[truth]
        report = naming_report(names, truths, synonyms=SYNONYMS)
        clear = [i for i, t in enumerate(truths) if t is not None]
        guesses = [_guess(names[i]) for i in clear]
        first = naming_report(guesses, [truths[i] for i in clear], synonyms=SYNONYMS, statuses=("weak",))
        label = f"{words}/{truth}"
        line |= {f"{label} named": report.n_named, f"{label} right": report.accuracy}
        line |= {f"{label} covered": report.coverage, f"{label} guess": first.coverage}
    for words in ("unknown", "wrong"):
        line[f"{words} named"] = sum(name.status == "named" for name in joined[words]) / len(joined[words])
    return line


def _guess(name: Name) -> Name:
    """The best candidate, whatever the evidence."""
    return Name(name.candidates[0][:1], "weak") if name.candidates else name


def speed(n_words: int = 20_000, n_regions: int = 5000) -> float:
    """Seconds of processor time to name 25 concepts once everything is embedded."""
    rng = np.random.default_rng(0)
    E, T = (rng.standard_normal((n, 512), dtype=np.float32) for n in (n_regions, n_words))
    presence, words = rng.random((n_regions, 25), dtype=np.float32), [f"word {i}" for i in range(n_words)]
    start = time.process_time()
    name_concepts(E, presence, np.arange(n_regions) // 10, T, words)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["cnn", "vit"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--concepts", type=int, default=10)
    parser.add_argument("--cache", type=Path, default=None, help="keep embeddings here")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    encoder = CachedEncoder(OpenClipEncoder(demo_encoder_path()), options.cache or tempfile.mkdtemp())
    words, lines = vocabularies(encoder), []
    for kind in options.models:
        found = [
            collect(kind, seed, encoder, per_class=options.per_class, n_concepts=options.concepts)
            for seed in range(options.seeds)
        ]
        for label, rules in variants().items():
            results = [evaluate(regions, words, rules, seed) for seed, regions in enumerate(found)]
            lines.append({"model": kind, "variant": label, **row(results)})
    for kind, part in pd.DataFrame(lines).groupby("model", sort=False):
        print(f"\n{kind}")
        table = part.drop(columns="model").set_index("variant").T
        print(table.to_string(float_format=lambda v: "-" if math.isnan(v) else f"{v:.2f}"))
    print(f"20,000 words, 5,000 regions, 25 concepts: {speed():.2f} s of processor time")
    if options.json:
        options.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
