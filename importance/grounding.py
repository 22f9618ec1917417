"""How well a map agrees with a mask: pure functions on arrays, each with its own chance level.

Letters: a map is a non-negative array (..., h, w); a mask is a boolean array of the same shape, True on the thing.
Undefined values (no mask, or an all-zero map where the measure divides by its sum) are NaN, never a silent zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def peak_of(maps: ArrayLike) -> NDArray[np.int64]:
    """Row and column of each map's maximum.

    Parameters
    ----------
    maps : array (..., h, w)
        Maps, at the resolution in which the peak is wanted.

    Returns
    -------
    array (..., 2) of int
        (row, column) of the maximum; of a plateau, the tied pixel nearest to their mean.

    Examples
    --------
    >>> peak_of([[0.0, 1.0], [0.0, 0.0]]).tolist()
    [0, 1]
    """
    stack = _as_maps(maps)
    flat = stack.reshape(-1, *stack.shape[-2:])
    peaks = np.array([_plateau_centre(one) for one in flat], dtype=np.int64).reshape(-1, 2)
    return peaks.reshape(*stack.shape[:-2], 2)


def pointing_game(maps: ArrayLike, masks: ArrayLike, *, tolerance: float = 0.0) -> NDArray[np.float64]:
    """1.0 where the map's maximum lies on the mask or within `tolerance` pixels of it, 0.0 where it does not.

    Zhang et al., Top-down Neural Attention by Excitation Backprop (2016); they take 15 pixels at 224. The chance level
    is `pointing_chance`. An all-zero (or constant) map has no maximum and scores 0.

    Parameters
    ----------
    maps : array (..., h, w)
        Maps at the mask's resolution.
    masks : bool array (..., h, w)
        True on the thing.
    tolerance : float
        Euclidean distance in pixels that still counts as a hit.

    Returns
    -------
    array (...)
        1.0 or 0.0 per map; NaN where the mask is empty.

    Examples
    --------
    >>> float(pointing_game([[0.0, 1.0], [0.0, 0.0]], [[False, True], [False, False]]))
    1.0
    """
    stack, truth = _as_pair(maps, masks)
    shape = stack.shape[:-2]
    stack, truth = stack.reshape(-1, *stack.shape[-2:]), truth.reshape(-1, *truth.shape[-2:])
    hits = np.full(len(stack), np.nan)
    for i, (one, mask) in enumerate(zip(stack, truth, strict=True)):
        if not mask.any():
            continue
        row, column = _plateau_centre(one)
        rows, columns = np.nonzero(mask)
        distance = np.sqrt(((rows - row) ** 2 + (columns - column) ** 2).min())
        hits[i] = float(distance <= tolerance and one.max() > one.min())
    return hits.reshape(shape)


def pointing_chance(masks: ArrayLike, *, tolerance: float = 0.0) -> NDArray[np.float64]:
    """Share of the pixels that `pointing_game` would count as a hit: what a peak at a random pixel scores.

    Parameters
    ----------
    masks : bool array (..., h, w)
        True on the thing.
    tolerance : float
        As in `pointing_game`.

    Returns
    -------
    array (...) in [0, 1]
        NaN where the mask is empty.

    Examples
    --------
    >>> float(pointing_chance([[True, False], [False, False]]))
    0.25
    """
    from scipy.ndimage import distance_transform_edt

    truth = np.asarray(masks, dtype=bool)
    shape = truth.shape[:-2]
    flat = truth.reshape(-1, *truth.shape[-2:])
    near = [np.asarray(distance_transform_edt(~one)) <= tolerance for one in flat]
    chance = [float(reached.mean()) if one.any() else np.nan for one, reached in zip(flat, near, strict=True)]
    return np.array(chance).reshape(shape)


def iou(
    maps: ArrayLike, masks: ArrayLike, *, share: float | None = None, threshold: float = 0.5
) -> NDArray[np.float64]:
    """Intersection over union of the mask and the map's strongest region.

    Parameters
    ----------
    maps : array (..., h, w)
        Maps at the mask's resolution.
    masks : bool array (..., h, w)
        True on the thing.
    share : float in (0, 1], optional
        Take this share of the pixels, the strongest ones. By default the region is `map >= threshold * max`.
    threshold : float in (0, 1]
        Fraction of each map's maximum, used when `share` is None.

    Returns
    -------
    array (...) in [0, 1]
        0 for an all-zero map; NaN where the mask is empty.

    Examples
    --------
    >>> float(iou([[1.0, 0.9], [0.1, 0.0]], [[True, False], [False, False]]))
    0.5
    """
    stack, truth = _as_pair(maps, masks)
    if share is None:
        peak = stack.max(axis=(-2, -1), keepdims=True)
        region = (stack >= threshold * peak) & (stack > 0)
    else:
        region = top_region(stack, share) & (stack > 0)
    both = (region & truth).sum(axis=(-2, -1))
    either = (region | truth).sum(axis=(-2, -1))
    return np.where(truth.any(axis=(-2, -1)), both / np.maximum(either, 1), np.nan)


def top_region(maps: ArrayLike, share: float) -> NDArray[np.bool_]:
    """The strongest `share` of each map's pixels, exactly ceil(share * h * w) of them; ties by position.

    Parameters
    ----------
    maps : array (..., h, w)
        Maps.
    share : float in (0, 1]
        Share of the pixels.

    Returns
    -------
    bool array (..., h, w)

    Examples
    --------
    >>> top_region([[3.0, 1.0], [2.0, 0.0]], 0.5).tolist()
    [[True, False], [True, False]]
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    stack = _as_maps(maps)
    flat = stack.reshape(-1, stack.shape[-2] * stack.shape[-1])
    count = int(np.ceil(share * flat.shape[1] - 1e-9))
    order = np.argsort(-flat, axis=1, kind="stable")[:, :count]
    region = np.zeros(flat.shape, dtype=bool)
    np.put_along_axis(region, order, True, axis=1)
    return region.reshape(stack.shape)


def average_precision(maps: ArrayLike, masks: ArrayLike) -> NDArray[np.float64]:
    """Threshold-free average precision of the map's values as a score for "this pixel is on the mask".

    Tied pixels enter together (a constant map scores exactly the mask's area share, which is the chance level).

    Parameters
    ----------
    maps : array (..., h, w)
        Maps at the mask's resolution.
    masks : bool array (..., h, w)
        True on the thing.

    Returns
    -------
    array (...) in [0, 1]
        NaN where the mask is empty.

    Examples
    --------
    >>> float(average_precision([[2.0, 1.0], [0.0, 0.0]], [[True, False], [False, False]]))
    1.0
    """
    stack, truth = _as_pair(maps, masks)
    shape = stack.shape[:-2]
    pairs = zip(
        stack.reshape(-1, stack[..., :, :].shape[-2] * stack.shape[-1]),
        truth.reshape(-1, truth.shape[-2] * truth.shape[-1]),
        strict=True,
    )
    return np.array([_average_precision(score, positive) for score, positive in pairs]).reshape(shape)


def energy_in_mask(maps: ArrayLike, masks: ArrayLike) -> NDArray[np.float64]:
    """Share of the map's mass that lies on the mask; its chance level is the mask's area share.

    Parameters
    ----------
    maps : array (..., h, w)
        Non-negative maps at the mask's resolution.
    masks : bool array (..., h, w)
        True on the thing.

    Returns
    -------
    array (...) in [0, 1]
        NaN where the map is all zero.

    Raises
    ------
    ValueError
        If a map has negative values: a share of a signed mass has no meaning.

    Examples
    --------
    >>> float(energy_in_mask([[3.0, 1.0], [0.0, 0.0]], [[True, False], [False, False]]))
    0.75
    """
    stack, truth = _as_pair(maps, masks)
    if stack.size and stack.min() < 0:
        raise ValueError(
            f"energy_in_mask needs non-negative maps, got a minimum of {stack.min():.3g}; clip them at 0 first"
        )
    total = stack.sum(axis=(-2, -1))
    inside = np.where(truth, stack, 0.0).sum(axis=(-2, -1))
    return np.where(total > 0, inside / np.where(total > 0, total, 1.0), np.nan)


def energy_ratio(maps: ArrayLike, masks: ArrayLike) -> NDArray[np.float64]:
    """Energy in the mask divided by the mask's area share: 1 is what a constant map gets, above 1 it prefers the mask.

    Parameters
    ----------
    maps : array (..., h, w)
        Non-negative maps at the mask's resolution.
    masks : bool array (..., h, w)
        True on the thing.

    Returns
    -------
    array (...) in [0, inf)
        NaN where the map is all zero or the mask is empty.

    Examples
    --------
    >>> float(energy_ratio([[3.0, 1.0], [0.0, 0.0]], [[True, False], [False, False]]))
    3.0
    """
    area = np.asarray(masks, dtype=bool).mean(axis=(-2, -1))
    return np.where(area > 0, energy_in_mask(maps, masks) / np.where(area > 0, area, 1.0), np.nan)


def _average_precision(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    if not positive.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    ends = np.r_[np.nonzero(np.diff(score[order]))[0], score.size - 1]
    hits = np.cumsum(positive[order])[ends]
    precision = hits / (ends + 1)
    recall = hits / hits[-1]
    return float(np.sum(np.diff(np.r_[0.0, recall]) * precision))


def _plateau_centre(one: NDArray[np.float64]) -> tuple[int, int]:
    rows, columns = np.nonzero(one == one.max())
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(rows[nearest]), int(columns[nearest])


def _as_maps(maps: ArrayLike) -> NDArray[np.float64]:
    stack = np.asarray(maps, dtype=np.float64)
    if stack.ndim < 2:
        raise ValueError(f"maps must have shape (..., h, w), got {stack.shape}")
    if not np.isfinite(stack).all():
        raise ValueError("maps hold NaN or infinite values; a map that could not be computed must be left out")
    return stack


def _as_pair(maps: ArrayLike, masks: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    stack, truth = _as_maps(maps), np.asarray(masks)
    if truth.dtype != np.bool_:
        raise TypeError(f"masks must be boolean, got {truth.dtype}; compare with a threshold first")
    if stack.shape != truth.shape:
        raise ValueError(
            f"maps {stack.shape} and masks {truth.shape} differ in shape; upsample the maps to the mask first"
        )
    return stack, truth
