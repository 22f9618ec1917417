"""Error slices: a planted slice of less than a tenth of its class is found, and chance stands beside it."""

import numpy as np
import pytest

from conceptatlas.audit import find_slices
from conceptatlas.extraction.errors import UserError


def planted(n=300, share=0.08, k=10, seed=0):
    """A slice that lacks concept 3 and holds concept 7; the model is wrong on most of it."""
    rng = np.random.default_rng(seed)
    held = rng.gamma(2.0, 0.5, size=(n, k))
    inside = np.zeros(n, bool)
    inside[: round(share * n)] = True
    held[inside, 7] += 4
    held[inside, 3] *= 0.1
    correct = np.where(inside, rng.random(n) < 0.15, rng.random(n) < 0.95)
    probability = np.clip(np.where(correct, 0.85, 0.2) + rng.normal(0, 0.08, n), 0.01, 0.99)
    return held, probability, correct, inside


@pytest.mark.parametrize("method", ["facts", "domino", "planespot", "spotlight"])
def test_the_most_erroneous_slice_is_made_of_the_planted_images(method):
    held, probability, correct, inside = planted()
    found = find_slices(held, probability, correct, method=method)
    assert max(inside[found.top(s)].mean() for s in range(found.membership.shape[1])) >= 0.9


def test_precision_at_ten_over_planted_settings_is_high_and_low_for_shuffled_truth():
    hits, shuffled = [], []
    for seed in range(10):
        held, probability, correct, inside = planted(seed=seed, share=0.06 + 0.004 * seed)
        found = find_slices(held, probability, correct, seed=seed)
        tops = [found.top(s) for s in range(found.membership.shape[1])]
        hits.append(max(inside[t].mean() for t in tops))
        mixed = np.random.default_rng(seed).permutation(inside)
        shuffled.append(max(mixed[t].mean() for t in tops))
    assert np.mean(hits) >= 0.9
    assert np.mean(shuffled) < 0.3


def test_the_table_names_the_concepts_that_set_the_slice_apart():
    held, probability, correct, _ = planted()
    first = find_slices(held, probability, correct).table.iloc[0]
    assert {7, 3} & {int(c) for c, _ in first["concepts"]}
    assert first["error_low"] > first["class_error_rate"]
    assert first["error_rate"] > first["shuffled_error_rate"]


def test_memberships_are_probabilities():
    held, probability, correct, _ = planted()
    np.testing.assert_allclose(find_slices(held, probability, correct).membership.sum(1), 1, atol=1e-6)


def test_the_same_seed_gives_the_same_slices():
    held, probability, correct, _ = planted()
    one, other = (find_slices(held, probability, correct, seed=4).membership for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_class_without_errors_or_without_hits_still_has_slices(right):
    held, probability, _, _ = planted(n=60)
    found = find_slices(held, probability, np.full(60, bool(right)))
    assert (found.table["error_rate"] == 1 - right).all()


def test_too_few_images_have_no_slices():
    held, probability, correct, _ = planted(n=12)
    assert len(find_slices(held, probability, correct).table) == 0


def test_an_unknown_method_is_refused():
    held, probability, correct, _ = planted(n=60)
    with pytest.raises(UserError, match="magic"):
        find_slices(held, probability, correct, method="magic")
