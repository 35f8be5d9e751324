"""Data frames, and parquet files, which become data frames: checked column by column."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foilrec.errors import BadData, did_you_mean
from foilrec.reading.culprit import Column
from foilrec.reading.dates import is_date, seconds
from foilrec.reading.places import existing_file

if TYPE_CHECKING:
    import polars as pl


class FrameTable:
    """A polars or pandas data frame [N rows], or a parquet file; rows are counted from 0 in messages."""

    def __init__(self, frame: Any, name: str = "the data frame") -> None:
        self.frame, self.name = frame, name
        self.header = tuple(map(str, frame.columns))

    @staticmethod
    def parquet(path: str | Path) -> "FrameTable":
        """The table of a parquet file; only the columns that are asked for will be read."""
        import polars as pl

        file = existing_file(path)
        try:
            lazy = pl.scan_parquet(file)
            table = FrameTable(pl.DataFrame(schema=lazy.collect_schema()), file.name)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise BadData(
                f"{file} is not a whole parquet file: {str(error).splitlines()[0]}. Fetch it again."
            ) from error
        table.frame = lazy
        return table

    def position(self, name: str, what: str) -> int:
        """The place of a column, or BadData that names the nearest one; what says what it would hold."""
        if self.header.count(name) > 1:
            raise BadData(f"{self.name}: two columns are called {name!r} ({what}). Rename or drop one of them.")
        if name in self.header:
            return self.header.index(name)
        hint = did_you_mean(name, self.header)
        raise BadData(
            f"{self.name} has no column {name!r} ({what}){hint or '.'} It has {', '.join(map(repr, self.header))}."
        )

    def where(self, row: int) -> str:
        """The place of a row for a message: «row 12», counted from 0."""
        return f"{self.name}, row {row}"

    def read(self, columns: Sequence[Column]) -> "pl.DataFrame":
        """The columns, each under its role and without nulls; `row` counts the rows from 0."""
        import polars as pl

        frame = self._columns([column.name for column in columns])
        if not len(frame):
            raise BadData(f"{self.name} holds no interactions: it has no rows.")
        checked = [self._checked(frame[column.name], column) for column in columns]
        return pl.DataFrame(checked).with_row_index("row")

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row with its place in words: {column: value}."""
        for number, row in enumerate(self._columns(list(self.header)).iter_rows(named=True)):
            yield self.where(number), row

    def _columns(self, names: list[str]) -> "pl.DataFrame":
        import polars as pl

        if isinstance(self.frame, pl.LazyFrame):
            try:
                return self.frame.select(names).collect()
            except (pl.exceptions.PolarsError, OSError) as error:
                raise BadData(f"{self.name} is damaged: {str(error).splitlines()[0]}. Fetch it again.") from error
        if isinstance(self.frame, pl.DataFrame):
            return self.frame.select(names)
        labels = dict(zip(self.header, self.frame.columns, strict=True))  # pandas may name columns by numbers
        return pl.DataFrame({name: _series(self.frame[labels[name]]) for name in names})

    def _checked(self, series: "pl.Series", column: Column) -> "pl.Series":
        import polars as pl

        series = self._plain(series, column)
        found = series if column.kind == "id" else _numbers(series, column)
        bad = found.is_null().to_numpy()
        if found.dtype.is_float():
            bad = bad | ~np.isfinite(found.fill_null(0).to_numpy())
        elif found.dtype == pl.String:
            bad = bad | (found == "").fill_null(True).to_numpy()
        if column.kind == "label":
            bad = bad | ~np.isin(found.fill_null(0).to_numpy(), (0, 1, 2))
        elif column.kind == "number":
            bad = bad | (found.fill_null(0).to_numpy() % 1 != 0)
        if bad.any():
            row = int(bad.argmax())
            need = {"id": "an id", "float": "a finite number", "label": "a label: 0 (train), 1 (valid) or 2 (test)"}
            need["time"] = "a finite number, or a date in every row"
            raise BadData(
                f"{self.where(row)}, column {column.name!r}: {series[row]!r} is not "
                f"{need.get(column.kind, 'a whole number')}; {int(bad.sum()):,} such rows. "
                "Repair or drop them."
            )
        return (found.cast(pl.Int64) if column.kind in ("label", "number") else found).alias(column.role)

    def _plain(self, series: "pl.Series", column: Column) -> "pl.Series":
        import polars as pl

        if series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object):
            raise BadData(
                f"{self.name}, column {column.name!r} holds {series.dtype}, and texts or numbers are needed. "
                "Convert the column, or name another."
            )
        return series.cast(pl.String) if series.dtype in (pl.Categorical, pl.Enum) else series


def _numbers(series: "pl.Series", column: Column) -> "pl.Series":
    """As floats, whole numbers too (0.5 is none); times may be dates, as such or as text."""
    import polars as pl

    if column.kind == "time" and series.dtype.is_temporal():
        series = series.to_physical()
    if column.kind == "time" and series.dtype == pl.String and is_date(str(series.drop_nulls().first())):
        return seconds(series)
    return series.cast(pl.Float64, strict=False)


def _series(column: Any) -> "pl.Series":
    """A pandas column as a polars one, without pyarrow."""
    import polars as pl

    values = column.to_numpy()
    if values.dtype != object:
        return pl.Series(values)
    return pl.Series([None if _gone(value) else value for value in values], strict=False)


def _gone(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas' NA says neither yes nor no
        return True
