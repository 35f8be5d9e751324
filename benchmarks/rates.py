"""Equal chances: every row of CCDRec's tables on Baby tries the same learning rates as the others around its host.

python -m benchmarks.rates [--only NAME ...] [--write-only]. What is kept, validation alone, is in docs/rates.jsonl;
benchmarks.tables prints it. Finished runs are not done again; several processes may share the work.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from foilrec.errors import RunBroken
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train

RUNS, LINES = Path("runs/rates"), Path("docs/rates.jsonl")
RATES = (0.0005, 0.001, 0.002)  # on validation, with seed 0
FEWER = (  # the first two
    "lattice-baby",
    *(f"{sampler}-{host}-baby" for host in ("lattice", "mg") for sampler in ("dns", "mixgcf", "realhns", "ccdrec")),
)
ROWS = (
    "dns-freedom-baby",
    "ccdrec-freedom-baby",
    "mg-freedom-baby",
    "ccdrec-graded-freedom-baby",
    "softmax-freedom-baby",
    "dma-ndi-freedom-baby",
    "freedom-baby",
    "dma-freedom-baby",
    "realhns-freedom-baby",
    "mixgcf-freedom-baby",
    *FEWER,
)


def line(run: Run) -> dict[str, Any]:
    """What is kept of a run: what selected its epoch, nothing of the test set, and whether it was stopped early."""
    select, epochs = run.recipe.train.select, run.epochs()
    best = max(epoch["valid"][select] for epoch in epochs if epoch["valid"])
    return {
        "recipe": run.recipe.name,
        "rate": run.recipe.optimizer.options["lr"],
        "seed": run.recipe.seed,
        "fingerprint": run.about["data"]["fingerprint"],
        "valid": best,
        "epochs": len(epochs),
        "cpu_seconds": sum(epoch["cpu_seconds"] for epoch in epochs),
        "stopped": not run.finished,
    }


def known() -> dict[tuple[str, float], dict[str, Any]]:
    """The stored lines by recipe and rate."""
    lines = map(json.loads, LINES.read_text(encoding="utf-8").splitlines()) if LINES.is_file() else ()
    return {(one["recipe"], one["rate"]): one for one in lines}


def work(name: str, rate: float) -> None:
    """Trains one row at one rate to its end, unless that is done or another process is at it."""
    folder, told = RUNS / f"{name}-{rate:g}", known().get((name, rate))
    if told is not None and not told.get("stopped"):
        return
    recipe = Recipe.load(Path("recipes") / f"{name}.toml", ["seed=0", f"optimizer.lr={rate:g}"])
    try:
        found = line(train(recipe, folder, resume=(folder / "recipe.toml").is_file()))
    except RunBroken as error:
        print(f"{name} at {rate:g}: {error}", flush=True)
        return
    print(f"{name} at {rate:g}: {found['valid']:.4f}", flush=True)
    write()


def write() -> None:
    """The lines of the runs that are here, beside those that are there already."""
    every = known()
    for folder in sorted(path for path in RUNS.glob("*") if (path / "recipe.toml").is_file()):
        run = Run(folder)
        if run.epochs():
            found = line(run)
            every[found["recipe"], found["rate"]] = found
    LINES.write_text("".join(json.dumps(every[key]) + "\n" for key in sorted(every)), encoding="utf-8")


def main() -> None:
    """Trains what is missing, then writes."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--only", nargs="*", default=list(ROWS))
    asked.add_argument("--write-only", action="store_true")
    chosen = asked.parse_args()
    for name in [] if chosen.write_only else chosen.only:
        for rate in RATES[:2] if name in FEWER else RATES:
            work(name, rate)
    write()


if __name__ == "__main__":
    main()
