"""Runs side by side: means, intervals and tests written a second time, pairing, errors, and the commands."""

import itertools
import json
import math
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist, fmean, stdev, variance
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

from commands import Command, tiny
from foilrec.comparing import significance, typeset
from foilrec.comparing.compare import Means, compare, estimated
from foilrec.comparing.comparison import Comparison, Estimate, Line
from foilrec.comparing.lineup import Row
from foilrec.errors import BadOption, RunBroken
from foilrec.recipe import Recipe
from foilrec.repeat import planned, repeat, seeds_of
from foilrec.run import Run
from foilrec.stretch import train
from foilrec.trainer import Trainer

NAMES = ("recall@20", "ndcg@20")


def made_up(
    folder: Path,
    values: Tensor,
    seed: int = 0,
    changes: Sequence[str] = (),
    order: Sequence[int] | None = None,
    name: str = "made",
) -> Path:
    """A run folder of a recipe, with users' values [n, 2] by recall@20 and ndcg@20 that nobody trained for."""
    folder.mkdir(parents=True)
    recipe = Recipe(name=name, seed=seed).with_changes(*changes)
    (folder / "recipe.toml").write_text(recipe.to_toml())
    (folder / "about.json").write_text(json.dumps({"data": {"name": "shop", "fingerprint": "f00d"}}))
    protocol = recipe.protocol("test")
    scores = {"protocol": protocol.as_dict(), "protocol_hash": protocol.hash, "users": len(values)}
    (folder / "scores.json").write_text(json.dumps(scores))
    users = pl.DataFrame({"user": [f"u{i:05d}" for i in range(len(values))]})
    frame = users.with_columns(pl.Series(n, values[:, i].numpy()) for i, n in enumerate(NAMES))
    (frame if order is None else frame[list(order)]).write_parquet(folder / "users.parquet")
    return folder


def drawn(seed: int, users: int = 40, lift: float = 0.0, taste: Tensor | None = None) -> Tensor:
    """Values [n, 2] between 0 and 1 of users who differ, and of a training that differs from others."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(users, 1, generator=torch.Generator().manual_seed(99)) if taste is None else taste
    noise = torch.rand(users, 2, generator=generator) + 0.2 * torch.rand(1, generator=generator)
    return (0.5 * level + 0.3 * noise + lift).double()


def two_rows(folder: Path, seeds: Sequence[int] = (0, 1, 2), lift: float = 0.05) -> list[Path]:
    """Three runs of one recipe, and three better ones of another."""
    plain = [made_up(folder / f"a{s}", drawn(s), s) for s in seeds]
    return plain + [made_up(folder / f"b{s}", drawn(50 + s, lift=lift), s, ["sampler=dns"]) for s in seeds]


def lines_of(found: Comparison, metric: str = "recall@20") -> list[Line]:
    return [line for line in found.lines if line.metric == metric]


def of(estimate: Estimate | None) -> tuple[float, float, float]:
    assert estimate is not None
    return estimate.value, estimate.low, estimate.high


# the statistics ------------------------------------------------------------------------------------------------------


def slow_t(t: float, freedom: float, steps: int = 200_000) -> float:
    """Student's two-sided p by adding up the density: t = tan a makes the range finite."""
    total = tail = 0.0
    for i in range(steps):
        angle = (i + 0.5) / steps * math.pi / 2
        x = math.tan(angle)
        weight = (1 + x * x / freedom) ** (-(freedom + 1) / 2) / math.cos(angle) ** 2
        total += weight
        tail += weight * (x >= abs(t))
    return tail / total


@pytest.mark.parametrize(("t", "freedom"), [(0.5, 3), (-2.1, 4.7), (1.3, 2), (3.3, 30.5), (0.02, 9)])
def test_student_is_the_area_under_its_density(t: float, freedom: float) -> None:
    assert significance.student(t, freedom) == pytest.approx(slow_t(t, freedom), rel=2e-4)


def test_student_where_the_answer_is_known() -> None:
    for t, freedom, p in ((12.706205, 1, 0.05), (4.302653, 2, 0.05), (2.228139, 10, 0.05), (2.660283, 60, 0.01)):
        assert significance.student(t, freedom) == pytest.approx(p, rel=1e-5)
    for t in (0.3, 1.96, 5.0):
        assert significance.student(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t))
        assert significance.student(-t, 1e7) == pytest.approx(2 * NormalDist().cdf(-t), rel=1e-4)
    assert significance.student(math.inf, 5) != significance.student(0, 5) == 1
    assert significance.student(60, 19_444) < 1e-300


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ([], []),
        ([0.2], [0.2]),
        ([0.01, 0.01, 0.01], [0.03, 0.03, 0.03]),
        ([0.04, 0.01, 0.03, 0.005], [0.06, 0.03, 0.06, 0.02]),
        ([0.6, 0.9, 0.001], [1.0, 1.0, 0.003]),
        ([0.02, 0.011, 0.012], [0.033, 0.033, 0.033]),
    ],
)
def test_holm_by_hand(given: list[float], corrected: list[float]) -> None:
    assert significance.holm(given) == pytest.approx(corrected)


def test_holm_rejects_what_the_steps_reject() -> None:
    draw = random.Random(0)
    for _ in range(200):
        given = [draw.random() ** 4 for _ in range(draw.randint(1, 8))]
        kept, rejected = sorted(given), []
        while kept and kept[0] <= 0.05 / len(kept):
            rejected.append(kept.pop(0))
        assert sorted(p for p, c in zip(given, significance.holm(given), strict=True) if c <= 0.05) == rejected


def test_t_test_is_welch_satterthwaite_over_users_and_seeds() -> None:
    users, seeds = torch.randn(30, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([0.3, 0.1, 0.5])
    parts = [variance(x.tolist()) / len(x) for x in (users, seeds)]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 29 + parts[1] ** 2 / 2)
    wanted = slow_t(0.4 / math.sqrt(sum(parts)), freedom)
    assert significance.t_test(0.4, [users, seeds]) == pytest.approx(wanted, rel=1e-3)
    alone = significance.t_test(0.4, [users, seeds[:1]])  # one seed tells no variance
    assert alone == pytest.approx(slow_t(0.4 / math.sqrt(parts[0]), 29), rel=1e-3) and alone < wanted
    assert significance.t_test(0.0, [users]) == 1 == significance.t_test(0.5, [seeds[:1]])
    assert significance.t_test(0.5, [torch.full((4,), 0.5)]) == 0


def test_resampled_users_are_means_of_users_drawn_with_replacement() -> None:
    values = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)).double()
    means = significance.resampled_users(values, 25, torch.Generator().manual_seed(5))
    again = torch.Generator().manual_seed(5)
    for row in means:  # one draw of all users after another
        who = torch.randint(7, (7,), generator=again)
        assert torch.allclose(row, torch.stack([values[u] for u in who.tolist()]).mean(0))


def test_blocks_of_users_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)).double()
    whole = significance.resampled_users(values, 40, torch.Generator().manual_seed(5))
    monkeypatch.setattr(significance, "CELLS", 170)
    assert torch.allclose(significance.resampled_users(values, 40, torch.Generator().manual_seed(5)), whole)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_resampled_seeds_have_the_variance_of_a_mean(seeds: int) -> None:
    values = torch.arange(seeds).double()[:, None] ** 2
    every = [fmean(values[list(w), 0].tolist()) for w in itertools.product(range(seeds), repeat=seeds - 1)]
    exact = fmean((x - float(values.mean())) ** 2 for x in every)
    assert exact == pytest.approx(variance(values[:, 0].tolist()) / seeds)
    draws = significance.resampled_seeds(values, 40_000, torch.Generator().manual_seed(0))
    assert float(draws.var()) == pytest.approx(exact, rel=0.05)
    assert torch.equal(significance.resampled_seeds(values[:1], 9, torch.Generator()), torch.zeros(9, 1).double())


def test_an_interval_is_the_percentiles_and_skips_what_is_no_number() -> None:
    draws = torch.cat([torch.arange(201.0)[:, None], torch.full((3, 1), math.nan)])
    low, high = significance.interval(draws)
    assert (float(low), float(high)) == pytest.approx((5, 195))


# comparisons ---------------------------------------------------------------------------------------------------------


def test_means_gains_and_p_written_a_second_time(tmp_path: Path) -> None:
    found = compare(two_rows(tmp_path), metrics=["ndcg@20", "recall@20"])
    assert [line.metric for line in found.lines] == ["ndcg@20"] * 2 + ["recall@20"] * 2
    assert (found.reference, found.users, found.data) == ("made sampler=uniform", 40, "shop")
    tested = []
    for m, metric in ((1, "ndcg@20"), (0, "recall@20")):
        tables = [[drawn(k + s, lift=lift)[:, m].tolist() for s in range(3)] for k, lift in ((0, 0.0), (50, 0.05))]
        by_seed = [[fmean(values) for values in table] for table in tables]
        by_user = [[fmean(column) for column in zip(*table, strict=True)] for table in tables]
        base, better = lines_of(found, metric)
        for line, seeds in zip((base, better), by_seed, strict=True):
            assert line.by_seed == pytest.approx(tuple(seeds)) and line.sd == pytest.approx(stdev(seeds))
            assert line.mean.value == pytest.approx(fmean(seeds)) and line.seeds == (0, 1, 2)
            assert line.mean.low < line.mean.value < line.mean.high
        change = [y - x for x, y in zip(*by_user, strict=True)]
        of_seeds = [y - x for x, y in zip(*by_seed, strict=True)]
        assert of(better.gain)[0] == pytest.approx(fmean(change) / fmean(by_user[0]))
        parts = [variance(change) / 40, variance(of_seeds) / 3]
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / 39 + parts[1] ** 2 / 2)
        assert better.p == pytest.approx(slow_t(fmean(change) / math.sqrt(sum(parts)), freedom), rel=1e-3, abs=1e-5)
        assert base.gain is None and base.p is None and base.p_holm is None
        tested.append(better)
    assert [line.p_holm for line in tested] == pytest.approx(significance.holm([line.p or 0 for line in tested]))


def slow_bootstrap(a: Tensor, b: Tensor, resamples: int) -> list[list[float]]:
    """Ends of intervals of b's mean and of its gain on a, values [S, n]: one draw of users and seeds after another."""
    draw, means, gains = random.Random(3), [], []
    (seeds, n), rows = a.shape, [a.tolist(), b.tolist()]
    centre = [fmean(map(fmean, row)) for row in rows]
    user_means = [[fmean(column) for column in zip(*row, strict=True)] for row in rows]
    seed_means = [[fmean(values) for values in row] for row in rows]
    for _ in range(resamples):
        who, which = draw.choices(range(n), k=n), draw.choices(range(seeds), k=seeds - 1)
        one, other = (
            fmean(user_means[i][u] for u in who) + fmean(seed_means[i][s] for s in which) - centre[i] for i in (0, 1)
        )
        means.append(other)
        gains.append((other - one) / one)
    return [[sorted(x)[round(q * (resamples - 1))] for q in (0.025, 0.975)] for x in (means, gains)]


def test_intervals_written_a_second_time(tmp_path: Path) -> None:
    found = compare(two_rows(tmp_path), metrics=["recall@20"], resamples=8000)
    a, b = (torch.stack([drawn(k + s, lift=lift)[:, 0] for s in range(3)]) for k, lift in ((0, 0.0), (50, 0.05)))
    better = lines_of(found)[1]
    for ours, slow in zip((of(better.mean), of(better.gain)), slow_bootstrap(a, b, 8000), strict=True):
        width = slow[1] - slow[0]
        assert ours[1:] == pytest.approx(slow, abs=0.05 * width)


def test_intervals_cover_the_truth() -> None:
    """Worlds of users and trainings whose true means are known: how often the intervals hold them."""
    covered = [0, 0]
    rows = [Row(label, "made", tuple(range(5)), ()) for label in "ab"]
    for world in range(300):
        generator = torch.Generator().manual_seed(world)
        taste, trainings = torch.randn(150, 1, generator=generator), torch.randn(2, 5, generator=generator)
        own = torch.randn(2, 150, 5, generator=generator)
        values = [10.0 + row + taste + 0.5 * own[row] + 0.05 * trainings[row] for row in (0, 1)]  # [n, S]
        measured = [Means(table.mean(1, keepdim=True).double(), table.mean(0)[:, None].double()) for table in values]
        (_, _), (mean, gain) = estimated(rows, measured, 0, 400, seed=world)
        for i, (truth, estimate) in enumerate(((11.0, mean[0]), (0.1, gain[0]))):
            _, low, high = of(estimate)
            covered[i] += low <= truth <= high
    assert all(0.92 <= count / 300 <= 0.99 for count in covered), covered


def test_equal_runs_gain_nothing_with_certainty(tmp_path: Path) -> None:
    for s in range(3):
        made_up(tmp_path / f"a{s}", drawn(s), s)
        made_up(tmp_path / f"b{s}", drawn(s), s, ["train.patience=7"])
    better = compare([tmp_path]).lines[1]
    assert of(better.gain) == (0, 0, 0) and better.p == 1 == better.p_holm


def test_users_are_paired_whatever_their_order_in_the_file(tmp_path: Path) -> None:
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    for s in range(2):
        made_up(tmp_path / "one" / f"a{s}", drawn(s), s)
        made_up(tmp_path / "one" / f"b{s}", drawn(50 + s), s, ["sampler=dns"])
        made_up(tmp_path / "other" / f"a{s}", drawn(s), s, order=order)
        made_up(tmp_path / "other" / f"b{s}", drawn(50 + s), s, ["sampler=dns"], order=order[::-1] if s else None)
    assert compare([tmp_path / "one"]) == compare([tmp_path / "other"])


def test_pairing_makes_a_small_gain_plain(tmp_path: Path) -> None:
    values = drawn(0, users=200)
    better = values + 0.01 + 0.01 * torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    folders = [made_up(tmp_path / "a", values), made_up(tmp_path / "b", better, changes=["sampler=dns"])]
    moved = torch.randperm(200, generator=torch.Generator().manual_seed(2))
    folders.append(made_up(tmp_path / "c", better[moved], changes=["sampler=popularity"]))
    _, paired, unpaired = lines_of(compare(folders))
    assert paired.p is not None and unpaired.p is not None
    assert paired.p < 1e-6 < 0.05 < unpaired.p
    assert of(paired.gain)[0] == pytest.approx(of(unpaired.gain)[0])
    width = [of(line.gain)[2] - of(line.gain)[1] for line in (paired, unpaired)]
    assert width[0] < 0.4 * width[1]


def test_seeds_are_paired_where_they_are_the_same(tmp_path: Path) -> None:
    shift = [0.0, 0.2, 0.4, 0.6]  # a training that goes well goes well for both
    for s in range(4):
        made_up(tmp_path / f"a{s}", drawn(0) + shift[s], s)
        made_up(tmp_path / f"b{s}", drawn(1) + shift[s] + 0.1, s, ["sampler=dns"])
        made_up(tmp_path / f"c{s}", drawn(1) + shift[s] + 0.1, s + 4, ["sampler=popularity"])
    _, same, other = lines_of(compare([tmp_path]))
    assert same.p is not None and other.p is not None and same.p < 0.01 and other.p > 0.1
    assert of(same.gain)[2] - of(same.gain)[1] < 0.5 * (of(other.gain)[2] - of(other.gain)[1])


def test_a_comparison_can_be_repeated_and_rows_do_not_disturb_each_other(tmp_path: Path) -> None:
    folders = two_rows(tmp_path)
    whole = compare(folders)
    assert compare(folders) == whole != compare(folders, seed=1)
    assert compare(folders[::-1], against="made sampler=uniform").lines[1] == whole.lines[0]
    alone = compare(folders[3:])
    assert of(lines_of(alone)[0].mean) == pytest.approx(of(lines_of(whole)[1].mean))
    assert alone.reference is None and {line.p for line in alone.lines} == {None}
    assert "gain" not in alone.to_text() and "0.0" in alone.to_text()


def test_a_reference_of_zero_gives_no_gain(tmp_path: Path) -> None:
    folders = [made_up(tmp_path / "a", torch.zeros(40, 2).double())]
    folders.append(made_up(tmp_path / "b", drawn(1), changes=["sampler=dns"]))
    found = compare(folders)
    assert found.lines[1].gain is None and found.lines[1].p is not None and "nan" not in found.to_text().lower()
    assert len(found.notes) == 2 and "has one seed" in found.notes[0]
    json.loads(json.dumps(found.as_dict(), allow_nan=False))


def test_rows_are_called_by_what_differs(tmp_path: Path) -> None:
    made_up(tmp_path / "1", drawn(0), changes=["sampler=dns", "sampler.pool=4"])
    made_up(tmp_path / "2", drawn(0), changes=["sampler=dns", "sampler.pool=8", "train.batch=7"])
    made_up(tmp_path / "3", drawn(0), changes=["sampler=dns"])
    made_up(tmp_path / "4", drawn(0), changes=["train.batch=7"], name="other")
    labels = [line.row for line in lines_of(compare([tmp_path]))]
    assert labels == [
        "made sampler.pool=4 train.batch=2048",
        "made sampler.pool=8 train.batch=7",
        "made train.batch=2048",
        "other",
    ]


def test_the_reference_is_named_or_pointed_at(tmp_path: Path) -> None:
    folders = two_rows(tmp_path)
    other = made_up(tmp_path / "elsewhere" / "c", drawn(9), changes=["sampler=popularity"], name="third")
    for against in ("made sampler=dns", folders[4], Run(folders[4]), str(tmp_path / "b[0-9]")):
        assert compare(folders, against=against).reference == "made sampler=dns"
    found = compare(folders, against=other)
    assert found.reference == "third" and [line.row for line in lines_of(found)][-1] == "third"
    assert compare([*folders, other], against="third").reference == "third"
    with pytest.raises(BadOption, match=r"2 rows are called so.*'made sampler=uniform'; 'made sampler=dns'"):
        compare(folders, against="made")
    with pytest.raises(BadOption, match="did you mean 'made sampler=dns'"):
        compare(folders, against="made sampler=dsn")
    with pytest.raises(BadOption, match="holds several recipes"):
        compare(folders, against=tmp_path)


def test_folders_parents_and_patterns_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = two_rows(tmp_path / "all")
    whole = compare(folders)
    monkeypatch.chdir(tmp_path)
    for places in (["all"], ["all/*"], ["al*"], [tmp_path / "all"], [*folders, "all"], [str(tmp_path / "all" / "*")]):
        assert compare(places) == whole
    assert compare(["all/b*", Run(folders[0])]).reference == "made sampler=dns"
    (folders[5] / "scores.json").unlink()
    found = compare(["all"])
    assert found.lines[1].seeds == (0, 1) and "not finished: all/b2" in found.notes[0]
    with pytest.raises(RunBroken, match=r"b2 is not finished: go on with --resume"):
        compare(folders)
    with pytest.raises(BadOption, match="no finished run"):
        compare(["all/b2*"])


def edited(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads((folder / name).read_text())
    change(tree)
    (folder / name).write_text(json.dumps(tree))


def test_runs_that_cannot_be_compared_are_told_apart(tmp_path: Path) -> None:
    folders = two_rows(tmp_path / "runs")
    edited(folders[4], "about.json", lambda tree: tree["data"].update(fingerprint="beef"))
    with pytest.raises(
        RunBroken, match=r"b1 cannot be compared with .*a0: it was made on other data .*beef; not .*f00d"
    ):
        compare(folders)
    hidden = made_up(tmp_path / "m", drawn(0), changes=['evaluate.masked=["train", "valid"]'])
    with pytest.raises(RunBroken, match=r"another protocol \(masked \['train', 'valid'\]; not masked \['train'\]\)"):
        compare([folders[0], hidden])
    with pytest.raises(RunBroken, match="lists other users"):
        compare([folders[0], made_up(tmp_path / "u", drawn(0, users=39), changes=["sampler=dns"])])
    with pytest.raises(BadOption, match="same recipe with the same seed, 0: leave one"):
        compare([folders[0], made_up(tmp_path / "again", drawn(3))])


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    folders = two_rows(tmp_path)
    with pytest.raises(BadOption, match=r"recal@20: not stored by user: did you mean 'recall@20'.*recall@20, ndcg@20"):
        compare(folders, metrics=["recal@20"])
    with pytest.raises(BadOption, match="coverage@20: not stored by user"):
        compare(folders, metrics=["coverage@20"])
    for place, said in (("nowhere", "is no run folder"), (tmp_path / "b00", "did you mean 'b0'"), ("", "empty name")):
        with pytest.raises((RunBroken, BadOption), match=said):
            compare([place])
    with pytest.raises(BadOption, match="no finished run"):
        compare([])
    with pytest.raises(BadOption, match="resamples = 0"):
        compare(folders, resamples=0)
    (folders[1] / "users.parquet").write_text("no table")
    with pytest.raises(RunBroken, match=r"a1/users\.parquet cannot be read"):
        compare(folders)
    (folders[1] / "users.parquet").unlink()
    with pytest.raises(RunBroken, match=r"a1/users\.parquet is missing"):
        compare(folders)
    for name, key in (("about.json", "data"), ("scores.json", "protocol_hash")):
        edited(folders[3], name, lambda tree, key=key: tree.pop(key))  # type: ignore[misc]
        with pytest.raises(RunBroken, match=rf"b0/{name} is damaged"):
            compare([folders[0], folders[3]])
        shutil.copy(folders[0] / name, folders[3] / name)


# texts ---------------------------------------------------------------------------------------------------------------


def test_every_text_holds_the_numbers(tmp_path: Path) -> None:
    found = compare(two_rows(tmp_path))
    for text in (found.to_text(), found.to_markdown(), found.to_latex()):
        for line in found.lines:
            assert f"{line.mean.value:.4f} [{line.mean.low:.4f}" in text.replace("\\", "")
        assert "40 users" in text and "Holm" in text and text.endswith("\n")
    assert json.loads(json.dumps(found.as_dict()))["lines"][1]["by_seed"] == list(found.lines[1].by_seed)
    widths = {len(line.rstrip("* 0123456789.")) for line in found.to_text().splitlines()[:1]}
    assert len(widths) == 1 and found.to_text().splitlines()[0].startswith("metric")


def test_signs_stand_for_themselves() -> None:
    name = "a|b_c*d`e$f%g&h#i{j}k~l^m\\n<o>[p](q)\n-1"
    table = typeset.markdown(["x", "y"], [[name, "-2.5 %"]])
    assert len(table.splitlines()) == 3
    cell = re.split(r"(?<!\\)\|", table.splitlines()[2])[1].strip()
    assert re.sub(r"\\(.)", r"\1", cell) == name.replace("\n", " ")
    assert not re.findall(r"(?<!\\)[*`_\[]", cell)
    latex = typeset.latex(["x", "y"], [[name, "-2.5 %"]]).splitlines()
    assert latex[4].endswith(r"& $-$2.5 \% \\") and len(latex) == 7
    assert r"a\textbar{}b\_c*d`e\$f\%g\&h\#i\{j\}k\textasciitilde{}l\textasciicircum{}m\textbackslash{}n" in latex[4]
    assert typeset.latex_text("s-1, x -1") == "s-1, x $-$1"


# several seeds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0", "", ",", "a", "1,b", "-2", "1.5", "2,2", "1,,2"])
def test_wrong_seeds_are_explained(text: str) -> None:
    with pytest.raises(BadOption, match="--seeds"):
        seeds_of(text, 0)


def short() -> Recipe:
    """A recipe of one short epoch on the small shop."""
    table = {"data": {"name": "shop", "users": 60, "items": 60}, "backbone": {"name": "bprmf", "dim": 8}}
    return Recipe.from_tree({"name": "tiny", "threads": 1, **table, "train": {"batch": 256, "epochs": 1}})


def test_repeat_makes_the_runs_that_train_makes_and_keeps_finished_ones(tmp_path: Path) -> None:
    runs = repeat(short(), [2, 5], tmp_path)
    assert [run.folder.name for run in runs] == ["tiny-s2", "tiny-s5"] and all(run.finished for run in runs)
    alone = train(replace(short(), seed=5), tmp_path / "alone")
    assert alone.scores["test"] == runs[1].scores["test"] != runs[0].scores["test"]
    with pytest.raises(BadOption, match="tiny-s5 already holds a run: go on with --resume"):
        repeat(short(), [7, 5], tmp_path)
    assert not (tmp_path / "tiny-s7").exists()
    made: list[int] = []

    def one(recipe: Recipe, folder: Path, data: Any) -> Run:
        made.append(recipe.seed)
        return train(recipe, folder, data=data)

    assert len(repeat(short(), [2, 5, 6], tmp_path, resume=True, one=one)) == 3 and made == [6]
    assert [folder.parts[0] for _, folder in planned(short(), [1])] == ["runs"]
    with pytest.raises(RunBroken, match="another recipe"):
        repeat(short().with_changes("train.batch=64"), [2], tmp_path, resume=True)


# the commands --------------------------------------------------------------------------------------------------------


def test_training_with_seeds_and_comparing_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foilrec: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(tiny(2))
    code, out, err = foilrec("train", "tiny.toml", "seed=3", "--seeds", 2, "--quiet")
    folders = out.splitlines()[:2]
    assert (code, err) == (0, "") and all(re.fullmatch(r"runs/tiny-\w{8}-s[34]", folder) for folder in folders)
    mean = fmean(Run(folder).scores["test"]["recall@20"] for folder in folders)
    assert f"{mean:.4f} [" in out and "\x1b" not in out
    code, out, err = foilrec("train", "tiny.toml", "sampler=dns", "--seeds", "3,4", "--out", "dns")
    assert code == 0 and out.startswith("dns/tiny-s3\ndns/tiny-s4\n") and err.count("epoch ") == 4
    assert foilrec("train", "tiny.toml", "sampler=dns", "--seeds", "3,4", "--out", "dns")[0] == 2
    again = foilrec("train", "tiny.toml", "sampler=dns", "--seeds", "3,4", "--out", "dns", "--resume")
    assert again == (0, out, "")

    code, out, err = foilrec("compare", "runs", "dns", "--metric", "recall@20,ndcg@10")
    assert (code, err) == (0, "") and "tiny sampler=dns" in out and out.count("ndcg@10") == 4
    for ending in ("md", "tex", "json", "txt"):
        assert foilrec("compare", "runs", "dns", "--out", f"said.{ending}") == (0, f"said.{ending}\n", "")
    assert Path("said.md").read_text().startswith("| metric |") and "\\toprule" in Path("said.tex").read_text()
    said = json.loads(Path("said.json").read_text())
    assert said["reference"] == "tiny sampler=uniform" and len(said["lines"]) == 4
    assert foilrec("compare", "runs", "dns", "--format", "json")[1] == Path("said.json").read_text()
    assert foilrec("compare", "runs", "dns")[1] == Path("said.txt").read_text()
    for words, part in ((("--metric", "recal@20"), "did you mean"), (("--out", "x.pdf"), ".md, .tex")):
        code, out, err = foilrec("compare", "runs", *words)
        assert code == 2 and out == "" and err.startswith("foilrec: ") and part in err


def test_a_terminal_gets_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from foilrec.cli import contest

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    contest.show(compare(two_rows(tmp_path)))
    shown = capsys.readouterr().out
    assert "┃" in shown and "made sampler=dns" in re.sub(r"\x1b\[[\d;]*m", "", shown)


def test_an_interrupted_series_says_how_to_go_on_and_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foilrec: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(tiny(2))
    words = ["train", "tiny.toml", "train.epochs=3", "--seeds", "2", "--out", "all"]
    numbers, true = itertools.count(), Trainer._run

    def stopped(trainer: Trainer, number: int) -> float:
        if next(numbers) == 4:  # in the second epoch of the second run
            raise KeyboardInterrupt
        return true(trainer, number)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_run", stopped)
        code, _, err = foilrec(*words)
    assert code == 130 and err.strip().endswith(
        f"saved in all/tiny-s1; go on with:\n  foilrec {' '.join(words)} --resume"
    )
    assert Run("all/tiny-s0").finished and len(Run("all/tiny-s1").epochs()) == 1
    code, out, err = foilrec(*words, "--resume")
    assert code == 0 and "seed 0" not in err and "recall@20" in out
    assert Run("all/tiny-s1").finished and len(Run("all/tiny-s1").epochs()) == 3
