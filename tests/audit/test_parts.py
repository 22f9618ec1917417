"""Parts of concepts and what explains single images: crops of the tree's nodes, maps of images, what flips them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conceptatlas.audit.examples import Pool
from conceptatlas.audit.panels import MAPS_PER_IMAGE, image_maps
from conceptatlas.audit.parts import cell_box, part_table
from conceptatlas.concepts import ConceptNode, ConceptTree


def pool(n=3, k=6):
    maps = np.full((n, k, 4, 4), 0.5, dtype=np.float32)
    maps[:, k - 1] = 0
    views = [Image.new("RGB", (64, 64)) for _ in range(n)]
    return Pool(np.arange(n) + 10, views, maps, np.ones(k, np.float32), maps)


@pytest.mark.parametrize("position", range(12))
def test_the_box_of_a_cell_lies_in_the_view_around_the_cell(position):
    left, top, right, bottom = cell_box(position, (3, 4), (80, 60))
    row, column = divmod(position, 4)
    assert 0 <= left <= column * 20 + 10 <= right <= 80
    assert 0 <= top <= row * 20 + 10 <= bottom <= 60
    assert right - left == bottom - top


def test_the_box_is_moved_to_where_the_cell_reads_but_stays_in_the_view():
    at_its_place = cell_box(24, (7, 7), (210, 210))
    moved = cell_box(24, (7, 7), (210, 210), (-0.5, 0.4))
    assert (moved[0] - at_its_place[0], moved[1] - at_its_place[1]) == (12, -15)
    assert cell_box(0, (7, 7), (210, 210), (-0.5, -0.5)) == cell_box(0, (7, 7), (210, 210))


def test_a_part_has_one_crop_per_image_where_it_is_strongest_at_its_own_layer():
    root = ConceptNode(0, None, 0, 0, "late", (1.0,), 0.5, 80, 3)
    part = ConceptNode(1, 0, 0, 1, "early", (1.0,), 0.2, 9, 2, examples=(35, 16, 34))
    context = SimpleNamespace(
        store=SimpleNamespace(grid=(4, 4)),
        split=SimpleNamespace(reading_offset=lambda layer, grid: {"late": (0.5, 0.5), "early": (0.0, -0.2)}[layer]),
        images=pd.DataFrame({"sample_id": [f"{i}.png" for i in range(20)]}),
    )
    table = part_table(context, pool(), ConceptTree((root, part), ("late", "early")), {11: "views/b", 12: "views/c"})
    assert table["sample_id"].tolist() == ["12.png", "11.png"]
    assert table["view"].tolist() == ["views/c", "views/b"]
    assert tuple(table.loc[0, ["left", "top", "right", "bottom"]]) == cell_box(3, (4, 4), (64, 64), (0.0, -0.2))


def test_maps_of_images_are_those_of_the_concepts_that_count_most_and_stored_once():
    contributions = np.zeros((5, 6), np.float32)
    contributions[2] = (0.1, -3, 2, 1, 0.5, 9)  # concept 5 has no map on any image
    examples = pd.DataFrame({"sample_id": ["12.png"], "concept": [1], "map_row": [0]})
    ids = np.array([f"{i}.png" for i in range(10, 15)])
    held = np.ones((1, 4, 4), np.uint8)
    table, maps = image_maps(pool(), np.arange(10, 15), contributions, examples, held, ids)
    assert table.loc[table["row"] == 2, "concept"].tolist() == [1, 2, 3]
    assert table.loc[(table["row"] == 2) & (table["concept"] == 1), "map_row"].tolist() == [0]
    assert len(maps) == 1 + len(table) - 1
    assert table.groupby("row").size().max() <= MAPS_PER_IMAGE
    assert np.array_equal(np.unique(maps[1:]), [128])
