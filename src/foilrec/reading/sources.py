"""From a table to a log: which columns are read, and how their values become numbers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foilrec.errors import BadData
from foilrec.reading.culprit import Column
from foilrec.reading.frames import FrameTable
from foilrec.reading.log import Log
from foilrec.reading.numbering import Numbers, number_series
from foilrec.reading.tables import TextTable

if TYPE_CHECKING:
    import polars as pl

Table = TextTable | FrameTable
_WHAT = {
    "user": "the user",
    "item": "the item",
    "time": "the time",
    "rating": "the rating",
    "label": "the part of the split",
}


def columns_of(
    table: Table, names: Mapping[str, str | None], ids: Literal["id", "number"] = "id", *, chosen: bool = False
) -> list[Column]:
    """The columns to read, from {role: name or None}; a name that the header lacks is an error.

    chosen: the names are options of the reader, called as the roles are.
    """
    taken: dict[str, str] = {}
    for role, name in names.items():
        if name is not None and taken.setdefault(name, role) != role:
            raise BadData(
                f"Column {name!r} is named twice, for {_WHAT[taken[name]]} and for {_WHAT[role]}: each needs its own."
            )
    kinds: dict[str, Any] = {"user": ids, "item": ids, "label": "label", "time": "time"}
    return [
        Column(role, name, table.position(name, _WHAT[role] + f", option {role}" * chosen), kinds.get(role, "float"))
        for role, name in names.items()
        if name is not None
    ]


def read_log(table: Table, columns: list[Column], name: str) -> Log:
    """The log of a table with raw ids, numbered by first appearance."""
    frame = table.read(columns)
    users, user_ids = number_series(frame["user"])
    items, item_ids = number_series(frame["item"])
    return Log(
        users,
        items,
        len(user_ids),
        len(item_ids),
        table.where,
        frame["row"].to_numpy().astype(np.int64),
        name,
        user_ids,
        item_ids,
        **_rest(frame),
    )


def read_numbered(table: Table, columns: list[Column], name: str, n_users: int = 0, n_items: int = 0) -> Log:
    """The log of a table whose users and items are numbered already: numbers stay; at least n_users and n_items."""
    frame = table.read(columns)
    users, items = frame["user"].to_numpy(), frame["item"].to_numpy()
    rows = frame["row"].to_numpy().astype(np.int64)
    most_users = max(_count(users, columns[0], table, rows), n_users)
    most_items = max(_count(items, columns[1], table, rows), n_items)
    return Log(users, items, most_users, most_items, table.where, rows, name, **_rest(frame))


def _count(numbers: Numbers, column: Column, table: Table, rows: Numbers) -> int:
    """How many numbers there are, 1 + the highest, unless they are plainly no numbers from 0."""
    count = int(numbers.max()) + 1
    if count > 100 * len(numbers) + 1000:
        place = table.where(int(rows[int(numbers.argmax())]))
        raise BadData(
            f"{place}, column {column.name!r}: {count - 1} is no number of a {column.role} among only "
            f"{len(numbers):,} rows. The numbers run 0, 1, 2 and so on; for other ids, use the reader table "
            "or recbole."
        )
    return count


def _rest(frame: "pl.DataFrame") -> dict[str, Any]:
    types = {"label": np.int8, "rating": np.float64, "time": np.float64}
    return {f"{role}s": frame[role].to_numpy().astype(kind) for role, kind in types.items() if role in frame.columns}
