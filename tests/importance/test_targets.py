import numpy as np
import pytest
import torch

from conceptatlas.extraction.errors import UserError
from conceptatlas.importance import Target, as_target, logit, margin, similarity

OUTPUT = torch.tensor([[1.0, 2.0, 4.0], [0.0, -3.0, 1.0]])


@pytest.mark.parametrize("index", [2, np.int64(2), torch.tensor(2)])
def test_a_class_index_is_its_logit(index):
    assert as_target(index)(OUTPUT).tolist() == [4.0, 1.0]
    assert as_target(index).is_affine


def test_a_margin_is_the_difference_of_two_logits():
    assert margin(2, 1)(OUTPUT).tolist() == [2.0, 4.0]
    assert margin(2, 1).is_affine


def test_similarity_is_the_cosine_and_not_affine():
    reference = torch.tensor([1.0, 2.0, 4.0])
    values = similarity(reference)(OUTPUT)
    assert values[0] == pytest.approx(1.0)
    assert values[1] == pytest.approx(torch.cosine_similarity(reference, OUTPUT[1], dim=0).item())
    assert not similarity(reference).is_affine


def test_a_callable_is_taken_as_it_is():
    assert as_target(lambda output: output.logsumexp(1))(OUTPUT).shape == (2,)


def test_a_target_stays_itself():
    target = logit(0)
    assert as_target(target) is target


@pytest.mark.parametrize("wrong", ["bee", None, 1.5, True])
def test_anything_else_is_refused_with_its_value(wrong):
    with pytest.raises(UserError, match=repr(wrong)):
        as_target(wrong)


def test_a_class_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="class 3 does not exist"):
        as_target(3)(OUTPUT)


def test_a_margin_of_a_class_with_itself_is_refused():
    with pytest.raises(UserError, match="two different"):
        margin(1, 1)


def test_a_callable_that_returns_a_matrix_is_refused():
    with pytest.raises(UserError, match="one number for each row"):
        Target(lambda output: output, "logits")(OUTPUT)


def test_a_reference_of_another_width_is_refused():
    with pytest.raises(UserError, match="2 numbers, the output 3"):
        similarity(torch.ones(2))(OUTPUT)
