"""Strategies: prevalence, reliability, and a plane where images of one strategy lie together."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conceptatlas.audit.strategies import embed, find_strategies, normalised, prevalence_table


@given(arrays(np.int64, st.integers(1, 50), elements=st.integers(0, 6)))
def test_prevalence_sums_to_one(dominant):
    table = prevalence_table(dominant, np.full(len(dominant), np.nan))
    assert table["prevalence"].sum() == pytest.approx(1)
    assert table["reliability"].isna().all()


def test_reliability_is_the_accuracy_of_the_images_that_a_concept_dominates():
    table = prevalence_table(np.array([0, 0, 0, 1]), np.array([1.0, 0.0, np.nan, 1.0])).set_index("concept")
    assert table.loc[0, "reliability"] == 0.5
    assert table.loc[1, "reliability"] == 1.0
    assert table.loc[0, "reliability_low"] < 0.5 < table.loc[0, "reliability_high"]


def two_strategies(n=40, k=6, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 0.1, size=(n, k))
    values[: n // 2, 1] += 1
    values[n // 2 :, 4] += 1
    return values


def test_two_planted_strategies_become_two_clusters_apart_in_the_plane():
    values = two_strategies()
    found = find_strategies(values, np.ones(40))
    assert found.embedding == "umap"
    assert set(found.dominant) == {1, 4}
    assert len(set(found.cluster[:20]) | set(found.cluster[20:])) == 2
    first, second = found.position[:20], found.position[20:]
    spread = max(first.std(), second.std())
    assert np.linalg.norm(first.mean(0) - second.mean(0)) > 2 * spread


def test_the_same_seed_gives_the_same_plane():
    shares = normalised(two_strategies())
    np.testing.assert_array_equal(embed(shares, seed=3)[0], embed(shares, seed=3)[0])


def test_neighbours_are_not_sought_pair_by_pair_in_python(monkeypatch):
    import umap.umap_

    def refuse(*args, **options):
        raise AssertionError("n * n calls of a Python function")

    monkeypatch.setattr(umap.umap_, "pairwise_distances", refuse)
    position, method = embed(normalised(two_strategies()))
    assert method == "umap"
    assert np.isfinite(position).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 14])
def test_fault_33_small_classes_fall_back_to_pca(n):
    position, method = embed(normalised(two_strategies(n=max(n, 2))[:n]))
    assert position.shape == (n, 2)
    assert np.isfinite(position).all()
    assert method == ("none" if n == 1 else "pca")


def test_images_without_any_contribution_are_placed_and_not_nan():
    values = two_strategies()
    values[0] = 0
    found = find_strategies(values, np.ones(40), umap=False)
    assert np.isfinite(found.position).all()


def test_a_single_concept_needs_no_plane():
    found = find_strategies(np.ones((20, 1)), np.ones(20))
    assert found.embedding == "none"
    assert found.table["prevalence"].tolist() == [1.0]


@pytest.mark.slow
def test_umap_leaves_torch_the_threads_that_it_was_given():
    program = (
        "import numpy as np, torch; from conceptatlas.audit.strategies import embed;"
        "print(embed(np.random.default_rng(0).dirichlet(np.ones(4), 40), seed=0)[1], torch.get_num_threads())"
    )
    given = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=given)
    assert done.stdout.split() == ["umap", "1"]
