"""Which score names concepts best, measured on planted scenes that no model was trained on.

    OMP_NUM_THREADS=1 python benchmarks/naming.py                 # five seeds, CNN and ViT
    OMP_NUM_THREADS=1 python benchmarks/naming.py --seeds 1 --models cnn --json naming.json

For each model and seed: scenes are drawn, each class's activations are factorized, and the crops where its concepts are
strongest, with random crops of the same images, are embedded by the demo's text-image model.

The truth of a concept is the thing in the scenes whose visibility in a crop the concept's presence in that crop tells
best, and it is clear where that AUC reaches 0.9. A name is right where the truth is clear and it is the truth's name or a
listed synonym; "right, nearest" asks for the best thing's name whether or not it is clear, and "by scene" takes whole
scenes instead of crops (by which what nearly all scenes of a class show is never clear). "covered" is the share of the
clear concepts that are named, rightly; "hallucinated" the share of all concepts whose name is not even the nearest.

Vocabularies: ``names`` are the words of the scenes; ``mixed`` those and all words of our own list that share no token
with what the encoder was trained on; ``unknown`` the latter alone; ``wrong`` names of things that no scene of the class
shows.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch

from conceptatlas.audit.examples import Pool, make_pool
from conceptatlas.audit.words import class_regions
from conceptatlas.concepts import (
    CachedEncoder,
    Name,
    OpenClipEncoder,
    embed_words,
    load_vocabulary,
    make_factorizer,
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
from conceptatlas.importance import choose_map, concept_maps

LOG = logging.getLogger("naming")
SYNONYMS = {name: set(phrases[1:]) for name, phrases in PHRASES.items()}
CLEAR_AUC = 0.9
PROBE_IMAGES = 32
TRUTHS = ("crop", "scene", "nearest")


@dataclass(frozen=True)
class ClassRegions:
    """One class's regions and concepts, and what the concepts truly are."""

    class_name: str
    embeddings: np.ndarray
    presence: np.ndarray
    groups: np.ndarray
    truths: dict[str, tuple[str | None, ...]]
    absent: tuple[str, ...]


def collect(kind: str, seed: int, encoder: CachedEncoder, *, per_class: int, n_concepts: int) -> list[ClassRegions]:
    """Concepts of every class of a demo model, with the regions that stand for them, as an audit takes them."""
    config = SceneConfig(seed=1000 + seed)
    scenes = list(make_split(config, "audit", per_class * config.n_classes))
    model = load_demo_model(kind).requires_grad_(False)
    preprocess = Preprocess.for_model(model)
    images = torch.stack([preprocess(scene.image) for scene in scenes])
    cut = split(model, "auto", input_size=preprocess.size, probe=images[:64])
    with torch.no_grad():
        features = [cut.encode(batch) for batch in images.split(64)]
        predicted = torch.cat([cut.head(batch) for batch in features]).argmax(1).numpy()
    A, found, method = torch.cat([f.positions for f in features]).float(), [], None
    for index, name in enumerate(config.class_names):
        rows = np.flatnonzero(predicted == index)
        if len(rows) < 20:
            continue
        own = A[rows].flatten(0, 1).numpy()
        factorizer = make_factorizer("auto", n_concepts, signed=bool((own < 0).any()), seed=seed).fit(own)
        W = torch.as_tensor(np.asarray(factorizer.components_, np.float32))
        probe = images[np.random.default_rng(seed).permutation(rows)[:PROBE_IMAGES]]
        method = method or choose_map(cut, W, probe, seed=seed).method
        maps = torch.cat([concept_maps(cut, W, batch, method=method) for batch in images[rows].split(16)])
        shown = [scenes[i] for i in rows]
        pool = make_pool(rows, [preprocess.view(scene.image) for scene in shown], maps.numpy())
        found.append(_class_regions(name, pool, shown, encoder, seed))
    LOG.info("%s, seed %d: cut at %s, maps by %s", kind, seed, cut.layer.name, method)
    return found


def _class_regions(name: str, pool: Pool, shown: list[Scene], encoder: CachedEncoder, seed: int) -> ClassRegions:
    regions = class_regions(pool, seed=seed)
    there = {thing: np.array([_shows(scene, thing) for scene in shown]) for thing in PHRASES}
    local = {thing: held for thing, held in there.items() if held.mean() >= 0.05}
    states = np.stack([_visible(shown[i], box) for i, box in regions.places])
    by_crop = [_best({t: _auc(c, states[:, j]) for j, t in enumerate(PHRASES)}) for c in regions.presence.T]
    strength = pool.raw.max(axis=(2, 3)).T
    by_scene = [_best({t: _auc(column, held * 1) for t, held in local.items()}) for column in strength]
    truths: dict[str, tuple[str | None, ...]] = {
        "crop": tuple(thing if auc >= CLEAR_AUC else None for thing, auc in by_crop),
        "scene": tuple(thing if auc >= CLEAR_AUC else None for thing, auc in by_scene),
        "nearest": tuple(thing for thing, _ in by_crop),
    }
    absent = tuple(thing for thing, held in there.items() if not held.any())
    embeddings = encoder.encode_images(regions.crops)
    return ClassRegions(name, embeddings, regions.presence, regions.groups, truths, absent)


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


def vocabularies(encoder: CachedEncoder, most: int | None = None) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """The words and their embeddings; at most so many of those that the encoder was not trained with."""
    tokenizer = open_clip.SimpleTokenizer()
    taught = (*all_phrases(), *TEMPLATES, "an animal with plain fur on")
    known = {token for phrase in taught for token in tokenizer.encode(phrase)}
    strangers = [w for w in load_vocabulary().words if not known & set(tokenizer.encode(w))][:most]
    words = {"names": tuple(PHRASES), "mixed": (*PHRASES, *strangers), "unknown": tuple(strangers)}
    return {name: (chosen, embed_words(encoder, chosen)) for name, chosen in words.items()}


def variants() -> dict[str, NamingRules]:
    """What is compared: every score in the lead, then the default with one of its rules changed."""
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
        "5 regions a side": replace(default, min_regions=5),
        "alpha 0.05": replace(default, alpha=0.05, weak_alpha=0.1),
    }


def evaluate(regions: list[ClassRegions], words: dict, rules: NamingRules, seed: int) -> dict[str, list]:
    """Names by each vocabulary, with the truths beside them."""
    out: dict[str, list] = {key: [] for key in (*TRUTHS, "names", "mixed", "unknown", "wrong")}
    for item in regions:
        for key in TRUTHS:
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
    clear = [i for i, truth in enumerate(joined["crop"]) if truth is not None]
    line: dict[str, float] = {"concepts": len(joined["crop"]), "clear": len(clear)}
    for words in ("names", "mixed"):
        names = joined[words]
        reports = {truth: naming_report(names, joined[truth], synonyms=SYNONYMS) for truth in TRUTHS}
        guesses = [_guess(names[i]) for i in clear]
        first = naming_report(guesses, [joined["crop"][i] for i in clear], synonyms=SYNONYMS, statuses=("weak",))
        line |= {f"{words}: named": reports["crop"].n_named, f"{words}: right": reports["crop"].accuracy}
        line |= {f"{words}: right, nearest": reports["nearest"].accuracy}
        line |= {f"{words}: right, by scene": reports["scene"].accuracy}
        line |= {f"{words}: covered": reports["crop"].coverage, f"{words}: best word right": first.coverage}
        line |= {f"{words}: hallucinated": reports["nearest"].hallucination}
    for words in ("unknown", "wrong"):
        line[f"{words}: named"] = sum(name.status == "named" for name in joined[words]) / len(joined[words])
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
    parser.add_argument("--quick", action="store_true", help="smoke run: one seed, few scenes, the default alone")
    options = parser.parse_args()
    if options.quick:
        options.models, options.seeds, options.per_class = ["cnn"], 1, 24
    encoder = CachedEncoder(OpenClipEncoder(demo_encoder_path()), options.cache or tempfile.mkdtemp())
    words, lines = vocabularies(encoder), []
    for kind in options.models:
        found = [
            collect(kind, seed, encoder, per_class=options.per_class, n_concepts=options.concepts)
            for seed in range(options.seeds)
        ]
        for label, rules in list(variants().items())[: 1 if options.quick else None]:
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
    logging.basicConfig(format="%(message)s")
    LOG.setLevel(logging.INFO)
    main()
