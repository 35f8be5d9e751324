"""What hard negatives are mined from: a finished run, or files of vectors and pairs; and the table that comes out."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from foilrec.core import Data
from foilrec.errors import BadData, BadOption
from foilrec.graphs.nearest import Search
from foilrec.mining.mine import Mined, Rules, mine
from foilrec.reading.arrays import matrix, open_arrays
from foilrec.reading.frames import FrameTable
from foilrec.reading.places import existing_file
from foilrec.reading.sources import columns_of, read_numbered
from foilrec.reading.tables import TextTable, guess_separator
from foilrec.run import Run
from foilrec.seen import SeenIndex

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Quarry:
    """Queries [Q, D], items [I, D], pairs [P, 2] of a query and its positive, and what queries never get.

    after: queries were made of all their items, as those of a backbone that reads histories: how a positive scores
    beside them says how late it came.
    """

    queries: Tensor
    items: Tensor
    pairs: Tensor
    seen: SeenIndex | None = None
    data: Data | None = None
    after: bool = False

    def mine(self, rules: Rules, *, cosine: bool = False, search: Search = "auto") -> Mined:
        """Hard negatives of every pair; cosine: of rows of length 1; search: see mining.mine."""
        if self.after and (rules.margin, rules.relative) != (None, None):
            raise BadOption(
                "Mining: this run reads histories, and its users were asked after all their items: a positive's score "
                "then tells how late it came, so that no margin can be kept from it. Do without margin and relative."
            )
        queries, items = (normalize(x) for x in (self.queries, self.items)) if cosine else (self.queries, self.items)
        return mine(queries, items, self.pairs, rules, self.seen, search=search)

    def frame(self, found: Mined) -> "pl.DataFrame":
        """A row a pair, in the source's ids: query, positive, negatives as a list, and scores to 6 digits."""
        import polars as pl

        there = found.ids >= 0
        counts = there.sum(1).tolist()
        names = self._items(found.ids[there].tolist())
        scores = _short(found.scores[there]).to_list()
        ends = np.cumsum([0, *counts]).tolist()
        cut = [slice(a, b) for a, b in pairwise(ends)]
        queries = found.pairs[:, 0].tolist()
        return pl.DataFrame(
            {
                "query": queries if self.data is None else self.data.raw_users(queries),
                "positive": self._items(found.pairs[:, 1].tolist()),
                "positive_score": _short(found.positive),
                "negatives": [names[part] for part in cut],
                "scores": [scores[part] for part in cut],
            }
        )

    def _items(self, numbers: list[int]) -> list[Any]:
        return numbers if self.data is None else self.data.raw_items(numbers)


def _short(scores: Tensor) -> "pl.Series":
    """Scores to 6 digits, about what a float32 holds."""
    import polars as pl

    return pl.Series(scores.double().numpy()).round_sig_figs(6)


@torch.no_grad()
def of_run(folder: str | Path) -> Quarry:
    """The users of a run as queries, its training pairs, and its best weights; what a user took is left out."""
    run = Run(folder)
    data, model = run.data, run.model
    tables, users = model.propagate(), torch.arange(data.n_users)
    parts = [model.query(tables, data.ask(part, model.history)) for part in users.split(4096)]
    items = tables.items.detach().cpu()
    return Quarry(torch.cat(parts).cpu(), items, data.train, data.seen, data, after=bool(model.history))


def of_files(items: str | Path, pairs: str | Path, queries: str | Path | None = None) -> Quarry:
    """Vectors in .npy files, queries being the items themselves if left out, and pairs by row number.

    pairs: .npy [P, 2], or a CSV or parquet file with the columns query and item.
    """
    rows = _vectors(items)
    asked, (found, where) = rows if queries is None else _vectors(queries), _pairs(Path(pairs))
    for column, name, many in ((0, "query", len(asked)), (1, "item", len(rows))):
        wrong = ((found[:, column] < 0) | (found[:, column] >= many)).nonzero().flatten().tolist()
        if wrong:
            raise BadData(
                f"{where(wrong[0])}: {name} {int(found[wrong[0], column])} is none of the {many:,} rows of vectors, "
                f"counted from 0 ({len(wrong):,} such pairs). Name rows that are there."
            )
    if queries is not None:
        return Quarry(asked, rows, found)
    own = torch.arange(len(rows))  # an item is no negative of its own
    return Quarry(asked, rows, found, SeenIndex(torch.cat([found, torch.stack([own, own], 1)]), len(rows), len(rows)))


def _vectors(path: str | Path) -> Tensor:
    rows = torch.from_numpy(np.array(matrix(path), np.float32))
    if not rows.numel():
        raise BadData(f"{path} holds no vectors: its shape is {list(rows.shape)}.")
    wrong = (~rows.isfinite().all(1)).nonzero().flatten().tolist()
    if wrong:
        raise BadData(f"{path}: row {wrong[0]} holds NaN or infinity ({len(wrong)} rows do). Leave such rows out.")
    return rows


def _pairs(path: Path) -> tuple[Tensor, Callable[[int], str]]:
    """Pairs [P, 2], and where in the file each of them stands."""
    file = existing_file(path)
    if file.suffix in (".npy", ".npz"):
        arrays = open_arrays(file)
        found = next(iter(arrays.values())) if arrays else np.empty(0)
        if found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "iu":
            raise BadData(f"{file}: pairs must be whole numbers [P, 2], and these are {found.dtype} {found.shape}.")
        return torch.from_numpy(np.array(found, np.int64)), lambda row: f"{file}, row {row}"
    if file.suffix not in (".csv", ".tsv", ".parquet"):
        raise BadOption(f"--pairs {file}: the ending must be one of .npy, .csv, .tsv, .parquet.")
    table = FrameTable.parquet(file) if file.suffix == ".parquet" else TextTable.open(file, guess_separator(file))
    log = read_numbered(table, columns_of(table, {"user": "query", "item": "item"}, "number"), file.name)
    numbers = torch.stack([torch.from_numpy(np.array(x, np.int64)) for x in (log.users, log.items)], 1)
    return numbers, lambda row: log.where(int(log.rows[row]))
