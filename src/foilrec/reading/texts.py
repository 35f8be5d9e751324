"""Raw ids, titles and descriptions of items, from the small files that lie beside the interactions."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from foilrec.errors import BadData, some
from foilrec.reading.culprit import records
from foilrec.reading.tables import guess_separator

KEYS = ("itemid", "item_id", "item", "id", "asin", "movieid", "product_id", "article_id", "")  # "": pandas' index
TITLES = ("title", "product_title", "movie title", "movie_title", "name", "text")
DESCRIPTIONS = ("description", "summary", "text")
Texts = dict[str, tuple[str, str]]


def read_mapping(path: Path) -> dict[int, str]:
    """A file of raw ids, one and its number a line under a header, parted by a tab or comma: {number: raw id}."""
    separator = guess_separator(path)
    mapping: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for line, fields in records(path, separator, False):
        if line == 1:
            number_first = fields[0] in ("itemID", "userID", "number")
            continue
        text = separator.join(fields)  # raw ids may hold the separator: only the last or first field is a number
        number, _, raw = text.partition(separator) if number_first else text.rpartition(separator)[::-1]
        if not number.isdecimal():
            raise BadData(
                f"{path}, line {line}: {number!r} is not the number of an id: {text[:80]!r}. Each line holds a "
                "raw id and its number."
            )
        if mapping.setdefault(int(number), _unquoted(raw)) != _unquoted(raw):
            raise BadData(
                f"{path}, line {line}: number {number} has two raw ids, {mapping[int(number)]!r} and {raw!r}."
            )
        if numbers.setdefault(_unquoted(raw), int(number)) != int(number):
            raise BadData(
                f"{path}, line {line}: the raw id {raw!r} stands for number {numbers[_unquoted(raw)]} already, and "
                f"cannot stand for {number} too. Each number has its own."
            )
    most = max(mapping, default=0)
    if most >= 100 * len(mapping) + 1000:
        raise BadData(
            f"{path}: {most} is no number of an id among only {len(mapping):,}. The numbers run 0, 1, 2 and so on."
        )
    return mapping


def _unquoted(raw: str) -> str:
    return raw[1:-1].replace('""', '"') if len(raw) > 1 and raw[0] == raw[-1] == '"' else raw


def read_texts(path: Path) -> Texts:
    """Titles and descriptions by item, as the file names it: {"17": (title, description)}, "" where there is none."""
    texts: Texts = {}
    for place, row in items_of(path):
        key = item_of(place, row)
        title = next((k for k in TITLES if k in row), None)
        if title is None:
            raise BadData(f"{place}: no title, name or text among {some(map(repr, row), 8)}.")
        described = next((row[k] for k in DESCRIPTIONS if k != title and k in row), "")
        told = text_of(row[title]), text_of(described)
        if texts.setdefault(key, told) != told:
            raise BadData(
                f"{place}: item {key!r} is told of a second time, as {told[0][:60]!r} and before as "
                f"{texts[key][0][:60]!r}. Keep one of the two."
            )
    if not texts:
        raise BadData(f"{path} holds no items. Write the file again, or do without it.")
    return texts


def items_of(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row of a table, parquet file or .jsonl with its place in words: {column, in small letters: value}."""
    rows: Iterator[tuple[str, Mapping[str, Any]]]
    if path.suffix in (".parquet", ".pq"):
        from foilrec.reading.frames import FrameTable

        rows = FrameTable.parquet(path).rows()
    else:
        rows = ((f"{path}, line {line}", row) for line, row in lines_of(path))
    return ((place, {str(k).strip().lower(): v for k, v in row.items()}) for place, row in rows)


def item_of(place: str, row: Mapping[str, Any]) -> str:
    """The raw id of the item that a row, as items_of gives it, is about."""
    key = next((k for k in KEYS if k in row), None)
    if key is None:
        raise BadData(
            f"{place}: nothing says which item this is. Name the column or key itemID; there are "
            f"{some(map(repr, row), 8)}."
        )
    if row[key] is None or row[key] == "":
        raise BadData(f"{place}, column {key!r}: there is no id. Give the item one, or drop the line.")
    return str(row[key])


def lines_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Every line of a table, or of JSON lines (.jsonl), with its number: {column: value}."""
    return _json_lines(path) if path.suffix == ".jsonl" else _table_lines(path)


def text_of(value: Any) -> str:
    """A value as text: "" for none, the words of a list one after another."""
    return "" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, (text,) in records(path, "\x00", False):
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadData(
                f"{path}, line {line}: not JSON at character {error.pos + 1} ({error.msg}): {text[:60]!r}. Each "
                "line is one JSON object."
            ) from error
        if not isinstance(row, dict):
            raise BadData(
                f"{path}, line {line}: {text[:60]!r} is no JSON object. Each line is one, with the key itemID."
            )
        yield line, row


def _table_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    separator = guess_separator(path)
    header: Sequence[str] = ()
    for line, fields in records(path, separator, separator != "\t"):
        if not header:
            header = fields
        elif len(fields) != len(header):
            raise BadData(
                f"{path}, line {line}: {len(fields)} columns instead of {len(header)}: "
                f"{separator.join(fields)[:60]!r}. Complete or drop the line."
            )
        else:
            yield line, dict(zip(header, fields, strict=True))


def find_texts(folder: Path) -> Path | None:
    """The file of titles in a folder: item_text.jsonl, items.jsonl, items.csv or *_text.tsv, the first that exists."""
    named = [folder / name for name in ("item_text.jsonl", "items.jsonl", "items.csv", "item_text.tsv")]
    return next((p for p in [*named, *sorted(folder.glob("*_text.tsv"))] if p.is_file()), None)


def told(path: Path, texts: Texts, keys: Sequence[Any], name: str) -> tuple[list[str], list[str] | None]:
    """in_order of the texts of a file, or BadData where it tells of none of the items of the data set `name`."""
    if not any(str(key) in texts for key in keys):
        raise BadData(
            f"{path} describes none of the items of {name}: ids begin {some(texts, 3)} there and {some(keys, 3)} here. "
            "Both must use the same raw ids."
        )
    return in_order(texts, keys)


def in_order(texts: Texts, keys: Sequence[Any]) -> tuple[list[str], list[str] | None]:
    """Titles and descriptions of the items with these keys, [I] each; None when nothing is described."""
    found = [texts.get(str(key), ("", "")) for key in keys]
    descriptions = [description for _, description in found]
    return [title for title, _ in found], descriptions if any(descriptions) else None


def id_list(path: Path) -> dict[str, int]:
    """Raw ids, one a line (the first column, under a header, if the file is a .csv): {raw id: row, from 0}."""
    lines = (
        [(line, fields[0]) for line, fields in records(path, ",", path.suffix == ".csv")]
        if path.suffix == ".csv"
        else [(line, fields[0]) for line, fields in records(path, "\x00", False)]
    )
    rows: dict[str, int] = {}
    for line, raw in lines[path.suffix == ".csv" :]:
        if raw in rows:
            raise BadData(
                f"{path}, line {line}: item {raw!r} occurs a second time. Each row of the features has its own id."
            )
        rows[raw] = len(rows)
    return rows
