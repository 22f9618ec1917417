"""Keeping predictions: the divergence of the head falls, at a higher reconstruction error."""

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from conceptatlas.concepts import NMF
from conceptatlas.concepts.face import prediction_divergence
from conceptatlas.extraction.errors import UserError


@pytest.fixture
def problem():
    """Activations whose class depends on a weak direction that reconstruction alone gives up."""
    torch.manual_seed(0)
    A = torch.rand(200, 6) ** 2
    A[:, 5] *= 0.3
    head = torch.nn.Linear(6, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0, 0, 0, 0, 0, 30], [0.5, 0, 0, 0, 0, 0]]))
    return A, head.requires_grad_(False)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_divergence_falls_and_error_rises(problem):
    A, head = problem
    plain = NMF(4, random_state=0, max_iter=1000).fit(A)
    kept = NMF(4, random_state=0, max_iter=300, keep_predictions=1.0, head=head).fit(A)
    divergences = [float(prediction_divergence(head, A, m.transform(A) @ m.components_)) for m in (plain, kept)]
    assert divergences[1] < 0.85 * divergences[0]
    assert kept.reconstruction_err_ > plain.reconstruction_err_
    assert kept.components_.min() >= 0


def test_without_weight_nothing_changes(problem):
    A, head = problem
    first = NMF(3, random_state=0, max_iter=1000).fit(A)
    second = NMF(3, random_state=0, max_iter=1000, head=head).fit(A)
    assert torch.equal(first.components_, second.components_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_head_is_left_as_it_was(problem):
    A, head = problem
    head.requires_grad_(True)
    NMF(3, random_state=0, max_iter=300, keep_predictions=1.0, head=head).fit(A)
    assert head.weight.requires_grad
    assert head.weight.grad is None


def test_a_refinement_that_is_cut_short_says_so(problem):
    A, head = problem
    with pytest.warns(ConvergenceWarning, match="max_iter=40"):
        model = NMF(3, random_state=0, max_iter=40, tol=1e-6, keep_predictions=1.0, head=head).fit(A)
    assert not model.converged_


def test_weights_and_heads_that_mean_nothing_are_refused(problem):
    A, head = problem
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="weight of at least 0"):
            NMF(3, keep_predictions=weight, head=head).fit(A)
    with pytest.raises(UserError, match="finite logits"):
        NMF(3, max_iter=1000, keep_predictions=1.0, head=lambda x: head(x) * float("nan")).fit(A)


def test_a_missing_or_constant_head_is_refused(problem):
    A, _ = problem
    with pytest.raises(UserError, match="needs head"):
        NMF(3, max_iter=1000, keep_predictions=1.0).fit(A)
    with pytest.raises(UserError, match="differentiable"):
        NMF(3, max_iter=1000, keep_predictions=1.0, head=lambda x: torch.zeros(2, 2)).fit(A)
    assert float(prediction_divergence(lambda x: x, A, A)) == pytest.approx(0, abs=1e-6)
