"""Reading data sets: one function for a path, the name of a reader, or a data frame."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foilrec.data import Data

__all__ = ["read", "reader_of"]


def read(source: Any, **options: Any) -> "Data":
    """A data set from a path (the reader is guessed), the name of a reader ("shop", "mmrec"), or a data frame.

    >>> read("shop", users=40, items=30).n_users
    40
    """
    from foilrec import parts

    name, found = reader_of(source)
    data: Data = parts.build("dataset", name, **found | options).read()
    return data


def reader_of(source: Any) -> tuple[str, dict[str, Any]]:
    """The reader of such a source and the options that say where it lies: ("mmrec", {"path": ...}), or BadData."""
    from foilrec import parts
    from foilrec.errors import BadData, did_you_mean
    from foilrec.reading.guess import reader_for

    if hasattr(source, "columns"):
        return "table", {"frame": source}
    if not isinstance(source, str | Path):
        raise BadData(f"A data set is a path, the name of a reader or a data frame, not {type(source).__name__}.")
    if isinstance(source, str) and source in parts.names("dataset"):
        if Path(source).exists():
            raise BadData(
                f"{source!r} is the name of a reader, and of something here: write ./{source} for that, or go to "
                "another folder to ask the reader by its name."
            )
        return source, {}
    if isinstance(source, str) and not Path(source).exists() and Path(source).name == source and "." not in source:
        known = parts.names("dataset")
        raise BadData(
            f"{source!r} is neither a file or folder here nor a reader{did_you_mean(source, known) or '.'} "
            f"The readers are {', '.join(known)}."
        )
    return reader_for(source)
