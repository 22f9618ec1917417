"""Results show themselves as tables."""

import numpy as np
import pytest

from conceptatlas.importance import SobolIndices, Tcav
from conceptatlas.importance.faithfulness import Faithfulness, FaithfulnessRow
from conceptatlas.importance.shares import ConceptImportance

K = np.array([0.5, 0.25])


def test_values_of_each_concept_are_columns_and_matrices_are_left_out():
    found = ConceptImportance(np.ones((3, 2)), K, K - 0.1, K + 0.1, "affine", 0, np.ones((3, 2)), np.ones((3, 2)))
    frame = found.to_frame()
    assert frame.columns.tolist() == ["concept", "total", "low", "high"]
    assert frame["total"].tolist() == K.tolist()


def test_what_is_one_number_stands_above_the_table():
    html = SobolIndices(K, K, K, 64, "jansen")._repr_html_()
    assert "SobolIndices, n evaluations 64, method jansen" in html
    assert "0.25" in html


def test_a_result_with_its_own_table_shows_that():
    row = FaithfulnessRow("<b>", 0.5, 0.4, 0.6, K)
    html = Faithfulness("C-deletion", False, row, row, row)._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


@pytest.mark.parametrize("field", ["score", "q_value"])
def test_every_measure_of_tcav_is_there(field):
    assert field in Tcav(K, K, K, K).to_frame()
