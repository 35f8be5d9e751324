"""The loops over rows of tables that are worth compiling, in numba (extra `fast`); rows.py calls them."""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]
FREE = {"reassoc", "contract"}  # sums in any order, and NaN stays NaN


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


@njit(cache=True, nogil=True, fastmath=FREE)
def row_scores(
    query: Array, table: Array, positives: Array, negatives: Array, right: Array, wrong: Array, squares: Array
) -> None:
    """right[k] = q_k . table[p_k], wrong[k, j] = q_k . table[n_kj]; squares [3]: sums of |q|^2, of |p|^2, of |n|^2."""
    width, sums = table.shape[1], np.zeros(3)
    for k in range(positives.size):
        q, p = query[k], table[positives[k]]
        dot, own, other = np.float32(0), np.float32(0), np.float32(0)
        for d in range(width):
            dot += q[d] * p[d]
            own += q[d] * q[d]
            other += p[d] * p[d]
        right[k] = dot
        sums[0] += own
        sums[1] += other
        for j in range(negatives.shape[1]):
            n, dot, other = table[negatives[k, j]], np.float32(0), np.float32(0)
            for d in range(width):
                dot += q[d] * n[d]
                other += n[d] * n[d]
            wrong[k, j] = dot
            sums[2] += other
    squares[:] = sums


@njit(cache=True, nogil=True)
def distinct(ids: Array, place: Array) -> Array:
    """The ids that occur, ascending; place[id] becomes where each of them stands (place: all 0)."""
    for k in range(ids.size):
        place[ids[k]] = 1
    count = 0
    for r in range(place.size):
        count += place[r]
    found, count = np.empty(count, np.int64), 0
    for r in range(place.size):
        if place[r]:
            place[r], found[count] = count, r
            count += 1
    return found


@njit(cache=True, nogil=True, fastmath=FREE)
def row_scores_back(
    query: Array,
    table: Array,
    positives: Array,
    negatives: Array,
    place: Array,
    right: Array,
    wrong: Array,
    squares: Array,
    on_query: Array,
    on_rows: Array,
) -> None:
    """The gradients of row_scores: on_query [B, D], and on_rows (not yet filled), where id's row is place[id]."""
    width, own, count = table.shape[1], squares[0] * 2, negatives.shape[1]
    fresh = np.ones(on_rows.shape[0], np.bool_)
    for k in range(positives.size):
        q, back = query[k], on_query[k]
        for d in range(width):
            back[d] = own * q[d]
        for j in range(-1, count):
            item = positives[k] if j < 0 else negatives[k, j]
            g, weight = (right[k], squares[1] * 2) if j < 0 else (wrong[k, j], squares[2] * 2)
            row, at = table[item], place[item]
            onto = on_rows[at]
            if fresh[at]:
                fresh[at] = False
                for d in range(width):
                    back[d] += g * row[d]
                    onto[d] = g * q[d] + weight * row[d]
            else:
                for d in range(width):
                    back[d] += g * row[d]
                    onto[d] += g * q[d] + weight * row[d]


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
    """One Adam step on the given rows of a table; the others, moments included, stay as they are.

    What a row has more than once adds up (place: all -1). step is lr / (1 - beta1^t), root 1 / sqrt(1 - beta2^t).
    """
    rest1, rest2, width = np.float32(1) - beta1, np.float32(1) - beta2, table.shape[1]
    after, total = np.empty(rows.size, np.int32), np.empty(width, grad.dtype)
    for k in range(rows.size - 1, -1, -1):  # place leads to where a row first occurs, after from there to the next
        after[k], place[rows[k]] = place[rows[k]], k
    for k in range(rows.size):
        if place[rows[k]] != k:
            continue
        g, more = grad[k], after[k]
        if more >= 0:
            total[:] = g
            g = total
        while more >= 0:
            for d in range(width):
                total[d] += grad[more, d]
            more = after[more]
        here, m, v = table[rows[k]], first[rows[k]], second[rows[k]]
        for d in range(width):
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
