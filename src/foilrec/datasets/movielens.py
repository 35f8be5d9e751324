"""MovieLens as GroupLens hands it out: ml-100k, ml-1m, or the newer ratings.csv."""

from collections.abc import Mapping
from pathlib import Path

from foilrec.core import Data, Reader
from foilrec.errors import BadData, some
from foilrec.reading.assembly import Choices, Extras, assemble
from foilrec.reading.features import from_options
from foilrec.reading.log import Log
from foilrec.reading.places import existing_folder
from foilrec.reading.sources import columns_of, read_log
from foilrec.reading.tables import TextTable
from foilrec.reading.texts import Texts, told

FIELDS = ("userId", "movieId", "rating", "timestamp")


class Movielens(Reader):
    """A folder with u.data, u.item (ml-100k), or ratings.dat, movies.dat (ml-1m), or ratings.csv, movies.csv (newer).

    Every rating is an interaction unless min_rating says otherwise. Users and movies are numbered by first
    appearance; titles come from the file of movies, where it is present.

    path: the folder.
    features: {modality: file of rows}; feature_ids: a file with the movie id of each row, one a line.
    split, split_seed, min_rating, core: see foilrec.reading.assembly.Choices.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        features: Mapping[str, str | Path] | None = None,
        feature_ids: str | Path | None = None,
        split: str = "random",
        split_seed: int = 0,
        min_rating: float | None = None,
        core: int = 0,
    ) -> None:
        self.path, self.features, self.feature_ids = Path(path), features, feature_ids
        self.choices = Choices(split, split_seed, min_rating, core)

    def read(self) -> Data:
        """The data set; BadData says which file, line, column and value are wrong."""
        table = _ratings(existing_folder(self.path))
        names = dict(zip(("user", "item", "rating", "time"), FIELDS, strict=True))
        log = read_log(table, columns_of(table, names), self.path.resolve().name)
        return assemble(log, self.choices, self._extras)

    def _extras(self, log: Log) -> Extras:
        features, notes = from_options(log, self.path, self.features, self.feature_ids)
        titles = _titles(self.path)
        keys = [log.raw_item(number) for number in range(log.n_items)]
        return Extras(features, titles=told(self.path, titles, keys, log.name)[0] if titles else None, notes=notes)


def _ratings(folder: Path) -> TextTable:
    if (folder / "u.data").exists():
        return TextTable.open(folder / "u.data", "\t", FIELDS)
    if (folder / "ratings.dat").exists():
        return TextTable.open(folder / "ratings.dat", "::", FIELDS)
    if (folder / "ratings.csv").exists():
        return TextTable.open(folder / "ratings.csv", ",", quoted=True)
    raise BadData(
        f"{folder} holds none of u.data, ratings.dat and ratings.csv, but "
        f"{some(sorted(p.name for p in folder.iterdir()), 8) or 'nothing'}. Name the unpacked folder."
    )


def _titles(folder: Path) -> Texts:
    """{movie id: (title, "")}; the two older files are in latin-1."""
    for name, separator in (("u.item", "|"), ("movies.dat", "::")):
        file = folder / name
        if file.is_file() and (name == "u.item") == (folder / "u.data").exists():
            lines = (line.split(separator) for line in file.read_text("latin-1").splitlines() if line)
            return {fields[0]: (fields[1], "") for fields in lines if len(fields) > 1}
    if (folder / "movies.csv").is_file():
        return TextTable.open(folder / "movies.csv", ",", quoted=True).pairs("movieId", "title")
    return {}
