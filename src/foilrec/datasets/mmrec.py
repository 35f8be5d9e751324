"""The layout of MMRec: NAME.inter with x_label, and features, graphs, titles and raw ids beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from foilrec.core import Data, Reader
from foilrec.data import Features
from foilrec.errors import BadData, BadOption, some
from foilrec.reading.assembly import Choices, Extras, assemble
from foilrec.reading.features import discover, load
from foilrec.reading.log import Log
from foilrec.reading.neighbours import read_graphs
from foilrec.reading.pictures import find_pictures
from foilrec.reading.places import chosen_files, existing_folder, the_one
from foilrec.reading.sources import columns_of, read_numbered
from foilrec.reading.tables import TextTable
from foilrec.reading.texts import find_texts, read_mapping, read_texts, told


class Mmrec(Reader):
    """A folder with NAME.inter: tab separated, columns userID, itemID, x_label, perhaps rating and timestamp.

    Users and items are numbered from 0. Read as well, where present: MODALITY_feat.npy or .npz (row n describes item
    n), MODALITY_knnK.npz (indices and cos), item_text.jsonl, items.jsonl, items.csv or *_text.tsv (titles by number or
    by raw id), i_id_mapping.csv and u_id_mapping.csv (raw ids), posters/NUMBER.jpg or posters_*.npz. Users without
    training rows are left out of valid and test, as MMRec does.

    path: the folder.
    file: NAME.inter (or NAME); left out, the folder's own name, or the only .inter file there.
    features: {modality: file} instead of every *_feat file; an empty table reads none.
    surrogate: read stand-ins from the folder surrogate/ for modalities that have no features of their own.
    valid_label, test_label: which x_label is which; some sources swap 1 and 2.
    split, split_seed, min_rating, core: see foilrec.reading.assembly.Choices.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        file: str | None = None,
        features: Mapping[str, str | Path] | None = None,
        surrogate: bool = False,
        valid_label: int = 1,
        test_label: int = 2,
        split: str = "given",
        split_seed: int = 0,
        min_rating: float | None = None,
        core: int = 0,
    ) -> None:
        self.path, self.file, self.features, self.surrogate = Path(path), file, features, surrogate
        if {valid_label, test_label} != {1, 2}:
            raise BadOption(
                f"valid_label = {valid_label} and test_label = {test_label}: one must be 1 and the other 2, "
                "since 0 is train."
            )
        self.swap = valid_label == 2
        self.choices = Choices(split, split_seed, min_rating, core)

    def read(self) -> Data:
        """The data set; BadData says which file, line, column and value are wrong."""
        folder = existing_folder(self.path)
        file = the_one(folder, ".inter", self.file, "Say which with the option file.")
        table = TextTable.open(file, "\t")
        given = self.choices.split == "given"
        names = {"user": "userID", "item": "itemID", "label": "x_label" if given else None}
        names["time"] = "timestamp" if "timestamp" in table.header or self.choices.needs_times else None
        names["rating"] = "rating" if self.choices.min_rating is not None else None
        columns = columns_of(table, names, "number")
        users, items = (_raw_ids(folder / f"{kind}_id_mapping.csv") for kind in "ui")
        log = read_numbered(table, columns, file.stem, max(users, default=-1) + 1, max(items, default=-1) + 1)
        return assemble(self._named(log, users, items), self.choices, self._extras)

    def _named(self, log: Log, users: dict[int, str], items: dict[int, str]) -> Log:
        """The log with its raw ids and with valid and test the right way round."""
        fields = vars(log) | {
            "user_ids": self._all_named("u", users, log.n_users),
            "item_ids": self._all_named("i", items, log.n_items),
        }
        if self.swap and log.labels is not None:
            fields["labels"] = (3 - log.labels) % 3
        return Log(**fields)

    def _all_named(self, kind: str, known: dict[int, str], count: int) -> list[str] | None:
        """A raw id for each number, a number without one standing for itself; None where the folder maps none."""
        ids = [known.get(number, str(number)) for number in range(count)] if known else None
        if ids is not None and len(known) < count and len(set(ids)) < count:
            named = set(known.values())
            twice = next(str(number) for number in range(count) if number not in known and str(number) in named)
            raise BadData(
                f"{self.path / f'{kind}_id_mapping.csv'}: number {twice} has no raw id, and {twice!r} is the raw id of "
                "another number. Map every number."
            )
        return ids

    def _extras(self, log: Log) -> Extras:
        features, notes = self._features(log)
        numbers = range(log.n_items) if log.item_numbers is None else log.item_numbers.tolist()
        titles, descriptions = self._texts(log, numbers)
        if log.item_numbers is None:
            graphs = read_graphs(self.path, log.n_items)
        else:
            graphs = {}
            if any(self.path.glob("*_knn*.npz")):
                notes.append("neighbour graphs left out: they cover items that the filters dropped")
        idle = int((np.bincount(log.items, minlength=log.n_items) == 0).sum()) if log.item_numbers is None else 0
        notes += [f"{idle:,} items have no interactions"] if idle else []
        return Extras(features, graphs, titles, descriptions, find_pictures(self.path, log), notes)

    def _texts(self, log: Log, numbers: Sequence[int]) -> tuple[list[str] | None, list[str] | None]:
        """Titles and descriptions by number or, where the file knows raw ids that are no numbers of items, by those."""
        file = find_texts(self.path)
        if file is None:
            return None, None
        texts = read_texts(file)
        every, ids = set(map(str, range(log.source_items or log.n_items))), set(map(str, log.item_ids or ()))
        raw = bool(texts.keys() - every and texts.keys() & ids)  # raw ids may be numbers too
        return told(file, texts, log.item_ids if raw and log.item_ids else numbers, log.name)

    def _features(self, log: Log) -> tuple[dict[str, Features], list[str]]:
        unread: list[str] = []
        if self.features is None:
            files = discover(self.path, self.surrogate)
            known = {path for path, _ in files.values()} | set(self.path.glob("*_knn*.npz"))
            unread = sorted(p.name for p in self.path.glob("*.np[yz]") if p not in known and "posters" not in p.name)
        else:
            files = {m: (p, p.parent.name == "surrogate") for m, p in chosen_files(self.path, self.features).items()}
        features, notes = {}, [f"not read: {some(unread)} (option features = {{NAME = FILE}})"] if unread else []
        for modality, (path, surrogate) in files.items():
            features[modality], more = load(path, modality, log, surrogate)
            notes += more
        return features, notes


def _raw_ids(path: Path) -> dict[int, str]:
    return read_mapping(path) if path.is_file() else {}
