"""Which reader fits what lies at a path."""

from pathlib import Path
from typing import Any

from foilrec.errors import BadData, BadOption, some
from foilrec.reading.culprit import fault, records
from foilrec.reading.dates import is_date
from foilrec.reading.places import existing_file, the_one
from foilrec.toml import value_of

_TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
_USERS = ("user", "userid", "user_id", "uid", "reviewerid", "customer_id", "customer")
_ITEMS = ("item", "itemid", "item_id", "iid", "movieid", "asin", "product_id", "product", "article_id")
_EXTRA = {
    "time": ("time", "timestamp", "unixreviewtime", "date"),
    "rating": ("rating", "overall", "score", "stars"),
    "label": ("x_label", "label"),
}


def reader_for(path: str | Path) -> tuple[str, dict[str, Any]]:
    """The name of the reader for a file or folder, and its options: ("mmrec", {"path": ...}), or BadData."""
    path = Path(path)
    if path.is_dir():
        return _for_folder(path), {"path": str(path)}
    file = existing_file(path)
    if file.suffix == ".npz":
        return "pairs", {"path": str(file)}
    if file.suffix == ".inter":
        name = _for_inter(file)
        return name, {"path": str(file.parent), "file": file.name}
    if file.suffix in (".txt", ".gz") and _is_sequences(file):
        return "sequences", {"path": str(file)}
    if file.suffix in _TABLES:
        return "table", {"path": str(file), **_columns(file)}
    if file.name in ("u.data", "ratings.dat"):
        return "movielens", {"path": str(file.parent)}
    raise BadData(
        f"{file}: no reader fits a file that ends in {file.suffix!r}. Readers take .inter, .npz (pairs), .csv, "
        ".tsv, .parquet, .txt or .txt.gz (sequences), or a folder; a text file of another ending can be read with the "
        "reader table."
    )


def _for_folder(folder: Path) -> str:
    if any((folder / name).is_file() for name in ("u.data", "ratings.dat")):
        return "movielens"
    if any(folder.glob("*.inter")):
        return _for_inter(the_one(folder, ".inter", None, "Name one of them: FOLDER/NAME.inter."))
    if (folder / "ratings.csv").is_file():
        return "movielens"
    inside = sorted(p.name for p in folder.iterdir())
    tables = [name for name in inside if Path(name).suffix in (*_TABLES, ".npz")]
    cure = f" Name the file itself: {folder / tables[0]}." if tables else ""
    raise BadData(
        f"{folder}: no reader fits this folder, which holds {some(inside, 8) or 'nothing'}. A folder needs "
        f"NAME.inter, u.data, ratings.dat or ratings.csv.{cure}"
    )


def _for_inter(file: Path) -> str:
    header = _header(file, "\t")
    if any(":" in name for name in header):
        return "recbole"
    return "mmrec"


def _is_sequences(file: Path) -> bool:
    """Whether the first line is words with blanks between, and none of a table's separators."""
    _, (first,) = next(records(file, "\x00", False), (1, [""]))
    return len(first.split()) > 1 and not any(sign in first for sign in "\t,;|")


def _columns(file: Path) -> dict[str, str]:
    """The options that name the columns of a table, where they go by usual names."""
    known = {"user": _USERS, "item": _ITEMS, **_EXTRA}
    header = _table_header(file)
    found = {role: next((h for h in header if h.strip().lower() in names), None) for role, names in known.items()}
    if found["time"] is not None and not _tells_time(file, found["time"]):
        found["time"] = None
    return {role: name for role, name in found.items() if name is not None}


def _tells_time(file: Path, column: str) -> bool:
    """Whether a column may be read as times: numbers or dates, by its first value."""
    from foilrec.reading.frames import FrameTable
    from foilrec.reading.tables import guess_separator

    if file.suffix in (".parquet", ".pq"):
        first = FrameTable.parquet(file).frame.select(column).head(1).collect()[column]
        told = first.dtype.is_numeric() or first.dtype.is_temporal()
        return bool(told or (len(first) and is_date(str(first[0]))))
    rows = records(file, guess_separator(file), True)
    header, first = (next(rows, (0, [""]))[1] for _ in range(2))
    value = dict(zip((name.strip() for name in header), first, strict=False)).get(column)
    return not value or is_date(value) or not fault(value, "float")


def _table_header(file: Path) -> tuple[str, ...]:
    from foilrec.reading.frames import FrameTable
    from foilrec.reading.tables import TextTable, guess_separator

    if file.suffix in (".parquet", ".pq"):
        return FrameTable.parquet(file).header
    return TextTable.open(file, guess_separator(file), quoted=True).header


def _header(file: Path, separator: str) -> list[str]:
    return next(records(file, separator, False), (1, [""]))[1]


def settings_of(settings: list[str]) -> dict[str, Any]:
    """Options from the words «key=value», read as toml.value_of does.

    >>> settings_of(["core=5", "split=time", "surrogate=true", "features={text='a.npy'}"])
    {'core': 5, 'split': 'time', 'surrogate': True, 'features': {'text': 'a.npy'}}
    """
    options: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadOption(f"{setting!r} is no setting: write key=value, such as -o core=5.")
        options[key.strip()] = value_of(value)
    return options
