"""The table of layers: a row for each cut point, the automatic choice marked."""

import itertools
import time

import timm
import torch
from torch import nn

from conceptatlas.extraction.cutpoints import cut_points
from conceptatlas.extraction.layers import HEADER, layers_table, unweighted_model
from conceptatlas.extraction.split import split


def test_the_table_lists_every_cut_point_and_marks_the_one_that_auto_takes():
    model = timm.create_model("test_vit")
    table = layers_table(model)
    assert [row.point for row in table] == cut_points(model)
    marked = [row for row in table if row.auto]
    assert [row.point.name for row in marked] == [split(model).layer.name]
    assert "two thirds" in marked[0].reason
    assert all(len(row.cells) == len(HEADER) for row in table)


def test_a_name_needs_no_published_weights():
    assert any(row.auto for row in layers_table("test_resnet"))


def test_a_giant_is_laid_out_without_memory_for_its_weights():
    model = unweighted_model("vit_large_patch14_dinov2")
    assert next(model.parameters()).is_meta
    assert next(unweighted_model("test_vit").parameters()).device.type == "cpu"


def test_deit_tiny_is_traced_once_and_then_reused():
    model = timm.create_model("deit_tiny_patch16_224")
    times = [time.process_time()]
    cuts = []
    for layer in ("blocks.7", "blocks.9"):
        cuts.append(split(model, layer))
        times.append(time.process_time())
    traced, again = (after - before for before, after in itertools.pairwise(times))
    assert again < traced / 5
    assert cuts[0].cut_points == cuts[1].cut_points


def test_a_single_position_layer_has_no_row_of_its_grid_left_out():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        cells = [row.cells for row in layers_table(model, (8, 10))]
    assert cells[0][:4] == ("0", "4 x 6 x 8", "NCHW", "6 x 8")
    assert cells[-1][3] == "1 x 1"
