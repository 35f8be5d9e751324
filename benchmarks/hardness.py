"""How hard and how false every sampler's negatives are on the shop, stage by stage: python -m benchmarks.hardness.

Trains LightGCN (with its content aligned where a sampler needs that) on the synthetic shop, which knows what its users
truly like, and writes docs/hardness.md from the epochs' readings, which docs/hardness.jsonl keeps, a line a run: what
stands there is not trained again.
"""

import json
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train

PAGE, LINES = Path("docs/hardness.md"), Path("docs/hardness.jsonl")
EPOCHS, SEEDS = 40, (0, 1, 2)
MEASURES = ("percentile", "similarity", "liked", "liked_ratio")
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


def kept(run: Run) -> dict[str, Any]:
    """What is kept of a run: seed, test score, and each epoch's reading of the hard negatives with their stage."""
    epochs = []
    for line in run.epochs():
        told = line["hardness"]
        hard = max((int(name.split()[1]) for name in told if name.startswith("stage")), default=0)
        reading = told.get(f"stage {hard}", told["all"])
        epochs.append({"epoch": line["epoch"], "stage": hard, **{key: reading.get(key) for key in MEASURES}})
    return {"seed": run.recipe.seed, "recall@20": run.scores["test"]["recall@20"], "epochs": epochs}


def stages(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """The hard negatives' readings, by the epochs of a stage: "0-9" -> one reading an epoch and run."""
    by_stage: dict[int, list[tuple[int, dict[str, float]]]] = {}
    for line in lines:
        for reading in line["epochs"]:
            by_stage.setdefault(reading["stage"], []).append((reading["epoch"], reading))
    spans = {stage: [epoch for epoch, _ in found] for stage, found in by_stage.items()}
    return {
        f"{min(spans[stage])}-{max(spans[stage])}": [reading for _, reading in by_stage[stage]]
        for stage in sorted(by_stage, key=lambda s: min(spans[s]))
    }


def rows(name: str, lines: list[dict[str, Any]]) -> str:
    """The lines of one sampler."""
    score, text = mean(line["recall@20"] for line in lines), ""
    for epochs, readings in stages(lines).items():
        values = {key: mean(reading[key] for reading in readings) for key in MEASURES}
        text += (
            f"| {name} | {epochs} | {values['percentile']:.1%} | {values['similarity']:.1%} | {values['liked']:.1%} "
            f"| {values['liked_ratio']:.2f} | {score:.4f} |\n"
        )
    return text


def main() -> None:
    """Trains what is not kept yet, case by case with every seed, and writes the page."""
    stored = map(json.loads, LINES.read_text(encoding="utf-8").splitlines()) if LINES.is_file() else ()
    known = {(line["sampler"], line["seed"]): line for line in stored}
    text, data = HEAD, recipe(*CASES["uniform"], 0).read()
    for name, (backbone, sampler) in CASES.items():
        for seed in SEEDS:
            if (name, seed) in known:
                continue
            with tempfile.TemporaryDirectory() as folder:
                run = train(recipe(backbone, sampler, seed), Path(folder) / "run", data=data)
                known[name, seed] = {"sampler": name, **kept(run)}
        lines = [known[name, seed] for seed in SEEDS]
        text += rows(name, lines)
        print(rows(name, lines), end="", file=sys.stderr)
    ordered = [known[name, seed] for name in CASES for seed in SEEDS]
    LINES.write_text("".join(json.dumps(line) + "\n" for line in ordered), encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
