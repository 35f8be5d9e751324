"""Raw ids to numbers, in order of first appearance."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

Numbers = NDArray[np.int64]


def number_integers(values: Numbers) -> tuple[Numbers, Numbers]:
    """Integers [N] -> their numbers [N], and the integer [V] that each number stands for, by first appearance."""
    if not len(values):
        return values, values
    low, high = int(values.min()), int(values.max())
    if high - low > 4 * len(values) + 1000:
        _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        return _inverted(order)[inverse], values[first[order]]
    first = np.full(high - low + 1, -1, np.int64)
    shifted = values - low
    first[shifted[::-1]] = np.arange(len(values) - 1, -1, -1)  # the last write, which is the first place, remains
    there = np.flatnonzero(first >= 0)
    order = there[np.argsort(first[there], kind="stable")]
    first[order] = np.arange(len(order))
    return first[shifted], order + low


def _inverted(order: Numbers) -> Numbers:
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places


def number_series(series: "pl.Series") -> tuple[Numbers, list[Any]]:
    """A column of raw ids [N] without nulls -> their numbers [N] and the raw id of each number, by first appearance."""
    import polars as pl

    if (
        series.dtype.is_integer() and series.cast(pl.Int64, strict=False).null_count() == 0
    ):  # some need 64 bits and more
        numbers, raw = number_integers(series.to_numpy().astype(np.int64))
        return numbers, raw.tolist()
    if series.dtype == pl.String:
        plain = _plain_integers(series)
        if plain is not None:  # four times faster than through text, with the same result
            numbers, raw = number_integers(plain)
            return numbers, [str(x) for x in raw.tolist()]
    distinct = series.unique(maintain_order=True)
    places = pl.Series(np.arange(len(distinct), dtype=np.int64))
    return series.replace_strict(distinct, places, return_dtype=pl.Int64).to_numpy(), distinct.to_list()


def _plain_integers(texts: "pl.Series") -> Numbers | None:
    """The texts as integers if each is written as an integer is ("7", not "07"): no raw id may change."""
    import polars as pl

    parsed = texts.cast(pl.Int64, strict=False)
    if parsed.null_count():
        return None
    values = parsed.to_numpy()
    if not len(values) or values.min() < 0:
        return None
    powers = 10 ** np.arange(1, 19, dtype=np.int64)
    digits = 1 + np.searchsorted(powers, values, side="right")
    return values if (texts.str.len_bytes().to_numpy() == digits).all() else None


def is_dense(values: Numbers) -> bool:
    """Whether integers [N] are 0, 1, 2 ... without a gap, in any order and repeated."""
    if not len(values) or values.min() != 0 or values.max() >= len(values):
        return False
    return bool(np.bincount(values).all())


def unless_plain(ids: Sequence[Any] | None) -> list[Any] | None:
    """Raw ids, or None when each is just its number."""
    if ids is None or all(str(raw) == str(number) for number, raw in enumerate(ids)):
        return None
    return list(ids)
