"""Two atlases side by side: which concepts they share, which shifted, and which shortcuts came or went.

Concepts are matched by the correlation of their scores over the same images, which works across architectures; where
the two runs share too few images, by the cosine of their directions, which needs the same weights and layer. The
assignment is the best one-to-one matching (Hungarian). Agreement of two decompositions: the generalised Rand index of
soft memberships (Vielhaben et al., arXiv 2412.06639, after Hüllermeier et al. 2012).
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from conceptatlas.audit.atlas import Atlas, ClassAtlas
from conceptatlas.extraction.errors import UserError

MATCHED = 0.5
MIN_SHARED_IMAGES = 20
SUSPECT = ("A", "B")


@dataclass(frozen=True)
class Comparison:
    """What changed from atlas `a` to atlas `b`.

    Attributes
    ----------
    concepts
        One row per concept of either: ``class, status ("kept", "lost", "gained"), concept_a, concept_b, label_a,
        label_b, similarity, measure ("correlation" or "cosine"), importance_a, importance_b, shift, grade_a, grade_b``.
        ``shift`` is ``importance_b - importance_a``.
    shortcuts
        The suspected shortcuts (grade A or B) of either: ``status`` is ``"fixed"`` (the concept is gone, or no longer
        suspect), ``"kept"`` or ``"new"``.
    classes
        One row per class: images that both predict as it, ``agreement`` (fuzzy Rand index in [0, 1] of the two
        decompositions over the shared images, NaN where there are too few), only in one.
    atlases
        The two that were compared, for their pictures; None where only the tables are kept.
    """

    concepts: pd.DataFrame
    shortcuts: pd.DataFrame
    classes: pd.DataFrame
    atlases: tuple[Atlas, Atlas] | None = field(default=None, repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """Return the table of concepts."""
        return self.concepts

    def _repr_html_(self) -> str:
        counts = self.concepts["status"].value_counts() if len(self.concepts) else {}
        head = "<p>" + html.escape(", ".join(f"{n} {status}" for status, n in dict(counts).items())) + "</p>"
        tables = (self.shortcuts, self.classes, self.concepts.head(40))
        return head + "".join(t.to_html(index=False, border=0, escape=True, na_rep="–") for t in tables)


def compare(atlas_a: Atlas, atlas_b: Atlas) -> Comparison:
    """Compare two atlases, class by class.

    Raises
    ------
    UserError
        Where no class was fitted in both.
    """
    shared = [name for name in atlas_a if name in set(atlas_b)]
    if not shared:
        raise UserError(
            f"the two atlases share no fitted class: one holds {list(atlas_a)[:5]}, the other {list(atlas_b)[:5]}"
        )
    grades = [_grades(atlas_a), _grades(atlas_b)]
    same_space = _space(atlas_a) == _space(atlas_b)
    rows, classes = [], []
    for name in shared:
        a, b = atlas_a[name], atlas_b[name]
        rows += _compare_class(a, b, atlas_a, atlas_b, same_space, grades)
        classes.append({"class": name, **_agreement(a, b)})
    only = [{"class": n, "only_in": "a"} for n in atlas_a if n not in set(shared)]
    only += [{"class": n, "only_in": "b"} for n in atlas_b if n not in set(shared)]
    concepts = pd.DataFrame(rows)
    return Comparison(concepts, _shortcuts(concepts), pd.DataFrame(classes + only), (atlas_a, atlas_b))


def _space(atlas: Atlas) -> tuple[object, object]:
    return atlas.run["model"]["weights"], atlas.run["layer"]["name"]


def _grades(atlas: Atlas) -> dict[tuple[str, int], str]:
    table = atlas.shortcut_table
    return {(c, int(i)): g for c, i, g in zip(table["class"], table["concept"], table["grade"], strict=True)}


def similarity(
    a: ClassAtlas, b: ClassAtlas, atlas_a: Atlas, atlas_b: Atlas, same_space: bool
) -> tuple[np.ndarray, str]:
    """Return the similarity (k_a, k_b) of the concepts of two class atlases, in [-1, 1], and its measure."""
    scores_a = _scores_by_image(a, atlas_a)
    scores_b = _scores_by_image(b, atlas_b)
    both = scores_a.index.intersection(scores_b.index)
    if len(both) >= MIN_SHARED_IMAGES:
        return _correlation(scores_a.loc[both].to_numpy(), scores_b.loc[both].to_numpy()), "correlation"
    if same_space:
        return a.bank.directions @ b.bank.directions.T, "cosine"
    raise UserError(
        f"class {a.name!r}: the two runs share {len(both)} images ({MIN_SHARED_IMAGES} are needed) and not the same "
        "weights and layer, so their concepts cannot be matched; audit both models on the same images"
    )


def _scores_by_image(member: ClassAtlas, atlas: Atlas) -> pd.DataFrame:
    ids = atlas.images["sample_id"].to_numpy()[member.everywhere_rows]
    return pd.DataFrame(member.everywhere_scores, index=ids)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    def standard(values: np.ndarray) -> np.ndarray:
        centred = values.astype(np.float64) - values.mean(0)
        size = np.linalg.norm(centred, axis=0)
        return np.divide(centred, size, out=np.zeros_like(centred), where=size > 1e-12)

    return standard(x).T @ standard(y)


def _compare_class(
    a: ClassAtlas,
    b: ClassAtlas,
    atlas_a: Atlas,
    atlas_b: Atlas,
    same_space: bool,
    grades: list[dict[tuple[str, int], str]],
) -> list[dict[str, object]]:
    from scipy.optimize import linear_sum_assignment

    alike, measure = similarity(a, b, atlas_a, atlas_b, same_space)
    matched = {int(i): int(j) for i, j in zip(*linear_sum_assignment(-alike), strict=True) if alike[i, j] >= MATCHED}
    pairs: list[tuple[int | None, int | None]] = [(i, matched.get(i)) for i in range(len(alike))]
    pairs += [(None, j) for j in range(alike.shape[1]) if j not in matched.values()]
    importance = [m.concepts.set_index("concept")["importance"] for m in (a, b)]
    rows = []
    for i, j in pairs:
        ids = [None if i is None else a.bank.ids[i], None if j is None else b.bank.ids[j]]
        weights = [float(importance[s].get(c, np.nan)) if c is not None else np.nan for s, c in enumerate(ids)]
        nearest = alike[i].max() if i is not None and j is None else (alike[:, j].max() if i is None else alike[i, j])
        rows.append(
            {
                "class": a.name,
                "status": "kept" if None not in ids else ("lost" if ids[1] is None else "gained"),
                "concept_a": ids[0],
                "concept_b": ids[1],
                "label_a": None if ids[0] is None else a.label(ids[0]),
                "label_b": None if ids[1] is None else b.label(ids[1]),
                "similarity": float(nearest),
                "measure": measure,
                "importance_a": weights[0],
                "importance_b": weights[1],
                "shift": weights[1] - weights[0],
                "grade_a": None if ids[0] is None else grades[0].get((a.name, ids[0])),
                "grade_b": None if ids[1] is None else grades[1].get((b.name, ids[1])),
            }  # fmt: skip
        )
    return rows


def _shortcuts(concepts: pd.DataFrame) -> pd.DataFrame:
    was, now = concepts["grade_a"].isin(SUSPECT), concepts["grade_b"].isin(SUSPECT)
    table = concepts[was | now].copy()
    table["status"] = np.select([was[was | now] & ~now[was | now], ~was[was | now]], ["fixed", "new"], "kept")
    return table.reset_index(drop=True)


def _agreement(a: ClassAtlas, b: ClassAtlas) -> dict[str, object]:
    one = pd.DataFrame(a.contributions, index=a.images["sample_id"])
    other = pd.DataFrame(b.contributions, index=b.images["sample_id"])
    both = one.index.intersection(other.index)
    value = (
        fuzzy_rand(one.loc[both].to_numpy(), other.loc[both].to_numpy()) if len(both) >= MIN_SHARED_IMAGES else np.nan
    )
    return {"n_shared_images": len(both), "agreement": value, "only_in": None}


def fuzzy_rand(a: np.ndarray, b: np.ndarray) -> float:
    """Return the generalised Rand index of two soft groupings of the same images: (n, k_a) and (n, k_b), in [0, 1].

    Rows are made non-negative and to sum to 1 first; 1: the same pairs of images are alike in both.

    >>> groups = np.array([[1.0, 0], [1, 0], [0, 1]])
    >>> fuzzy_rand(groups, groups[:, ::-1])
    1.0
    """
    alike = []
    for values in (a, b):
        size = np.abs(values)
        share = size / np.maximum(size.sum(1, keepdims=True), 1e-12)
        alike.append(1 - np.abs(share[:, None] - share[None]).sum(2) / 2)
    upper = np.triu_indices(len(a), 1)
    return float(1 - np.abs(alike[0][upper] - alike[1][upper]).mean()) if len(upper[0]) else 1.0
