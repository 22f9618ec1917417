"""Two atlases: concepts matched over the same images, what is gone and what is new."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptatlas.audit.comparison import fuzzy_rand


@given(seed=st.integers(0, 200), n=st.integers(2, 12), k=st.integers(1, 5))
def test_a_grouping_agrees_with_itself_and_with_its_relabelling(seed, n, k):
    rng = np.random.default_rng(seed)
    groups = rng.random((n, k))
    assert fuzzy_rand(groups, groups) == pytest.approx(1)
    assert fuzzy_rand(groups, groups[:, rng.permutation(k)] * 3) == pytest.approx(1)


def test_hard_groupings_give_the_rand_index():
    from sklearn.metrics import rand_score

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, 40), rng.integers(0, 4, 40)
    assert fuzzy_rand(np.eye(3)[a], np.eye(4)[b]) == pytest.approx(rand_score(a, b))
