"""Mining hard negatives: windows, margins, exclusion against a slow search; files in and out; what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from commands import Command
from foilrec.core import Data
from foilrec.errors import BadOption
from foilrec.mining.mine import Rules, mine
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train

Q, I, D = 13, 40, 4


def world(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random vectors, and two positives a query, in any order."""
    generator = torch.Generator().manual_seed(seed)
    queries, items = (torch.randn(n, D, generator=generator) for n in (Q, I))
    taken = torch.stack([torch.randperm(I, generator=generator)[:2] for _ in range(Q)])
    pairs = torch.stack([torch.arange(Q).repeat_interleave(2), taken.flatten()], 1)
    return queries, items, pairs[torch.randperm(2 * Q, generator=generator)]


def slow(queries: Tensor, items: Tensor, pairs: Tensor, rules: Rules) -> dict[tuple[int, int], list[int]]:
    """The same by loops."""
    positives: dict[int, set[int]] = {}
    for q, p in pairs.tolist():
        positives.setdefault(q, set()).add(p)
    found = {}
    for q, p in pairs.tolist():
        score = [float(queries[q] @ item) for item in items]
        ranked = sorted((i for i in range(len(items)) if i not in positives[q]), key=lambda i: (-score[i], i))
        left = ranked[rules.ranks[0] - 1 : rules.ranks[1]]
        if rules.max_score is not None:
            left = [i for i in left if score[i] <= rules.max_score]
        if rules.margin is not None:
            left = [i for i in left if score[i] <= score[p] - rules.margin]
        if rules.relative is not None and score[p] > 0:
            left = [i for i in left if score[i] <= score[p] * (1 - rules.relative)]
        found[q, p] = left[: rules.count]
    return found


@pytest.mark.parametrize("block", [1, 4 * I * 5, 2**20])
@pytest.mark.parametrize(
    "options",
    [{}, {"ranks": (3, 9)}, {"max_score": 0.5}, {"margin": 0.2}, {"relative": 0.3}, {"ranks": (2, 500), "count": 60}],
)
def test_mined_negatives_are_those_of_a_slow_search(options: dict[str, Any], block: int) -> None:
    queries, items, pairs = world()
    rules = Rules(**options)
    found = mine(queries, items, pairs, rules, block=block)
    expected = slow(queries, items, pairs, rules)
    assert sorted(map(tuple, found.pairs.tolist())) == sorted(map(tuple, pairs.tolist()))
    for pair, ids, scores, positive in zip(found.pairs.tolist(), found.ids, found.scores, found.positive, strict=True):
        assert [i for i in ids.tolist() if i >= 0] == expected[tuple(pair)]
        q, p = pair
        assert float(positive) == pytest.approx(float(queries[q] @ items[p]), abs=1e-5)
        assert torch.allclose(scores[ids >= 0], items[ids[ids >= 0]] @ queries[q], atol=1e-5)
    assert found.ids.shape == (2 * Q, rules.count)


def test_an_approximate_search_over_every_list_finds_what_the_exact_one_does() -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'foilrec[ann]'")
    generator = torch.Generator().manual_seed(3)
    queries, items = torch.randn(50, 8, generator=generator), torch.randn(250, 8, generator=generator)  # 63 lists: all
    pairs = torch.stack([torch.arange(50), torch.randint(250, (50,), generator=generator)], 1)
    rules = Rules(ranks=(3, 20), count=7, relative=0.1)
    exact, near = (mine(queries, items, pairs, rules, search=search) for search in ("exact", "approximate"))
    assert torch.equal(exact.ids, near.ids) and torch.allclose(exact.scores, near.scores, atol=1e-5)
    assert torch.allclose(exact.positive, near.positive, atol=1e-5)
    assert (exact.within, exact.removed) == (near.within, near.removed)


def test_an_approximate_search_gives_unseen_items_with_their_scores() -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'foilrec[ann]'")
    generator = torch.Generator().manual_seed(4)
    items = torch.randn(5000, 8, generator=generator)  # 282 lists, of which 64 are read
    pairs = torch.randint(300, (900, 2), generator=generator)
    exact, near = (mine(items, items, pairs, Rules(count=20), search=search) for search in ("exact", "approximate"))
    taken = set(map(tuple, pairs.tolist()))
    for (q, p), ids, scores in zip(near.pairs.tolist(), near.ids, near.scores, strict=True):
        assert not {(q, i) for i in ids.tolist()} & taken and p not in ids
        assert torch.allclose(scores, items[ids] @ items[q], atol=1e-4)
    both = [len(set(a) & set(b)) for a, b in zip(exact.ids.tolist(), near.ids.tolist(), strict=True)]
    assert sum(both) > 0.8 * 20 * len(both)


def test_each_filter_tells_what_it_took() -> None:
    queries, items, pairs = world()
    found = mine(queries, items, pairs, Rules((1, 10), 10, max_score=0.5, margin=0.1))
    loose = mine(queries, items, pairs, Rules((1, 10), 10))
    assert loose.within == found.within == 10 * len(pairs)
    assert found.removed["max_score"] == int((loose.scores > 0.5).sum())
    assert int((found.ids >= 0).sum()) == found.within - sum(found.removed.values())
    names = [name for name, _ in found.table()]
    assert names == ["positives", "negatives", "positive less negative"]
    for _, values in found.table():
        assert values == sorted(values)


def test_random_picks_are_even_over_the_window_and_follow_the_seed() -> None:
    queries, items, pairs = world()
    counts = torch.zeros(8)
    for seed in range(300):
        best = mine(queries, items, pairs[:1], Rules((1, 8), 8))
        picked = mine(queries, items, pairs[:1], Rules((1, 8), 2, pick="random", seed=seed))
        counts += torch.isin(best.ids[0], picked.ids[0])
    assert counts.sum() == 600
    assert ((counts - 75).abs() < 4 * (300 * 0.25 * 0.75) ** 0.5).all()
    again = mine(queries, items, pairs[:1], Rules((1, 8), 2, pick="random", seed=299))
    assert torch.equal(again.ids, picked.ids)


@pytest.fixture
def command(foilrec: Command) -> Command:
    """`foilrec mine` in this process."""
    return lambda *words: foilrec("mine", *words)


def test_a_run_is_mined_in_the_sources_ids(tmp_path: Path, world_run: Run, command: Command) -> None:
    out = tmp_path / "hard.parquet"
    said = command(world_run.folder, "--out", out, "--ranks", "1-20", "--count", "3")
    assert said.code == 0, said.err
    assert "positives got fewer than 3" in said.out
    frame, data = pl.read_parquet(out), world_run.data
    assert len(frame) == len(data.train)
    taken: dict[Any, set[Any]] = {}
    for u, i in data.train.tolist():
        taken.setdefault(data.raw_users([u])[0], set()).add(data.raw_items([i])[0])
    for row in frame.iter_rows(named=True):
        assert row["positive"] in taken[row["query"]]
        assert not taken[row["query"]] & set(row["negatives"])
        assert row["scores"] == sorted(row["scores"], reverse=True)


@pytest.fixture(scope="module")
def world_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on a tiny shop."""
    recipe = Recipe.from_tree(
        {
            "name": "mined",
            "threads": 1,
            "data": {"name": "shop", "users": 60, "items": 60},
            "backbone": {"name": "bprmf", "dim": 8},
            "train": {"epochs": 1, "meter": 0},
        }
    )
    return train(recipe, tmp_path_factory.mktemp("mining") / "run")


@pytest.mark.parametrize("kind", ["npy", "csv", "parquet"])
def test_vectors_are_mined_with_pairs_by_row_number(kind: str, tmp_path: Path, command: Command) -> None:
    queries, items, pairs = world()
    np.save(tmp_path / "items.npy", items.numpy())
    np.save(tmp_path / "queries.npy", queries.numpy())
    frame = pl.DataFrame({"query": pairs[:, 0].numpy(), "item": pairs[:, 1].numpy()})
    path = tmp_path / f"pairs.{kind}"
    np.save(path, pairs.numpy()) if kind == "npy" else (
        frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    )
    out = tmp_path / "hard.jsonl"
    words = (tmp_path / "items.npy", "--queries", tmp_path / "queries.npy", "--pairs", path, "--out", out)
    assert command(*words, "--ranks", "1-9", "--cosine").code == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    unit = [torch.nn.functional.normalize(x) for x in (queries, items)]
    expected = slow(unit[0], unit[1], pairs, Rules((1, 9)))
    assert {(line["query"], line["positive"]): line["negatives"] for line in lines} == expected


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["items.npy", "--out", "x.parquet"], "--pairs"),
        (["items.npy", "--pairs", "pairs.npy", "--out", "x.txt"], ".parquet"),
        (["items.npy", "--pairs", "pairs.npy", "--out", "x.jsonl", "--ranks", "9"], "10-100"),
        (["items.npy", "--pairs", "pairs.npy", "--out", "x.jsonl", "--ranks", "9-3"], "rise"),
        (["items.npy", "--pairs", "far.npy", "--out", "x.jsonl"], "item 99"),
        (["items.npy", "--pairs", "items.npy", "--out", "x.jsonl"], "[P, 2]"),
        (["nothing", "--out", "x.jsonl"], "no run folder"),
        (["nan.npy", "--pairs", "pairs.npy", "--out", "x.jsonl"], "row 3 holds NaN"),
        (["items.npy", "--pairs", "pairs.npy", "--queries", "wide.npy", "--out", "x.jsonl"], "wide"),
    ],
)
def test_bad_input_is_explained(
    words: list[str],
    hint: str,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    _, items, pairs = world()
    np.save("items.npy", items.numpy())
    np.save("wide.npy", torch.zeros(Q, D + 1).numpy())
    np.save("pairs.npy", pairs.numpy())
    np.save("far.npy", np.array([[0, 99]]))
    broken = items.clone()
    broken[3, 0] = torch.nan
    np.save("nan.npy", broken.numpy())
    said = command(*words)
    assert said.code == 2
    assert hint in said.err
    assert not list(Path().glob("x.*"))


def test_the_data_of_a_run_decides_what_is_never_given(world: Data) -> None:
    with pytest.raises(BadOption, match="no pairs"):
        mine(torch.zeros(2, 3), torch.zeros(4, 3), torch.empty(0, 2, dtype=torch.long), Rules())
