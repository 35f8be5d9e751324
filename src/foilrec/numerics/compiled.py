"""The few loops worth compiling, in numba (extra `fast`); kernels.py calls them, and has their equals in torch."""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_LOW, _SHORT = np.uint64(0xFFFFFFFF), np.uint64(0xFFFF)
_S16, _S27, _S30, _S31, _S32 = np.uint64(16), np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)


@njit(cache=True, inline="always")
def mix(x: np.uint64) -> np.uint64:
    """SplitMix64's finaliser."""
    x = (x ^ (x >> _S30)) * _MIX1
    x = (x ^ (x >> _S27)) * _MIX2
    return x ^ (x >> _S31)


@njit(cache=True, inline="always")
def below(x: np.uint64, n: np.uint64) -> np.int64:
    """A 64-bit random word scaled to 0..n-1 (the high word of x * n, for n < 2**32)."""
    return np.int64(((x >> _S32) * n + (((x & _LOW) * n) >> _S32)) >> _S32)


@njit(cache=True, nogil=True)
def words(rows: Array, key: np.uint64, out: Array) -> None:
    """Random words by row and column."""
    for b in range(rows.size):
        base = mix(key ^ mix(np.uint64(rows[b])))
        for k in range(out.shape[1]):
            out[b, k] = np.int64(mix(base + np.uint64(k + 1) * _GOLDEN))


@njit(cache=True, nogil=True)
def normals(rows: Array, key: np.uint64, table: Array, out: Array) -> None:
    """The entries of a table [65536] that a row's words name, four a word."""
    for b in range(rows.size):
        base = mix(key ^ mix(np.uint64(rows[b])))
        for k in range(out.shape[1]):
            if k % 4 == 0:
                word = mix(base + np.uint64(k // 4 + 1) * _GOLDEN)
            out[b, k] = table[word & _SHORT]
            word >>= _S16


@njit(cache=True, nogil=True)
def unseen(starts: Array, items: Array, users: Array, rows: Array, key: np.uint64, n_items: int, out: Array) -> None:
    """Uniform draws from the complement of each user's sorted items, without rejection.

    The r-th free item is r + how many taken ones lie at or below it. Many draws of a short history look at each taken
    item side by side, without a branch; else each draw looks by halves.
    """
    count = out.shape[1]
    rank = np.empty(count, np.int64)
    for b in range(users.size):
        start = starts[users[b]]
        taken = starts[users[b] + 1] - start
        free = np.uint64(n_items - taken)
        base, here = mix(key ^ mix(np.uint64(rows[b]))), out[b]
        for k in range(count):
            rank[k] = below(mix(base + np.uint64(k + 1) * _GOLDEN), free)
            here[k] = rank[k]
        if count > 2 and taken <= 64:
            for j in range(taken):
                bar = items[start + j] - j
                for k in range(count):
                    here[k] += bar <= rank[k]
            continue
        for k in range(count):
            low, high = 0, taken
            while low < high:
                middle = (low + high) >> 1
                if items[start + middle] - middle <= rank[k]:
                    low = middle + 1
                else:
                    high = middle
            here[k] += low


@njit(cache=True, nogil=True)
def contains(starts: Array, items: Array, users: Array, asked: Array, out: Array) -> None:
    """Whether asked[b, k] is among the sorted items of users[b]."""
    for b in range(users.size):
        start, end = starts[users[b]], starts[users[b] + 1]
        for k in range(asked.shape[1]):
            low, high = start, end
            while low < high:
                middle = (low + high) >> 1
                if items[middle] < asked[b, k]:
                    low = middle + 1
                else:
                    high = middle
            out[b, k] = low < end and items[low] == asked[b, k]


@njit(cache=True, nogil=True)
def weighted_unseen(
    starts: Array, items: Array, before: Array, cumulative: Array, users: Array, rows: Array, key: np.uint64, out: Array
) -> None:
    """Draws from the complement in proportion to integer weights: a gap search by mass, then one by item."""
    total = cumulative[-1]
    for b in range(users.size):
        start, end = starts[users[b]], starts[users[b] + 1]
        seen = np.int64(0)
        if end > start:
            last = items[end - 1]
            seen = cumulative[last + 1] - before[end - 1]
        base = mix(key ^ mix(np.uint64(rows[b])))
        for k in range(out.shape[1]):
            # 2**62 / total is kept above 2**20 by the caller, so that the modulo's bias is below 1e-6
            r = np.int64(mix(base + np.uint64(k + 1) * _GOLDEN) >> np.uint64(2)) % (total - seen)
            low, high = start, end
            while low < high:
                middle = (low + high) >> 1
                if before[middle] <= r:
                    low = middle + 1
                else:
                    high = middle
            if low > start:
                last = items[low - 1]
                r += cumulative[last + 1] - before[low - 1]
            out[b, k] = np.searchsorted(cumulative, r, side="right") - 1


@njit(cache=True, nogil=True, fastmath=True)
def multiply(
    starts: Array,
    columns: Array,
    values: Array,
    x: Array,
    ids: Array,
    plus: tuple[Array, ...],
    scale: float,
    onto: bool,
    out: Array,
) -> None:
    """out = scale * (matrix x + the sum of plus) in some rows, for a sparse matrix given by rows.

    plus: tables, one at least, that may have no rows. onto: add to what stands in out.
    """
    width = x.shape[1]
    for r in ids:
        if not onto:
            out[r] = 0
        for table in plus:
            for d in range(width if table.shape[0] else 0):
                out[r, d] += scale * table[r, d]
        e, end = starts[r], starts[r + 1]
        while e + 3 < end:  # four entries a pass: a quarter of the traffic on out
            c0, c1, c2, c3 = columns[e], columns[e + 1], columns[e + 2], columns[e + 3]
            v0, v1, v2, v3 = (scale * values[e], scale * values[e + 1], scale * values[e + 2], scale * values[e + 3])
            for d in range(width):
                out[r, d] += v0 * x[c0, d] + v1 * x[c1, d] + v2 * x[c2, d] + v3 * x[c3, d]
            e += 4
        while e < end:
            c, v = columns[e], scale * values[e]
            for d in range(width):
                out[r, d] += v * x[c, d]
            e += 1


@njit(cache=True, nogil=True, fastmath=True)
def spread(starts: Array, columns: Array, values: Array, ids: Array, x: Array, out: Array) -> None:
    """out[columns[e]] += values[e] x[k] for every entry e of row ids[k] of a sparse matrix given by rows."""
    for k in range(ids.size):
        for e in range(starts[ids[k]], starts[ids[k] + 1]):
            c, v = columns[e], values[e]
            for d in range(x.shape[1]):
                out[c, d] += v * x[k, d]


@njit(cache=True, nogil=True, fastmath=True)
def candidate_scores(query: Array, table: Array, ids: Array, out: Array) -> None:
    """out[b, m] = query[b] . table[ids[b, m]], without gathering the rows."""
    for b in range(ids.shape[0]):
        for m in range(ids.shape[1]):
            total = query.dtype.type(0)
            row = ids[b, m]
            for d in range(query.shape[1]):
                total += query[b, d] * table[row, d]
            out[b, m] = total


@njit(cache=True, nogil=True)
def ranks(scores: Array, starts: Array, wanted: Array, out: Array) -> None:
    """How many items of row r come before wanted[e], e in starts[r]:starts[r+1]; equal scores: the lower id first."""
    n = scores.shape[1]
    for r in range(scores.shape[0]):
        for e in range(starts[r], starts[r + 1]):
            item = wanted[e]
            mine = scores[r, item]
            count = 0
            for i in range(n):
                count += scores[r, i] > mine
            for i in range(item):
                count += scores[r, i] == mine
            out[e] = count


@njit(cache=True, nogil=True)
def best(scores: Array, ids: Array, values: Array) -> None:
    """The first ids.shape[1] items of each row, NaN left out; ids come filled with -1 and values with -inf."""
    most = ids.shape[1]
    for r in range(scores.shape[0]):
        heap, held, size = values[r], ids[r], 0  # a heap whose root is the last of those kept
        for i in range(scores.shape[1]):
            x = scores[r, i]
            if size < most:
                if x == x:
                    at = size
                    size += 1
                    while at > 0 and x <= heap[(at - 1) >> 1]:  # a later id goes behind an equal score
                        heap[at], held[at] = heap[(at - 1) >> 1], held[(at - 1) >> 1]
                        at = (at - 1) >> 1
                    heap[at], held[at] = x, i
            elif x > heap[0]:
                _sink(heap, held, size, x, i)
        while size > 1:  # take the root off again and again: the row ends in order
            size -= 1
            x, i = heap[size], held[size]
            heap[size], held[size] = heap[0], held[0]
            _sink(heap, held, size, x, i)


@njit(cache=True, inline="always")
def _sink(heap: Array, held: Array, size: int, x: float, i: int) -> None:
    """Replaces the root of a heap by (x, i) and brings it to its place."""
    at = 0
    while 2 * at + 1 < size:
        down = 2 * at + 1
        if down + 1 < size and (
            heap[down + 1] < heap[down] or (heap[down + 1] == heap[down] and held[down + 1] > held[down])
        ):
            down += 1
        if heap[down] > x or (heap[down] == x and held[down] < i):
            break
        heap[at], held[at] = heap[down], held[down]
        at = down
    heap[at], held[at] = x, i


@njit(cache=True, nogil=True)
def hide_taken(likeness: Array, ids: Array, order: Array, users: Array, starts: Array, items: Array) -> None:
    """likeness[b, k] = -inf where users[b] took ids[k]; order sorts ids [M], so that the few taken are looked up."""
    for b in range(users.size):
        for e in range(starts[users[b]], starts[users[b] + 1]):
            low, high = 0, ids.size
            while low < high:
                middle = (low + high) >> 1
                if ids[order[middle]] < items[e]:
                    low = middle + 1
                else:
                    high = middle
            while low < ids.size and ids[order[low]] == items[e]:
                likeness[b, order[low]] = -np.inf
                low += 1


@njit(cache=True, nogil=True)
def pick_above(likeness: Array, least: Array, word: Array, keep: int, out: Array) -> None:
    """out[b] = an even draw of the `keep` columns at or above least[b], their keep-th best; -1 if all are -inf."""
    for b in range(out.size):
        row, above, equal = likeness[b], 0, 0
        for k in range(row.size):
            above += row[k] > least[b]
            equal += row[k] == least[b]
        ties = 0 if least[b] == -np.inf else min(equal, keep - above)
        out[b] = -1
        if above + ties == 0:
            continue
        left = below(np.uint64(word[b]), np.uint64(above + ties))
        for k in range(row.size):
            if row[k] > least[b] or (row[k] == least[b] and ties > 0):
                ties -= row[k] == least[b]
                if left == 0:
                    out[b] = k
                    break
                left -= 1
