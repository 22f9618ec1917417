"""The pictures of one class page: sheets of crops, views and maps, and who uses which cell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from conceptatlas.viz.cards import Shot
from conceptatlas.viz.overlays import fitted, heat_layer, outlined_crop
from conceptatlas.viz.sprites import Sheet, pack
from conceptatlas.viz.tables import numbers_of, rows_of

if TYPE_CHECKING:
    from conceptatlas.audit import ClassAtlas

logger = logging.getLogger(__name__)
CROP_SIDE, VIEW_SIDE, HEAT_SIDE, PART_SIDE = 104, 160, 40, 72
MOST_SHOTS, MOST_VIEWS, MOST_HEATS, PART_CROPS, MOST_PART_CROPS = 10, 300, 900, 6, 400
LARGEST_BUDGET, SMALLEST_BUDGET, SITE_BUDGET = 480_000, 140_000, 2_900_000
_HEATS_SHARE, _CROPS_SHARE, _PARTS_SHARE = 0.12, 0.42, 0.12  # of a class's bytes; the views take the rest


@dataclass(frozen=True)
class Gallery:
    """The sheets of a class and the cells of its examples and images.

    Attributes
    ----------
    crops, views, heats, parts
        Sheets; None where there is nothing to show.
    shots
        Examples by concept id, best first.
    view_of
        Cell of the views' sheet by image row of the class.
    heat_of
        Cell of the maps' sheet by (image row, concept id).
    parts_of
        Cells of the parts' sheet by node of the concept tree, strongest first.
    """

    crops: Sheet | None
    views: Sheet | None
    heats: Sheet | None
    shots: dict[int, list[Shot]]
    view_of: dict[int, int]
    heat_of: dict[tuple[int, int], int]
    parts: Sheet | None = None
    parts_of: dict[int, list[int]] = field(default_factory=dict)

    def sheets(self) -> dict[str, Sheet]:
        """Return the sheets there are, by kind."""
        held = {"crops": self.crops, "views": self.views, "heats": self.heats, "parts": self.parts}
        return {kind: sheet for kind, sheet in held.items() if sheet is not None}

    def without_bytes(self) -> Gallery:
        """Return the gallery with empty sheets: the cells' places are kept, the pictures are let go."""
        return replace(self, **{kind: replace(sheet, data=b"") for kind, sheet in self.sheets().items()})  # type: ignore[arg-type]


class _Album:
    """Views opened once each; one that cannot be read is reported once and left out."""

    def __init__(self, view: Callable[[str], Image.Image]) -> None:
        self._view = view
        self._open: dict[str, Image.Image | None] = {}

    def __call__(self, relative: object) -> Image.Image | None:
        if not isinstance(relative, str) or not relative:
            return None
        if relative not in self._open:
            try:
                self._open[relative] = self._view(relative)
            except (OSError, ValueError) as error:
                logger.warning("the view %r cannot be shown: %s", relative, error)
                self._open[relative] = None
        return self._open[relative]


def budget_per_class(n_classes: int) -> int:
    """Return the bytes that the pictures of one class may take.

    All classes together stay within `SITE_BUDGET` as long as each can have `SMALLEST_BUDGET`; a site of few classes
    shows finer pictures, up to `LARGEST_BUDGET` a class.

    >>> budget_per_class(2), budget_per_class(10), budget_per_class(1000)
    (480000, 290000, 140000)
    """
    return int(min(LARGEST_BUDGET, max(SMALLEST_BUDGET, SITE_BUDGET / max(n_classes, 1))))


def build_gallery(
    class_atlas: ClassAtlas, view: Callable[[str], Image.Image], *, budget: int = LARGEST_BUDGET
) -> Gallery:
    """Return the pictures of a class, from its stored views and maps alone.

    A concept whose place is not known gets crops and whole images, but no outline and no map.

    Parameters
    ----------
    class_atlas
        The class.
    view
        Opens a stored view: ``atlas.view``.
    budget
        Bytes that all its sheets together should not exceed.
    """
    album = _Album(view)
    row_of = {sample: i for i, sample in enumerate(class_atlas.images["sample_id"])}
    shown = rows_of(class_atlas.examples, numbers_of(class_atlas.examples, "rank") < MOST_SHOTS)
    shown.sort(key=lambda row: (row["concept"], row["rank"]))
    placed = {int(row["concept"]) for row in rows_of(class_atlas.concepts) if row.get("place_known", True)}
    cells, views = _views(class_atlas, shown, album)
    crops: list[Image.Image] = []
    heats: list[Image.Image] = []
    shots: dict[int, list[Shot]] = {}
    heat_of: dict[tuple[int, int], int] = {}
    for row in shown:
        image = album(row["view"])
        if image is None:
            continue
        heat = _map_of(class_atlas, row) if int(row["concept"]) in placed else None
        box = (row["left"], row["top"], row["right"], row["bottom"])
        crops.append(outlined_crop(image, heat, box, size=CROP_SIDE))
        if heat is not None:
            heats.append(heat_layer(heat, _heat_size(image)))
        place = row_of.get(row["sample_id"])
        shot = Shot(
            crop=len(crops) - 1,
            view=cells.get(row["view"]),
            heat=len(heats) - 1 if heat is not None else None,
            sample_id=str(row["sample_id"]),
            row=place,
        )
        shots.setdefault(int(row["concept"]), []).append(shot)
        if place is not None and shot.heat is not None:
            heat_of[place, int(row["concept"])] = shot.heat
    view_of = {i: cells[v] for i, v in enumerate(class_atlas.images["view"]) if isinstance(v, str) and v in cells}
    _more_heats(class_atlas, placed, view_of, heats, heat_of)
    part_tiles, parts_of = _part_tiles(class_atlas, album)
    crops_share = _CROPS_SHARE - (_PARTS_SHARE if part_tiles else 0)
    return Gallery(
        crops=pack(crops, budget=int(crops_share * budget)) if crops else None,
        views=pack(views, budget=int((1 - _CROPS_SHARE - _HEATS_SHARE) * budget)) if views else None,
        heats=_pack_heats(heats, int(_HEATS_SHARE * budget)),
        shots=shots,
        view_of=view_of,
        heat_of=heat_of,
        parts=pack(part_tiles, budget=int(_PARTS_SHARE * budget)) if part_tiles else None,
        parts_of=parts_of,
    )


def _more_heats(
    class_atlas: ClassAtlas,
    placed: set[int],
    view_of: Mapping[int, int],
    heats: list[Image.Image],
    heat_of: dict[tuple[int, int], int],
) -> None:
    """Add the maps of single images that are no concept's examples, as far as they are shown."""
    size = heats[0].size if heats else (HEAT_SIDE, HEAT_SIDE)
    for row in rows_of(class_atlas.image_maps):
        key = (int(row["row"]), int(row["concept"]))
        if key in heat_of or key[0] not in view_of or key[1] not in placed or len(heats) >= MOST_HEATS:
            continue
        heat = _map_of(class_atlas, row)
        if heat is not None:
            heat_of[key] = len(heats)
            heats.append(heat_layer(heat, size))


def _part_tiles(class_atlas: ClassAtlas, album: _Album) -> tuple[list[Image.Image], dict[int, list[int]]]:
    """Return the crops of the parts, and the cells of each part: fewer of each where there are very many parts."""
    table = class_atlas.parts
    if not len(table):
        return [], {}
    each = max(2, min(PART_CROPS, MOST_PART_CROPS // table["node"].nunique()))
    tiles: list[Image.Image] = []
    parts_of: dict[int, list[int]] = {}
    for row in rows_of(table, numbers_of(table, "rank") < each):
        image = album(row["view"])
        if image is not None:
            box = (row["left"], row["top"], row["right"], row["bottom"])
            parts_of.setdefault(int(row["node"]), []).append(len(tiles))
            tiles.append(outlined_crop(image, None, box, size=PART_SIDE))
    return tiles, parts_of


def _views(
    class_atlas: ClassAtlas, shown: list[dict[Any, Any]], album: _Album
) -> tuple[dict[str, int], list[Image.Image]]:
    """Give each view a cell: those of the examples first, then of the other images, up to `MOST_VIEWS`."""
    wanted = [row["view"] for row in shown] + [v for v in class_atlas.images["view"] if isinstance(v, str)]
    paths = list(dict.fromkeys(wanted))[:MOST_VIEWS]
    images = {path: image for path in paths if (image := album(path)) is not None}
    if not images:
        return {}, []
    width, height = next(iter(images.values())).size
    scale = min(1.0, VIEW_SIDE / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return {path: i for i, path in enumerate(images)}, [fitted(image, size) for image in images.values()]


def _map_of(class_atlas: ClassAtlas, row: dict[Any, Any]) -> np.ndarray | None:
    index = row.get("map_row")
    if index is None or index != index or not 0 <= int(index) < len(class_atlas.maps):
        return None
    return class_atlas.maps[int(index)]


def _heat_size(image: Image.Image) -> tuple[int, int]:
    scale = HEAT_SIDE / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _pack_heats(heats: list[Image.Image], budget: int) -> Sheet | None:
    if not heats:
        return None
    size = heats[0].size
    return pack([h if h.size == size else h.resize(size) for h in heats], budget=budget)
