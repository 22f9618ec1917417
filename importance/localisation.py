"""Which concept map tells the truth for a model and layer: a causal test that needs no masks.

No single map is right everywhere: the coefficient map is right on a ViT's tokens and can be worse than chance on the
last layer of a CNN, where implicit differentiation is right. So the map is chosen by what it claims: cover the map's
top region and the concept must fall, by more than when a random region of the same shape is covered. How much of a
concept an image holds is the mean of its coefficient over the strongest tenth of the positions: a transformer's tokens
hold a little of every concept everywhere, and a mean over all of them would hardly notice that a small thing is gone.
The share of the coefficient that goes with the covered region is the concept's *localisation*; where it does not beat
chance, the place of the concept is not known and no heat map should be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from conceptatlas.importance.maps import map_methods, nnls_transform, paired_maps, upsample
from conceptatlas.importance.occlusion import FILLS, Transform, cover, occlusion_maps, pooled_coefficients
from conceptatlas.importance.tabled import Tabled

if TYPE_CHECKING:
    from conceptatlas.extraction import SplitModel

SHARES = (0.02, 0.05, 0.10, 0.20)  # of the image, covered
STRONGEST = 0.10  # of an image's positions say how much of a concept it holds
MARGIN = 0.05  # by how much localisation must beat chance
ROUNDS = ((12, 8), (24, 5), (64, 2), (128, 1))  # covers each candidate has had by then, and how many go on
TIE = 0.10  # of the best score: within it, the earlier candidate of the list is taken
SURE, CLEAR = 2.0, 3.0  # standard errors from which on a candidate is out, and from which on a concept is decided
ENOUGH = 6  # covers with their shifts, before a concept is


@dataclass(frozen=True)
class MapChoice(Tabled):
    """The map chosen for a model and layer, and how well it is proven for each concept.

    Attributes
    ----------
    method : str
        The winner, a name that `concept_maps` takes.
    localisation : array (k,)
        Share of the concept's coefficient (mean over the strongest tenth of the positions) that goes when the map's
        top region is covered: mean over the concept's strongest images, over regions of 2, 5, 10 and 20 % of the image
        and over both fills. At most 1; NaN for a concept that was not tested or that no probe image has.
    chance : array (k,)
        The same for the same regions shifted to a random place.
    known : bool array (k,)
        Where localisation beats chance by `MARGIN` and by twice the standard error of the difference.
    table : DataFrame
        One row per candidate, the winner first: method, score (mean share removed), covers (how many it had), round
        (the last one it took part in; the measurement beside chance counts as one more).
    n_forwards : int
        Forward passes of covered images that the choice took.
    """

    method: str
    localisation: NDArray[np.float64]
    chance: NDArray[np.float64]
    known: NDArray[np.bool_]
    table: pd.DataFrame
    n_forwards: int


def choose_map(
    split_model: SplitModel,
    W: np.ndarray | torch.Tensor,
    images: torch.Tensor,
    *,
    concepts: Sequence[int] | None = None,
    presence: np.ndarray | torch.Tensor | None = None,
    methods: Sequence[str] | None = None,
    transform: Transform | None = None,
    images_per_concept: int = 4,
    seed: int = 0,
    batch_size: int = 32,
) -> MapChoice:
    """Choose, by covering what each candidate points at, the map that a model's concepts at this layer are shown with.

    Every candidate gets the same covers on the same (image, concept) pairs; the field is cut after each of four
    rounds to those that can still win, and the winner is then measured on every pair beside chance, with half of the
    covers where these decide. Candidates within `TIE` of the best count as equal, and the earlier one in the list is
    taken: by default the one read nearest to the concepts' layer, because gradients grow noisier with every block. The
    cost, with the default candidates (13 for four earlier cut points)
    and k concepts on 4 images each, is at most about 720 + 32 k forward passes and 4 k backward passes, whatever the
    size of the probe set; where occlusion is called up, 64 more for each image that the pairs hold.

    Parameters
    ----------
    split_model : SplitModel
        The model cut at the concepts' layer, in eval mode.
    W : array or tensor (k, p)
        Concept directions.
    images : tensor (B, 3, H, W)
        The probe set, normalised: a few dozen images that have the concepts.
    concepts : sequence of int, optional
        Test only these; the others get NaN and are not known.
    presence : array (B, k), optional
        Each concept's coefficient in each image, mean over the strongest tenth of the positions (`strongest`), where it
        is at hand already.
    methods : sequence of str, optional
        Candidates, the preferred ones first; by default `map_methods(split_model)`, and occlusion after them where
        the best of them is proven for less than half of the concepts.
    transform : callable (n, p) -> (n, k), optional
        Coefficients of activations; default `nnls` on W.
    images_per_concept : int
        On how many of its strongest images a concept is tested.
    seed : int
        For the random regions.
    batch_size : int
        Images per forward pass.

    Returns
    -------
    MapChoice
    """
    coefficients = transform or nnls_transform(W, images.device)
    pooled = _presence(split_model, images, coefficients, presence, batch_size)
    wanted = range(len(W)) if concepts is None else concepts
    test = _CoverTest(split_model, images, coefficients, pooled, _pairs(pooled, wanted, images_per_concept), batch_size)
    candidates = list(methods) if methods is not None else map_methods(split_model)
    if len(test.pairs) == 0:
        return _untested(candidates, len(W))
    maps = _candidate_maps(test, candidates)
    table, fall = _race(test, maps)
    winner = str(table["method"].iloc[0])
    choice = _measured(test, winner, maps[winner], fall, table, len(W), seed)
    if methods is None and choice.known[np.isfinite(choice.localisation)].mean() < 0.5:
        slow = _candidate_maps(test, ["occlusion"])["occlusion"]
        choice = _better(choice, _measured(test, "occlusion", slow, fall[:0], table, len(W), seed))
    return choice


def strongest(coefficients: torch.Tensor) -> torch.Tensor:
    """Mean over the tenth of the positions where each concept is strongest.

    Parameters
    ----------
    coefficients : tensor (B, positions, k)
        Of every position.

    Returns
    -------
    tensor (B, k)

    Examples
    --------
    >>> strongest(torch.tensor([[[0.0], [3.0], [1.0]]])).tolist()
    [[3.0]]
    """
    count = max(1, round(STRONGEST * coefficients.shape[1]))
    return coefficients.topk(count, dim=1).values.mean(dim=1)


@dataclass(frozen=True)
class _CoverTest:
    """What is needed to cover regions and to see how far the concepts fall."""

    split_model: SplitModel
    images: torch.Tensor  # (B, 3, H, W)
    transform: Transform
    presence: torch.Tensor  # (B, k)
    pairs: torch.Tensor  # (P, 2): row of the image, concept
    batch_size: int

    def falls(self, cells: Sequence[_Cell], maps: torch.Tensor, shift: torch.Generator | None = None) -> torch.Tensor:
        """Share of the coefficient that goes when each cell's region is covered, (len(cells),), in [-1, 1]."""
        parts = []
        for start in range(0, len(cells), self.batch_size):
            some = cells[start : start + self.batch_size]
            pair = torch.tensor([cell.pair for cell in some], device=self.pairs.device)
            region = _regions(maps[pair], [cell.share for cell in some], self.images.shape[-2:])
            region = region if shift is None else _shifted(region, shift)
            parts.append(self._fall(self.pairs[pair], region, [cell.fill for cell in some]))
        return torch.cat(parts) if parts else self.presence.new_zeros(0)

    def _fall(self, pairs: torch.Tensor, region: torch.Tensor, fills: Sequence[str]) -> torch.Tensor:
        rows, concepts = pairs.unbind(dim=1)
        pictures = self.images[rows]
        blurred = torch.tensor([fill == "blur" for fill in fills], device=region.device)
        for fill in FILLS:
            mine = blurred if fill == "blur" else ~blurred
            if mine.any():
                pictures[mine] = cover(pictures[mine], region[mine], fill=fill)
        after = pooled_coefficients(
            self.split_model, pictures, self.transform, batch_size=self.batch_size, pool=strongest
        )
        before = self.presence[rows, concepts]
        return (1.0 - after.gather(1, concepts[:, None])[:, 0] / before).clamp(min=-1.0, max=1.0)


@dataclass(frozen=True)
class _Cell:
    """One cover of the design: which pair, how much of the image, with what."""

    pair: int
    share: float
    fill: str


def _pairs(presence: torch.Tensor, concepts: Sequence[int], per_concept: int) -> torch.Tensor:
    """Each concept's strongest images, (P, 2) of (image, concept): every concept's first, then every second, ..."""
    order = presence.argsort(dim=0, descending=True)[:per_concept]
    pairs = [(int(row), c) for rows in order for c, row in ((c, rows[c]) for c in concepts) if presence[row, c] > 0]
    return torch.tensor(pairs, dtype=torch.long, device=presence.device).reshape(-1, 2)


def _design(n_pairs: int) -> list[_Cell]:
    """Every pair with every share once, the fill alternating; any prefix is balanced over pairs, shares and fills."""
    cells = []
    for turn in range(len(SHARES)):
        for pair in range(n_pairs):
            place = pair + turn
            cells.append(_Cell(pair, SHARES[place % len(SHARES)], FILLS[(pair // len(SHARES) + place) % len(FILLS)]))
    return cells


def _race(test: _CoverTest, maps: dict[str, torch.Tensor]) -> tuple[pd.DataFrame, torch.Tensor]:
    """Successive halving: all candidates on the first cells, those that can still win on more. A table, winner's falls.

    The first candidate stays in to the end, so that a few unlucky covers cannot lose the most direct map.
    """
    cells = _design(len(test.pairs))
    falls = {name: test.presence.new_zeros(0) for name in maps}
    reached = dict.fromkeys(maps, 0)
    first, *_ = runners = list(maps)
    done = 0
    for number, (covers, keep) in enumerate(ROUNDS, start=1):
        for name in runners:
            falls[name] = torch.cat([falls[name], test.falls(cells[done:covers], maps[name])])
            reached[name] = number
        done = min(covers, len(cells))
        if number < len(ROUNDS):
            able = _able({name: falls[name] for name in runners})
            best = sorted(able, key=lambda name: -float(falls[name].mean()))[:keep]
            runners = [name for name in runners if name in best or name == first]
        if len(runners) == 1:
            break
    winner = next(name for name in runners if _ties({name: falls[name] for name in runners}, name))
    rows = [
        {
            "method": name,
            "score": float(values.mean()),
            "covers": len(values),
            "round": reached[name] + (name == winner),
        }
        for name, values in falls.items()
    ]
    table = pd.DataFrame(rows).sort_values(["round", "score"], ascending=False, kind="stable", ignore_index=True)
    return table, falls[winner]


def _able(falls: dict[str, torch.Tensor]) -> list[str]:
    """Return the candidates that may still win: no other leads one, and it leads every earlier one, beyond a tie."""
    names = list(falls)

    def leads(name: str, other: str) -> tuple[float, float]:
        """The bounds of one's lead over another, beyond what counts as equal."""
        lead = falls[name] - falls[other]
        doubt = SURE * float(lead.std()) / len(lead) ** 0.5 if len(lead) > 1 else float("inf")
        beyond = float(lead.mean()) - TIE * float(falls[name].mean())
        return beyond - doubt, beyond + doubt

    return [
        name
        for place, name in enumerate(names)
        if not any(leads(other, name)[0] > 0 for other in names if other != name)
        and not any(leads(name, earlier)[1] <= 0 for earlier in names[:place])
    ]


def _ties(falls: dict[str, torch.Tensor], name: str) -> bool:
    """Whether the best candidate leads this one by no more than `TIE` of its score or the lead's standard error."""
    best = max(falls.values(), key=lambda values: float(values.mean()))
    lead = best - falls[name]
    error = float(lead.std()) / len(lead) ** 0.5 if len(lead) > 1 else 0.0
    return float(lead.mean()) <= max(TIE * float(best.mean()), error)


def _measured(
    test: _CoverTest, method: str, maps: torch.Tensor, fall: torch.Tensor, table: pd.DataFrame, k: int, seed: int
) -> MapChoice:
    """A candidate's localisation and chance, concept by concept, on the cells of the design; `fall` is begun.

    Half of the cells, and the other half of those concepts of which the first does not tell whether they are known.
    """
    cells = _design(len(test.pairs))
    generator = torch.Generator().manual_seed(seed)
    owner = test.pairs[[cell.pair for cell in cells], 1].cpu().numpy()
    covered, shifted = np.full(len(cells), np.nan), np.full(len(cells), np.nan)
    covered[: len(fall)] = fall.double().cpu().numpy()
    place, n_covers = np.arange(len(cells)), 0
    for some in (place < len(cells) // 2, place >= len(cells) // 2):
        clear = [c for c in np.unique(owner) if _is_clear(_paired(covered, shifted, owner == c))]
        rest = np.flatnonzero(some & ~np.isin(owner, clear))
        new = rest[np.isnan(covered[rest])]
        covered[new] = test.falls([cells[i] for i in new], maps).double().cpu().numpy()
        shifted[rest] = test.falls([cells[i] for i in rest], maps, generator).double().cpu().numpy()
        n_covers += len(new) + len(rest)
    localisation, chance, known = np.full(k, np.nan), np.full(k, np.nan), np.zeros(k, dtype=bool)
    for concept in np.unique(owner):
        mine = owner == concept
        localisation[concept], chance[concept] = np.nanmean(covered[mine]), np.nanmean(shifted[mine])
        known[concept] = _is_beyond(_paired(covered, shifted, mine))
    return MapChoice(method, localisation, chance, known, table, sum(table["covers"].tolist()) + n_covers)


def _paired(covered: NDArray[np.float64], shifted: NDArray[np.float64], mine: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The gains over chance of those cells that have been measured both ways."""
    gain = (covered - shifted)[mine]
    return gain[np.isfinite(gain)]


def _is_clear(gain: NDArray[np.float64]) -> bool:
    """Whether a gain over chance lies so far from the margin that more covers would not tell otherwise."""
    if len(gain) < ENOUGH:
        return False
    return bool(abs(gain.mean() - MARGIN) > CLEAR * gain.std(ddof=1) / len(gain) ** 0.5)


def _is_beyond(gain: NDArray[np.float64]) -> bool:
    """Whether a gain over chance is above the margin, and above twice its standard error."""
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    return bool(gain.mean() >= max(MARGIN, 2.0 * error))


def _better(choice: MapChoice, rival: MapChoice) -> MapChoice:
    """The one that leads its own chance by more; both rows in the table."""
    lead, other = (float(np.nanmean(c.localisation - c.chance)) for c in (choice, rival))
    score = float(np.nanmean(rival.localisation))
    covers = rival.n_forwards - sum(choice.table["covers"].tolist())
    row = pd.DataFrame([{"method": rival.method, "score": score, "covers": covers, "round": len(ROUNDS) + 1}])
    parts = [row, choice.table] if other > lead else [choice.table, row]
    best = rival if other > lead else choice
    table = pd.concat(parts, ignore_index=True)
    return MapChoice(best.method, best.localisation, best.chance, best.known, table, choice.n_forwards + covers)


def _candidate_maps(test: _CoverTest, methods: Sequence[str]) -> dict[str, torch.Tensor]:
    """Each candidate's map of each pair, (P, h, w)."""
    rows, concepts = test.pairs.unbind(dim=1)
    shared = [method for method in methods if method != "occlusion"]
    maps = paired_maps(test.split_model, test.images[rows], concepts, test.transform, methods=shared) if shared else {}
    if "occlusion" in methods:
        distinct, place = rows.unique(return_inverse=True)
        everything = list(range(test.presence.shape[1]))
        falls = occlusion_maps(test.split_model, test.images[distinct], test.transform, concepts=everything)
        maps["occlusion"] = falls[place, concepts]
    return {method: maps[method] for method in methods}


def _regions(maps: torch.Tensor, shares: Sequence[float], size: torch.Size) -> torch.Tensor:
    """The strongest share of each upsampled map, (B, H, W) bool."""
    pixels = upsample(maps[:, None], (size[0], size[1])).flatten(1)
    region = torch.zeros_like(pixels, dtype=torch.bool)
    for row, (values, share) in enumerate(zip(pixels, shares, strict=True)):
        region[row, values.topk(max(1, round(share * len(values)))).indices] = True
    return region.reshape(-1, *size)


def _shifted(region: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every region rolled to a random place: the same shape, the same size."""
    height, width = region.shape[-2:]
    down = torch.randint(height, (len(region),), generator=generator).tolist()
    right = torch.randint(width, (len(region),), generator=generator).tolist()
    return torch.stack([torch.roll(one, shifts, (0, 1)) for one, *shifts in zip(region, down, right, strict=True)])


def _presence(
    split_model: SplitModel,
    images: torch.Tensor,
    transform: Transform,
    presence: np.ndarray | torch.Tensor | None,
    batch_size: int,
) -> torch.Tensor:
    if presence is None:
        return pooled_coefficients(split_model, images, transform, batch_size=batch_size, pool=strongest)
    given = torch.as_tensor(presence, dtype=torch.float32, device=images.device)
    if len(given) != len(images):
        raise ValueError(f"presence has {len(given)} rows for {len(images)} images; give one row per image")
    return given


def _untested(candidates: Sequence[str], k: int) -> MapChoice:
    table = pd.DataFrame({"method": list(candidates), "score": np.nan, "covers": 0, "round": 0})
    nowhere = np.full(k, np.nan)
    return MapChoice(candidates[0], nowhere, nowhere.copy(), np.zeros(k, dtype=bool), table, 0)
