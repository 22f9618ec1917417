"""Targets: the scalar of a model's output that importance, maps, faithfulness and counterfactuals explain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conceptatlas.extraction.errors import UserError


@dataclass(frozen=True)
class Target:
    """A scalar of the output, one per image.

    Attributes
    ----------
    function
        Takes the output ``(B, n)`` and returns ``(B,)``.
    label
        How the target is called in tables.
    is_affine
        Whether it is an affine function of the output, so that an affine head stays affine.

    Examples
    --------
    >>> as_target(1)(torch.tensor([[1.0, 5.0]])).tolist()
    [5.0]
    """

    function: Callable[[Tensor], Tensor]
    label: str
    is_affine: bool = False

    def __call__(self, output: Tensor) -> Tensor:
        """Return the target of each row of `output` ``(B, n)`` as ``(B,)``."""
        value = self.function(output)
        if value.shape != output.shape[:1]:
            raise UserError(
                f"the target {self.label} returned shape {tuple(value.shape)} for outputs of shape "
                f"{tuple(output.shape)}; it must return one number for each row"
            )
        return value


def as_target(target: Target | int | Callable[[Tensor], Tensor] | Any) -> Target:
    """Return `target` as a :class:`Target`: a class index becomes its logit, a callable is wrapped.

    Raises
    ------
    UserError
        For anything else.

    Examples
    --------
    >>> as_target(3).label, as_target(lambda output: output.amax(1)).is_affine
    ('class 3', False)
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, bool):
        raise UserError(f"a target is a class index, margin(a, b), similarity(reference) or a callable, got {target!r}")
    if hasattr(target, "__index__"):
        return logit(target.__index__())
    if callable(target):
        return Target(target, getattr(target, "__name__", "callable"))
    raise UserError(f"a target is a class index, margin(a, b), similarity(reference) or a callable, got {target!r}")


def logit(index: int) -> Target:
    """Return the logit of one class as the target.

    Examples
    --------
    >>> logit(0)(torch.tensor([[1.0, 5.0]])).tolist()
    [1.0]
    """

    def select(output: Tensor) -> Tensor:
        return _column(output, index)

    return Target(select, f"class {index}", is_affine=True)


def margin(first: int, second: int) -> Target:
    """Return the margin of class `first` over class `second`, the difference of their logits, as the target.

    Examples
    --------
    >>> margin(1, 0)(torch.tensor([[1.0, 5.0]])).tolist()
    [4.0]
    """
    if first == second:
        raise UserError(f"a margin needs two different classes, got {first} twice")

    def difference(output: Tensor) -> Tensor:
        return _column(output, first) - _column(output, second)

    return Target(difference, f"class {first} over class {second}", is_affine=True)


def similarity(reference: Tensor) -> Target:
    """Return the cosine similarity to a reference's output as the target, for models that embed and do not classify.

    Parameters
    ----------
    reference
        ``(n,)`` or ``(1, n)``: the model's output for the reference image.

    Examples
    --------
    >>> similarity(torch.tensor([2.0, 0.0]))(torch.tensor([[3.0, 4.0]])).tolist()
    [0.6000000238418579]
    """
    direction = torch.nn.functional.normalize(torch.as_tensor(reference).detach().reshape(1, -1), dim=1)

    def cosine(output: Tensor) -> Tensor:
        if output.shape[1] != direction.shape[1]:
            raise UserError(f"the reference has {direction.shape[1]} numbers, the output {output.shape[1]}")
        return (torch.nn.functional.normalize(output, dim=1) * direction.to(output)).sum(dim=1)

    return Target(cosine, "similarity to the reference")


def _column(output: Tensor, index: int) -> Tensor:
    n_classes = output.shape[1]
    if not -n_classes <= index < n_classes:
        raise UserError(f"class {index} does not exist: the model has {n_classes} outputs, 0 to {n_classes - 1}")
    return output[:, index]
