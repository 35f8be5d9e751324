"""Folders of generated negatives, as `foilrec generate` exports them: written, opened and checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec.data import Data, Features
from foilrec.errors import BadData, BadOption, PartsDoNotFit, RunBroken
from foilrec.files import write_json, written_whole

if TYPE_CHECKING:
    import polars as pl

TABLE, NOTES, ENDS = "negatives.parquet", "features.json", ("neg", "pos")
BLOCK = 4096  # rows looked at at once
PROBE = 512  # rows by which two spaces are told apart
FEWEST = 20  # with fewer, chance could look like likeness
SAME = 0.75  # share of rows that must be more like their own item than like another

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Generated:
    """N negatives that no item is, each an item of the data with some attributes changed; a Shelf draws from them.

    items, difficulty [N]: which item, and how many attributes differ. users [N]: for whose taste, -1 for everyone.
    after, before: {modality: N rows} of the negatives, and of what they were made of, by the same encoder.
    alike [N, M]: the items whose words are most like each one's, nearest first, -1 where there are fewer; None: untold.
    """

    folder: Path
    items: Tensor
    users: Tensor
    difficulty: Tensor
    after: Mapping[str, Features]
    before: Mapping[str, Features]
    encoder: str = ""
    alike: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items)

    def reach(self, n_items: int) -> str:
        """How many items of the data have negatives, and how many have none, in words."""
        known = len(self.items.unique())
        return f"{known:,} of {n_items:,} items have generated negatives, {n_items - known:,} have none"

    def told(self, modalities: Sequence[str]) -> Tensor:
        """Whether there is anything to see of each negative, bool [N]: its features of some modality are not all 0."""
        found = np.zeros(len(self), bool)
        for name, start in product(modalities, range(0, len(self), BLOCK)):
            found[start : start + BLOCK] |= (self.after[name].rows[start : start + BLOCK] != 0).any(1)
        return torch.from_numpy(found)

    @cached_property
    def digest(self) -> str:
        """A digest of the content: a training that goes on, or a model that is served, must find the same."""
        digest = blake2b(digest_size=16)
        for column in (self.items, self.users, self.difficulty):
            digest.update(column.numpy().tobytes())
        if self.alike is not None:
            digest.update(self.alike.numpy().tobytes())
        for rows in (self.after, self.before):
            for name in sorted(rows):
                digest.update(name.encode() + rows[name].digest())
        return digest.hexdigest()

    def must_be(self, digest: str) -> None:
        """Raises RunBroken unless the content is that of an earlier digest."""
        if digest != self.digest:
            raise RunBroken(
                f"{self.folder} holds other negatives than training began with: put the old ones back, or train into a "
                "new folder."
            )

    def misfit(self, data: Data, modality: str) -> str:
        """Why the negatives' features and the data's are no rows of one space, as half a sentence; "" if they are."""
        if modality not in data.features:
            return f"{data.name} has no features of {modality}"
        own, wide = data.features[modality], self.after[modality].dim
        if own.dim != wide:
            return f"those of {modality} are {wide} wide, and the data's {own.dim}"
        rows = torch.arange(len(self)).split(PROBE)[0]
        rows = rows[own.has(self.items[rows])]
        there, here = (normalize(x) for x in (self.before[modality].of(rows), own.of(self.items[rows])))
        other = self.items[rows] != self.items[rows].roll(len(rows) // 2)
        nearer = (there * here).sum(1) > (there * here.roll(len(rows) // 2, 0)).sum(1)
        if int(other.sum()) < FEWEST or float(nearer[other].double().mean()) >= SAME:
            return ""
        return f"those of {modality} say of an item nothing that the data's do: they are another encoder's"

    def originals(self, data: Data, modality: str) -> Features:
        """The items' own features in the space of the negatives, I rows: the data's if they are, else the folder's."""
        if not self.misfit(data, modality):
            return data.features[modality]
        known, first = np.unique(self.items.numpy(), return_index=True)
        rows = np.zeros((data.n_items, self.before[modality].dim), np.float32)
        rows[known] = self.before[modality].of(torch.from_numpy(first)).numpy()
        return Features(rows, torch.from_numpy(np.abs(rows).max(1) > 0))


def write(
    folder: Path,
    items: Sequence[object],
    after: Mapping[str, Array],
    before: Mapping[str, Array],
    *,
    users: Sequence[object | None] | None = None,
    difficulty: Sequence[int] | None = None,
    encoder: str = "own",
    **columns: Sequence[Any],
) -> None:
    """Writes negatives from elsewhere as a folder that `neggen` and `causalneg` read.

    items, users: raw ids, N each; no user: for everyone. after, before: {modality: [N, F]}, the negatives' features
    and those of the items that they vary, by one encoder. difficulty: how many attributes differ, 1 by default.
    columns: whatever else is known of them.
    """
    import polars as pl

    count = len(items)
    table = {"item": items, "user": users or [None] * count, "difficulty": difficulty or [1] * count, **columns}
    lengths = {name: len(column) for name, column in table.items()}
    lengths |= {f"{name}_{end}": len(x) for end, of in (("neg", after), ("pos", before)) for name, x in of.items()}
    odd = {name: length for name, length in lengths.items() if length != count}
    if odd or set(after) != set(before) or not after:
        raise BadOption(
            f"There are {count} items, modalities {list(after)} and {list(before)}, and other lengths {odd}."
        )
    with written_whole(folder / TABLE) as draft:
        pl.DataFrame({name: list(column) for name, column in table.items()}).write_parquet(draft)
    for end, of in (("neg", after), ("pos", before)):
        for name, rows in of.items():
            with written_whole(folder / f"{name}_{end}.npy") as draft:
                np.save(draft, np.asarray(rows, np.float32), allow_pickle=False)
    dims = {name: {"dim": int(rows.shape[1])} for name, rows in after.items()}
    write_json(folder / NOTES, {"rows": count, "route": "own", "encoder": encoder, "modalities": dims})


def read(path: str | Path, data: Data) -> Generated:
    """The negatives of a folder, for a data set; feature files are memory-mapped. BadData says file, row and cure."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise BadData(
            f"{folder}: there is no such folder of generated negatives. Make one with `foilrec generate DATA --out "
            f"{folder}`, or correct the path."
        )
    notes, table = _notes(folder / NOTES), _table(folder / TABLE)
    if notes["rows"] != len(table):
        raise _stale(folder / NOTES, f"counts {notes['rows']} rows, and {TABLE} has {len(table)}")
    found = {end: {m: _features(folder / f"{m}_{end}.npy", len(table)) for m in notes["modalities"]} for end in ENDS}
    for name, each in found["neg"].items():
        if found["pos"][name].dim != each.dim:
            raise _stale(folder / f"{name}_pos.npy", f"is {found['pos'][name].dim} wide, and {name}_neg.npy {each.dim}")
    return Generated(
        folder,
        _numbers(folder, table["item"], data.raw_items(range(data.n_items)), data.name),
        _numbers(folder, table["user"], data.raw_users(range(data.n_users)), data.name),
        _difficulty(folder, table["difficulty"]),
        found["neg"],
        found["pos"],
        str(notes.get("encoder", "")),
        _alike(folder, table, data),
    )


def _stale(path: Path, what: str) -> BadData:
    return BadData(f"{path} {what}: its files are not of one export. Generate or export the folder again.")


def _there(path: Path) -> Path:
    if not path.is_file():
        names = sorted(other.name for other in path.parent.iterdir())
        raise BadData(
            f"{path} is missing from a folder of generated negatives, which holds {', '.join(names) or 'nothing'}. "
            "Export it again with `foilrec generate ... --resume`, or name the right folder."
        )
    return path


def _notes(path: Path) -> dict[str, Any]:
    text = _there(path).read_bytes()
    try:
        notes = json.loads(text)
        if isinstance(notes["rows"], int) and notes["modalities"] and isinstance(notes["modalities"], dict):
            return dict(notes)
    except (ValueError, KeyError, TypeError):
        pass
    raise BadData(f"{path} does not tell rows and modalities. Export the folder again.")


def _table(path: Path) -> "pl.DataFrame":
    import polars as pl

    file = _there(path)
    try:
        table = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadData(f"{path} is not a whole parquet file: {str(error).splitlines()[0]}. Export it again.") from error
    missing = [name for name in ("item", "user", "difficulty") if name not in table.columns]
    if missing or not len(table):
        what = f"has no column {missing[0]!r}" if missing else "has no rows: nothing was generated"
        raise BadData(f"{path} {what}. Generate again; rejected.jsonl beside it may say why.")
    return table


def _numbers(folder: Path, column: "pl.Series", known: Sequence[object], name: str) -> Tensor:
    """Numbers of raw ids, -1 for no user."""
    numbers: dict[str | None, int] = {str(raw): number for number, raw in enumerate(known)}
    if column.name == "user":
        numbers[None] = -1
    found = [numbers.get(None if raw is None else str(raw)) for raw in column]
    if None in found:
        row = found.index(None)
        raise BadData(
            f"{folder / TABLE}, row {row}: {name} has no {column.name} {column[row]!r}; {found.count(None)} such rows. "
            "The folder was generated for other data: generate anew, or name the right one."
        )
    return torch.tensor(found, dtype=torch.long)


def _alike(folder: Path, table: "pl.DataFrame", data: Data) -> Tensor | None:
    """The raw ids in the column `alike` as numbers [N, M], in int32; ids that the data lacks are passed over."""
    import polars as pl

    if "alike" not in table.columns:
        return None
    if not isinstance(table.schema["alike"], pl.List):
        raise BadData(f"{folder / TABLE}: the column alike must hold lists of item ids. Export the folder again.")
    numbers = {str(raw): number for number, raw in enumerate(data.raw_items(range(data.n_items)))}
    found = [[numbers[key] for raw in row or () if (key := str(raw)) in numbers] for row in table["alike"].to_list()]
    made = torch.full((len(found), max(1, *map(len, found))), -1, dtype=torch.int32)
    for row, its in zip(made, found, strict=True):
        row[: len(its)] = torch.tensor(its, dtype=torch.int32)
    return made


def _difficulty(folder: Path, column: "pl.Series") -> Tensor:
    bad = [row for row, value in enumerate(column) if not (isinstance(value, int) and value >= 1)]
    if bad:
        raise BadData(
            f"{folder / TABLE}, row {bad[0]}: difficulty {column[bad[0]]!r} is not how many attributes were changed, 1 "
            f"or more; {len(bad)} such rows. Export the folder again."
        )
    return torch.tensor(column.to_list(), dtype=torch.long)


def _features(path: Path, count: int) -> Features:
    file = _there(path)
    try:
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadData(
            f"{path} is no whole NumPy file of numbers ({str(error).splitlines()[0]}). Export it again."
        ) from error
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise BadData(f"{path} must be a matrix of floats, a row a negative, not {rows.dtype} of shape {rows.shape}.")
    if len(rows) != count:
        raise _stale(path, f"has {len(rows)} rows, and {TABLE} {count}")
    for start in range(0, count, BLOCK):
        bad = np.argwhere(~np.isfinite(rows[start : start + BLOCK]))
        if len(bad):
            row, at = int(bad[0][0]) + start, int(bad[0][1])
            raise BadData(
                f"{path}, row {row}, column {at}: {rows[row, at]} is not a finite number. Look at the encoder, and "
                "export the folder again."
            )
    return Features(rows)


def must_fit(made: Generated, data: Data, modalities: Sequence[str], part: str) -> None:
    """Raises PartsDoNotFit unless the negatives' features are in the spaces of the data's."""
    for name in modalities:
        if why := made.misfit(data, name):
            raise PartsDoNotFit(
                f"{part}: the generated features do not suit {data.name}, as {why}: encode the catalogue with the "
                f"same encoder ({made.encoder or 'unknown'}), or generate with --route delta."
            )
