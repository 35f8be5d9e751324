"""Sequences, one user a line: «user item item item ...», in order of time."""

from itertools import chain
from pathlib import Path

import numpy as np

from foilrec.core import Data, Reader
from foilrec.errors import BadData, at_least, must_hold
from foilrec.reading.assembly import Choices, Extras, assemble
from foilrec.reading.culprit import records
from foilrec.reading.log import Log
from foilrec.reading.numbering import Numbers, number_series
from foilrec.reading.places import existing_file


class Sequences(Reader):
    """A text file, or a gzipped one, that holds what each user took on one line: «user item item ...», oldest first.

    The last item of each user is test, the last but one valid; who took fewer than three stays in train. Ids are any
    words without blanks; users and items are numbered by first appearance. An item that a user took again is kept
    where he took it first, as in all readers, since what is tested must not have been seen in training: a note counts
    them. The published files (5-core reviews) have none; codes that read others keep repeats.

    path: the file.
    min_length: users with fewer items than this are left out.
    core: users and items with fewer interactions are left out, again and again until none is left (0: all stay).
    """

    def __init__(self, *, path: str | Path, min_length: int = 0, core: int = 0) -> None:
        must_hold("sequences", **at_least(0, min_length=min_length))
        self.path, self.min_length = Path(path), min_length
        self.choices = Choices("leave-one-out", core=core)

    def read(self) -> Data:
        """The data set; BadData says which line is wrong."""
        lines, found = existing_file(self.path), []
        for line, (text,) in records(lines, "\x00", False):
            words = text.split()
            if not words:
                continue
            if len(words) == 1:
                raise BadData(f"{self.path}, line {line}: user {words[0]!r} has no items. Complete or drop the line.")
            found.append((line, words))
        kept = [(line, words) for line, words in found if len(words) > self.min_length]
        if not kept:
            raise BadData(f"{self.path} holds no user with items, {self.min_length} or more. Name another file.")
        self._refuse_twice(kept)
        short = len(found) - len(kept)
        notes = [f"{short:,} users with fewer than {self.min_length} items left out"] if short else []
        return assemble(self._log(kept), self.choices, lambda log: Extras(notes=notes))

    def _refuse_twice(self, lines: list[tuple[int, list[str]]]) -> None:
        first: dict[str, int] = {}
        for line, (user, *_) in lines:
            if first.setdefault(user, line) != line:
                raise BadData(
                    f"{self.path}, line {line}: user {user!r} has a sequence already, on line {first[user]}. Put both "
                    "on one line, in order of time."
                )

    def _log(self, lines: list[tuple[int, list[str]]]) -> Log:
        """The log: rows are numbered through all lines, and an item's time is its place on its line."""
        import polars as pl

        counts = np.array([len(words) - 1 for _, words in lines])
        items, item_ids = number_series(pl.Series(chain.from_iterable(words[1:] for _, words in lines)))
        starts: Numbers = counts.cumsum() - counts
        rows = np.arange(len(items))
        users = np.repeat(np.arange(len(lines)), counts)

        def where(row: int) -> str:
            at = int(np.searchsorted(starts, row, side="right")) - 1
            return f"{self.path.name}, line {lines[at][0]}, item {row - int(starts[at]) + 1}"

        return Log(
            users,
            items,
            len(lines),
            len(item_ids),
            where,
            rows,
            self.path.name.split(".")[0],
            [words[0] for _, words in lines],
            item_ids,
            times=(rows - starts[users]).astype(np.float64),
        )
