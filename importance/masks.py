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

_REFUSALS = (TypeError, AttributeError, RuntimeError)
"""What a function raises when it is given a kind of array that it does not take."""


def _as_single(masks: Masks) -> torch.Tensor:
    return torch.from_numpy(masks.copy())


def _as_double(masks: Masks) -> torch.Tensor:
    return torch.from_numpy(masks.astype(np.float64))


_KINDS = (np.copy, _as_single, _as_double)
"""How masks are handed over, each time as a copy: a function may change what it is given."""


class MaskFunction:
    """A scalar function of masks, with its gradient where there is one, that counts its evaluations.

    Parameters
    ----------
    function
        Takes masks ``(n, k)`` and returns n values: a numpy array, a torch tensor or a sequence. It is given float32
        numpy arrays; one that refuses those, or answers them with a torch tensor, is given float32 torch tensors, and
        one that refuses these as well float64 torch tensors.
    n_concepts
        k.
    gradient
        Takes masks ``(n, k)`` and returns the gradients ``(n, k)``. Without it the gradient comes from autograd, where
        `function` is a torch function whose result carries one.

    Attributes
    ----------
    n_evaluations, n_gradients
        Rows that the function was given so far, refused ones included, and how many of them were differentiated as
        well.
    """

    n_functions = 1

    def __init__(self, function: Callable[[Any], Any], n_concepts: int, gradient: Callable[[Any], Any] | None) -> None:
        self.function = function
        self.n_concepts = n_concepts
        self.gradient = gradient
        self.n_evaluations = 0
        self.n_gradients = 0
        self._hand_over: Callable[[Masks], Any] | None = None
        self._has_autograd: bool | None = None

    def values(self, masks: Masks, columns: Any = None) -> Values:
        """Return the values at `masks`, ``(n, 1)``."""
        result = self._first(masks) if self._hand_over is None else self._call(self._hand_over(masks))
        return self._checked(result, len(masks))[:, None]

    def _call(self, masks: Any) -> Any:
        self.n_evaluations += len(masks)
        return self.function(masks)

    def _first(self, masks: Masks) -> Any:
        """Find out which kind of array the function takes, with the values on the way."""
        refusals = []
        for kind in _KINDS:
            try:
                result = self._call(kind(masks))
            except _REFUSALS as refusal:
                refusals.append(refusal)
                continue
            takes_both = kind is np.copy and isinstance(result, torch.Tensor)
            self._hand_over = _as_single if takes_both else kind
            return result
        raise refusals[1] from refusals[0]

    def differentiable(self, probe: Masks) -> bool:
        """Say whether gradients can be had; a torch function is tried at `probe`."""
        if self.gradient is not None:
            return True
        if self._hand_over is None:
            self.values(probe)
        if self._has_autograd is None:
            self._has_autograd = self._hand_over is not np.copy and self._carries_gradient(probe[:1])
        return self._has_autograd

    def _carries_gradient(self, probe: Masks) -> bool:
        try:
            with torch.inference_mode(False), torch.enable_grad():
                leaf, result = self._differentiated(probe)
                return isinstance(result, torch.Tensor) and _depends(result, leaf)
        except _REFUSALS:  # a function that leaves torch on the way
            return False

    def _differentiated(self, masks: Masks) -> tuple[torch.Tensor, Any]:
        """Return masks as a leaf, and the function of a copy, so that it may change what it is given."""
        leaf = (self._hand_over or _as_single)(masks).requires_grad_()
        return leaf, self._call(leaf.clone())

    def values_and_gradients(self, masks: Masks, columns: Any = None) -> tuple[Values, Values]:
        """Return the values ``(n, 1)`` and the gradients ``(n, k, 1)`` at `masks`."""
        self.n_gradients += len(masks)
        if self.gradient is not None:
            slope = np.asarray(_to_numpy(self.gradient(masks.copy())), dtype=np.float64)
            if slope.shape != masks.shape:
                raise ValueError(f"gradient returned shape {slope.shape} for masks of shape {masks.shape}")
            return self.values(masks), slope[:, :, None]
        with torch.inference_mode(False), torch.enable_grad():
            leaf, result = self._differentiated(masks)
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
