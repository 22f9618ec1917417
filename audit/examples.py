"""The images that are shown for each concept: what the model saw of them, where the concept is, and its crops."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from conceptatlas.audit.coefficients import positions_on
from conceptatlas.audit.context import Context
from conceptatlas.importance import concept_maps
from conceptatlas.importance.implicit import aligned

SMALLEST_CROP, LARGEST_CROP = 0.25, 0.6
MAP_SCALE_QUANTILE = 0.99
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Pool:
    """Images of a class with the maps of all its concepts.

    Attributes
    ----------
    rows
        (n,) rows of the store.
    views
        What the model saw of each.
    maps
        (n, k, h, w) non-negative maps, divided by `scale` and cut at 1.
    scale
        (k,) 99 % quantile of each concept's maps over the pool.
    raw
        (n, k, h, w) the maps before: what is strongest can be told from these alone.
    """

    rows: np.ndarray
    views: list[Image.Image]
    maps: np.ndarray
    scale: np.ndarray
    raw: np.ndarray


def build_pool(context: Context, rows: np.ndarray, directions: torch.Tensor, method: str) -> Pool:
    """Read some images of a class and compute the maps of all concepts on them."""
    views = context.readable_views(rows)
    kept = np.array(sorted(views), dtype=int)
    shown = [views[row] for row in kept]
    raw = [_maps_of(context, kept[i : i + 16], shown[i : i + 16], directions, method) for i in range(0, len(shown), 16)]
    maps = np.concatenate(raw) if raw else np.zeros((0, len(directions), 1, 1), dtype=np.float32)
    return make_pool(kept, shown, maps)


def _maps_of(
    context: Context, rows: np.ndarray, views: list[Image.Image], directions: torch.Tensor, method: str
) -> np.ndarray:
    """Return the maps (n, k, h, w) of all concepts on some images; coefficients are read from the store."""
    if method == "coefficients":
        features = context.features(rows)
        maps = positions_on(features, directions).mT.reshape(len(rows), -1, *features.grid).float()
        return aligned(maps, context.split.reading_offset()).cpu().numpy()
    return concept_maps(context.split, directions, context.tensors(views), method=method).detach().cpu().numpy()


def make_pool(rows: np.ndarray, views: list[Image.Image], maps: np.ndarray) -> Pool:
    """Return some images with raw maps ``(n, k, h, w)`` of their concepts, brought to one scale for each concept."""
    scale = _scale(maps)
    return Pool(rows, views, np.clip(maps / scale[None, :, None, None], 0, 1).astype(np.float32), scale, maps)


def _scale(maps: np.ndarray) -> np.ndarray:
    flat = maps.transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)
    if flat.shape[1] == 0:
        return np.ones(len(flat), dtype=np.float32)
    scale = np.quantile(flat, MAP_SCALE_QUANTILE, axis=1)
    top = flat.max(1)
    scale = np.where(scale > 0, scale, top)  # a concept in less than one position of a hundred
    return np.where(scale > 0, scale, 1).astype(np.float32)


def crop_box(concept_map: np.ndarray, size: tuple[int, int]) -> Box:
    """Return the box (left, top, right, bottom), in pixels of the view, that shows where a map is strongest.

    The box holds the connected region above half of the map's maximum, and is made square, at least a quarter and
    at most three fifths of the view's shorter side.

    Parameters
    ----------
    concept_map
        (h, w) map.
    size
        (width, height) of the view.
    """
    from scipy.ndimage import label

    width, height = size
    full = _upsampled(concept_map, size)
    if not full.max() > 0:
        return 0, 0, width, height
    peak = np.unravel_index(full.argmax(), full.shape)
    regions, _ = label(full >= full.max() / 2)
    ys, xs = np.nonzero(regions == regions[peak])
    shorter = min(width, height)
    wanted = max(np.ptp(ys), np.ptp(xs)) + 1
    side = int(np.clip(wanted, SMALLEST_CROP * shorter, LARGEST_CROP * shorter))
    fits = wanted <= side
    centre = ((ys.min() + ys.max()) / 2, (xs.min() + xs.max()) / 2) if fits else peak
    top = int(np.clip(round(centre[0] - side / 2), 0, height - side))
    left = int(np.clip(round(centre[1] - side / 2), 0, width - side))
    return left, top, left + side, top + side


def _upsampled(concept_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(concept_map, dtype=np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def mean_in_box(maps: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Return the mean of (k, h, w) maps over a box given in pixels of the view: (k,)."""
    width, height = size
    _, h, w = maps.shape
    top, bottom = box[1] * h / height, box[3] * h / height
    left, right = box[0] * w / width, box[2] * w / width
    weight_y = _overlap(h, top, bottom)
    weight_x = _overlap(w, left, right)
    return np.einsum("khw,h,w->k", maps, weight_y, weight_x) / max(weight_y.sum() * weight_x.sum(), 1e-9)


def _overlap(cells: int, start: float, stop: float) -> np.ndarray:
    edges = np.arange(cells + 1)
    return np.clip(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start), 0, None)


def top_rows(scores: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of the images that hold most of a concept, strongest first."""
    order = np.argsort(-scores, kind="stable")
    return rows[order[:count]]


def example_table(
    context: Context, pool: Pool, rows: np.ndarray, scores: np.ndarray, view_of: dict[int, str]
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the table of shown examples and their maps as (m, h, w) uint8.

    Parameters
    ----------
    context, pool
        The audit and the pool that the examples are taken from.
    rows, scores
        (n,) rows of the class's images and (n, k) how much of each concept they hold.
    view_of
        Stored view of each row.
    """
    place = {int(row): i for i, row in enumerate(pool.rows)}
    known = np.isin(rows, pool.rows)
    records, maps = [], []
    for concept in range(scores.shape[1]):
        best = top_rows(scores[known, concept], rows[known], context.settings.n_examples)
        score_of = dict(zip(rows.tolist(), scores[:, concept].tolist(), strict=True))
        for rank, row in enumerate(int(r) for r in best if score_of[int(r)] > 0):
            concept_map = pool.maps[place[row], concept]
            left, top, right, bottom = crop_box(concept_map, pool.views[place[row]].size)
            records.append(
                (
                    concept,
                    rank,
                    context.images["sample_id"].iloc[row],
                    view_of.get(row),
                    score_of[row],
                    left,
                    top,
                    right,
                    bottom,
                    len(maps),
                )
            )
            maps.append(np.round(concept_map * 255).astype(np.uint8))
    columns = ["concept", "rank", "sample_id", "view", "coefficient", "left", "top", "right", "bottom", "map_row"]
    stacked = np.stack(maps) if maps else np.zeros((0, 1, 1), dtype=np.uint8)
    return pd.DataFrame(records, columns=columns), stacked


def store_views(context: Context, views: dict[int, Image.Image]) -> dict[int, str]:
    """Write views as WebP under ``views/``, named by their content, and return the relative path of each row."""
    folder = context.run_dir / "views"
    folder.mkdir(parents=True, exist_ok=True)
    return {row: f"views/{_store(view, folder)}" for row, view in views.items()}


def _store(view: Image.Image, folder: Path) -> str:
    buffer = io.BytesIO()
    view.save(buffer, format="WEBP", quality=85, method=2)  # 4: twice the time, 3 % smaller
    name = hashlib.sha256(buffer.getvalue()).hexdigest()[:20] + ".webp"
    path = folder / name
    if not path.exists():
        side = folder / f".{name}.{os.getpid()}"
        side.write_bytes(buffer.getvalue())
        side.replace(path)
    return name
