"""The protocol that every factorizer of activations keeps: scikit-learn's form, for arrays, tensors and stores."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from conceptatlas.concepts.nnls import nnls
from conceptatlas.concepts.rows import Rows, as_rows, as_tensor, is_store
from conceptatlas.concepts.sweeps import few_threads
from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.products import by_onednn


class Factorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of the factorizers ``A ~ U W``: A (n, p) activations, U (n, k) coefficients, W (k, p) unit-norm components.

    A subclass writes ``_fit(rows, seed)``, which returns the components (k, p), the error |A - U W| (Frobenius), the
    number of iterations and whether they settled; and, where coefficients are not non-negative least squares,
    ``_coefficients``. Arrays in give arrays out, tensors in give tensors out on their device; float32 stays float32.

    Attributes
    ----------
    components_
        W (k, p), rows of unit norm.
    reconstruction_err_
        |A - U W|, Frobenius norm, with the coefficients that the solver ended with.
    n_iter_
        Iterations done.
    converged_
        Whether the solver stopped by its tolerance and not by ``max_iter``.
    n_features_in_
        p.
    """

    _signed = True  # whether negative activations are accepted

    def __init__(self, n_components: int, *, max_iter: int = 200, tol: float = 1e-4, random_state: Any = None) -> None:
        self.n_components = n_components
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, A: Any, y: Any = None) -> Self:
        """Learn the components of A (n, p): an array, a tensor, or an activation store that is read in blocks.

        Raises
        ------
        UserError
            If A holds NaN or infinity, is all zero, has fewer rows or columns than ``n_components``, or is negative
            where the method needs A >= 0.
        """
        rows = as_rows(self._checked(A, reset=True))
        self._check_parameters(rows)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with few_threads(rows.shape[0] * (self.n_components + rows.shape[1] // 8)), by_onednn():
            components, error, n_iter, converged = self._fit(rows, seed)
        self.components_ = components if isinstance(A, torch.Tensor) else components.cpu().numpy()
        self.reconstruction_err_ = float(error)
        self.n_iter_ = int(n_iter)
        self.converged_ = bool(converged)
        if not converged:
            warnings.warn(
                f"{type(self).__name__} did not settle within max_iter={self.max_iter}: raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def transform(self, A: Any) -> Any:
        """Return the coefficients U (n, k) of the rows of A (n, p) on the fitted components."""
        check_is_fitted(self)
        A = self._checked(A, reset=False)
        if is_store(A):
            return np.concatenate([self._coefficients(block.numpy()) for _, _, block in as_rows(A).blocks()])
        return self._coefficients(A)

    def fit_transform(self, A: Any, y: Any = None) -> Any:
        """Fit and return the coefficients U (n, k) of the same rows: the same as ``fit(A).transform(A)``."""
        return self.fit(A).transform(A)

    def inverse_transform(self, U: Any) -> Any:
        """Return the reconstruction U W (n, p)."""
        check_is_fitted(self)
        return U @ (as_tensor(self.components_).to(U.device, U.dtype) if isinstance(U, torch.Tensor) else self._W())

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _W(self) -> np.ndarray:
        W = self.components_
        return W.detach().cpu().numpy() if isinstance(W, torch.Tensor) else W

    def _fit(self, rows: Rows, seed: int) -> tuple[torch.Tensor, float, int, bool]:
        raise NotImplementedError

    def _coefficients(self, A: Any) -> Any:
        if isinstance(A, torch.Tensor):
            return nnls(A, as_tensor(self.components_).to(A.device, A.dtype))
        return nnls(A, self._W())

    def _checked(self, A: Any, *, reset: bool) -> Any:
        """Check the shape of A and whether it is finite; arrays and lists go through scikit-learn's own checks."""
        if isinstance(A, torch.Tensor) or is_store(A):
            self._check_features(A, reset=reset)
            return A if is_store(A) or A.is_floating_point() else A.float()
        accepted = [np.float64, np.float32]
        checked: Any = validate_data(self, A, reset=reset, dtype=accepted, ensure_all_finite=reset is False)
        return checked.astype(np.float32) if getattr(A, "dtype", None) == np.float16 else checked

    def _check_features(self, A: Any, *, reset: bool) -> None:
        if isinstance(A, torch.Tensor) and A.ndim != 2:
            raise UserError(
                f"Activations must be a matrix (rows, features), not of shape {tuple(A.shape)}: flatten them."
            )
        p = A.shape[1] if isinstance(A, torch.Tensor) else int(A.n_features)
        if reset:
            self.n_features_in_ = p
        elif p != self.n_features_in_:
            raise UserError(
                f"X has {p} features, but {type(self).__name__} is expecting {self.n_features_in_} features as input."
            )

    def _check_parameters(self, rows: Rows) -> None:
        n, p = rows.shape
        k = self.n_components
        if not isinstance(k, (int, np.integer)) or k < 1:
            raise UserError(f"n_components={k!r} must be a whole number of at least 1.")
        if not self.max_iter >= 1 or not self.tol >= 0:
            raise UserError(f"max_iter={self.max_iter!r} must be at least 1 and tol={self.tol!r} at least 0.")
        if k > min(n, p):
            raise UserError(
                f"n_components={k} exceeds min(n_samples={n}, n_features={p}): ask for at most {min(n, p)} concepts "
                "or give more images."
            )

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn which dtypes are kept and whether input must be positive."""
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = not self._signed
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
