"""Any table with a row for each interaction: CSV, TSV, parquet, or a data frame."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foilrec.core import Data, Reader
from foilrec.errors import BadOption
from foilrec.reading.assembly import Choices, Extras, assemble
from foilrec.reading.features import from_options
from foilrec.reading.frames import FrameTable
from foilrec.reading.log import Log
from foilrec.reading.pictures import pictures_of
from foilrec.reading.places import existing_file
from foilrec.reading.sources import Table as Source
from foilrec.reading.sources import columns_of, read_log
from foilrec.reading.tables import TextTable, guess_separator
from foilrec.reading.texts import read_texts, told


class Table(Reader):
    """A table with a column of users and one of items; ids may be text or numbers.

    Users and items are numbered by first appearance, and their raw ids are kept.

    path: a .csv, .tsv or .parquet file (a text file may part its columns by tabs, commas, semicolons or bars).
    frame: a polars or pandas data frame instead.
    user, item, time, rating, label: the names of the columns; label holds 0 (train), 1 (valid) and 2 (test). Times are
    numbers of any unit, or dates as in ISO 8601 (2024-05-31, 2024-05-31 08:30:00+02:00; UTC where nothing is said).
    items: a table of the items, .csv, .tsv, .jsonl or .parquet: itemID or item, title, and perhaps description and
    picture (a path from its own folder on).
    features: {modality: file of rows}; feature_ids: a file with the raw item id of each row, one a line.
    split: left out, "given" if label names a column, else "random".
    split_seed, min_rating, core: see foilrec.reading.assembly.Choices.
    """

    def __init__(
        self,
        *,
        path: str | Path | None = None,
        frame: Any = None,
        user: str = "user",
        item: str = "item",
        time: str | None = None,
        rating: str | None = None,
        label: str | None = None,
        items: str | Path | None = None,
        features: Mapping[str, str | Path] | None = None,
        feature_ids: str | Path | None = None,
        split: str | None = None,
        split_seed: int = 0,
        min_rating: float | None = None,
        core: int = 0,
    ) -> None:
        if (path is None) == (frame is None):
            raise BadOption("dataset 'table' needs either path, a file, or frame, a data frame: exactly one of them.")
        if frame is not None and not hasattr(frame, "columns"):
            raise BadOption(
                f"dataset 'table': frame must be a polars or pandas data frame, not {type(frame).__name__}."
            )
        split = split or ("given" if label else "random")
        if split == "given" and label is None:
            raise BadOption('split = "given" needs label, the name of the column that holds 0, 1 and 2.')
        self.path, self.frame = None if path is None else Path(path), frame
        self.columns = {"user": user, "item": item, "time": time, "label": label}
        self.columns["rating"] = None if min_rating is None else rating  # nothing else asks for it
        if split != "given":
            del self.columns["label"]
        self.items, self.features, self.feature_ids = items, features, feature_ids
        self.choices = Choices(split, split_seed, min_rating, core)

    def read(self) -> Data:
        """The data set; BadData says which file, line or row, column and value are wrong."""
        table = self._open()
        log = read_log(table, columns_of(table, self.columns, chosen=True), self.path.stem if self.path else "frame")
        return assemble(log, self.choices, self._extras)

    def _open(self) -> Source:
        if self.path is None:
            return FrameTable(self.frame)
        file = existing_file(self.path)
        if file.suffix in (".parquet", ".pq"):
            return FrameTable.parquet(file)
        separator = "\t" if file.suffix == ".tsv" else guess_separator(file)
        return TextTable.open(file, separator, quoted=separator != "\t")

    def _extras(self, log: Log) -> Extras:
        folder = self.path.parent if self.path else Path()
        features, notes = from_options(log, folder, self.features, self.feature_ids)
        renamed = [f"{name} as {role}" for role, name in self.columns.items() if name not in (None, role)]
        notes = [f"columns are taken so: {', '.join(renamed)}", *notes] if renamed else notes
        if self.items is None:
            return Extras(features, notes=notes)
        file, keys = existing_file(folder / self.items), log.item_ids or range(log.n_items)
        texts, known = read_texts(file), set(map(str, keys))
        titles, descriptions = told(file, texts, list(keys), log.name)
        without, silent = sum(key not in known for key in texts), sum(key not in texts for key in known)
        notes += [f"{without:,} items of {file.name} have no interactions and are left out"] if without else []
        notes += [f"{file.name} does not tell of {silent:,} of the {len(known):,} items"] if silent else []
        pictures = pictures_of(file)
        shown = [pictures.get(str(key)) for key in keys] if pictures else None
        return Extras(features, titles=titles, descriptions=descriptions, pictures=shown, notes=notes)
