"""Functions of concept masks: one adapter over numpy functions, torch functions and given gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Masks = NDArray[np.float32]
"""``(n, k)``, each entry the share of a concept that is kept, in ``[0, 1]``."""

Values = NDArray[np.float64]
"""``(n, B)`` values of B functions, or ``(n, k, B)`` of their gradients."""

_NOT_NUMPY = (TypeError, AttributeError, RuntimeError)


class MaskFunction:
    """A scalar function of masks, with its gradient where there is one, that counts its evaluations.

    Parameters
    ----------
    function
        Takes masks ``(n, k)`` and returns n values: a numpy array, a torch tensor or a sequence. It is given float32
        numpy arrays; one that refuses those, or answers them with a torch tensor, is given float32 torch tensors.
    n_concepts
        k.
    gradient
        Takes masks ``(n, k)`` and returns the gradients ``(n, k)``. Without it the gradient comes from autograd, where
        `function` is a torch function whose result carries one.

    Attributes
    ----------
    n_evaluations, n_gradients
        Rows evaluated so far, and how many of them were differentiated as well.
    """

    n_functions = 1

    def __init__(self, function: Callable[[Any], Any], n_concepts: int, gradient: Callable[[Any], Any] | None) -> None:
        self.function = function
        self.n_concepts = n_concepts
        self.gradient = gradient
        self.n_evaluations = 0
        self.n_gradients = 0
        self._speaks_torch: bool | None = None
        self._has_autograd: bool | None = None

    def values(self, masks: Masks, columns: Any = None) -> Values:
        """Return the values at `masks`, ``(n, 1)``."""
        self.n_evaluations += len(masks)
        if self._speaks_torch:
            result = self.function(torch.from_numpy(masks))
        elif self._speaks_torch is None:
            result = self._first(masks)
        else:
            result = self.function(masks)
        return self._checked(result, len(masks))[:, None]

    def _first(self, masks: Masks) -> Any:
        """Find out which kind of array the function takes, with the values on the way."""
        try:
            result = self.function(masks)
        except _NOT_NUMPY:
            self._speaks_torch = True
            return self.function(torch.from_numpy(masks))
        self._speaks_torch = isinstance(result, torch.Tensor)
        return result

    def differentiable(self, probe: Masks) -> bool:
        """Say whether gradients can be had; a torch function is tried at `probe`."""
        if self.gradient is not None:
            return True
        if self._speaks_torch is None:
            self.values(probe)
        if not self._speaks_torch:
            return False
        if self._has_autograd is None:
            leaf = torch.from_numpy(probe[:1]).requires_grad_()
            result = self.function(leaf)
            self.n_evaluations += 1
            self._has_autograd = isinstance(result, torch.Tensor) and _depends(result, leaf)
        return self._has_autograd

    def values_and_gradients(self, masks: Masks, columns: Any = None) -> tuple[Values, Values]:
        """Return the values ``(n, 1)`` and the gradients ``(n, k, 1)`` at `masks`."""
        self.n_gradients += len(masks)
        if self.gradient is not None:
            slope = np.asarray(_to_numpy(self.gradient(masks)), dtype=np.float64)
            if slope.shape != masks.shape:
                raise ValueError(f"gradient returned shape {slope.shape} for masks of shape {masks.shape}")
            return self.values(masks), slope[:, :, None]
        self.n_evaluations += len(masks)
        leaf = torch.from_numpy(masks).requires_grad_()
        result = self.function(leaf)
        (slope,) = torch.autograd.grad(result.sum(), leaf)
        return self._checked(result, len(masks))[:, None], _to_numpy(slope).astype(np.float64)[:, :, None]

    def _checked(self, result: Any, n_rows: int) -> Values:
        values = np.asarray(_to_numpy(result), dtype=np.float64)
        if values.size != n_rows:
            raise ValueError(
                f"function returned shape {values.shape} for {n_rows} masks; it must return one value each"
            )
        if not np.isfinite(values).all():
            raise ValueError("function returned a value that is not finite; Sobol indices need finite values")
        return values.reshape(n_rows)


def _depends(result: torch.Tensor, leaf: torch.Tensor) -> bool:
    return result.requires_grad and torch.autograd.grad(result.sum(), leaf, allow_unused=True)[0] is not None


def _to_numpy(result: Any) -> Any:
    return result.detach().cpu().numpy() if isinstance(result, torch.Tensor) else result
