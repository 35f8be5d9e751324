"""The atomic files of RecBole: NAME.inter with a typed header, and NAME.item for titles."""

from collections.abc import Mapping
from pathlib import Path

from foilrec.core import Data, Reader
from foilrec.errors import BadData, did_you_mean
from foilrec.reading.assembly import Choices, Extras, assemble
from foilrec.reading.features import from_options
from foilrec.reading.log import Log
from foilrec.reading.places import existing_folder, the_one
from foilrec.reading.sources import columns_of, read_log
from foilrec.reading.tables import TextTable
from foilrec.reading.texts import Texts, told

TITLES = ("title", "movie_title", "name", "item_name", "artist_name")


class Recbole(Reader):
    """A folder with NAME.inter: tab separated, its header names columns with types (user_id:token, rating:float).

    Users and items are numbered by first appearance; NAME.item gives titles (title, movie_title or name).

    path: the folder, or the .inter file itself.
    file: NAME.inter (or NAME); left out, the folder's own name, or the only .inter file there.
    user, item, time, rating: the names of the columns, without their types; time and rating are read when present.
    features: {modality: file of rows}; feature_ids: a file with the raw item id of each row, one a line.
    split, split_seed, min_rating, core: see foilrec.reading.assembly.Choices.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        file: str | None = None,
        user: str = "user_id",
        item: str = "item_id",
        time: str = "timestamp",
        rating: str = "rating",
        features: Mapping[str, str | Path] | None = None,
        feature_ids: str | Path | None = None,
        split: str = "random",
        split_seed: int = 0,
        min_rating: float | None = None,
        core: int = 0,
    ) -> None:
        path = Path(path)
        self.folder, self.file = (path.parent, path.name) if path.suffix == ".inter" else (path, file)
        self.columns = {"user": user, "item": item, "time": time, "rating": rating}
        self.features, self.feature_ids = features, feature_ids
        self.choices = Choices(split, split_seed, min_rating, core)

    def read(self) -> Data:
        """The data set; BadData says which file, line, column and value are wrong."""
        folder = existing_folder(self.folder)
        file = the_one(folder, ".inter", self.file, "Say which with the option file.")
        table = TextTable.open(file, "\t")
        plain = {typed.split(":")[0]: typed for typed in table.header}
        wanted = {role: plain.get(name, name) for role, name in self.columns.items()}
        for role, needed in (("time", self.choices.needs_times), ("rating", self.choices.min_rating is not None)):
            if not needed and (role == "rating" or wanted[role] not in table.header):
                del wanted[role]
        missing = [self.columns[role] for role, name in wanted.items() if name not in table.header]
        if missing:
            raise BadData(
                f"{file}, line 1: the header has no column {missing[0]!r}{did_you_mean(missing[0], plain) or '.'} It "
                f"has {', '.join(map(repr, table.header))}; the options user, item, time and rating name others."
            )
        log = read_log(table, columns_of(table, wanted, chosen=True), file.stem)
        return assemble(log, self.choices, self._extras)

    def _extras(self, log: Log) -> Extras:
        features, notes = from_options(log, self.folder, self.features, self.feature_ids)
        file = self.folder / f"{log.name}.item"
        titles = self._titles(file) if file.is_file() else {}
        keys = [log.raw_item(number) for number in range(log.n_items)]
        return Extras(features, titles=told(file, titles, keys, log.name)[0] if titles else None, notes=notes)

    def _titles(self, file: Path) -> Texts:
        """{raw item id: (title, "")} of NAME.item, or nothing when it has no titles."""
        table = TextTable.open(file, "\t")
        plain = {typed.split(":")[0]: typed for typed in table.header}
        title = next((plain[name] for name in TITLES if name in plain), None)
        if title is None or self.columns["item"] not in plain:
            return {}
        return table.pairs(plain[self.columns["item"]], title)
