"""What is kept of a run for good: no weights, but all that `foilrec compare` reads, in some 30 kB (docs/kept)."""

import json
import shutil
from pathlib import Path

import polars as pl

from foilrec.run import Run

KEPT = Path("docs/kept")
METRICS, NEXT = ("recall@10", "recall@20", "ndcg@10"), ("hit@10", "ndcg@10")  # NEXT where one item is held out


def keep(run: Run) -> Path:
    """Writes recipe, scores, what is known of the data, and each user's values of a few metrics.

    Users are counted in the order of the run, which is the same for all runs on the same data: no raw id is kept.
    """
    folder = KEPT / f"{run.recipe.name}-s{run.recipe.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("recipe.toml", "scores.json"):
        shutil.copy(run.folder / name, folder / name)
    about = {key: value for key, value in run.about.items() if key != "folder"}
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    told = pl.read_parquet(run.folder / "users.parquet")
    names = METRICS if set(METRICS) <= set(told.columns) else NEXT
    values = told.select(pl.col(names).cast(pl.Float32))
    users = values.with_row_index("user").with_columns(pl.col("user").cast(pl.Int64))
    users.write_parquet(folder / "users.parquet", compression="zstd", compression_level=19)
    return folder


def kept(pattern: str = "*") -> list[Run]:
    """The runs that are kept, by name."""
    return [Run(folder) for folder in sorted(KEPT.glob(pattern)) if (folder / "recipe.toml").is_file()]
