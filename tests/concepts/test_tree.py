"""The tree of concepts: relations, table, and the way to JSON and back."""

import json

import pytest

from conceptatlas.concepts.tree import ConceptNode, ConceptTree
from conceptatlas.extraction.errors import UserError


@pytest.fixture
def tree():
    nodes = [
        ConceptNode(0, None, 0, 0, "late", (1.0, 0.0), 0.5, 80, 20, examples=(3, 1)),
        ConceptNode(1, None, 1, 0, "late", (0.0, 1.0), 0.5, 60, 20, reason="coherent"),
        ConceptNode(2, 0, 0, 1, "early", (1.0,), 0.1, 30, 9, spread=0.6),
        ConceptNode(3, 2, 0, 2, "earliest", (1.0,), 0.1, 10, 4),
    ]
    return ConceptTree(tuple(nodes), ("late", "early", "earliest"))


def test_relations(tree):
    assert [node.id for node in tree.roots] == [0, 1]
    assert [node.id for node in tree.leaves] == [1, 3]
    assert tree.path(3) == (0, 2, 3)
    assert tree.depth == 2


def test_json_and_back_is_the_same_tree(tree):
    assert ConceptTree.from_dict(json.loads(json.dumps(tree.to_dict()))) == tree


def test_a_later_schema_is_refused(tree):
    with pytest.raises(UserError, match="schema 99"):
        ConceptTree.from_dict(tree.to_dict() | {"schema": 99})


def test_table_has_a_row_per_node(tree):
    frame = tree.to_frame()
    assert len(frame) == 4
    assert {"id", "parent", "layer", "n_members", "reason"} <= set(frame.columns)
    assert "direction" not in frame
