"""Finished runs side by side: means over users and seeds, gains paired by user, intervals, and corrected tests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foilrec.comparing import significance
from foilrec.comparing.comparison import Comparison, Estimate, Line
from foilrec.comparing.lineup import Row, check_alike, chosen_metrics, grouped, row_called
from foilrec.errors import BadOption, RunBroken, did_you_mean
from foilrec.numerics import streams
from foilrec.run import Run

if TYPE_CHECKING:
    import polars as pl


def compare(
    runs: Sequence[str | Path | Run],
    *,
    against: str | Path | Run | None = None,
    metrics: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compares finished runs on the same data by the same protocol; those that differ only in the seed are one row.

    runs: run folders, folders that hold some, or patterns such as "runs/baby-*". against: the reference row, by name or
    run folder; the first by default. metrics: such as "recall@20"; by default the one that selected, and ndcg at the
    same place. resamples, seed: of the intervals.
    """
    if resamples < 1:
        raise BadOption(f"resamples = {resamples} must be at least 1; 2000 is usual.")
    found, notes = gathered(runs)
    rows, reference = _rows_and_reference(found, against)
    everyone = [run for row in rows for run in row.runs]
    check_alike(everyone)
    names = chosen_metrics(metrics, _stored(everyone[0]), everyone[0].recipe.train.select)
    measured = _measured(rows, names)
    notes += [f"{row.label} has one seed: how its seeds differ is not known." for row in rows if len(row.seeds) == 1]
    return Comparison(
        lines=tuple(_lines(rows, names, measured, rows.index(reference), resamples, seed)),
        reference=reference.label if len(rows) > 1 else None,
        data=everyone[0].about["data"]["name"],
        users=len(measured[0].users),
        resamples=resamples,
        notes=tuple(notes),
    )


def gathered(places: Sequence[str | Path | Run]) -> tuple[list[Run], list[str]]:
    """The finished runs at some places, each once, and a note on those that are left out because they go on still.

    A folder that is named itself must be finished; of a parent folder or pattern, unfinished runs are left out.
    """
    found: dict[Path, Run] = {}
    going: list[str] = []
    for place in places:
        if not isinstance(place, Run) and not str(place).strip():
            raise BadOption("A run folder has an empty name: write its path.")
        for run, named in _at(place):
            if run.finished:
                found.setdefault(run.folder.resolve(), run)
            elif named:
                raise RunBroken(f"{run.folder} is not finished: go on with --resume, or leave it out.")
            else:
                going.append(str(run.folder))
    if not found:
        where = ", ".join(map(str, places)) or "nothing"
        raise BadOption(f"There is no finished run to compare in {where}: name run folders, or the folder they lie in.")
    return list(found.values()), [f"Left out, not finished: {', '.join(sorted(set(going)))}."] if going else []


def _at(place: str | Path | Run) -> list[tuple[Run, bool]]:
    """The runs at a place, and whether it names them one by one."""
    if isinstance(place, Run):
        return [(place, True)]
    folder = Path(place)
    if (folder / "recipe.toml").is_file():
        return [(Run(folder), True)]
    held = [(Run(each), False) for each in _inside(folder) if (each / "recipe.toml").is_file()]
    if not held:
        beside = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        near = did_you_mean(folder.name, beside) if folder.name not in beside else ""
        raise RunBroken(f"{place} is no run folder, holds none and matches none{near or '.'}")
    return held


def _inside(place: Path) -> list[Path]:
    """What a folder holds, or in the place of a pattern its matches and what they hold, in the order of names."""
    if place.is_dir():
        return sorted(place.iterdir())
    pattern = str(place.relative_to(place.anchor))
    matches = sorted(Path(place.anchor).glob(pattern)) if set("*?[") & set(pattern) else []
    return [inner for each in matches for inner in ([each] if (each / "recipe.toml").is_file() else _inside(each))]


def _rows_and_reference(found: list[Run], against: str | Path | Run | None) -> tuple[list[Row], Row]:
    rows = grouped(found)
    if against is None:
        return rows, rows[0]
    called = None if isinstance(against, Run) else row_called(rows, str(against))
    if called is not None:
        return rows, called
    if not isinstance(against, Run) and not (Path(against).is_dir() or _inside(Path(against))):
        labels = [row.label for row in rows]
        raise BadOption(
            f"--against {against}: no row and no folder is called so{did_you_mean(str(against), labels) or '.'} "
            f"The rows are {', '.join(map(repr, labels))}."
        )
    extra = {run.folder.resolve() for run in gathered([against])[0]}
    rows = grouped(gathered([*found, *sorted(extra)])[0])
    held = [row for row in rows if extra & {run.folder.resolve() for run in row.runs}]
    if len(held) > 1:
        raise BadOption(f"--against {against} holds several recipes: {', '.join(repr(row.label) for row in held)}.")
    return rows, held[0]


def _stored(run: Run) -> list[str]:
    return [name for name in _frame(run).columns if name != "user"]


def _frame(run: Run, names: Sequence[str] | None = None) -> "pl.DataFrame":
    import polars as pl

    path = run.folder / "users.parquet"
    try:
        return pl.read_parquet(path, columns=None if names is None else ["user", *names])
    except FileNotFoundError as error:
        raise RunBroken(f"{path} is missing: put it back from a copy, or train again into a new folder.") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RunBroken(f"{path} cannot be read ({str(error).splitlines()[0]}): put it back from a copy.") from error


@dataclass(frozen=True)
class Means:
    """A row's values by M metrics: each user's mean over the seeds [n, M], each seed's mean over the users [S, M]."""

    users: Tensor
    seeds: Tensor


def _measured(rows: Sequence[Row], names: Sequence[str]) -> list[Means]:
    known, measured = None, []
    for row in rows:
        total, seeds = torch.zeros(()), list[Tensor]()
        for run in row.runs:
            frame = _frame(run, names).sort("user")
            known = frame["user"] if known is None else known
            if not frame["user"].equals(known):
                raise RunBroken(f"{run.folder}/users.parquet lists other users than {rows[0].runs[0].folder}.")
            values = torch.tensor(frame.select(names).to_numpy(), dtype=torch.float64)
            total, seeds = total + values, [*seeds, values.mean(0)]
        measured.append(Means(total / len(seeds), torch.stack(seeds)))
    return measured


def _lines(
    rows: Sequence[Row], names: Sequence[str], measured: Sequence[Means], ref: int, resamples: int, seed: int
) -> list[Line]:
    means_and_gains = estimated(rows, measured, ref, resamples, seed)
    lines = []
    for m, name in enumerate(names):
        for i, (row, means) in enumerate(zip(rows, measured, strict=True)):
            seeds = means.seeds[:, m]
            line = Line(row.label, name, row.seeds, means_and_gains[i][0][m], tuple(seeds.tolist()))
            if len(seeds) > 1:
                line = replace(line, sd=float(seeds.std()))
            if i != ref:
                same = row.seeds == rows[ref].seeds
                line = replace(line, gain=means_and_gains[i][1][m], p=_p(means, measured[ref], m, same_seeds=same))
            lines.append(line)
    tested = [line for line in lines if line.p is not None]
    corrected = dict(zip(map(id, tested), significance.holm([line.p or 0.0 for line in tested]), strict=True))
    return [replace(line, p_holm=corrected.get(id(line))) for line in lines]


def _p(means: Means, base: Means, m: int, *, same_seeds: bool) -> float:
    """The p of a row's difference from the reference by metric m, paired by user and, where they are the same, seed."""
    users = means.users[:, m] - base.users[:, m]
    seeds = [means.seeds[:, m] - base.seeds[:, m]] if same_seeds else [means.seeds[:, m], base.seeds[:, m]]
    return significance.t_test(float(users.mean()), [users, *seeds])


def estimated(
    rows: Sequence[Row], measured: Sequence[Means], ref: int, resamples: int, seed: int
) -> list[tuple[list[Estimate], list[Estimate | None]]]:
    """For each row, by metric: the mean, and the gain on the reference, which is None where that is 0.

    All rows get the same draws of users, and rows with the same seeds the same draws of seeds.
    """
    base = measured[ref]
    columns = [x for means in measured for x in (means.users, means.users - base.users)]
    by_user = significance.resampled_users(torch.cat(columns, 1), resamples, streams.generator(seed, "users"))
    draws = by_user.view(resamples, len(rows), 2, -1)
    by_seed = [
        significance.resampled_seeds(means.seeds, resamples, streams.generator(seed, "seeds", *row.seeds))
        - means.seeds.mean(0)
        for row, means in zip(rows, measured, strict=True)
    ]
    of_base = draws[:, ref, 0] + by_seed[ref]
    found = []
    for i, means in enumerate(measured):
        change = (draws[:, i, 1] + by_seed[i] - by_seed[ref]) / of_base.where(of_base > 0, torch.nan)
        level = base.users.mean(0)
        gain = (means.users - base.users).mean(0) / level.where(level > 0, torch.nan)
        gains = [estimate if estimate.value == estimate.value else None for estimate in _with_ends(gain, change)]
        found.append((_with_ends(means.users.mean(0), draws[:, i, 0] + by_seed[i]), gains))
    return found


def _with_ends(values: Tensor, draws: Tensor) -> list[Estimate]:
    """Values [M] with the ends of the interval of their draws [R, M]."""
    low, high = significance.interval(draws)
    return [Estimate(*three) for three in zip(values.tolist(), low.tolist(), high.tolist(), strict=True)]
