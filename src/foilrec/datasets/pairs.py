"""Plain pairs: an npz with the arrays train, test and perhaps valid."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from foilrec.core import Data, Reader
from foilrec.data import Features
from foilrec.errors import BadData, below_one, did_you_mean, must_hold, some
from foilrec.reading.arrays import Array, open_arrays
from foilrec.reading.assembly import Choices, Extras, assemble
from foilrec.reading.features import load
from foilrec.reading.filters import PARTS, first_of_each_pair
from foilrec.reading.log import Log
from foilrec.reading.numbering import Numbers, is_dense, number_integers
from foilrec.reading.places import chosen_files
from foilrec.splits import TRAIN, VALID, carve_valid


class Pairs(Reader):
    """An npz with train [N, 2], test [M, 2] and perhaps valid [V, 2]: (user, item) as integers.

    Numbers that run from 0 without a gap are kept; others become raw ids. Without valid, each user gives
    floor(valid_share * n) of his n training rows, at least one if n is 3 or more, at random.

    path: the file.
    valid_share, split_seed: of the part that is carved out when the file has no valid.
    features: {modality: file}, whose row n describes the item with number n in the file.
    split, min_rating, core: see foilrec.reading.assembly.Choices (there are neither ratings nor times here).
    """

    def __init__(
        self,
        *,
        path: str | Path,
        valid_share: float = 0.1,
        features: Mapping[str, str | Path] | None = None,
        split: str = "given",
        split_seed: int = 0,
        min_rating: float | None = None,
        core: int = 0,
    ) -> None:
        must_hold("pairs", **below_one(valid_share=valid_share))
        self.path, self.valid_share, self.features = Path(path), valid_share, features
        self.choices = Choices(split, split_seed, min_rating, core)

    def read(self) -> Data:
        """The data set; BadData says which array, row and value are wrong."""
        arrays = open_arrays(self.path)
        for part in ("train", "test"):
            if part not in arrays:
                raise BadData(
                    f"{self.path} has no array {part!r}{did_you_mean(part, arrays) or '.'} It holds "
                    f"{', '.join(map(repr, arrays))}, and train and test are needed."
                )
        others = [name for name in arrays if name not in PARTS]
        if "valid" not in arrays and (hint := did_you_mean("valid", others)):
            raise BadData(f"{self.path} has no array 'valid'{hint} Rename it, or take it out to have one carved.")
        pairs = [_checked(arrays[part], f"{self.path}, array {part!r}") for part in PARTS if part in arrays]
        labels = [np.full(len(arrays[part]), n, np.int8) for n, part in enumerate(PARTS) if part in arrays]
        log = self._numbered(np.concatenate(pairs), np.concatenate(labels))
        told, notes = None, [f"arrays not read: {some(others)}"] if others else []
        if "valid" not in arrays and self.choices.split == "given" and log.labels is not None:
            log, twice = first_of_each_pair(log)  # before a repeated pair can fall into two parts
            notes += twice
            assert log.labels is not None
            trains = np.flatnonzero(log.labels == TRAIN)
            carved = carve_valid(log.users[trains], self.choices.split_seed, self.valid_share) == VALID
            log.labels[trains[carved]] = VALID
            notes.insert(
                0,
                told := (
                    f"given test; valid carved from train: {self.valid_share:.0%} of each user's rows at random, seed "
                    f"{self.choices.split_seed}"
                ),
            )
        data = assemble(log, self.choices, self._extras, told)
        return replace(data, notes=(*notes, *data.notes))

    def _numbered(self, pairs: Array, labels: Array) -> Log:
        starts = np.searchsorted(labels, (0, 1, 2))

        def where(row: int) -> str:
            part = int(labels[row])
            return f"{self.path.name}, array {PARTS[part]!r}, row {row - int(starts[part])}"

        (users, user_ids), (items, item_ids) = _numbers(pairs[:, 0]), _numbers(pairs[:, 1])
        counts = int(users.max()) + 1, int(items.max()) + 1
        log = Log(users, items, *counts, where, np.arange(len(pairs)), self.path.stem, labels=labels)
        return replace(
            log,
            user_ids=None if user_ids is None else user_ids.tolist(),
            item_ids=None if item_ids is None else item_ids.tolist(),
            item_numbers=item_ids,
            source_items=int(pairs[:, 1].max()) + 1,
        )

    def _extras(self, log: Log) -> Extras:
        features: dict[str, Features] = {}
        notes: list[str] = []
        for modality, path in chosen_files(self.path.parent, self.features or {}).items():
            features[modality], more = load(path, modality, log)
            notes += more
        return Extras(features, notes=notes)


def _numbers(values: Array) -> tuple[Numbers, Numbers | None]:
    """Numbers without a gap, and the values that they stand for if those are not the same."""
    values = np.ascontiguousarray(values, np.int64)
    return (values, None) if is_dense(values) else number_integers(values)


def _checked(pairs: Array, place: str) -> Array:
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise BadData(
            f"{place} is {pairs.dtype} of shape {pairs.shape}, and must hold integers of shape (N, 2): user, item."
        )
    if len(pairs) and int(pairs.max()) >= 1 << 63:
        raise BadData(f"{place}: {int(pairs.max())} is too large for a number of 64 bits with a sign. Number anew.")
    negative = np.flatnonzero((pairs < 0).any(axis=1))
    if len(negative):
        raise BadData(
            f"{place}, row {negative[0]}: {pairs[negative[0]].tolist()} is negative; {len(negative):,} such rows. "
            "Users and items are integers from 0."
        )
    return pairs.astype(np.int64, copy=False)  # int64 and uint64 together would become floats
