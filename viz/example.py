"""An atlas of made-up numbers, for examples and for trying out figures without an audit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from conceptatlas.audit.atlas import Atlas, ClassAtlas
from conceptatlas.concepts.bank import ConceptBank
from conceptatlas.concepts.names import Name
from conceptatlas.concepts.records import ConceptRecord

WORDS = ("stripes", "wing", "meadow", "red plate")


def example_class(n_images: int = 48, *, seed: int = 0) -> ClassAtlas:
    """Return a class "bee" with four concepts whose numbers agree with each other; it has no pictures.

    Parameters
    ----------
    n_images
        Images predicted as the class.
    seed
        Seed of the numbers.

    Examples
    --------
    >>> example_class().to_frame()["label"].tolist()
    ['stripes', 'wing', 'meadow', 'red plate?']
    """
    rng = np.random.default_rng(seed)
    k = len(WORDS)
    dominant = np.sort(rng.choice(k, n_images, p=(0.45, 0.3, 0.15, 0.1)))
    contributions = rng.uniform(0, 0.6, (n_images, k)) * (1, 1, 1, -1)
    contributions[np.arange(n_images), dominant] = rng.uniform(1.5, 3, n_images)
    correct = rng.random(n_images) < np.array((0.95, 0.9, 0.8, 0.4))[dominant]
    residual, bias = rng.normal(0, 0.2, n_images), np.full(n_images, 0.5)
    angle = 2 * np.pi * dominant / k
    images = pd.DataFrame(
        {
            "sample_id": [f"bee/{i:03d}.jpg" for i in range(n_images)],
            "row": np.arange(n_images),
            "label": np.where(correct, "bee", "ant"),
            "correct": correct,
            "probability": rng.uniform(0.5, 1, n_images),
            "logit": contributions.sum(1) + residual + bias,
            "dominant": dominant,
            "x": 4 * np.cos(angle) + rng.normal(0, 0.5, n_images),
            "y": 4 * np.sin(angle) + rng.normal(0, 0.5, n_images),
            "cluster": dominant,
            "view": None,
        }
    )
    return ClassAtlas(
        index=0,
        name="bee",
        slug="0000-bee",
        bank=_bank(rng),
        concepts=_concepts(contributions, dominant),
        images=images,
        coefficients=np.abs(contributions).astype(np.float32),
        contributions=contributions.astype(np.float32),
        residual=residual.astype(np.float32),
        bias=bias.astype(np.float32),
        strategies=_strategies(dominant, correct),
        examples=pd.DataFrame(
            columns=["concept", "rank", "sample_id", "view", "left", "top", "right", "bottom", "map_row"]
        ),
        maps=np.zeros((0, 1, 1), dtype=np.uint8),
    )


def example_atlas() -> Atlas:
    """Return an atlas that holds `example_class` alone; it lies in no folder and has no pictures.

    Examples
    --------
    >>> list(example_atlas())
    ['bee']
    """
    member = example_class()
    images = member.images.assign(predicted="bee", predicted_index=0, label_index=0)
    return Atlas(
        run={"model": {"name": "example"}, "layer": {"name": "layer4"}, "data": {"n_seen": len(images) + 1}},
        images=images,
        skipped=pd.DataFrame(
            [{"sample_id": "x.jpg", "path": "x.jpg", "cause": "truncated", "error": "", "stage": "read"}]
        ),
        classes=pd.DataFrame([{"index": 0, "name": "bee", "n_images": len(images), "fitted": True, "reason": ""}]),
        shortcut_table=pd.DataFrame(
            [{"class": "bee", "concept": 3, "label": "red plate?", "grade": "B", "suspicion": 0.4}]
        ),
        members={"bee": member},
        path=Path(),
    )


def _bank(rng: np.random.Generator) -> ConceptBank:
    directions = np.abs(rng.normal(size=(len(WORDS), 8)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    records = tuple(
        ConceptRecord(i, name=Name((word,), "weak" if word == "red plate" else "named", p_null=0.01, heldout_auc=0.95))
        for i, word in enumerate(WORDS)
    )
    curve = [
        {"n_components": n, "relative_error": 0.9 / n, "explained": 1 - (0.9 / n) ** 2, "stability": 1 - n / 20}
        for n in (2, 3, 4, 6, 8)
    ]
    return ConceptBank(
        directions.astype(np.float32), "layer4", "bee", 0, records, {"n_components_curve": curve, "n_components": 4}
    )


def _concepts(contributions: np.ndarray, dominant: np.ndarray) -> pd.DataFrame:
    importance = contributions.mean(0) / np.abs(contributions).sum(1).mean()
    frame = pd.DataFrame(
        {
            "concept": range(len(WORDS)),
            "importance": importance,
            "importance_low": importance - 0.03,
            "importance_high": importance + 0.03,
            "sobol": np.abs(importance),
            "presence": 0.5,
            "prevalence": np.bincount(dominant, minlength=len(WORDS)) / len(dominant),
            "localisation": (0.9, 0.8, 0.2, 0.7),
            "localisation_chance": 0.2,
            "place_known": (True, True, False, True),
            "map": "implicit",
        }
    )
    return frame.sort_values("importance", key=np.abs, ascending=False, ignore_index=True)


def _strategies(dominant: np.ndarray, correct: np.ndarray) -> pd.DataFrame:
    rows = []
    for concept in np.unique(dominant):
        chosen = correct[dominant == concept]
        rate = float(chosen.mean())
        rows.append(
            {
                "concept": int(concept),
                "n_images": len(chosen),
                "prevalence": len(chosen) / len(dominant),
                "reliability": rate,
                "reliability_low": max(0.0, rate - 0.1),
                "reliability_high": min(1.0, rate + 0.05),
            }
        )
    return pd.DataFrame(rows).sort_values("prevalence", ascending=False, ignore_index=True)
