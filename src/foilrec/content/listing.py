"""What the items of a source say and show, in the order in which features of them are wanted."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foilrec.data import Data
from foilrec.errors import BadData, BadOption, did_you_mean, some
from foilrec.reading.pictures import COLUMNS
from foilrec.reading.texts import DESCRIPTIONS, KEYS, TITLES

TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".pq")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
FILTERS = ("core", "min_rating")  # features are of all items: what is left out is up to who reads them
BY_ROW = ("mmrec", "pairs")  # readers that take row n of a file for item number n; others go by raw id


@dataclass(frozen=True)
class Listing:
    """I items: their ids as the source has them, texts ("" for none), pictures (paths, arrays, None for none).

    texts or pictures is None where the source has none at all. reader: of the data set, "" for a table of items.
    """

    name: str
    ids: Sequence[Any]
    texts: Sequence[str] | None = None
    pictures: Sequence[Any] | None = None
    reader: str = ""

    def of(self, modality: str) -> Sequence[Any]:
        """What an encoder of that modality is to see, [I]; BadData if the source has nothing of the kind."""
        found = self.texts if modality == "text" else self.pictures
        if found is None:
            what, cure = ("texts", "--items TABLE") if modality == "text" else ("pictures", "--pictures FOLDER")
            raise BadData(f"{self.name} has no {what}: give them with {cure}.")
        return found

    def told_by(self, other: "Listing") -> "Listing":
        """The same items with what another listing says and shows of them, by raw id; BadData if it knows none."""
        places = {str(raw): place for place, raw in enumerate(other.ids)}
        found = [places.get(str(raw)) for raw in self.ids]
        if all(place is None for place in found):
            raise BadData(
                f"No item of {self.name} is in {other.name}: ids begin {some(self.ids, 3)} here and "
                f"{some(other.ids, 3)} there. Both must use the same raw ids."
            )
        texts, pictures = self.texts, self.pictures
        if other.texts is not None:
            texts = ["" if place is None else other.texts[place] for place in found]
        if other.pictures is not None:
            pictures = [None if place is None else other.pictures[place] for place in found]
        return replace(self, texts=texts, pictures=pictures)


@dataclass(frozen=True)
class Columns:
    """Which columns of a table of items hold ids, texts (joined in this order) and paths of pictures; None: guess."""

    id: str | None = None
    texts: Sequence[str] | None = None
    picture: str | None = None


def listing(
    source: str,
    reader: str | None = None,
    options: Mapping[str, Any] | None = None,
    columns: Columns = Columns(),
) -> Listing:
    """The items of a data set, of the data of a recipe (.toml), or of a table of items.

    A table (.csv, .tsv, .jsonl, .parquet) without a column of users is one of items. Filters and features that a recipe
    names are left out: every item is listed.
    """
    from foilrec import parts
    from foilrec.reading import reader_of
    from foilrec.recipe import Recipe, expand

    given = dict(options or {})
    filters = [name for name in FILTERS if given.get(name)]
    if filters:
        raise BadOption(f"{filters[0]} leaves items out, and features are written of all: do without it here.")
    if source.endswith(".toml"):
        part = Recipe.load(source).data
        name, found = part.name, {key: expand(value) for key, value in part.options.items()}
    elif reader is None and source.endswith(".jsonl"):
        return of_table(Path(source), columns)
    elif reader is None:
        name, found = reader_of(source)
        if name == "table" and "user" not in found:
            return of_table(Path(source), columns)
    else:
        name, found = reader, {"path": source}
    takes = parts.options(parts.find("dataset", name))
    plain = {key: value for key, value in (found | given).items() if key not in (*FILTERS, "features", "feature_ids")}
    if "features" in takes:
        plain["features"] = {}
    return of_data(parts.build("dataset", name, **plain).read(), name)


def of_data(data: Data, reader: str = "") -> Listing:
    """The items of a data set, by number."""
    ids: Sequence[Any] = data.raw_items(range(data.n_items))
    texts = None
    if data.titles is not None or data.descriptions is not None:
        told = [[""] * data.n_items if of is None else of for of in (data.titles, data.descriptions)]
        texts = [_joined(title, description) for title, description in zip(*told, strict=True)]
    made = Listing(data.name, ids, texts, data.pictures, reader)
    if reader == "pairs" and data.item_ids is not None:  # its numbers have gaps, and a file a row for each all the same
        every = Listing(data.name, range(int(max(data.item_ids)) + 1), reader=reader)
        return every.told_by(made)
    return made


def of_table(path: Path, columns: Columns = Columns()) -> Listing:
    """The items of a table, row by row; BadData says which line and column are wrong."""
    rows = list(_rows(path))
    if not rows:
        raise BadData(f"{path} holds no items.")
    header = list(dict.fromkeys(name for _, row in rows for name in row))
    id_column = _column(path, header, columns.id, KEYS)
    if id_column is None:
        raise BadData(
            f"{path}: no column says which item this is (there are {some(map(repr, header), 8)}): give --id-column."
        )
    ids = [str(row.get(id_column, "")) for _, row in rows]
    _check_ids(path, id_column, [place for place, _ in rows], ids)
    said = _said(path, header, columns.texts)
    texts = [_joined(*(_text(row.get(name)) for name in said)) for _, row in rows] if said else None
    shown = _column(path, header, columns.picture, COLUMNS)
    pictures = None if shown is None else [path.parent / p if (p := _text(row.get(shown))) else None for _, row in rows]
    return Listing(path.name, ids, texts, pictures)


def retold(data: Data, path: Path, columns: Columns = Columns()) -> Data:
    """A data set with titles (the first column of texts) and descriptions (the others as one) off a table of items."""
    header = dict.fromkeys(name for _, row in _rows(path) for name in row)
    said = _said(path, list(header), columns.texts)
    if not said:
        raise BadData(f"{path}: no column holds titles (there are {some(map(repr, header), 8)}): give --text-columns.")
    tables = [of_table(path, replace(columns, texts=part)) for part in (said[:1], said[1:]) if part]
    titles, *rest = [of_data(data).told_by(table).texts for table in tables]
    return replace(data, titles=titles, descriptions=rest[0] if rest else None)


def pictures_of(ids: Sequence[Any], where: Path) -> Sequence[Any]:
    """The pictures of items: files of a folder, named by raw id, or the rows [I, H, W, 3] of a .npy or .npz file."""
    from foilrec.reading.arrays import open_arrays
    from foilrec.reading.places import existing_folder

    if where.suffix in (".npy", ".npz"):
        arrays = [a for a in open_arrays(where).values() if a.dtype == np.uint8 and a.ndim == 4 and len(a) == len(ids)]
        if len(arrays) != 1:
            raise BadData(f"{where} must hold one uint8 array of shape ({len(ids)}, height, width, 3), a row an item.")
        return list(arrays[0])
    files: dict[str, Path] = {}
    for file in sorted(existing_folder(where).iterdir()):
        if file.suffix.lower() in SUFFIXES and files.setdefault(file.stem, file) != file:
            raise BadData(f"{where} holds two pictures of item {file.stem!r}, {files[file.stem].name} and {file.name}.")
    found = [files.get(str(raw)) for raw in ids]
    if not any(found):
        raise BadData(f"{where} holds no picture named by an item's id, such as {ids[0]}.jpg.")
    return found


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row of a table with its place in words: {column: value}."""
    from foilrec.reading.places import existing_file
    from foilrec.reading.texts import lines_of

    file = existing_file(path)
    if file.suffix not in TABLES:
        raise BadOption(f"{file}: a table of items must end in one of {', '.join(TABLES)}.")
    if file.suffix not in (".parquet", ".pq"):
        yield from ((f"line {line}", row) for line, row in lines_of(file))
        return
    import polars as pl

    try:
        frame = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadData(f"{file} is not a whole parquet file: {str(error).splitlines()[0]}. Fetch it again.") from error
    yield from ((f"row {number}", row) for number, row in enumerate(frame.iter_rows(named=True)))


def _column(path: Path, header: Sequence[str], name: str | None, usual: Sequence[str]) -> str | None:
    """The column of that name, or else the first by a usual name, in any case; None if there is none."""
    if name is not None and name not in header:
        raise BadData(
            f"{path} has no column {name!r}{did_you_mean(name, header) or '.'} It has {', '.join(map(repr, header))}."
        )
    lower = {each.strip().lower(): each for each in reversed(header)}
    return name if name is not None else next((lower[each] for each in usual if each in lower), None)


def _said(path: Path, header: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """The columns of texts: those that are wanted, or a title and a description by their usual names."""
    if wanted is not None:
        return [str(_column(path, header, name, ())) for name in wanted]
    title = _column(path, header, None, TITLES)
    described = _column(path, [name for name in header if name != title], None, DESCRIPTIONS)
    return [name for name in (title, described) if name is not None]


def _check_ids(path: Path, column: str, places: Sequence[str], ids: Sequence[str]) -> None:
    met: dict[str, str] = {}
    for place, raw in zip(places, ids, strict=True):
        if raw in ("", "None"):
            raise BadData(f"{path}, {place}, column {column!r}: there is no id. Give it one, or drop it.")
        if raw in met:
            raise BadData(f"{path}, {place}, column {column!r}: item {raw!r} stands in {met[raw]} already.")
        met[raw] = place


def _text(value: Any) -> str:
    from foilrec.reading.texts import text_of

    return text_of(value)


def _joined(*texts: str | None) -> str:
    """Texts as one, without entities and line breaks, as foilrec.content.goods joins title and description."""
    parts = [" ".join(html.unescape(text or "").split()) for text in texts]
    return ". ".join(part.rstrip(".") if n + 1 < len(parts) else part for n, part in enumerate(parts) if part)
