"""The recursion of CRAFT: a concept's strongest rows, taken to an earlier layer and factorized again, give its parts.

Fel et al., CVPR 2023: late layers merge visual parts of one class. For concept i at layer l take the rows whose
coefficient is at least the 90th percentile of its column, and factorize their activations at an earlier layer l'.
Which concepts to split, where to stop, and how many parts there are is not in the paper; here it is explicit.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning

from conceptatlas.concepts.factorizers import make_factorizer
from conceptatlas.concepts.levels import Level, levels_of
from conceptatlas.concepts.nnls import nnls
from conceptatlas.concepts.quality import coherence
from conceptatlas.concepts.rank import NEAR_BEST, choose_n_components
from conceptatlas.concepts.tree import ConceptNode, ConceptTree
from conceptatlas.extraction.errors import UserError

logger = logging.getLogger(__name__)

_MOST_PARTS = 6
_SPREAD = 0.25  # rank-1 relative error above which members may be several things
_EXAMPLES = 16


@dataclass(frozen=True)
class RecursionRule:
    """When a concept is split and when not.

    Parameters
    ----------
    percentile
        Members of a concept are the rows whose coefficient is positive and at least this percentile of its column.
    min_members
        Concepts with fewer members stay whole.
    max_depth
        Levels below the concepts.
    min_images
        Concepts whose members come from fewer images stay whole.
    spread
        Automatic trigger without an independent embedding: try where rank 1 leaves more than this of the members'
        activations at the earlier layer (relative error). With one: where members are no more coherent in it than
        rows drawn at random. Where kinds were merged on purpose their members left 0.3 to 0.6, those of one kind 0.02
        to 0.1; one kind in strong noise leaves as much as two, and is then found to be one part.
    n_children
        Number of parts, or ``"auto"`` (`choose_n_components` from 1 to 6; where it says 1 the concept stays whole, and
        from 2 on what counts is what the parts explain beyond one direction).
    """

    percentile: float = 90.0
    min_members: int = 50
    min_images: int = 10
    max_depth: int = 2
    spread: float = _SPREAD
    n_children: int | Literal["auto"] = "auto"


def grow_tree(
    split_model: Any,
    images: torch.Tensor,
    W: Any,
    *,
    layers: Sequence[Any] | None = None,
    concepts: Sequence[int] | Literal["auto"] = "auto",
    unit: Literal["position", "crop"] = "position",
    rule: RecursionRule | None = None,
    embed: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> ConceptTree:
    """Return the tree of concepts: those of W at the model's layer, and their parts at earlier cut points.

    Parameters
    ----------
    split_model
        Has ``encode_through(images, layers) -> (Features, ...)``, ``layer`` and ``cut_points``.
    images
        (n, 3, H, W), normalised: whole images, or crops at the input size with ``unit="crop"``.
    W
        Components (k, p) at the model's layer.
    layers
        Earlier cut points, nearest to the model's layer first, one per depth; None takes them at two thirds and one
        third of its depth.
    concepts
        Concepts to split, or ``"auto"``: those that `RecursionRule` finds spread out. Parts are always tried by rule.
    unit
        Whether a row is a position of the late layer's grid (earlier activations are averaged over the cell) or a
        whole crop (averaged over all positions).
    rule
        Percentile, stops, trigger and number of parts.
    embed
        Independent embedding for the coherence: ``row indices (m,) -> (m, d)``; None takes the earlier layer itself.
        Row ``i`` is position ``i % positions`` of image ``i // positions``.
    seed
        Seed of the factorizations and of the random baseline.
    batch_size
        Images per forward pass.

    Raises
    ------
    UserError
        For a layer that is not earlier, or concepts that do not exist.
    """
    levels, positions = levels_of(split_model, images, layers, unit=unit, batch_size=batch_size)
    groups = np.arange(len(levels[0].rows)) // positions
    return grow_tree_from_rows(levels, W, groups=groups, concepts=concepts, rule=rule, embed=embed, seed=seed)


def grow_tree_from_rows(
    levels: Sequence[Level],
    W: Any,
    *,
    groups: Any = None,
    concepts: Sequence[int] | Literal["auto"] = "auto",
    rule: RecursionRule | None = None,
    embed: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 0,
) -> ConceptTree:
    """Return the tree of concepts from activations of the same rows at several layers, latest first.

    Parameters
    ----------
    levels
        The model's layer, then earlier ones; row i of each is the same part of the same image.
    W
        Components (k, p) at the first level.
    groups
        Image of each row (n,); None takes each row as its own image.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> kind = np.repeat([0, 1, 2], 400)
    >>> early = np.eye(3)[kind] * rng.uniform(0.5, 1, (1200, 1)) + 0.01 * rng.random((1200, 3))
    >>> late = np.stack([early[:, 0] + early[:, 1], early[:, 2]], axis=1)
    >>> levels = [Level("late", late), Level("early", early)]
    >>> tree = grow_tree_from_rows(levels, np.eye(2), concepts=[0])
    >>> [len(tree.children(i)) for i in (0, 1)]
    [2, 0]
    """
    rule = rule or RecursionRule()
    W = np.asarray(W.detach().cpu() if isinstance(W, torch.Tensor) else W)
    if concepts != "auto" and not all(0 <= i < len(W) for i in concepts):
        raise UserError(f"concepts={list(concepts)} must lie between 0 and {len(W) - 1}.")
    groups = np.arange(len(levels[0].rows)) if groups is None else np.asarray(groups)
    grower = _Grower(tuple(levels), groups, rule, embed, seed, [])
    U = nnls(levels[0].rows, W.astype(levels[0].rows.dtype))
    everything = np.arange(len(U))
    for i in range(len(W)):
        grower.nodes.append(grower.node(i, None, i, 0, W[i], U[:, i], everything))
    for i in range(len(W)):
        asked = concepts != "auto" and i in concepts
        if asked or concepts == "auto":
            grower.split(grower.nodes[i], grower.members(U[:, i], everything), asked=asked)
    return ConceptTree(tuple(grower.nodes), tuple(level.layer for level in levels))


@dataclass(frozen=True)
class _Grower:
    """What every step of the recursion needs, and the list of nodes that it adds to."""

    levels: tuple[Level, ...]
    groups: np.ndarray
    rule: RecursionRule
    embed: Callable[[np.ndarray], np.ndarray] | None
    seed: int
    nodes: list[ConceptNode]

    def members(self, u: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Rows with a positive coefficient of at least the percentile of the column."""
        threshold = np.percentile(u, self.rule.percentile) if len(u) else 0.0
        return rows[(u >= threshold) & (u > 0)]

    def node(
        self, number: int, parent: int | None, concept: int, depth: int, w: np.ndarray, u: np.ndarray, rows: np.ndarray
    ) -> ConceptNode:
        """Describe one concept whose coefficients on ``rows`` are ``u``."""
        members = self.members(u, rows)
        order = rows[np.argsort(-u, kind="stable")][:_EXAMPLES]
        return ConceptNode(
            id=number,
            parent=parent,
            concept=concept,
            depth=depth,
            layer=self.levels[depth].layer,
            direction=tuple(float(x) for x in w),
            threshold=float(np.percentile(u, self.rule.percentile)) if len(u) else 0.0,
            n_members=len(members),
            n_images=len(np.unique(self.groups[members])),
            examples=tuple(int(i) for i in order),
        )

    def split(self, node: ConceptNode, members: np.ndarray, *, asked: bool) -> None:
        """Factorize the members at the next earlier layer, if the rule says so, and go on with the parts."""
        depth = node.depth + 1
        if depth >= len(self.levels) or depth > self.rule.max_depth:
            return
        if len(members) < self.rule.min_members:
            self._record(node, reason=f"{len(members)} members, {self.rule.min_members} needed")
            return
        if (n_images := len(np.unique(self.groups[members]))) < self.rule.min_images:
            self._record(node, reason=f"members in {n_images} images, {self.rule.min_images} needed")
            return
        A = self.levels[depth].rows[members]
        spread = rank_one_error(A)
        own, chance = self._coherence(members, depth)
        triggered = asked or (own <= chance if self.embed else spread > self.rule.spread)
        if not triggered:
            self._record(node, spread=spread, coherence=own, chance=chance, reason="coherent")
            return
        n_parts = self._n_parts(A, self.groups[members])
        self._record(node, spread=spread, coherence=own, chance=chance, reason="" if n_parts > 1 else "one part")
        if n_parts > 1:
            self._add_parts(node, members, A, n_parts)

    def _add_parts(self, node: ConceptNode, members: np.ndarray, A: np.ndarray, n_parts: int) -> None:
        model = make_factorizer("auto", n_parts, signed=bool((A < 0).any()), seed=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # parts that still move by 1e-4 are parts
            U = model.fit(A).transform(A)
        parts = []
        for j, w in enumerate(model.components_):
            part = self.node(len(self.nodes), node.id, j, node.depth + 1, w, U[:, j], members)
            self.nodes.append(part)
            parts.append(part)
        for j, part in enumerate(parts):
            self.split(part, self.members(U[:, j], members), asked=False)

    def _n_parts(self, A: np.ndarray, groups: np.ndarray) -> int:
        if self.rule.n_children != "auto":
            return min(int(self.rule.n_children), *A.shape)
        together = groups if len(np.unique(groups)) >= 2 else None
        choice = choose_n_components(A, candidates=range(1, _MOST_PARTS + 1), seed=self.seed, groups=together)
        return choice.n_components if choice.n_components == 1 else _parts_beyond_one(choice.curve)

    def _coherence(self, members: np.ndarray, depth: int) -> tuple[float, float]:
        """Coherence of the members, and the 95 % point of it for as many rows drawn at random."""
        embed = self.embed or (lambda rows: self.levels[depth].rows[rows])
        rng = np.random.default_rng(self.seed)
        everything = np.arange(len(self.groups))
        some = members if len(members) <= 200 else rng.choice(members, 200, replace=False)
        pool = embed(rng.choice(everything, min(1000, len(everything)), replace=False))
        centre = pool.mean(axis=0)
        draws = [coherence(pool[rng.integers(len(pool), size=len(some))] - centre) for _ in range(20)]
        return coherence(embed(some) - centre), float(np.quantile(draws, 0.95))

    def _record(self, node: ConceptNode, **found: Any) -> None:
        self.nodes[node.id] = node.with_findings(**found)


def _parts_beyond_one(curve: pd.DataFrame) -> int:
    """Choose how many parts from 2 on, by what they explain of that which one leaves, times their stability.

    What all members share is explained by one part; it must not drown what tells the parts apart.
    """
    error, k = curve["relative_error"].to_numpy(), curve["n_components"].to_numpy()
    beyond = np.clip(1 - (error / max(error[k == 1][0], 1e-12)) ** 2, 0, None) * curve["stability"].to_numpy()
    beyond[k == 1] = -1.0
    return int(k[beyond >= NEAR_BEST * np.nanmax(beyond)].min())


def rank_one_error(A: np.ndarray) -> float:
    """Relative error ``|A - A_1| / |A|`` of the best matrix of rank 1, in [0, 1). Lower: the rows are one thing.

    >>> rank_one_error(np.array([[1.0, 2.0], [2.0, 4.0]])) < 1e-7
    True
    """
    values = np.linalg.eigvalsh((A.T @ A if A.shape[1] <= A.shape[0] else A @ A.T).astype(np.float64))
    total = float(values.sum())
    return float(np.sqrt(max(0.0, 1 - float(values[-1]) / total))) if total > 0 else 0.0
