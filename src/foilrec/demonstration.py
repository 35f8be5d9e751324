"""The demo: the same recommender on the synthetic shop with negatives of three hardnesses, and how false they are."""

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from foilrec.cli.progress import shown
from foilrec.core import Data
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train

SAMPLERS = {
    "uniform": ("sampler.name=uniform",),
    "dns, pool 4": ("sampler.name=dns", "sampler.pool=4"),
    "dns, pool 32": ("sampler.name=dns", "sampler.pool=32"),
}


def demonstrate(out: Path | None = None, seed: int = 0) -> None:
    """Trains LightGCN on the shop with easy, harder and very hard negatives, and prints scores and recommendations."""
    console = Console()
    folder = out or Path(tempfile.mkdtemp(prefix="foilrec-demo-"))
    recipe = Recipe.from_tree(
        {
            "name": "demo",
            "seed": seed,
            "train": {"batch": 1024, "epochs": 60, "patience": 10},
            "optimizer": {"name": "adam", "lr": 0.005},
        }
    )
    data = recipe.read()
    console.print(f"The shop: {data.n_users} users, {data.n_items} items, {len(data.train)} training interactions.")
    runs = {}
    for name, changes in SAMPLERS.items():
        console.print(f"Training LightGCN with {name} negatives ...")
        chosen = recipe.with_changes(*changes)
        with shown(chosen, quiet=not console.is_terminal) as (on_epoch, on_step):
            runs[name] = train(
                chosen,
                folder / f"{name.replace(', ', '-').replace(' ', '')}-s{seed}",
                data=data,
                on_epoch=on_epoch,
                on_step=on_step,
            )
    console.print(_comparison(runs, data))
    console.print(_example(max(runs.values(), key=lambda run: run.scores["valid"]["recall@20"]), data))
    console.print(f"The runs lie in {folder}. Next: foilrec list samplers, foilrec show sampler dns.")


def _comparison(runs: dict[str, Run], data: Data) -> Table:
    table = Table(
        "negatives",
        "recall@20",
        "ndcg@20",
        "false negatives",
        "epochs",
        "CPU s",
        title="Test scores, one seed (the shop knows how likely a drawn item is liked)",
    )
    for name, run in runs.items():
        test = run.scores["test"]
        table.add_row(
            name,
            f"{test['recall@20']:.4f}",
            f"{test['ndcg@20']:.4f}",
            f"{run.hardness(len(data.train))['all'].liked:.1%}",
            str(run.scores["epochs"]),
            f"{run.scores['cpu_seconds']:.1f}",
        )
    return table


def _example(run: Run, data: Data) -> Table:
    assert data.titles is not None and data.user_ids is not None
    table = Table("took in training", "is recommended", title=f"User {data.user_ids[0]}")
    took = [data.titles[i] for i in data.seen.of(0).tolist()][:5]
    table.add_row("\n".join(took), "\n".join(run.recommend([data.user_ids[0]], 5)["title"]))
    return table
