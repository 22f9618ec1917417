"""A synthetic atlas of any size, with names that try to break the pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from conceptatlas.audit.atlas import Atlas, ClassAtlas
from conceptatlas.audit.comparison import Comparison
from conceptatlas.concepts.bank import ConceptBank
from conceptatlas.concepts.names import Name
from conceptatlas.concepts.records import ConceptRecord
from conceptatlas.concepts.tree import ConceptNode, ConceptTree
from conceptatlas.viz import export_site

HOSTILE = (
    "</script><script>document.title=1337</script>",
    "<img src=x onerror=document.title=1337>",
    "{{7*7}}{%raw%}",
    "javascript:document.title=1337",
    "\"><svg onload=document.title=1337> & 'quoted'",
    "a/b\\..\\con %23 #frag?q=1",
    "naïve 🐝 \u202eevil\u202c שלום",
    "=HYPERLINK(1)",
    "n" * 300,
    "<a href=javascript:document.title=1337>link</a>",
)
WORDS = (
    "stripes",
    "red plate",
    "wheel",
    "meadow",
    "sky",
    "round shape",
    "dots",
    "wing",
    "water",
    "fur",
    "brick",
    "sand",
)


@dataclass(frozen=True)
class Size:
    """How large a synthetic atlas is."""

    n_classes: int = 3
    n_concepts: int = 5
    n_images: int = 40
    n_examples: int = 10
    n_views: int = 30
    side: int = 96
    hostile: bool = False


def picture(rng: np.random.Generator, side: int) -> Image.Image:
    """A small scene: sky, ground and a few shapes, with some noise so that it does not compress to nothing."""
    top, ground = rng.integers(90, 220, 3), rng.integers(40, 160, 3)
    ramp = np.linspace(0, 1, side)[:, None, None]
    pixels = top * (1 - ramp) + ground * ramp + rng.normal(0, 9, (side, side, 3))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, r = rng.integers(0, side), rng.integers(0, side), rng.integers(side // 12, side // 4)
        colour = tuple(int(v) for v in rng.integers(0, 255, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x - r, y - r, x + r, y + r), fill=colour)
    return image


def write_views(root: Path, size: Size) -> list[str]:
    """Write the pool of views that all classes share and return their relative paths."""
    folder = root / "views"
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"views/{i:05d}.webp" for i in range(size.n_views)]
    for i, name in enumerate(names):
        picture(np.random.default_rng(i), size.side).save(root / name, quality=80, method=0)
    return names


def name_of(rng: np.random.Generator, text: str) -> Name:
    """A name that is certain, weak or missing, by chance."""
    status = ("named", "named", "weak", "unnamed")[int(rng.integers(4))]
    candidates = ((text, 0.2), (WORDS[0], 0.1))
    if status == "unnamed":
        return Name((), "unnamed", candidates=candidates, reason="no word beats chance")
    auc = float(rng.uniform(0.8, 1))
    return Name((text,), status, score=0.2, p_null=0.004, margin=0.03, heldout_auc=auc, mad=2.0, coherence=0.2,
                residual=0.6, candidates=candidates)  # fmt: skip


def bank_of(rng: np.random.Generator, index: int, name: str, size: Size) -> ConceptBank:
    """A bank whose concepts carry words, or the hostile strings."""
    words = HOSTILE if size.hostile else WORDS
    records = tuple(
        ConceptRecord(
            i,
            name=name_of(rng, words[(i + index) % len(words)]),
            title=words[i % len(words)] if size.hostile and i == 1 else None,
            tag="spurious" if i == 1 else None,
            note=words[(i + 2) % len(words)] if i == 1 else "",
            quality={"coherence": float(rng.uniform(0, 0.4)), "stability": float(rng.uniform(0.5, 1))},
        )
        for i in range(size.n_concepts)
    )
    directions = np.abs(rng.normal(size=(size.n_concepts, 16))).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return ConceptBank(directions=directions, layer="blocks.3", class_name=name, class_index=index, concepts=records,
                       provenance={"seed": 0})  # fmt: skip


def concepts_of(rng: np.random.Generator, bank: ConceptBank, share: np.ndarray, prevalence: np.ndarray) -> pd.DataFrame:
    """The table of concepts, the most important first."""
    k = len(bank.concepts)
    names = [record.name for record in bank.concepts]
    local = rng.uniform(0.2, 1, k)
    frame = pd.DataFrame(
        {
            "concept": range(k),
            "label": [record.label for record in bank.concepts],
            "name": [n.text or None if n else None for n in names],
            "name_status": [n.status if n else "unnamed" for n in names],
            "name_auc": [n.heldout_auc if n else np.nan for n in names],
            "name_p": [n.p_null if n else np.nan for n in names],
            "name_margin": [n.margin if n else np.nan for n in names],
            "importance": share,
            "importance_low": share - 0.03,
            "importance_high": share + 0.03,
            "sobol": np.abs(share),
            "sobol_low": np.abs(share) - 0.02,
            "sobol_high": np.abs(share) + 0.02,
            "presence": rng.uniform(0.1, 0.9, k),
            "threshold": 0.3,
            "prevalence": prevalence,
            "reliability": rng.uniform(0.5, 1, k),
            "localisation": np.where(local > 0.4, local, 0.15),
            "localisation_chance": 0.2,
            "place_known": local > 0.4,
            "map": "implicit",
            "coherence": rng.uniform(0, 0.4, k),
        }
    )
    return frame.sort_values("importance", ascending=False, key=np.abs, ignore_index=True)


def examples_of(rng: np.random.Generator, images: pd.DataFrame, coefficients: np.ndarray, size: Size) -> pd.DataFrame:
    """The best images of each concept among those with a view, with a crop box and the row of the map."""
    rows, with_view = [], np.flatnonzero(images["view"].notna())
    for concept in range(size.n_concepts):
        best = with_view[np.argsort(-coefficients[with_view, concept], kind="stable")][: size.n_examples]
        for rank, i in enumerate(best):
            half = size.side // 4
            cx, cy = (int(v) for v in rng.integers(half, size.side - half, 2))
            row = {"concept": concept, "rank": rank, "sample_id": images["sample_id"][i], "view": images["view"][i]}
            box = {"left": cx - half, "top": cy - half, "right": cx + half, "bottom": cy + half}
            rows.append({**row, **box, "coefficient": coefficients[i, concept], "map_row": len(rows)})
    return pd.DataFrame(rows)


def maps_of(examples: pd.DataFrame, side: int, grid: int = 12) -> np.ndarray:
    """A bump in the middle of each crop box."""
    axis = (np.arange(grid) + 0.5) / grid * side
    x = ((examples["left"] + examples["right"]) / 2).to_numpy()[:, None, None]
    y = ((examples["top"] + examples["bottom"]) / 2).to_numpy()[:, None, None]
    distance = (axis[None, None, :] - x) ** 2 + (axis[None, :, None] - y) ** 2
    return (255 * np.exp(-distance / (2 * (side / 8) ** 2))).astype(np.uint8)


def class_of(index: int, name: str, size: Size, views: list[str]) -> ClassAtlas:
    """One class whose numbers agree with each other: logit = contributions + residual + bias."""
    rng = np.random.default_rng(1000 + index)
    n, k = size.n_images, size.n_concepts
    dominant = rng.choice(k, n, p=(w := 0.6 ** np.arange(k)) / w.sum())
    contributions = rng.uniform(-0.5, 1, (n, k)).astype(np.float32)
    contributions[np.arange(n), dominant] = rng.uniform(2, 4, n)
    residual, bias = rng.normal(0, 0.2, n).astype(np.float32), np.full(n, 0.4, np.float32)
    coefficients = np.abs(contributions) * 0.5
    angle = dominant / k * 2 * np.pi
    correct: list[bool | None] = [None if i % 11 == 0 else bool(v) for i, v in enumerate(rng.random(n) < 0.85)]
    prefix = HOSTILE[index % len(HOSTILE)][:60] if size.hostile else f"class {index}"
    images = pd.DataFrame(
        {
            "sample_id": [f"{prefix}/photo {i:03d}.jpg" for i in range(n)],
            "row": np.arange(n) + index * n,
            "label": [name if c else "another class" for c in correct],
            "correct": pd.array(correct, dtype="boolean"),
            "probability": rng.uniform(0.5, 1, n),
            "logit": contributions.sum(1) + residual + bias,
            "dominant": dominant,
            "x": np.cos(angle) * 4 + rng.normal(0, 0.5, n),
            "y": np.sin(angle) * 4 + rng.normal(0, 0.5, n),
            "cluster": dominant,
            "view": [views[(i + index) % len(views)] if i < len(views) else None for i in range(n)],
            "counterfactual": [[int(d)] if i % 3 else None for i, d in enumerate(dominant)],
            "flips_to": [HOSTILE[2] if size.hostile else "another class" if i % 3 else None for i in range(n)],
            "flipped": [bool(i % 2) if i % 3 else None for i in range(n)],
            "smallest": [True if i % 3 else None for i in range(n)],
        }
    )
    bank = replace(bank_of(rng, index, name, size), tree=tree_of(size))
    prevalence = np.bincount(dominant, minlength=k) / n
    concepts = concepts_of(rng, bank, contributions.sum(0) / contributions.sum(), prevalence)
    examples = examples_of(rng, images, coefficients, size)
    strategies = strategies_of(dominant, images["correct"], k)
    rates = {"error_low": 0.3, "error_high": 0.6, "class_error_rate": 0.12, "shuffled_error_rate": 0.25}
    slices = pd.DataFrame(
        [
            {"slice": 0, "n_images": 7, "error_rate": 0.43, **rates, "concepts": ((0, 2.1), (1, -1.3))},
            {"slice": 1, "n_images": 9, "error_rate": 0.2, **rates, "error_low": 0.1, "concepts": ((1, 0.8),)},
        ]
    )
    return ClassAtlas(
        index=index,
        name=name,
        slug=f"{index:04d}-class",
        bank=bank,
        concepts=concepts,
        images=images,
        coefficients=coefficients,
        contributions=contributions,
        residual=residual,
        bias=bias,
        strategies=strategies,
        examples=examples,
        maps=maps_of(examples, size.side),
        slices=slices,
        parts=parts_of(examples),
        image_maps=pd.DataFrame({"row": np.arange(3), "concept": dominant[:3], "map_row": np.zeros(3, int)}),
    )


def tree_of(size: Size) -> ConceptTree:
    """The first concept has two parts, of which the second has two; the others stay whole."""
    k, late, early = size.n_concepts, "layer4", "<b>layer3</b>" if size.hostile else "layer3"
    roots = [ConceptNode(i, None, i, 0, late, (1.0,), 0.5, 80, 20, spread=0.3, reason="coherent") for i in range(k)]
    roots[0] = roots[0].with_findings(spread=0.7, reason="")
    parts = [ConceptNode(k + i, 0, i, 1, early, (1.0,), 0.5, 60, 15) for i in range(2)]
    inner = [ConceptNode(k + 2 + i, k + 1, i, 2, "layer1", (1.0,), 0.5, 55, 12) for i in range(2)]
    return ConceptTree((*roots, *parts, *inner), (late, early, "layer1"))


def parts_of(examples: pd.DataFrame) -> pd.DataFrame:
    """Crops of the tree's four parts, taken from the examples of the first concept."""
    k, crops = examples["concept"].nunique(), examples[examples["concept"] == 0].head(4)
    columns = ["rank", "sample_id", "view", "left", "top", "right", "bottom"]
    return pd.concat([crops[columns].assign(node=k + i) for i in range(4)], ignore_index=True)


def strategies_of(dominant: np.ndarray, correct: pd.Series, k: int) -> pd.DataFrame:
    """Prevalence and reliability of each dominant concept."""
    rows = []
    for concept in range(k):
        chosen = dominant == concept
        if chosen.any():
            rate = float(correct[chosen].dropna().astype(float).mean())
            rows.append({"concept": concept, "n_images": int(chosen.sum()), "prevalence": chosen.mean(),
                         "reliability": rate, "reliability_low": max(0, rate - 0.1),
                         "reliability_high": min(1, rate + 0.1)})  # fmt: skip
    return pd.DataFrame(rows).sort_values("prevalence", ascending=False, ignore_index=True)


def shortcuts_of(members: dict[str, ClassAtlas]) -> pd.DataFrame:
    """One suspected shortcut for each concept of each class, graded by turns."""
    rows = []
    for member in members.values():
        for rank, row in enumerate(member.concepts.to_dict("records")):
            rows.append({"class": member.name, "concept": row["concept"], "label": row["label"], "name": row["name"],
                         "grade": "ABCD"[min(rank, 3)], "suspicion": 0.9 / (1 + rank), "importance": row["importance"],
                         "presence_in_class": 0.8, "presence_elsewhere": 0.1, "accuracy_with": 0.95,
                         "accuracy_with_low": 0.9, "accuracy_with_high": 0.98, "accuracy_without": 0.5,
                         "accuracy_without_low": 0.4, "accuracy_without_high": 0.6, "false_positive_with": 0.4,
                         "false_positive_without": 0.02, "label_association": 0.7, "prediction_association": 0.8,
                         "ablation_effect": -1.2, "addition_effect": 0.9, "foreground_share": 0.2,
                         "localisation": row["localisation"], "p_value": 0.0004 * (1 + rank)})  # fmt: skip
    return pd.DataFrame(rows).sort_values("suspicion", ascending=False, ignore_index=True)


def synthetic(root: Path, size: Size) -> Atlas:
    """An atlas of that size whose views lie under `root`."""
    views = write_views(root, size)
    names = [HOSTILE[i] if size.hostile and i < len(HOSTILE) else f"class {i}" for i in range(size.n_classes)]
    members = {name: class_of(i, name, size, views) for i, name in enumerate(names)}
    classes = [{"index": m.index, "name": m.name, "slug": m.slug, "n_images": m.n_images, "fitted": True, "reason": ""}
               for m in members.values()]  # fmt: skip
    classes.append({"index": len(names), "name": "too few", "slug": "x", "n_images": 2, "fitted": False,
                    "reason": "2 images, at least 10 are needed"})  # fmt: skip
    images = pd.concat([m.images.assign(predicted=m.name, predicted_index=m.index, label_index=m.index)
                        for m in members.values()], ignore_index=True)  # fmt: skip
    hostile = HOSTILE[1] if size.hostile else "broken.jpg"
    skipped = pd.DataFrame([{"sample_id": hostile, "path": f"/data/{hostile}", "cause": "truncated",
                             "error": "OSError", "stage": "decode"}])  # fmt: skip
    run = {
        "schema": 1,
        "model": {"name": HOSTILE[0] if size.hostile else "test_resnet", "weight_digest": "ab12", "n_classes": 1000},
        "layer": {"name": "layer4", "grid": [12, 12], "why": "the last spatial layer"},
        "data": {"n_seen": len(images) + 1, "n_used": len(images), "n_skipped": 1},
        "seed": 0,
        "unit": "position",
        "versions": {"conceptatlas": "0.1.0", "torch": "2.15"},
    }
    return Atlas(run=run, images=images, skipped=skipped, classes=pd.DataFrame(classes),
                 shortcut_table=shortcuts_of(members), members=members, path=root)  # fmt: skip


def comparison_of(atlas: Atlas, n_pairs: int = 3, name: str = "class 0") -> Comparison:
    """The atlas against itself: one concept kept, one lost, one gained, as `compare` writes it."""
    held = {"class": name, "similarity": 0.9, "measure": "correlation", "importance_a": 0.4, "importance_b": 0.1}
    first = {"concept_a": 0, "label_a": atlas[name].label(0), "grade_a": "A"}
    second = {"concept_b": 1, "label_b": atlas[name].label(1), "grade_b": "D"}
    none = {"concept_a": None, "label_a": None, "grade_a": None, "concept_b": None, "label_b": None, "grade_b": None}
    rows = [
        {**none, **held, **first, **second, "status": "kept", "shift": -0.3},
        {**none, **held, **first, "status": "lost", "shift": None, "importance_b": None},
        {**none, **held, **second, "status": "gained", "shift": None, "importance_a": None},
    ]
    concepts = pd.DataFrame([rows[i % 3] for i in range(n_pairs)])
    classes = pd.DataFrame([{"class": name, "n_shared_images": 40, "agreement": 0.8, "only_in": None}])
    shortcuts = pd.DataFrame([{**rows[0], "status": "fixed"}, {**rows[2], "status": "new", "grade_b": "B"}])
    return Comparison(concepts, shortcuts, classes, (atlas, atlas))


@pytest.fixture(scope="session")
def compared() -> Callable[..., Comparison]:
    """Factory of comparisons of an atlas with itself: `compared(atlas, n_pairs=3)`."""
    return comparison_of


@pytest.fixture(scope="session")
def make_atlas(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Atlas]:
    """Factory of synthetic atlases: `make_atlas(n_classes=3, n_concepts=5, n_images=40, hostile=False, ...)`."""

    def make(**sizes: int | bool) -> Atlas:
        return synthetic(tmp_path_factory.mktemp("run"), Size(**sizes))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def atlas(make_atlas: Callable[..., Atlas]) -> Atlas:
    """A small, harmless atlas."""
    return make_atlas()


@pytest.fixture(scope="session")
def hostile_atlas(make_atlas: Callable[..., Atlas]) -> Atlas:
    """A small atlas in which every string is a payload."""
    return make_atlas(n_classes=10, n_concepts=4, n_images=16, n_views=16, n_examples=4, hostile=True)


@pytest.fixture(scope="session")
def class_atlas(atlas: Atlas) -> ClassAtlas:
    """The first class of the small atlas."""
    return atlas["class 0"]


@pytest.fixture(scope="session")
def thousand_site(make_atlas: Callable[..., Atlas], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of a thousand classes with ten concepts each: minutes of work, so it is made once."""
    atlas = make_atlas(n_classes=1000, n_concepts=10, n_images=12, n_views=6, n_examples=1, side=48)
    return export_site(atlas, tmp_path_factory.mktemp("thousand")).parent
