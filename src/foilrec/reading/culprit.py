"""The slow pass over a text file that could not be read: it finds the first line, column and value at fault."""

import csv
import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from foilrec.errors import BadData
from foilrec.reading.dates import is_date

_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d+")
_CURES = {
    "number": "Users and items are numbered 0, 1, 2 and so on; for other ids, use the reader recbole or table.",
    "label": "The labels are 0 (train), 1 (valid) and 2 (test).",
    "float": "Put a finite number there, or drop the line.",
    "time": "Put a finite number there, or in every line a date such as 2024-05-31 or 2024-05-31T08:30:00Z.",
    "date": "Put a date there such as 2024-05-31 or 2024-05-31T08:30:00Z, as in the first line, or drop the line.",
    "id": "Give it an id, or drop the line.",
}


@dataclass(frozen=True)
class Column:
    """One column to read: what it is for, its name and place in the file, and what its values must be.

    Kinds: id (any text), number (an integer from 0), label (0, 1 or 2), float (a finite number), time (a finite number
    or, in all rows alike, a date; which of them, `told` says), date.
    """

    role: str
    name: str
    position: int
    kind: Literal["id", "number", "label", "float", "time", "date"]

    def told(self, first: str) -> "Column":
        """The column itself; one of times as one of dates, if its first value is one."""
        return replace(self, kind="date") if self.kind == "time" and is_date(first) else self


def records(path: Path, separator: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """The number, counted from 1, and the fields of every line that is not empty; BadData where it is not UTF-8.

    A file that ends in .gz is unpacked on the way.
    """
    lines = _lines(path)
    if quoted:
        csv.field_size_limit(1 << 30)
        yield from _quoted(path, csv.reader(lines, delimiter=separator))
        return
    for number, line in enumerate(lines, 1):
        if line.strip("\r\n"):
            text = line.rstrip("\r\n")
            yield number, [text] if separator == "\x00" else text.split(separator)


def _quoted(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    before = 0
    try:
        for fields in reader:
            if fields:
                yield before + 1, fields
            before = reader.line_num
    except csv.Error as error:
        raise BadData(
            f"{path}, line {reader.line_num or 1}: this is no CSV ({error}). Mend the quotation marks or line ends."
        ) from error


def find_bad_quote(path: Path, separator: str) -> None:
    """Raises BadData for a quotation mark inside a value that is not quoted, or one that is never closed."""
    opened = 0
    for number, line in enumerate(_lines(path), 1):
        marks = line.replace('""', "")
        if marks.count('"') % 2:
            opened = 0 if opened else number
            before = marks[: marks.rindex('"')]
            if opened and before and not before.endswith(separator):
                break
    if opened:
        raise BadData(
            f"{path}, line {opened}: a quotation mark is never closed: {_shown(_line(path, opened))}. Close it, or "
            "quote the whole value and write the mark twice."
        )
    for _ in _quoted(path, csv.reader(_lines(path), delimiter=separator, strict=True)):
        pass


def _line(path: Path, wanted: int) -> str:
    return next(line for number, line in enumerate(_lines(path), 1) if number == wanted).rstrip("\r\n")


def _bytes(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            yield from file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise BadData(
                f"{path} cannot be unpacked ({error}): it is damaged, or no gzip file. Fetch it again."
            ) from error


def _lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(_bytes(path), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            if number == 1 and line.startswith(b"\x1f\x8b"):
                raise BadData(f"{path} is packed by gzip: unpack it, or call it {path.name}.gz.") from error
            raise BadData(
                f"{path}, line {number}: byte {error.start + 1} of the line (0x{line[error.start]:02x}) is "
                "not UTF-8. Save the file as UTF-8."
            ) from error


def find_culprit(
    path: Path, separator: str, width: int, columns: Sequence[Column], has_header: bool, quoted: bool
) -> None:
    """Raises BadData for the first line with too few or too many fields, or with a value that its column forbids."""
    for line, fields in records(path, separator, quoted):
        if has_header and line == 1:
            continue
        if len(fields) != width:
            what = "few" if len(fields) < width else "many"
            raise BadData(
                f"{path}, line {line}: the line has too {what} columns, {len(fields)} instead of {width}: "
                f"{_shown(separator.join(fields))}. Complete or drop the line."
            )
        for column in columns:
            wrong = fault(fields[column.position], column.kind)
            if wrong:
                raise BadData(
                    f"{path}, line {line}, column {column.name!r}: {_shown(fields[column.position])} {wrong}. "
                    f"{_CURES[column.kind]}"
                )


def fault(text: str, kind: str) -> str:
    """What is wrong with the text of a value, or nothing."""
    if kind == "id":
        return "is no id" if not text else ""
    if kind == "date":
        return "" if is_date(text) else "is not a date"
    if kind in ("float", "time"):
        return "" if _FLOAT.fullmatch(text) and math.isfinite(float(text)) else "is not a finite number"
    if not _INTEGER.fullmatch(text):
        return "is not a whole number"
    if kind == "label":
        return "" if 0 <= int(text) <= 2 else "is not a label"
    return "is negative" if int(text) < 0 else "is too large" if int(text) >= 1 << 31 else ""


def _shown(text: str, most: int = 80) -> str:
    return repr(text if len(text) <= most else text[:most] + "…")
