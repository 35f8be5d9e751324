"""Pictures of items: looked at only when they are asked for."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from foilrec.errors import BadData
from foilrec.reading.arrays import Array, npz_header, open_arrays
from foilrec.reading.log import Log
from foilrec.reading.texts import item_of, items_of

COLUMNS = ("picture", "image", "image_path", "photo", "poster")


class PackedPictures(Sequence[Any]):
    """The pictures [I] of an npz of uint8 [I, height, width, 3], unpacked at the first look."""

    def __init__(self, path: Path, key: str, numbers: Sequence[int]) -> None:
        self.path, self.key, self.numbers = path, key, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def _unpacked(self) -> Array:
        return open_arrays(self.path)[self.key]

    @overload
    def __getitem__(self, place: int) -> Array: ...
    @overload
    def __getitem__(self, place: slice) -> list[Array]: ...
    def __getitem__(self, place: int | slice) -> Array | list[Array]:
        """The picture [height, width, 3] of an item, or of several."""
        if isinstance(place, slice):
            return [self._unpacked[number] for number in self.numbers[place]]
        picture: Array = self._unpacked[self.numbers[place]]
        return picture


def find_pictures(folder: Path, log: Log) -> Sequence[Any] | None:
    """posters/NUMBER.jpg (a path an item, None where there is none), or posters_*.npz; None without either."""
    numbers = list(range(log.n_items)) if log.item_numbers is None else log.item_numbers.tolist()
    files = {p.stem: p for p in (folder / "posters").glob("*.jpg")} if (folder / "posters").is_dir() else {}
    if files:
        return [files.get(str(number)) for number in numbers]
    packed = sorted(folder.glob("posters_*.npz"))
    if not packed:
        return None
    for key, (shape, dtype) in npz_header(packed[0]).items():
        if len(shape) == 4 and dtype == np.uint8 and shape[0] == (log.source_items or log.n_items):
            return PackedPictures(packed[0], key, numbers)
    raise BadData(
        f"{packed[0]} holds no uint8 array of shape ({log.source_items or log.n_items}, height, width, 3), a "
        "picture for each item. Name the pictures posters/NUMBER.jpg when only some items have one."
    )


def pictures_of(path: Path) -> dict[str, Path]:
    """Paths of pictures by item out of a table of items, {"17": path}, from its own folder on; {} if it has none."""
    found: dict[str, Path] = {}
    missing: list[str] = []
    for place, row in items_of(path):
        column = next((name for name in COLUMNS if row.get(name)), None)
        if column is None:
            continue
        file = path.parent / str(row[column])
        if not file.is_file():
            missing.append(f"{place}, column {column!r}: there is no picture {file}")
        found[item_of(place, row)] = file
    if missing:
        more = f" So it is in {len(missing) - 1:,} more rows." if missing[1:] else ""
        raise BadData(f"{missing[0]}.{more} Leave the place empty where there is none.")
    return found
