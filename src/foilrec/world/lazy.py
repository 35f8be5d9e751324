"""Things made when they are asked for: sequences of anything, and rows of numbers that pass for an array."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from foilrec.world.draws import Array

T = TypeVar("T")

_BLOCK = 256  # rows made at once: their pictures stay within a processor's cache


def _numbers(index: object, count: int) -> Array:
    """The rows that an index means, each checked and counted from 0: a slice, a number, or an array of either kind."""
    if isinstance(index, slice):
        return np.arange(*index.indices(count))
    wanted = np.asarray(index)
    if wanted.dtype == bool:
        return np.flatnonzero(wanted)
    wanted = wanted.astype(np.int64)
    if wanted.size and not (-count <= wanted.min() and wanted.max() < count):
        raise IndexError(f"there are {count} rows, and no row {wanted.min()} or {wanted.max()}")
    return np.where(wanted < 0, wanted + count, wanted)


class Lazy(Sequence[T]):
    """A sequence of `count` things of which only the wanted ones are made.

    make: turns item numbers [n] into n things, the same ones each time. An array of numbers works as an index too.
    """

    def __init__(self, count: int, make: Callable[[Array], Sequence[T]]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice | Array) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice | Array) -> T | Sequence[T]:
        numbers = _numbers(index, self._count)
        return self._make(numbers) if numbers.ndim else self._make(numbers[None])[0]


class Rows:
    """Float32 rows [count, width] of which only the wanted ones are computed; np.asarray(rows) computes them all.

    make: turns item numbers [n] into rows [n, width], each a function of its own number alone. digest: stands for the
    content where computing every row to compare two data sets would take minutes.
    """

    def __init__(self, count: int, width: int, make: Callable[[Array], Array], digest: bytes = b"") -> None:
        self.digest = digest or None
        self.shape, self.dtype, self.ndim = (count, width), np.dtype(np.float32), 2
        self._make = make

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | Array) -> Array:
        numbers = _numbers(index, len(self))
        flat = numbers.reshape(-1)
        rows = np.empty((len(flat), self.shape[1]), self.dtype)
        for start in range(0, len(flat), _BLOCK):
            rows[start : start + _BLOCK] = self._make(flat[start : start + _BLOCK])
        return rows.reshape(*numbers.shape, self.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)
