"""How hard and how false every sampler's negatives are on the shop, stage by stage: python -m benchmarks.hardness.

Trains LightGCN (with its content aligned where a sampler needs that) on the synthetic shop, which knows what its users
truly like, and writes docs/hardness.md from the epochs' readings.
"""

import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from foilrec.core import Data
from foilrec.recipe import Recipe
from foilrec.run import Run, train

PAGE = Path("docs/hardness.md")
EPOCHS, SEEDS = 40, (0, 1, 2)
TARGETS = [0.6, 0.75, 0.85, 0.95]
ALIGNED = {"name": "aligned", "inner": {"name": "lightgcn"}}
SCALED = {**ALIGNED, "scale": "unit", "schedule": "cosine"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "uniform": ({"name": "lightgcn"}, {"name": "uniform"}),
    "popularity": ({"name": "lightgcn"}, {"name": "popularity"}),
    "dns, pool 4": ({"name": "lightgcn"}, {"name": "dns", "pool": 4}),
    "dns, pool 32": ({"name": "lightgcn"}, {"name": "dns", "pool": 32}),
    "ccdrec, published": (ALIGNED, {"name": "ccdrec"}),
    "ccdrec, scaled latents": (SCALED, {"name": "ccdrec"}),
    "graded by user": ({"name": "lightgcn"}, {"name": "graded", "targets": TARGETS, "delta": 10}),
    "graded by user, none above the positive": (
        {"name": "lightgcn"},
        {"name": "graded", "targets": TARGETS, "delta": 10, "ceiling": 0.0},
    ),
    "graded by positive": ({"name": "lightgcn"}, {"name": "graded", "targets": TARGETS, "delta": 10, "by": "positive"}),
    "graded by aligned": (SCALED, {"name": "graded", "targets": TARGETS, "delta": 10, "by": "aligned"}),
}
HEAD = f"""# How hard, and how false

Written by `python -m benchmarks.hardness`: LightGCN on the synthetic shop ({EPOCHS} epochs, lr .005, batch 1024, means
over {len(SEEDS)} seeds), with each sampler's negatives as the meter saw them at the end of the epochs of a stage, the
easy ones beside them left out. «Harder than»: the share of the items a user has not taken that the model scores below
the negative. «More alike than»: the same by likeness to the positive. «Truly liked» is the mean probability that the
user likes the negative, which the shop knows; the last column sets it beside uniform draws.

| sampler | epochs | harder than | more alike than | truly liked | over uniform | test Recall@20 |
|---|---|---|---|---|---|---|
"""


def recipe(backbone: dict[str, Any], sampler: dict[str, Any], seed: int) -> Recipe:
    """One case as a recipe."""
    return Recipe.from_tree(
        {
            "name": "hardness",
            "seed": seed,
            "threads": 1,
            "backbone": backbone,
            "sampler": sampler,
            "optimizer": {"name": "adam", "lr": 0.005},
            "train": {"batch": 1024, "epochs": EPOCHS, "patience": 0, "meter": 4096},
        }
    )


def stages(runs: list[Run]) -> dict[str, list[dict[str, float]]]:
    """The hard negatives' readings, by the epochs of a stage: "0-9" -> one reading an epoch and run."""
    by_stage: dict[int, list[tuple[int, dict[str, float]]]] = {}
    for run in runs:
        for line in run.epochs():
            told = line["hardness"]
            hard = max((int(name.split()[1]) for name in told if name.startswith("stage")), default=0)
            by_stage.setdefault(hard, []).append((line["epoch"], told.get(f"stage {hard}", told["all"])))
    spans = {stage: [epoch for epoch, _ in found] for stage, found in by_stage.items()}
    return {
        f"{min(spans[stage])}-{max(spans[stage])}": [reading for _, reading in by_stage[stage]]
        for stage in sorted(by_stage, key=lambda s: min(spans[s]))
    }


def rows(name: str, runs: list[Run]) -> str:
    """The lines of one sampler."""
    score, text = mean(run.scores["test"]["recall@20"] for run in runs), ""
    for epochs, readings in stages(runs).items():
        values = {key: mean(r[key] for r in readings) for key in ("percentile", "similarity", "liked", "liked_ratio")}
        text += (
            f"| {name} | {epochs} | {values['percentile']:.1%} | {values['similarity']:.1%} | {values['liked']:.1%} "
            f"| {values['liked_ratio']:.2f} | {score:.4f} |\n"
        )
    return text


def main() -> None:
    """Trains every case with every seed and writes the page."""
    text, data = HEAD, None
    for name, (backbone, sampler) in CASES.items():
        runs: list[Run] = []
        for seed in SEEDS:
            chosen = recipe(backbone, sampler, seed)
            data = _data(chosen, data)
            runs.append(train(chosen, Path(tempfile.mkdtemp()) / "run", data=data))
        text += rows(name, runs)
        print(rows(name, runs), end="", file=sys.stderr)
    PAGE.write_text(text, encoding="utf-8")


def _data(chosen: Recipe, known: Data | None) -> Data:
    return chosen.read() if known is None else known


if __name__ == "__main__":
    main()
