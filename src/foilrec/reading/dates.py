"""Times that are written as dates, and the seconds since 1970 that they stand for."""

import re
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

_CLOCK = r"(?P<hours>[01]\d|2[0-3]):(?P<minutes>[0-5]\d)(?::(?P<seconds>[0-5]\d(?:\.\d+)?))?"
_ZONE = r" ?(?:Z|UTC)|(?P<ahead>[+-](?:[01]\d|2[0-3]))(?::?(?P<too>[0-5]\d))?"
_DATE = rf"^(?P<date>\d{{4}}-\d\d-\d\d)(?:[T ]{_CLOCK}(?:{_ZONE})?)?$"


def is_date(text: str) -> bool:
    """Whether a text is an ISO 8601 date, perhaps with a time of day and how far that is ahead of UTC.

    >>> [is_date(text) for text in ("2024-05-31", "2024-05-31 08:30", "2024-05-31T08:30:00.25+02:00", "2024-05-32")]
    [True, True, True, False]
    """
    found = re.fullmatch(_DATE, text)
    if not found:
        return False
    try:
        date.fromisoformat(found["date"])
    except ValueError:
        return False
    return True


def seconds(dates: "pl.Series") -> "pl.Series":
    """Seconds since 1970 in UTC, which is also taken where nothing is said: texts [N] -> floats [N], null for no date.

    >>> import polars as pl
    >>> seconds(pl.Series(["1970-01-02", "1970-01-01 02:00:00.5+02:00", "soon"])).to_list()
    [86400.0, 0.5, None]
    """
    import polars as pl

    parts = dates.str.extract_groups(_DATE).struct.unnest()
    days = parts["date"].str.to_date("%Y-%m-%d", strict=False).dt.epoch("d").cast(pl.Float64)
    clock = {"hours": 3600.0, "minutes": 60.0, "seconds": 1.0, "ahead": -3600.0}
    told = {name: parts[name].cast(pl.Float64).fill_null(0.0) for name in (*clock, "too")}
    whole: pl.Series = days * 86400.0 + sum(told[name] * unit for name, unit in clock.items())
    west = parts["ahead"].str.starts_with("-").fill_null(value=False)
    return (whole - told["too"] * 60.0 * (1.0 - 2.0 * west.cast(pl.Float64))).alias(dates.name)
