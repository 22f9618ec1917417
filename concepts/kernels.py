"""Loops that numba compiles for the CPU: sweeps of coordinate descent and exact non-negative least squares, row by row.

Nothing else imports numba, so that the package works without it (`sweeps` and `nnls` then take the torch path).
"""

from __future__ import annotations

import numpy as np
from numba import njit

_CACHED = 8192  # numbers of U^T that stay in the first-level cache while all coordinates are visited


@njit(cache=True, fastmath=True)
def hals_sweeps(U: np.ndarray, P: np.ndarray, G: np.ndarray, n_sweeps: int) -> None:  # noqa: C901 (calls would not vectorize)
    """Minimise ``1/2 <U, G U> - <P, U>`` over U >= 0 in place, one coordinate (row) after the other.

    ``U`` and ``P`` are (k, n), ``G`` (k, k) symmetric; a coordinate with ``G[j, j] == 0`` is left as it is.
    What keeps the vector units busy: two coordinates share the reading of all others, eight at once, and the second is
    then corrected for the step that the first has taken.
    """
    k, n = U.shape
    zero = U.dtype.type(0)
    octets = (k + 7) // 8 * 8
    H = np.zeros((k + 1, octets), U.dtype)  # G, padded with zeros to whole octets and pairs
    H[:k, :k] = G
    inverse = np.zeros(k + 1, U.dtype)
    for j in range(k):
        if G[j, j] > zero:
            inverse[j] = U.dtype.type(1) / G[j, j]
    block = max(64, min(512, _CACHED // k // 64 * 64))
    local = np.zeros((octets + 1, block), U.dtype)
    left, right = np.zeros(block, U.dtype), np.zeros(block, U.dtype)
    for start in range(0, n, block):
        m = min(block, n - start)
        for i in range(k):
            for c in range(m):
                local[i, c] = U[i, start + c]
        for _ in range(n_sweeps):
            for j in range(0, k, 2):
                other = min(j + 1, k - 1)
                for c in range(m):
                    left[c], right[c] = P[j, start + c], P[other, start + c]
                for i in range(0, octets, 8):
                    g, h, u = H[j, i : i + 8], H[j + 1, i : i + 8], local[i : i + 8]
                    g0, g1, g2, g3, g4, g5, g6, g7 = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7]
                    h0, h1, h2, h3, h4, h5, h6, h7 = h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]
                    for c in range(block):
                        u0, u1, u2, u3 = u[0, c], u[1, c], u[2, c], u[3, c]
                        u4, u5, u6, u7 = u[4, c], u[5, c], u[6, c], u[7, c]
                        left[c] -= (g0 * u0 + g1 * u1 + g2 * u2 + g3 * u3) + (g4 * u4 + g5 * u5 + g6 * u6 + g7 * u7)
                        right[c] -= (h0 * u0 + h1 * u1 + h2 * u2 + h3 * u3) + (h4 * u4 + h5 * u5 + h6 * u6 + h7 * u7)
                first, second, shared = inverse[j], inverse[j + 1], H[j + 1, j]
                for c in range(block):
                    before = local[j, c]
                    value = before + left[c] * first
                    value = value if value > zero else zero
                    ahead = local[j + 1, c] + (right[c] - shared * (value - before)) * second
                    local[j, c] = value
                    local[j + 1, c] = ahead if ahead > zero else zero
        for i in range(k):
            for c in range(m):
                U[i, start + c] = local[i, c]


@njit(cache=True)
def _solve_on(G: np.ndarray, b: np.ndarray, index: np.ndarray, m: int, L: np.ndarray, x: np.ndarray) -> None:
    """Solve ``G[S, S] x = b[S]``, S = index[:m], by Cholesky; a vanishing pivot is lifted to 1e-13 of its diagonal."""
    for r in range(m):
        for c in range(r + 1):
            total = G[index[r], index[c]]
            for t in range(c):
                total -= L[r, t] * L[c, t]
            if r == c:
                floor = 1e-13 * G[index[r], index[r]]
                L[r, r] = np.sqrt(total if total > floor else floor)
            else:
                L[r, c] = total / L[c, c]
    for r in range(m):
        total = b[index[r]]
        for t in range(r):
            total -= L[r, t] * x[t]
        x[r] = total / L[r, r]
    for r in range(m - 1, -1, -1):
        total = x[r]
        for t in range(r + 1, m):
            total -= L[t, r] * x[t]
        x[r] = total / L[r, r]


@njit(cache=True)
def _mark_wrong(
    G: np.ndarray, b: np.ndarray, index: np.ndarray, m: int, x: np.ndarray, active: np.ndarray, wrong: np.ndarray
) -> tuple[int, int]:
    """Mark coordinates on the wrong side of the KKT conditions; return how many there are and the last of them."""
    slack = 1e-12 * np.abs(b).max()
    n_wrong, last, t = 0, 0, 0
    for j in range(len(b)):
        if active[j]:
            wrong[j] = x[t] < 0.0
            t += 1
        else:
            gradient = -b[j]
            for s in range(m):
                gradient += G[j, index[s]] * x[s]
            wrong[j] = gradient < -slack
        if wrong[j]:
            n_wrong += 1
            last = j
    return n_wrong, last


@njit(cache=True)
def _pivot_row(
    G: np.ndarray, b: np.ndarray, active: np.ndarray, L: np.ndarray, x: np.ndarray, index: np.ndarray, max_rounds: int
) -> int:
    """Exchange coordinates until the row is optimal; return the size of its support, or -1 if it did not settle."""
    wrong = np.zeros(len(b), np.bool_)
    fewest, patience = len(b) + 1, 3
    for _ in range(max_rounds):
        m = 0
        for j in range(len(b)):
            if active[j]:
                index[m] = j
                m += 1
        _solve_on(G, b, index, m, L, x)
        n_wrong, last = _mark_wrong(G, b, index, m, x, active, wrong)
        if n_wrong == 0:
            return m
        if n_wrong >= fewest and patience == 0:
            active[last] = not active[last]
            continue
        patience = 3 if n_wrong < fewest else patience - 1
        fewest = min(fewest, n_wrong)
        for j in range(len(b)):
            if wrong[j]:
                active[j] = not active[j]
    return -1


@njit(cache=True)
def nnls_rows(G: np.ndarray, B: np.ndarray, U: np.ndarray, max_rounds: int) -> int:
    """Solve ``min_{u >= 0} 1/2 u G u - b u`` exactly for every row of ``B`` (n, k) into ``U`` (n, k); float64.

    Block principal pivoting on the Gram matrix with the backup rule of Kim and Park, SIAM J. Sci. Comput. 33(6), 2011.
    Each row starts from the support of the row before it: neighbouring positions mostly share it.
    Returns the number of rows that did not settle within ``max_rounds`` (their ``U[i, 0]`` is NaN).
    """
    n, k = B.shape
    index, active = np.empty(k, np.int64), np.zeros(k, np.bool_)
    L, x = np.empty((k, k)), np.empty(k)
    missed = 0
    for row in range(n):
        m = _pivot_row(G, B[row], active, L, x, index, max_rounds)
        U[row] = 0.0
        for s in range(m):
            U[row, index[s]] = x[s]
        if m < 0:
            U[row, 0] = np.nan
            active[:] = False
            missed += 1
    return missed
