"""What a stranger hands over at the doors of the library is refused by name where it cannot be meant."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from commands import Command
from foilrec import build, parts, read
from foilrec.core import Batch, Data, Negatives, Tables
from foilrec.errors import BadData, BadOption, RunBroken
from foilrec.mining.mine import Rules
from foilrec.mining.quarry import of_files
from foilrec.recipe import Recipe
from foilrec.stretch import train

D = 8
CHOOSERS = ("uniform", "dns", "softmax_sir", "bns", "srns", "ahns", "warp", "rankwindow", "genni", "mixgcf")


def asked(world: Data, rows: int = 16) -> tuple[Batch, Tensor, Tensor]:
    """A batch, its query, and a table of items."""
    items = torch.randn(world.n_items, D, generator=torch.Generator().manual_seed(1))
    return world.batch(torch.arange(rows)), torch.randn(rows, D, generator=torch.Generator().manual_seed(2)), items


Spoil = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
SPOILT: dict[str, tuple[Spoil, str]] = {
    "fewer items": (lambda q, i: (q, i[:10]), "tables.items must be"),
    "narrower items": (lambda q, i: (q, i[:, :5]), "of one width and type"),
    "fewer rows": (lambda q, i: (q[:3], i), "a row for each of the batch's 16"),
    "one dimension": (lambda q, i: (q[:, 0], i), "query must be [B, D]"),
    "half": (lambda q, i: (q.bfloat16(), i.bfloat16()), "hand over query.float()"),
    "two types": (lambda q, i: (q.double(), i), "of one width and type"),
    "nan": (lambda q, i: (q.index_fill(0, torch.tensor([4, 7]), torch.nan), i), "in 2 of 16 rows, first in row 4"),
}


@pytest.mark.parametrize("name", CHOOSERS)
@pytest.mark.parametrize("how", SPOILT)
def test_samplers_look_at_what_they_are_handed(name: str, how: str, world: Data) -> None:
    batch, query, items = asked(world)
    query, items = SPOILT[how][0](query, items)
    sampler = parts.build("sampler", name, world)
    with pytest.raises(RunBroken if how == "nan" else BadOption, match=re.escape(SPOILT[how][1])):
        sampler(Tables(items=items, users=items), batch, query)


@pytest.mark.parametrize("name", ["uniform", "dns", "mixgcf"])
def test_an_empty_batch_gets_no_negatives(name: str, world: Data) -> None:
    _, query, items = asked(world)
    sampler = parts.build("sampler", name, world)
    tables = Tables(items=items, users=items, layers=(items, items))
    assert sampler(tables, world.batch(torch.arange(0)), query[:0]).shape[0] == 0


@pytest.mark.parametrize("name", parts.names("loss"))
@pytest.mark.parametrize(("positive", "negative"), [((4, 1), (4, 3)), ((4,), (4,)), ((4,), (4, 0)), ((0,), (0, 3))])
def test_losses_take_scores_of_their_shapes_alone(
    name: str, positive: tuple[int, ...], negative: tuple[int, ...]
) -> None:
    ids = torch.zeros(max(positive[0], 1), max(negative[-1], 1), dtype=torch.long)
    with pytest.raises(BadOption, match=re.escape("positives [B] and of their negatives [B, K]")):
        parts.build("loss", name)(torch.zeros(positive), torch.zeros(negative), Negatives(ids=ids))


@pytest.mark.parametrize("which", ["rows", "positives", "users"])
def test_a_batch_holds_whole_numbers_of_one_length(which: str) -> None:
    good = {"users": torch.arange(4), "positives": torch.arange(4), "rows": torch.arange(4)}
    Batch(**good)
    for bad in (torch.arange(4) + 0.5, torch.arange(3), [0, 1, 2, 3], torch.zeros(4, 1).long()):
        if which == "users" and isinstance(bad, Tensor) and bad.shape == (3,):
            continue  # then the others are the longer ones
        with pytest.raises(BadOption, match="A batch's"):
            Batch(**{**good, which: bad})  # type: ignore[arg-type]


def small(**sampler: object) -> Recipe:
    """A recipe that trains in a blink."""
    return Recipe.from_tree(
        {
            "name": "small",
            "data": {"name": "shop", "users": 40, "items": 40},
            "backbone": {"name": "bprmf", "dim": 4},
            "sampler": {"name": "uniform", **sampler},
            "train": {"epochs": 1, "batch": 64},
        }
    )


def test_a_run_that_fails_at_once_may_be_mended_in_its_folder(tmp_path: Path) -> None:
    with pytest.raises(RunBroken, match=r"lower optimizer\.lr"):
        train(Recipe.from_tree(small().tree(), ["optimizer.lr=1e30", "backbone.emb_reg=1.0"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert train(small(), tmp_path / "run").finished


@pytest.mark.parametrize("options", [{"user": "item"}, {"time": "time", "rating": "time", "min_rating": 1.0}])
def test_a_column_has_one_role(options: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\na,b,1\nc,d,2\n")
    with pytest.raises(BadData, match="is named twice, for the"):
        read(tmp_path / "log.csv", **options)


def test_a_number_beyond_all_bounds_is_not_finite(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\na,b,1\nc,d,1e400\n")
    with pytest.raises(BadData, match=r"line 3, column 'time': '1e400' is not a finite number"):
        read(tmp_path / "log.csv", time="time", split="time")


def test_a_packed_file_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(gzip.compress(b"user,item\na,b\n"))
    with pytest.raises(BadData, match="is packed by gzip"):
        read(tmp_path / "log.csv")


@pytest.mark.parametrize("name", ["max_score", "margin", "relative"])
def test_mining_by_a_bound_that_is_no_number(name: str) -> None:
    with pytest.raises(BadOption, match=f"{name} = nan must be a finite number"):
        Rules(**{name: float("nan")})  # type: ignore[arg-type]


def test_pairs_of_vectors_that_are_not_there(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.eye(4, dtype=np.float32))
    (tmp_path / "p.csv").write_text("query,item\n0,1\n2,9\n")
    with pytest.raises(BadData, match=r"p.csv, line 3: item 9 is none of the 4 rows"):
        of_files(tmp_path / "v.npy", tmp_path / "p.csv")
    np.save(tmp_path / "none.npy", np.zeros((0, 4), np.float32))
    with pytest.raises(BadData, match="holds no vectors"):
        of_files(tmp_path / "none.npy", tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: build("sampler", "uniform"), "is made for data"),
        (lambda: read(None), "not NoneType"),
        (lambda: build("dataset", "table", frame=3), "not int"),
        (lambda: Recipe.from_tree([]), "nested mappings"),  # type: ignore[arg-type]
        (lambda: parts.check_options("sampler", "mixed", {"parts": [{"pool": 4}]}), "a part without its name"),
    ],
)
def test_doors_of_the_library(call: Callable[[], object], told: str) -> None:
    with pytest.raises((BadOption, BadData), match=told):
        call()


def test_show_asks_for_the_name(foilrec: Command) -> None:
    said = foilrec("show", "samplers")
    assert said.code == 2
    assert "Which sampler? `foilrec show sampler NAME`" in said.err
