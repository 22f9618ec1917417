"""Which concept map tells the truth for a model and layer: a causal test that needs no masks.

No single map is right everywhere: the coefficient map is right on a ViT's tokens and can be worse than chance on the
last layer of a CNN, where implicit differentiation is right. So the map is chosen by what it claims: the more of a
concept it sees under a cover, the further the concept must fall when the image is covered there. A few images are
covered with a disc at each of 25 places; one set of covers serves every candidate and every concept. A map's
*agreement* with the falls is their correlation over the places of an image, and the candidate that agrees best wins.

How much of a concept an image holds is the mean of its coefficient over the strongest tenth of the positions: a
transformer's tokens hold a little of every concept everywhere, and a mean over all of them would hardly notice that a
small thing is gone. The share of it that goes with the place that the map marks is the concept's *localisation*. The
place is known where that beats a random place and the map agrees with the falls; elsewhere the concept does not come
from where the map peaks, or not from there alone, and no heat map should be drawn. A map that is spread over the image
is read as a region and not as a place, and a small cover hardly changes its concept: that place is also known where the
strongest fifth of the map, covered, takes more away than the same region elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from conceptatlas.importance.maps import concept_maps, map_methods, nnls_transform, paired_maps, upsample
from conceptatlas.importance.occlusion import FILLS, SIDE, Transform, cover, discs, pooled_coefficients
from conceptatlas.importance.tabled import Tabled

if TYPE_CHECKING:
    from conceptatlas.extraction import SplitModel

AREA, GRID = 0.05, 5  # of the image under a cover, and covers per side
STRONGEST = 0.10  # of an image's positions say how much of a concept it holds
PRESENT = 0.5  # of a concept's strongest presence must be in an image that tests it
AGREES = 0.5  # correlation of map and falls from which on the place is known
MARGIN = 0.05  # by how much localisation must beat chance besides
PEAKED = 0.5  # of a map on the strongest tenth of the image: where less is, it is read as a region and not as a place
REGION, REGION_IMAGES = 0.20, 4  # of the image, covered to prove a region, and on how many images
TIE = 0.02  # of the best agreement: within it, or a standard error, the earlier candidate is taken


@dataclass(frozen=True)
class MapChoice(Tabled):
    """The map chosen for a model and layer, and how well it is proven for each concept.

    Attributes
    ----------
    method : str
        The winner, a name that `concept_maps` takes.
    localisation : array (k,)
        Share of the concept's coefficient (mean over the strongest tenth of the positions) that goes when that one of
        the 25 places is covered under which the map sees most of the concept, or the strongest fifth of a map that is
        spread over the image: mean over the images that have it. At most 1; NaN for a concept that was not tested or
        that no probe image has.
    chance : array (k,)
        The same for a random place: the mean over all 25, or the same region shifted.
    agreement : array (k,)
        Correlation, over the places of an image, of what the map sees under the cover with the fall: mean over images.
    known : bool array (k,)
        Where localisation beats chance by `MARGIN` and agreement is at least `AGREES`; for a map that is spread over
        the image, instead of the latter, where it beats chance by twice the standard error.
    table : DataFrame
        One row per candidate, the winner first: method, score (mean agreement), error (its standard error).
    n_forwards : int
        Forward passes of covered images that the choice took.
    """

    method: str
    localisation: NDArray[np.float64]
    chance: NDArray[np.float64]
    agreement: NDArray[np.float64]
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
    n_images: int = 6,
    seed: int = 0,
    batch_size: int = 32,
) -> MapChoice:
    """Choose, by covering what each candidate points at, the map that a model's concepts at this layer are shown with.

    The images are taken in turn for the concept that those taken so far show least, until there are `n_images`; more
    only for concepts that none of them shows. Candidates within `TIE` of the best, or the standard error of its lead,
    count as equal, and the earlier one in the list is taken: by default the one read nearest to the concepts' layer,
    because gradients grow noisier with every block. The cost is 25 forward passes for each image, whatever the number
    of candidates, of concepts and of images in the probe set, at most 8 for each concept that has no peak, and a
    backward pass for each concept of each image; where occlusion is called up, 64 passes more for each image.

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
        the best of them is proven for no concept: it repeats the covers, so that its agreement proves less.
    transform : callable (n, p) -> (n, k), optional
        Coefficients of activations; default `nnls` on W.
    n_images : int
        How many images are covered.
    seed : int
        For the fill that a place gets, and for the places that regions are shifted to.
    batch_size : int
        Images per forward pass.

    Returns
    -------
    MapChoice
    """
    coefficients = transform or nnls_transform(W, images.device)
    pooled = _presence(split_model, images, coefficients, presence, batch_size)
    shown = _shown(pooled, list(range(len(W)) if concepts is None else concepts))
    rows = _rows(pooled, shown, n_images)
    candidates = list(methods) if methods is not None else map_methods(split_model)
    if len(rows) == 0:
        return _untested(candidates, len(W))
    test = _CoverTest.run(split_model, W, images[rows], coefficients, pooled[rows], shown[rows], seed, batch_size)
    maps = test.maps(candidates)
    choice = test.choice(maps)
    if methods is None and not choice.known.any():
        choice = test.choice(maps | test.maps(["occlusion"]))
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
    """What the covers of a few images did to every concept, and what candidates make of it."""

    split_model: SplitModel
    W: np.ndarray | torch.Tensor
    images: torch.Tensor  # (M, 3, H, W), those that were covered
    transform: Transform
    before: torch.Tensor  # (M, k): coefficients uncovered
    pairs: torch.Tensor  # (P, 2): an image, and a concept that it shows
    falls: torch.Tensor  # (P, places): share of the pair's coefficient that goes, in [-1, 1]
    seed: int
    batch_size: int

    @classmethod
    def run(
        cls,
        split_model: SplitModel,
        W: np.ndarray | torch.Tensor,
        images: torch.Tensor,
        transform: Transform,
        before: torch.Tensor,
        shown: torch.Tensor,
        seed: int,
        batch_size: int,
    ) -> _CoverTest:
        """Cover every image at each place, with the fills in turn."""
        pairs, places = shown.nonzero(), _places(images)
        row, concept = pairs.unbind(dim=1)
        after = []
        for turn, image in enumerate(images, start=seed):
            covered = _covered(image.repeat(len(places), 1, 1, 1), places, first=turn)
            after.append(pooled_coefficients(split_model, covered, transform, batch_size=batch_size, pool=strongest))
        falls = _share_gone(before[row, concept][:, None], torch.stack(after)[row, :, concept])
        return cls(split_model, W, images, transform, before, pairs, falls, seed, batch_size)

    def maps(self, methods: Sequence[str]) -> dict[str, torch.Tensor]:
        """Each candidate's map of each pair, (P, h, w)."""
        row, concept = self.pairs.unbind(dim=1)
        by_gradients = [method for method in methods if "@" in method]
        maps: dict[str, torch.Tensor] = {}
        if by_gradients:
            maps = paired_maps(self.split_model, self.images[row], concept, self.transform, methods=by_gradients)
        for method in methods:
            if method not in maps:  # of all concepts at once: an image is encoded once, not once for each concept
                found = concept_maps(self.split_model, self.W, self.images, method=method, transform=self.transform)
                maps[method] = found[row, concept]
        return {method: maps[method] for method in methods}

    def choice(self, maps: dict[str, torch.Tensor]) -> MapChoice:
        """The candidate that agrees best with the falls, and what it achieves for each concept."""
        places = _places(self.images)
        seen = {method: _under(candidate, places) for method, candidate in maps.items()}
        agreement = {method: _correlation(under, self.falls) for method, under in seen.items()}
        winner = _first_of_the_best(agreement)
        marked = self.falls.gather(1, seen[winner].argmax(dim=1, keepdim=True))[:, 0]
        values = torch.stack([agreement[winner], marked, self.falls.mean(dim=1), _peaked(maps[winner])], dim=1)
        agrees, localisation, chance, peaked = self._per_concept(values)
        known = (agrees >= AGREES) & (localisation - chance >= MARGIN)
        n_forwards = len(self.images) * (len(places) + (SIDE**2 if "occlusion" in maps else 0))
        for c in np.flatnonzero(~known & (peaked < PEAKED)):
            falls = self._region_falls(self.pairs[:, 1] == int(c), maps[winner])
            known[c] = _is_beyond(falls[0] - falls[1])
            localisation[c], chance[c] = falls.mean(axis=1)
            n_forwards += falls.size
        return MapChoice(winner, localisation, chance, agrees, known, _table(agreement, winner), n_forwards)

    def _region_falls(self, mine: torch.Tensor, maps: torch.Tensor) -> NDArray[np.float64]:
        """Falls (2, n) when the strongest fifth of some pairs' maps is covered, and the same regions shifted."""
        some = mine.nonzero()[:REGION_IMAGES, 0]
        row, concept = self.pairs[some].unbind(dim=1)
        region = _strongest_share(maps[some], self.images.shape[-2:])
        shifted = _shifted(region, torch.Generator().manual_seed(self.seed))
        covered = torch.cat([_covered(self.images[row], each) for each in (region, shifted)])
        after = pooled_coefficients(
            self.split_model, covered, self.transform, batch_size=self.batch_size, pool=strongest
        )
        after = after.gather(1, concept.repeat(2)[:, None]).reshape(2, -1)
        return _share_gone(self.before[row, concept], after).cpu().double().numpy()

    def _per_concept(self, values: torch.Tensor) -> NDArray[np.float64]:
        """Means (columns, k) of a table (P, columns) over the pairs of each concept, NaN where it has none."""
        frame = pd.DataFrame(values.cpu().double().numpy()).groupby(self.pairs[:, 1].cpu().numpy()).mean()
        return frame.reindex(range(self.before.shape[1])).to_numpy().T.copy()


def _covered(images: torch.Tensor, regions: torch.Tensor, *, first: int = 0) -> torch.Tensor:
    """Images of which a region (B, H, W) is covered, with the fills in turn."""
    covered = images.clone()
    for number, fill in enumerate(FILLS):
        mine = slice((first + number) % len(FILLS), None, len(FILLS))
        covered[mine] = cover(covered[mine], regions[mine], fill=fill)
    return covered


def _share_gone(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (1.0 - after / before).clamp(min=-1.0, max=1.0)


def _places(images: torch.Tensor) -> torch.Tensor:
    """What the covers hide, (places, H, W) bool."""
    return discs(images.shape[-2], images.shape[-1], grid=GRID, area=AREA).to(images.device)


def _under(maps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Mean of each map (P, h, w), upsampled, under each cover, (P, places)."""
    inside = places.flatten(1).to(maps.dtype)
    weights = (inside / inside.sum(dim=1, keepdim=True)).T
    return torch.cat([_pixels(part, places.shape[-2:]) @ weights for part in maps.split(32)])


def _pixels(maps: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Maps (P, h, w) upsampled to an image's pixels, (P, H * W)."""
    return upsample(maps[:, None], (size[0], size[1])).flatten(1)


def _peaked(maps: torch.Tensor) -> torch.Tensor:
    """Share of each map that its strongest tenth of the image holds, (P,)."""
    pixels = _pixels(maps, torch.Size((64, 64)))
    top = pixels.topk(pixels.shape[1] // 10, dim=1).values.sum(dim=1)
    return top / pixels.sum(dim=1).clamp(min=1e-12)


def _strongest_share(maps: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """The strongest `REGION` of the pixels of each upsampled map, (P, H, W) bool."""
    pixels = _pixels(maps, size)
    chosen = pixels.topk(round(REGION * pixels.shape[1]), dim=1).indices
    return torch.zeros_like(pixels, dtype=torch.bool).scatter(1, chosen, True).reshape(-1, *size)


def _shifted(regions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every region rolled to a random place: the same shape, the same size."""
    shifts = [[int(torch.randint(n, (1,), generator=generator)) for n in regions.shape[-2:]] for _ in regions]
    return torch.stack([torch.roll(one, shift, (0, 1)) for one, shift in zip(regions, shifts, strict=True)])


def _is_beyond(gain: NDArray[np.float64]) -> bool:
    """Whether a gain over chance is above the margin, and above twice its standard error."""
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    return bool(gain.mean() >= max(MARGIN, 2.0 * error))


def _correlation(seen: torch.Tensor, falls: torch.Tensor) -> torch.Tensor:
    """Of the rows of two tables (P, places), (P,); 0 where a row is constant up to rounding."""
    tiny = torch.finfo(seen.dtype).tiny
    tables = (seen / seen.amax(dim=1, keepdim=True).clamp(min=tiny), falls)
    first, second = (F.normalize(t - t.mean(dim=1, keepdim=True), dim=1, eps=1e-4) for t in tables)
    return (first * second).sum(dim=1)


def _first_of_the_best(agreement: dict[str, torch.Tensor]) -> str:
    """The first candidate that the best one leads by no more than `TIE` of it or the lead's standard error."""
    best = max(agreement.values(), key=lambda values: float(values.mean()))

    def ties(values: torch.Tensor) -> bool:
        lead = best - values
        error = float(lead.std(correction=0)) / len(lead) ** 0.5
        return float(lead.mean()) <= max(TIE * abs(float(best.mean())), error)

    return next(method for method, values in agreement.items() if ties(values))


def _table(agreement: dict[str, torch.Tensor], winner: str) -> pd.DataFrame:
    rows = [
        {"method": method, "score": float(values.mean()), "error": float(values.std(correction=0)) / len(values) ** 0.5}
        for method, values in agreement.items()
    ]
    table = pd.DataFrame(rows).sort_values("score", ascending=False, kind="stable", ignore_index=True)
    return table.sort_values("method", key=lambda names: names != winner, kind="stable", ignore_index=True)


def _shown(presence: torch.Tensor, concepts: Sequence[int]) -> torch.Tensor:
    """Which images hold each of these concepts well enough to test it, (B, k) bool."""
    wanted = torch.zeros(presence.shape[1], dtype=torch.bool, device=presence.device)
    wanted[list(concepts)] = True
    return wanted & (presence > 0) & (presence >= PRESENT * presence.amax(dim=0))


def _rows(presence: torch.Tensor, shown: torch.Tensor, n_images: int) -> list[int]:
    """Images to cover: in turn the strongest one left of the concept that those taken show least."""
    left = torch.where(shown, presence / presence.amax(dim=0).clamp(min=1e-9), 0.0).cpu()
    had, worth, rows = torch.zeros(left.shape[1]), left.clone(), []
    while bool((left > 0).any()):
        had[left.amax(dim=0) == 0] = torch.inf
        concept = int(had.argmin())
        if len(rows) >= n_images and had[concept] > 0:
            break
        rows.append(int(left[:, concept].argmax()))
        had += worth[rows[-1]]
        left[rows[-1]] = 0
    return rows


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
    table = pd.DataFrame({"method": list(candidates), "score": np.nan, "error": np.nan})
    nowhere = (np.full(k, np.nan) for _ in range(3))
    return MapChoice(candidates[0], *nowhere, np.zeros(k, dtype=bool), table, 0)
