"""The layer flow: bands from concepts to their parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conceptatlas.audit.atlas import Atlas
from conceptatlas.extraction.errors import UserError
from conceptatlas.viz import layer_flow
from conceptatlas.viz.example import example_class


def test_each_part_hangs_on_its_concept_or_part_as_wide_as_it_has_places(atlas: Atlas) -> None:
    flow = layer_flow(atlas["class 0"]).data[0]
    assert list(flow.node.label[1:]) == ["part 1", "part 2", "part 1", "part 2"]
    assert list(zip(flow.link.source, flow.link.target, flow.link.value, strict=True)) == [
        (0, 1, 60),
        (0, 2, 60),
        (2, 3, 55),
        (2, 4, 55),
    ]


def test_a_concept_that_stays_whole_is_not_drawn(atlas: Atlas) -> None:
    assert len(layer_flow(atlas["class 0"]).data[0].node.label) == 5


def test_names_cannot_be_markup(hostile_atlas: Atlas) -> None:
    for name in hostile_atlas:
        assert all("<" not in label for label in layer_flow(hostile_atlas[name]).data[0].node.label)


def test_without_parts_the_message_says_how_to_get_them(atlas: Atlas) -> None:
    with pytest.raises(UserError, match="recursion="):
        layer_flow(example_class())
    member = atlas["class 0"]
    whole = replace(member.bank.tree, nodes=member.bank.tree.roots)
    with pytest.raises(UserError, match="was split"):
        layer_flow(member.with_bank(replace(member.bank, tree=whole)))
