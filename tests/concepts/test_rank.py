"""Choosing the number of concepts: the planted rank is found, whatever the scale, with whole images on one side."""

import numpy as np
import pytest

from conceptatlas.concepts import choose_n_components
from conceptatlas.concepts.rank import MOST_CONCEPTS
from conceptatlas.extraction.errors import UserError


def _planted(k, n=800, p=64, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    W = np.kron(np.eye(k), np.ones((1, p // k)))
    U = rng.gamma(1.0, size=(n, k)) * (rng.random((n, k)) < 0.4)
    A = U @ W
    return (A + noise * A.std() * rng.random(A.shape)).astype(np.float32)


@pytest.mark.parametrize("k", [5, 8, 16])
def test_the_planted_rank_is_chosen(k):
    assert choose_n_components(_planted(k)).n_components == k


def test_the_choice_does_not_depend_on_the_scale():
    A = _planted(8)
    plain, scaled = (choose_n_components(A * np.float32(s), candidates=(5, 8, 12)) for s in (1.0, 1e-3))
    assert plain.n_components == scaled.n_components
    # Rounding differs with the scale, and at 12 concepts of rank 8 it decides how the spare ones share the noise.
    up_to_rank = plain.curve["n_components"] <= 8
    assert plain.curve["score"][up_to_rank].to_numpy() == pytest.approx(scaled.curve["score"][up_to_rank], rel=2e-3)


def test_the_curve_holds_what_it_was_chosen_from():
    choice = choose_n_components(_planted(5), candidates=(3, 5))
    assert list(choice.curve.columns) == ["n_components", "relative_error", "explained", "stability", "kept", "score"]
    assert choice.curve["relative_error"].is_monotonic_decreasing
    assert choice.curve["kept"].isna().all()


def test_predictions_kept_are_measured_on_the_reconstruction_of_all_rows():
    A = _planted(5)
    seen = []

    def keep(A_hat):
        seen.append(A_hat.shape)
        return float(np.mean(np.argmax(A_hat, 1) // 12 == np.argmax(A, 1) // 12))

    choice = choose_n_components(A, candidates=(2, 5), keep=keep)
    assert seen == [A.shape, A.shape]
    assert choice.curve["kept"].between(0, 1).all()
    assert choice.n_components == 5


def test_rows_of_one_image_never_fall_on_both_sides():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 20)
    A = (rng.random((40, 30)) ** 4)[groups] + 0.01 * rng.random((800, 30))
    alone = choose_n_components(A, candidates=(16,)).curve["relative_error"][0]
    grouped = choose_n_components(A, candidates=(16,), groups=groups).curve["relative_error"][0]
    assert grouped > 1.3 * alone


def test_few_rows_and_many_candidates_are_handled():
    rng = np.random.default_rng(0)
    assert choose_n_components(rng.random((4, 30)), candidates=(2, 10, 100)).n_components == 2
    assert choose_n_components(rng.random((2, 30)), candidates=(5,)).n_components == 1
    assert choose_n_components(rng.random((300, 90)), candidates=(2, 64)).curve["n_components"].max() <= MOST_CONCEPTS
    with pytest.raises(UserError, match="at least 2 images"):
        choose_n_components(rng.random((10, 3)), groups=np.zeros(10))
