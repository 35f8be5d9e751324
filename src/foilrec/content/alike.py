"""Real items that what was generated is most like, by words: what a described item can be traded for."""

from collections.abc import Sequence

import numpy as np

from foilrec.content.encoder import Array

MOST = 64
BLOCK = 2**22  # cosines held at once


def alike(rows: Array, catalogue: Array, items: Sequence[int]) -> list[list[int]]:
    """The numbers of the 64 items nearest to each negative by cosine, the nearest first, [N] lists.

    rows: of the negatives, [N, E]; catalogue: of all items, [I, E], both of length 1. items [N]: which item each is a
    variant of, and is not taken for. Items whose row is zero are passed over; equal cosines stand in the order of ids.
    """
    there = np.flatnonzero(catalogue.any(1))
    known, most, found = catalogue[there], min(MOST + 1, len(there)), list[list[int]]()
    step = max(1, BLOCK // max(1, len(there)))
    for start in range(0, len(rows), step):
        away = -(rows[start : start + step] @ known.T)
        near = np.sort(np.argpartition(away, most - 1, axis=1)[:, :most], axis=1)
        order = np.argsort(np.take_along_axis(away, near, 1), axis=1, kind="stable")
        numbers = there[np.take_along_axis(near, order, 1)].tolist()
        for item, its in zip(items[start : start + step], numbers, strict=True):
            found.append([other for other in its if other != item][:MOST])
    return found
