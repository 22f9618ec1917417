"""Labels and neighbours across classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conceptatlas.audit.atlas import Atlas
from conceptatlas.viz.concepts import Neighbours, concept_labels
from conceptatlas.viz.example import example_class


def with_planted_twin(atlas: Atlas) -> Atlas:
    """Concept 4 of class 1 points where concept 0 of class 0 does."""
    directions = np.array(atlas["class 1"].bank.directions)
    directions[4] = atlas["class 0"].bank.directions[0]
    twin = atlas["class 1"].with_bank(replace(atlas["class 1"].bank, directions=directions))
    return replace(atlas, members={**dict(atlas.members), "class 1": twin})


def test_the_nearest_concept_of_another_class_is_the_planted_twin(atlas: Atlas) -> None:
    planted = with_planted_twin(atlas)
    nearest = Neighbours(planted).of(planted["class 0"])[0][0]
    assert (nearest.class_name, nearest.concept) == ("class 1", 4)
    assert nearest.cosine == pytest.approx(1, abs=1e-5)


def test_concepts_of_the_same_class_are_never_neighbours(atlas: Atlas) -> None:
    near = Neighbours(atlas, at_least=-1, most=100).of(atlas["class 0"])
    assert all(n.class_name != "class 0" for found in near.values() for n in found)


def test_classes_cut_at_another_layer_are_not_compared(atlas: Atlas) -> None:
    other = atlas["class 1"].with_bank(replace(atlas["class 1"].bank, layer="elsewhere"))
    moved = replace(atlas, members={"class 0": atlas["class 0"], "class 1": other})
    assert all(found == () for found in Neighbours(moved, at_least=-1).of(moved["class 0"]).values())


def test_dropped_concepts_keep_their_number() -> None:
    example = example_class()
    assert concept_labels(example.with_bank(example.bank.drop(1)))[1] == "concept 1 (dropped)"


def test_a_persons_title_goes_before_the_name() -> None:
    example = example_class()
    assert concept_labels(example.with_bank(example.bank.rename(0, "zebra")))[0] == "zebra"
