"""The concept graph: edges are correlations, sizes prevalence, colours reliability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from conceptatlas.viz import concept_graph
from conceptatlas.viz.concepts import Neighbour
from conceptatlas.viz.example import example_class
from conceptatlas.viz.network import concept_edges, reliability_colour
from conceptatlas.viz.palette import GREY


def planted() -> np.ndarray:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 48))
    return np.column_stack([one, one + 0.1 * two, -one, two])


def test_edges_are_the_planted_correlations_with_their_sign() -> None:
    edges = concept_edges(replace(example_class(), contributions=planted()), at_least=0.8)
    assert {(e.first, e.second): np.sign(e.correlation) for e in edges} == {(0, 1): 1, (0, 2): -1, (1, 2): -1}


def test_a_constant_concept_has_no_edges() -> None:
    values = planted()
    values[:, 3] = 1.0
    assert all(3 not in (e.first, e.second) for e in concept_edges(replace(example_class(), contributions=values)))


def test_opposed_concepts_are_joined_by_a_dashed_line() -> None:
    figure = concept_graph(replace(example_class(), contributions=planted()), at_least=0.8)
    dashes = [trace.line.dash for trace in figure.data[:-1]]
    assert sorted(dashes) == ["dash", "dash", "solid"]


def test_larger_nodes_are_more_prevalent() -> None:
    example = example_class()
    sizes = concept_graph(example).data[-1].marker.size
    prevalence = example.concepts["prevalence"].to_numpy()
    assert np.array_equal(np.argsort(sizes), np.argsort(prevalence))


def test_a_node_without_labels_is_grey() -> None:
    example = example_class()
    unlabelled = replace(example, strategies=example.strategies.assign(reliability=np.nan))
    assert set(concept_graph(unlabelled).data[-1].marker.color) == {GREY}


def test_reliability_colours_differ_in_lightness_at_both_ends() -> None:
    assert len({reliability_colour(rate) for rate in (0, 0.25, 0.5, 0.75, 1)}) == 5
    assert reliability_colour(-1) == reliability_colour(0)


def test_concepts_of_other_classes_hang_on_with_their_cosine() -> None:
    near = [(0, Neighbour("<b>ant</b>", 3, "stripes", 0.9)), (0, Neighbour("wasp", 1, "stripes", 0.8))]
    hanging = [t for t in concept_graph(example_class(), neighbours=near).data if t.line.dash == "dot"]
    assert len(hanging) == 2
    assert "&lt;b&gt;" in hanging[0].hovertext
    assert hanging[0].x != hanging[1].x
