"""What explains single images: the maps of the concepts that decide them, and what it takes to decide otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from conceptatlas.audit.coefficients import positions_on
from conceptatlas.audit.context import Context, sample
from conceptatlas.audit.examples import Pool
from conceptatlas.importance import counterfactual

MAPS_PER_IMAGE = 4
COLUMNS = ["row", "concept", "map_row"]


def image_maps(
    pool: Pool, rows: np.ndarray, contributions: np.ndarray, examples: pd.DataFrame, maps: np.ndarray, ids: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return where the maps of single images stand, and all maps with those that were missing added.

    Parameters
    ----------
    pool
        Images with the maps of all concepts.
    rows, contributions
        (n,) rows of the class's images, and (n, k) what each concept brings to the class logit.
    examples, maps
        The table of shown examples and their maps, which are not stored twice.
    ids
        (n,) sample ids of the class's images.

    Returns
    -------
    table
        One row per map: ``row`` (place among the class's images), ``concept``, ``map_row``; of each image of the pool
        the `MAPS_PER_IMAGE` concepts of largest absolute contribution.
    maps
        (m, h, w) uint8.
    """
    place = {int(row): i for i, row in enumerate(rows)}
    at = {str(sample_id): i for i, sample_id in enumerate(ids)}
    held = {
        (at[str(e.sample_id)], int(e.concept)): int(e.map_row)  # type: ignore[arg-type]
        for e in examples.itertuples()
        if str(e.sample_id) in at
    }
    more = []
    for i, row in enumerate(pool.rows):
        image = place[int(row)]
        for concept in np.argsort(-np.abs(contributions[image]), kind="stable")[:MAPS_PER_IMAGE]:
            key = (image, int(concept))
            if key not in held and pool.maps[i, concept].max() > 0:
                held[key] = len(maps) + len(more)
                more.append(np.round(pool.maps[i, concept] * 255).astype(np.uint8))
    table = pd.DataFrame([(*key, map_row) for key, map_row in sorted(held.items())], columns=COLUMNS)
    return table, np.concatenate([maps, np.stack(more)]) if more else maps


def what_flips(context: Context, rows: np.ndarray, directions: torch.Tensor) -> pd.DataFrame:
    """Return, for some images of a class, the fewest concepts whose removal lets another class win.

    All images where the head is affine, so that the set is found in one step and is the smallest; as many as
    ``settings.sobol_images`` otherwise. None for a model of a single output.

    Returns
    -------
    DataFrame
        Indexed by row of the store: ``counterfactual`` (list of concept ids), ``flips_to`` (the class that then wins,
        or the next one where none can), ``flipped`` (whether removing them suffices), ``smallest`` (whether no smaller
        set exists).
    """
    found: dict[int, dict[str, Any]] = {}
    affine = bool(context.split.head_is_affine)
    chosen = rows if affine else sample(rows, context.settings.sobol_images, context.settings.seed)
    if len(context.class_names) > 1:
        for block, features in context.blocks(chosen):
            u = positions_on(features, directions)
            second = np.argsort(-context.store.logits_of(block), axis=1, kind="stable")[:, 1]
            results = counterfactual(context.split, features, u, directions, typical=context.typical)
            for row, following, result in zip(block, second, results, strict=True):
                found[int(row)] = {
                    "counterfactual": list(result.concepts),
                    "flips_to": context.class_names[int(result.becomes if result.flipped else following)],
                    "flipped": result.flipped,
                    "smallest": result.exact,
                }
    columns = ["counterfactual", "flips_to", "flipped", "smallest"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns)
