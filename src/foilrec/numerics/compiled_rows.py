"""The loops over rows of tables that are worth compiling, in numba (extra `fast`); rows.py calls them."""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


@njit(cache=True, nogil=True)
def sum_rows(ids: Array, values: Array, place: Array, distinct: Array, out: Array) -> int:
    """Adds up the rows of equal ids in order of first appearance and gives how many there are (place: all -1)."""
    count = 0
    for k in range(ids.size):
        r = place[ids[k]]
        if r < 0:
            place[ids[k]], distinct[count] = count, ids[k]
            for d in range(values.shape[1]):
                out[count, d] = values[k, d]
            count += 1
        else:
            for d in range(values.shape[1]):
                out[r, d] += values[k, d]
    return count


@njit(cache=True, nogil=True)
def add_rows(ids: Array, values: Array, out: Array) -> None:
    """out[ids[k]] += values[k], in order."""
    for k in range(ids.size):
        here, more = out[ids[k]], values[k]
        for d in range(values.shape[1]):
            here[d] += more[d]


@njit(cache=True, nogil=True)
def row_differences(table: Array, plus: Array, minus: Array, out: Array) -> None:
    """out[k] = table[plus[k]] - table[minus[k]], in one pass."""
    for k in range(plus.size):
        p, m = plus[k], minus[k]
        for d in range(table.shape[1]):
            out[k, d] = table[p, d] - table[m, d]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # Python's division would not be vectorised
def lazy_adam(
    rows: Array,
    grad: Array,
    table: Array,
    first: Array,
    second: Array,
    step: np.float32,
    root: np.float32,
    beta1: np.float32,
    beta2: np.float32,
    eps: np.float32,
) -> None:
    """One Adam step on the given rows of a table; the others, moments included, stay as they are.

    step is lr / (1 - beta1^t), root 1 / sqrt(1 - beta2^t).
    """
    rest1, rest2 = np.float32(1) - beta1, np.float32(1) - beta2
    for k in range(rows.size):
        here, m, v, g = table[rows[k]], first[rows[k]], second[rows[k]], grad[k]
        for d in range(table.shape[1]):
            m[d] = beta1 * m[d] + rest1 * g[d]
            v[d] = beta2 * v[d] + rest2 * g[d] * g[d]
            here[d] -= step * m[d] / (np.sqrt(v[d]) * root + eps)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def adam(
    place: Array,
    grad: Array,
    table: Array,
    first: Array,
    second: Array,
    step: np.float32,
    root: np.float32,
    beta1: np.float32,
    beta2: np.float32,
    eps: np.float32,
) -> None:
    """One Adam step on every row of a table in one pass: row r has gradient grad[place[r]], or none if place is -1."""
    rest1, rest2, nothing = np.float32(1) - beta1, np.float32(1) - beta2, np.zeros(table.shape[1], grad.dtype)
    for r in range(table.shape[0]):
        here, m, v = table[r], first[r], second[r]
        g = grad[place[r]] if place[r] >= 0 else nothing
        for d in range(table.shape[1]):
            m[d] = beta1 * m[d] + rest1 * g[d]
            v[d] = beta2 * v[d] + rest2 * g[d] * g[d]
            here[d] -= step * m[d] / (np.sqrt(v[d]) * root + eps)
