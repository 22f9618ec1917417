"""Questions that a split model answers by being run: which layer to explain, and whether its head is affine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.features import Features
from conceptatlas.extraction.points import CutPoint
from conceptatlas.extraction.split import SplitModel

KEPT_SHARE = 0.98  # of the predictions, when the prefix tokens are replaced by their mean
FOLLOWED_SHARE = 0.95  # of the predictions that go with either, when prefix tokens are exchanged between images
_MIN_EXCHANGED = 8
STRUCTURAL_DEPTH = 2 / 3  # share of the blocks before the cut that is taken where nothing was measured
_MAX_PROBE = 128
_AT_ONCE = 4  # layers whose activations are held in memory together while they are measured


def choose_layer(halves: SplitModel, probe: torch.Tensor | None = None) -> SplitModel:
    """Return the model cut at the deepest layer where the image still sits in the positions.

    Where no prefix token can take the image's content, that is the last spatial layer. Otherwise every image of
    ``probe`` gets the prefix tokens of an image of another predicted class, and it is the deepest block after which at
    least 95 % of the predictions that go with either image go with the positions. (Images that the model is unsure of
    change their prediction at any layer, so the share of predictions that are merely kept says less.) Where the probe
    images are all of one class, it is the deepest block after which replacing the prefix tokens by their mean keeps at
    least 98 % of the predictions. Without a probe it is the deepest block that has no prefix tokens, where half of the
    blocks are such, else the one with two thirds of the blocks before the cut: on DeiT-tiny, and 100 photographs, the
    two measurements give 9 and 8 blocks of 12. `SplitModel.choice` says which of these it was.
    """
    candidates = candidate_layers(halves)
    if not candidates:
        return _chosen(halves, halves.cut_points[-1], "structure", "no layer has a grid of 2 x 2 positions or more")
    last = candidates[-1]
    if last.prefix_tokens == 0 or not _reads_prefix(halves.at(last)):
        return _chosen(halves, last, "structure", "the last spatial layer; no prefix token is read behind it")
    if probe is not None:
        return _measured(halves, candidates, probe[:_MAX_PROBE])
    without = [point for point in candidates if point.prefix_tokens == 0]
    if 2 * len(without) >= len(candidates):
        return _chosen(halves, without[-1], "structure", "the last spatial layer before prefix tokens come in")
    taken = candidates[max(round(STRUCTURAL_DEPTH * len(candidates)) - 1, 0)]
    reason = (
        f"two thirds of the {len(candidates)} blocks lie before the cut; the head reads the prefix tokens, and no "
        "probe images were given to measure where they take over"
    )
    return _chosen(halves, taken, "structure", reason)


def candidate_layers(halves: SplitModel) -> list[CutPoint]:
    """Return the layers that ``auto`` may take, in order of depth.

    These are the outputs of blocks with a grid of 2 x 2 or more, and the last module of all with such an output (a norm
    or convolution behind the last block), unless it lies inside a pooling module or the head reads its prefix tokens.
    """
    spatial = [point for point in halves.cut_points if point.is_spatial]
    blocks = [point for point in spatial if point.is_block]
    anchor = blocks[-1].name if blocks else ""
    behind = [point for point in spatial if not blocks or point.index > blocks[-1].index]
    modules = dict(halves.model.named_modules())
    outer = [p for p in behind if p.name in modules and not (blocks and _inside_other_module(p, anchor))]
    if outer and (outer[-1].prefix_tokens == 0 or not blocks or not _reads_prefix(halves.at(outer[-1]))):
        blocks.append(outer[-1])
    return blocks


def _inside_other_module(point: CutPoint, anchor: str) -> bool:
    """Say whether a layer lies inside a module that does not hold the anchor and whose output it is not."""
    shared = 0
    parts, other = point.name.split("."), anchor.split(".")
    while shared < min(len(parts), len(other)) and parts[shared] == other[shared]:
        shared += 1
    return len(parts) > shared + 1


def _chosen(halves: SplitModel, point: CutPoint, method: str, reason: str, table: Sequence[Any] = ()) -> SplitModel:
    chosen = halves.at(point)
    chosen.choice = {"method": method, "layer": point.name, "reason": reason, "table": list(table)}
    return chosen


def _measured(halves: SplitModel, candidates: Sequence[CutPoint], probe: torch.Tensor) -> SplitModel:
    if probe.ndim != 4 or len(probe) < 2:
        raise UserError(f"probe of shape {tuple(probe.shape)} is no batch of at least two images (B, C, H, W)")
    rows: list[dict[str, Any]] = []
    for end in range(len(candidates), 0, -_AT_ONCE):
        for row in kept_shares(halves, candidates[max(end - _AT_ONCE, 0) : end], probe):
            rows.append(row)
            if (reason := _image_is_in_positions(row, len(candidates))) is not None:
                return _chosen(halves, halves.at(row["layer"]).layer, "measured", reason, rows)
    best = max(rows, key=lambda row: (row["positions_followed"] or 0.0, row["prefix_replaced"]))
    reason = "the image sits in the positions alone at no layer; at this one most of it does"
    return _chosen(halves, halves.at(best["layer"]).layer, "measured", reason, rows)


def _image_is_in_positions(row: dict[str, Any], n_candidates: int) -> str | None:
    """Return why a layer is taken, or None where the prefix tokens hold too much of the image."""
    if row["positions_followed"] is not None:
        if row["positions_followed"] < FOLLOWED_SHARE:
            return None
        return (
            f"the deepest of {n_candidates} layers where, with prefix tokens exchanged between images of different "
            f"predictions, at least {FOLLOWED_SHARE:.0%} of the predictions go with the positions "
            f"({row['positions_followed']:.2f} of {row['n_decided']} on {row['n_images']} images)"
        )
    if row["prefix_replaced"] < KEPT_SHARE:
        return None
    return (
        f"the deepest of {n_candidates} layers where replacing the prefix tokens by their mean keeps at "
        f"least {KEPT_SHARE:.0%} of the predictions ({row['prefix_replaced']:.2f} on {row['n_images']} images)"
    )


@torch.no_grad()
def kept_shares(
    halves: SplitModel, layers: Sequence[CutPoint], images: torch.Tensor, *, batch_size: int = 32
) -> Iterator[dict[str, Any]]:
    """Yield, deepest layer first, the shares of predictions kept without the prefix tokens, or the positions.

    They are replaced by their mean over the images, the positions by that over the positions as well. A prediction is
    the class of the largest logit, the sign of a single one.

    Yields
    ------
    dict
        ``layer``, ``prefix_replaced`` and ``positions_replaced`` in [0, 1], ``n_images``; ``positions_followed`` in
        [0, 1] of the ``n_decided`` images whose prediction, with the prefix tokens of an image of another class, is
        that of either image (None where fewer than 8 are).
    """
    deepest = halves.at(layers[-1])
    batches = [deepest.encode_through(part, layers[:-1]) for part in images.split(batch_size)]
    expected = torch.cat([deepest.head(batch[-1]) for batch in batches])
    for order in range(len(layers) - 1, -1, -1):
        here = halves.at(layers[order])
        features = [batch[order] for batch in batches]
        yield {
            "layer": here.layer.name,
            "prefix_replaced": _kept(here, _without_prefix(features), expected)
            if features[0].prefix is not None
            else 1.0,
            "positions_replaced": _kept(here, _without_positions(features), expected),
            **_followed(here, features, expected),
            "n_images": len(images),
        }


def _without_prefix(features: Sequence[Features]) -> list[Features]:
    mean = torch.cat([batch.prefix for batch in features if batch.prefix is not None]).mean(0)
    return [batch.replace(prefix=mean.expand(len(batch), *mean.shape)) for batch in features]


def _without_positions(features: Sequence[Features]) -> list[Features]:
    mean = torch.cat([batch.positions.mean(1) for batch in features]).mean(0)
    return [batch.replace(positions=mean.expand_as(batch.positions)) for batch in features]


def _followed(halves: SplitModel, features: Sequence[Features], expected: torch.Tensor) -> dict[str, Any]:
    """Exchange prefix tokens between images of different predictions; count which half the prediction goes with."""
    predicted = _predicted(expected)
    nothing = {"positions_followed": None, "n_decided": 0}
    if features[0].prefix is None or len(predicted.unique()) < 2:
        return nothing
    generator = torch.Generator().manual_seed(0)
    different = (predicted[:, None] != predicted[None]).double().cpu()
    donors = torch.multinomial(different, 1, generator=generator)[:, 0].to(predicted.device)
    prefix = torch.cat([batch.prefix for batch in features if batch.prefix is not None])[donors]
    parts = prefix.split([len(batch) for batch in features])
    mixed = [batch.replace(prefix=part) for batch, part in zip(features, parts, strict=True)]
    output = _predicted(torch.cat([halves.head(batch) for batch in mixed]))
    by_positions, by_prefix = int((output == predicted).sum()), int((output == predicted[donors]).sum())
    if by_positions + by_prefix < _MIN_EXCHANGED:
        return nothing
    return {
        "positions_followed": by_positions / (by_positions + by_prefix),
        "n_decided": by_positions + by_prefix,
    }


def _predicted(output: torch.Tensor) -> torch.Tensor:
    return (output[:, 0] > 0).long() if output.shape[1] == 1 else output.argmax(1)


def _kept(halves: SplitModel, features: Sequence[Features], expected: torch.Tensor) -> float:
    output = torch.cat([halves.head(batch) for batch in features])
    return float((_predicted(output) == _predicted(expected)).double().mean())


@torch.no_grad()
def _reads_prefix(halves: SplitModel) -> bool:
    if halves.device.type == "meta":
        return True  # without weights it cannot be seen; most heads behind prefix tokens do
    first, second = random_features(halves, seed=0), random_features(halves, seed=1)
    output, changed = halves.head(first), halves.head(first.replace(prefix=second.prefix))
    dead = _close(output, halves.head(second), output)  # a head that starts at zero reads nothing yet
    return dead or not _close(output, changed, output)


def random_features(halves: SplitModel, *, seed: int, batch: int = 4) -> Features:
    """Return standard normal activations of the layer's shape, the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(batch, *halves.layer.shape, generator=generator)
    parameter = next(halves.model.parameters(), value)
    value = value.to(device=parameter.device, dtype=parameter.dtype)
    return halves._features(value, halves.layer)


@torch.no_grad()
def is_affine(halves: SplitModel) -> bool:
    """Say whether the head is affine in the mean over positions and in the prefix tokens."""
    if halves.device.type == "meta":
        raise UserError(
            "the model is on the meta device and has no weights: load them to test whether its head is affine"
        )
    a, b = (random_features(halves, seed=seed, batch=2) for seed in (0, 1))
    at_a, at_b, at_zero = halves.head(a), halves.head(b), halves.head(_combined(a, 0.0, a, 0.0))
    pooled = a.replace(positions=a.positions.mean(1, keepdim=True).expand_as(a.positions))
    pairs = (  # made one by one: the first that differs settles it
        (at_a + at_b - at_zero, _combined(a, 1.0, b, 1.0)),
        (at_a, pooled),
        (at_zero + 3.0 * (at_a - at_zero), _combined(a, 3.0, b, 0.0)),
        (at_zero - 0.5 * (at_b - at_zero), _combined(a, 0.0, b, -0.5)),
    )
    return all(_close(expected, halves.head(features), at_a - at_zero) for expected, features in pairs)


def _combined(a: Features, s: float, b: Features, t: float) -> Features:
    prefix = None if a.prefix is None or b.prefix is None else s * a.prefix + t * b.prefix
    return a.replace(positions=s * a.positions + t * b.positions, prefix=prefix)


def _close(one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor) -> bool:
    tolerance = 1e-4 if one.dtype in (torch.float32, torch.float64) else 2e-2
    size = float(scale.abs().max())
    return float((one - other).abs().max()) <= tolerance * (size if size > 0 else 1.0)
