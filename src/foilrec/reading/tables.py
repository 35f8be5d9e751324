"""Delimited text files: read at full speed first, and line by line only to find what is wrong."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foilrec.errors import BadData, did_you_mean
from foilrec.reading.culprit import Column, find_bad_quote, find_culprit, records
from foilrec.reading.dates import seconds
from foilrec.reading.places import existing_file

if TYPE_CHECKING:
    import polars as pl

SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", " ": "spaces", "|": "bars", "::": "double colons"}


@dataclass(frozen=True)
class TextTable:
    """A delimited text file: its header, and line 1 the first line of data where has_header is False."""

    path: Path
    separator: str
    header: tuple[str, ...]
    has_header: bool = True
    quoted: bool = False

    @staticmethod
    def open(
        path: str | Path, separator: str, header: Sequence[str] | None = None, quoted: bool = False
    ) -> "TextTable":
        """The table of a file, its header read, or given for a file that has none."""
        file = existing_file(path)
        if not file.stat().st_size:
            raise BadData(f"{file} is empty (0 bytes). Fetch it again, or name another file.")
        if header is not None:
            return TextTable(file, separator, tuple(header), False, quoted)
        line, first = next(records(file, separator, quoted), (1, []))
        if line != 1:
            raise BadData(f"{file}, line 1: the line is empty, and a header is needed there.")
        return TextTable(file, separator, tuple(name.strip() for name in first), True, quoted)

    def position(self, name: str, what: str) -> int:
        """The place of a column, or BadData that names the nearest one; what says what it would hold."""
        if self.header.count(name) > 1:
            raise BadData(f"{self.path}, line 1: two columns are called {name!r} ({what}). Rename or drop one of them.")
        if name in self.header:
            return self.header.index(name)
        hint = did_you_mean(name, self.header)
        if len(self.header) == 1:
            other = next(
                (word for sign, word in SEPARATORS.items() if sign != self.separator and sign in self.header[0]), ""
            )
            hint = f": its columns seem to be parted by {other}, not {SEPARATORS[self.separator]}" if other else hint
        raise BadData(
            f"{self.path}, line 1: the header has no column {name!r} ({what}){hint}{'' if hint[-1:] == '?' else '.'} "
            f"It has {', '.join(map(repr, self.header))}."
        )

    def where(self, row: int) -> str:
        """The place of a row of data, counted from 0, for a message: «line 12»."""
        if not self.quoted:
            return f"{self.path.name}, line {row + 1 + self.has_header}"
        lines = (line for line, _ in records(self.path, self.separator, True))
        return f"{self.path.name}, line {next(n for i, n in enumerate(lines) if i == row + self.has_header)}"

    def read(self, columns: Sequence[Column]) -> "pl.DataFrame":
        """The columns, each under its role and without nulls; `row` counts the rows of data from 0."""
        import polars as pl

        columns = self._told(columns)
        try:
            frame = self._scan(columns)
        except pl.exceptions.NoDataError:
            frame = pl.DataFrame()
        except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
            self._explain(columns)
            raise BadData(
                f"{self.path} cannot be read as text with {SEPARATORS[self.separator]} between its columns: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if len(frame) and not all(_sound(frame[column.role], column) for column in columns):
            self._explain(columns)
            frame = frame.drop_nulls()  # only blank lines are left to blame
        elif len(frame) and not self._regular():
            self._explain(columns)
        if not len(frame):
            raise BadData(f"{self.path} holds no interactions: there is nothing below its header.")
        return frame

    def pairs(self, key: str, value: str) -> dict[str, tuple[str, str]]:
        """Two columns of text, {key: (value, "")}: the titles of items, say."""
        at, to = self.position(key, "the item"), self.position(value, "its title")
        found: dict[str, tuple[str, str]] = {}
        for line, fields in records(self.path, self.separator, self.quoted):
            if self.has_header and line == 1:
                continue
            if len(fields) <= max(at, to):
                raise BadData(
                    f"{self.path}, line {line}: the line has too few columns, {len(fields)} instead of "
                    f"{len(self.header)}. Complete or drop the line."
                )
            if found.setdefault(fields[at], (fields[to], "")) != (fields[to], ""):
                raise BadData(
                    f"{self.path}, line {line}: item {fields[at]!r} has a second title, {fields[to]!r}; before it was "
                    f"{found[fields[at]][0]!r}. Keep one of the two."
                )
        return found

    def _told(self, columns: Sequence[Column]) -> list[Column]:
        """The columns, with the first row asked whether times are dates."""
        if not any(column.kind == "time" for column in columns):
            return list(columns)
        rows = (row for line, row in records(self.path, self.separator, self.quoted) if line > self.has_header)
        first = dict(enumerate(next(rows, [])))
        return [column.told(first.get(column.position, "")) for column in columns]

    def _explain(self, columns: Sequence[Column]) -> None:
        find_culprit(self.path, self.separator, len(self.header), columns, self.has_header, self.quoted)
        if self.quoted:
            find_bad_quote(self.path, self.separator)

    def _regular(self) -> bool:
        """Whether every line has the header's separators, and quotation marks in pairs.

        Polars looks at neither in columns that it was not asked for, and joins lines at odd marks.
        """
        import polars as pl

        schema = {"line": pl.String}
        try:
            frame = pl.read_csv(self.path, separator="\x01", has_header=False, quote_char=None, schema=schema)
        except pl.exceptions.PolarsError:
            return False
        lines = frame["line"].drop_nulls()
        good = lines.str.count_matches(self.separator, literal=True) == len(self.header) - 1
        if self.quoted:
            good &= lines.str.count_matches('"', literal=True) % 2 == 0
        return bool(good.all())

    def _scan(self, columns: Sequence[Column]) -> "pl.DataFrame":
        import polars as pl

        stride = len(self.separator)
        types = {"number": pl.Int64, "label": pl.Int64, "float": pl.Float64, "time": pl.Float64}
        names = {f"column_{column.position * stride + 1}": column for column in columns}
        width = (len(self.header) - 1) * stride + 1
        schema = {f"column_{n + 1}": pl.String for n in range(width)} | {
            n: types.get(c.kind, pl.String) for n, c in names.items()
        }
        frame = pl.read_csv(
            self.path,
            separator=self.separator[0],
            has_header=False,
            skip_rows=int(self.has_header),
            columns=list(names),
            schema=schema,
            quote_char='"' if self.quoted else None,
        )
        dates = [seconds(frame[name]) for name, column in names.items() if column.kind == "date"]
        named = {name: column.role for name, column in names.items()}
        return frame.with_columns(dates).rename(named).with_row_index("row")


def _sound(series: "pl.Series", column: Column) -> bool:
    """Whether a column has no null, and only values that its kind allows."""
    if series.null_count():
        return False
    if column.kind in ("float", "time", "date"):
        return bool(np.isfinite(series.to_numpy()).all())
    if column.kind in ("number", "label"):
        low, high = series.min(), series.max()
        return low is None or (_as_int(low) >= 0 and (column.kind == "number" or _as_int(high) <= 2))
    return column.kind != "id" or bool((series != "").all())


def _as_int(value: Any) -> int:
    return int(value)


def guess_separator(path: Path) -> str:
    """The separator of a delimited file, from its first line: a tab, comma, semicolon or bar."""
    with path.open("rb") as file:
        first = re.sub('"[^"]*"', "", file.readline().decode("utf-8", "replace"))  # a quoted name may hold any sign
    return max("\t,;|", key=first.count) if any(sign in first for sign in "\t,;|") else ","
