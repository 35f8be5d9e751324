"""Real data: train every recipe of the table with several seeds, and write docs/results.md from what is stored.

python -m benchmarks.tables [--seeds 1,2,3] [--only NAME ...] [--write-only]. Finished runs are kept and not done again;
an interrupted one goes on. The figures of each run are kept in docs/results.jsonl.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks import rates
from benchmarks.gains import readings
from benchmarks.kept import METRICS, keep, kept
from foilrec.comparing.compare import compare
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train

RUNS, LINES, PAGE = Path("runs/tables"), Path("docs/results.jsonl"), Path("docs/results.md")
SAMPLERS = Path("docs/table3.md")
PUBLISHED = {  # Recall@10 and NDCG@10 as CCDRec's Tables 2 and 3 and Figure 3 print them
    "bprmf-baby": ".0344 .0183",
    "lightgcn-baby": ".0488 .0263",
    "mmgcn-baby": ".0410 .0217",
    "slmrec-baby": ".0486 .0271",
    "bm3-baby": ".0535 .0288",
    "lattice-baby": ".0545 .0291",
    "freedom-baby": ".0626 .0328",
    "mcdrec-baby": ".0651 .0343",
    "mcdrec-centred-baby": ".0651 .0343",
    "mg-freedom-baby": ".0624 .0330",
    "dma-freedom-baby": ".0646 .0342",
    "dma-ndi-freedom-baby": ".0661 .0348",
    "ccdrec-freedom-baby": ".0679 .0356",
    "ccdrec-mg-baby": ".0651 .0344",
    "ccdrec-mcdrec-baby": ".0667 .0354",
    "ccdrec-mcdrec-centred-baby": ".0667 .0354",
    "ccdrec-lattice-baby": ".0596 .0325",
    "dns-lattice-baby": ".0572 .0311",
    "mixgcf-lattice-baby": ".0582 .0316",
    "realhns-lattice-baby": ".0586 .0313",
    "dns-freedom-baby": ".0637 .0339",
    "mixgcf-freedom-baby": ".0654 .0348",
    "realhns-freedom-baby": ".0659 .0351",
    "dns-mg-baby": ".0635 .0336",
    "mixgcf-mg-baby": ".0643 .0342",
    "realhns-mg-baby": ".0644 .0338",
    "bprmf-clothing": ".0191 .0102",
    "lightgcn-clothing": ".0355 .0189",
}
OTHERS_RUNS = {  # Recall@20 of others' runs of published code on the official splits
    "bprmf-baby": ".0570",
    "lightgcn-baby": ".0757",
    "mmgcn-baby": ".0603",
    "slmrec-baby": ".0861",
    "bm3-baby": ".0847",
    "lattice-baby": ".0845",
    "freedom-baby": ".0992",
    "bprmf-clothing": ".0318",
    "lightgcn-clothing": ".0533",
    "lightgcn-tiktok": ".0916",
    "lattice-tiktok": ".0939",
    "bm3-tiktok": ".1064",
    "slmrec-tiktok": ".1008",
}
HEAD = """# Results

Test scores of stored runs, written by `make tables`: the mean over seeds, and the standard deviation between them.
Settings were chosen on validation; each run scored the test set once, from the epoch that was best on validation.
Training items are hidden from the ranking, validation items are not (MMRec's rule). «Paper» is what CCDRec's paper
prints (Recall@10 and NDCG@10) for the authors' own draw of the split and the official features, neither of which can be
had: the labels used here are another draw of the same rule. «Others» is Recall@20 of other people's runs of published
code, on the official draw of Baby and Clothing, and on the very split of tiktok that is used here (whose texts cannot
be had). On Baby the item graphs are built from the official features' own neighbours; where a row uses feature values
(dma, ccdrec and others with content) they are 128-d **surrogates** fitted to those neighbours' cosines.
[comparison.md](comparison.md) and [table3.md](table3.md) set the rows of Baby beside FREEDOM, user by user.

The search for settings was small: the rows of CCDRec's ablation and of its Table 3 around FREEDOM each chose among the
same three learning rates («Equal chances», below), the other recipes were given one or two settings, or those of their
papers; a row may be a little below what it can do.

| recipe | data | seeds | R@10 | R@20 | NDCG@10 | NDCG@20 | paper: R@10 N@10 | others: R@20 | epochs | CPU s a run |
|---|---|---|---|---|---|---|---|---|---|---|
"""
CHANCES = """
## Equal chances

Recall@20 on validation with seed 0 at three learning rates, around LATTICE and for the samplers around MG at two, all
else as in the recipe (`python -m benchmarks.rates`, docs/rates.jsonl). A recipe keeps its rate unless another is better
by more than .001: seeds of one and the same recipe differ by as much (on validation the five of FREEDOM have a standard
deviation of .0017).

| recipe | .0005 | .001 | .002 | the recipe's | CPU s in all |
|---|---|---|---|---|---|
"""
TABLE3 = {  # a host with uniform negatives, and what stands for it in the names of the recipes with others
    host: [f"{sampler}-{short}-baby" for sampler in ("dns", "mixgcf", "realhns", "ccdrec")]
    for host, short in (("lattice-baby", "lattice"), ("freedom-baby", "freedom"), ("mg-freedom-baby", "mg"))
}
SAMPLERS_HEAD = """# Samplers on Baby

CCDRec's Table 3, as far as its rows are trained: each host with uniform negatives and with others, by `make tables`.
What is kept of these runs (docs/kept) is enough to compare others with them, user by user. CCDRec's content is 128-d
**surrogates**. The paper's own figures, and the learning rates that each row tried, stand in [results.md](results.md).
Below each comparison is what the meter read of the hard negatives, on average over all epochs: the share of the
catalogue below them by the user's score, and by likeness (cosine) to the positive; how far they lie, where they are
made up, from the positive and from the nearest item that the user has taken, in mean lengths of an item; and how many
times as often as random draws they are held-out items of validation.
"""
READ = {
    "percentile": "below, by score",
    "similarity": "below, by likeness",
    "to_positive": "from the positive",
    "nearest_taken": "from the nearest taken",
    "false_ratio": "false",
}
SEQUENTIAL = """
## What comes next

Leave-one-out over whole sequences: the last item of each user is the test, the one before it validation. The whole
catalogue is ranked, but for what came before. «Epoch» is the best one by validation.

| recipe | data | seeds | HR@10 | HR@20 | NDCG@10 | MRR@10 | epoch | CPU s a run |
|---|---|---|---|---|---|---|---|---|
"""
RANKED, NEXT = ("recall@10", "recall@20", "ndcg@10", "ndcg@20"), ("hit@10", "hit@20", "ndcg@10", "mrr@10")
GRADING = """
## Do the curricula grade?

Read off the meter's lines in the same runs, for recipes whose negatives have stages: the share of the items that a user
has not taken that lie below the stage's negatives, by the user's present score and by likeness (cosine) to the positive
among the present items, over the draws metered in the stage's epochs. Stage 0 is the easy random negative.

| recipe | stage | epochs | by score | by likeness | draws | runs |
|---|---|---|---|---|---|---|
"""


def line(run: Run) -> dict[str, Any]:
    """What is kept of a run."""
    recipe, scores, about = run.recipe, run.scores, run.about
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "digest": recipe.digest,
        "data": about["data"]["name"],
        "fingerprint": about["data"]["fingerprint"],
        "protocol_hash": scores["protocol_hash"],
        "versions": about["versions"],
        "threads": about["threads"],
        "epochs": scores["epochs"],
        "best_epoch": scores["best_epoch"],
        "cpu_seconds": scores["cpu_seconds"],
        "valid": scores["valid"][recipe.train.select],
        "test": {name: scores["test"][name] for name in (RANKED if "recall@20" in scores["test"] else NEXT)},
        "stages": stages(run),
        "hard": readings([run]),
    }


def stages(run: Run) -> dict[str, dict[str, Any]]:
    """How hard the negatives of each stage of a curriculum were over its epochs; {} where there are no stages."""
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for epoch in run.epochs():
        for name, reading in (epoch.get("hardness") or {}).items():
            if name.startswith("stage "):
                found.setdefault(name.removeprefix("stage "), []).append((epoch["epoch"], reading))
    if len(found) < 2:
        return {}
    return {
        stage: {
            "epochs": [read[0][0], read[-1][0]],
            "draws": sum(reading["draws"] for _, reading in read),
            **{axis: mean(reading[axis] for _, reading in read) for axis in ("percentile", "similarity")},
        }
        for stage, read in sorted(found.items())
    }


def row(name: str, lines: list[dict[str, Any]]) -> str:
    """A line of the table."""
    cells = [name, lines[0]["data"], ", ".join(str(one["seed"]) for one in lines)]
    ranked = "recall@20" in lines[0]["test"]
    for metric in RANKED if ranked else NEXT:
        values = [one["test"][metric] for one in lines]
        spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
        cells.append(f"{mean(values):.4f}{spread}")
    cells += [PUBLISHED.get(name, ""), OTHERS_RUNS.get(name, "")] if ranked else []
    cells.append(f"{mean(one['epochs' if ranked else 'best_epoch'] for one in lines):.0f}")
    cells.append(f"{mean(one['cpu_seconds'] for one in lines):.0f}")
    return f"| {' | '.join(cells)} |\n"


def grading(name: str, lines: list[dict[str, Any]]) -> str:
    """The lines of the second table: one a stage of the recipe's curriculum, its runs together."""
    metered = [one for one in lines if one.get("stages")]
    found = ""
    for stage in sorted({stage for one in metered for stage in one["stages"]}):
        read = [one["stages"][stage] for one in metered if stage in one["stages"]]
        draws = sum(each["draws"] for each in read)
        axes = [sum(each[axis] * each["draws"] for each in read) / draws for axis in ("percentile", "similarity")]
        first, last = min(each["epochs"][0] for each in read), max(each["epochs"][1] for each in read)
        cells = [name, stage, f"{first} - {last}", *(f"{axis:.3f}" for axis in axes), f"{draws:,}", str(len(read))]
        found += f"| {' | '.join(cells)} |\n"
    return found


def write() -> None:
    """The page and its lines, from the finished runs and the lines that are there already."""
    known = (
        {(one["recipe"], one["seed"]): one for one in map(json.loads, LINES.read_text().splitlines())}
        if LINES.is_file()
        else {}
    )
    for folder in sorted(path.parent for path in RUNS.glob("*/recipe.toml")):
        run = Run(folder)
        if run.finished:
            known[run.recipe.name, run.recipe.seed] = line(run)
            keep(run)
    ordered = [known[key] for key in sorted(known)]
    LINES.write_text("".join(json.dumps(one) + "\n" for one in ordered), encoding="utf-8")
    by_recipe: dict[str, list[dict[str, Any]]] = {}
    for one in ordered:
        by_recipe.setdefault(one["recipe"], []).append(one)
    rows = {name: row(name, lines) for name, lines in by_recipe.items()}
    ranked = [name for name, lines in by_recipe.items() if "recall@20" in lines[0]["test"]]
    after = [rows[name] for name in rows if name not in ranked]
    body = "".join(rows[name] for name in ranked) + (SEQUENTIAL + "".join(after) if after else "")
    graded = "".join(grading(name, lines) for name, lines in by_recipe.items())
    PAGE.write_text(HEAD + body + chances() + (GRADING + graded if graded else ""), encoding="utf-8")
    write_samplers()


def chances() -> str:
    """The table of learning rates tried on validation, and which of them each recipe has."""
    found = rates.known()
    names = [name for name in rates.ROWS if any((name, rate) in found for rate in rates.RATES)]
    body = ""
    for name in names:
        own = float(Recipe.load(Path("recipes") / f"{name}.toml").optimizer.options["lr"])
        tried = {rate: found[name, rate] for rate in rates.RATES if (name, rate) in found}
        cells = [_tried(tried[rate]) if rate in tried else "" for rate in rates.RATES]
        seconds = sum(one["cpu_seconds"] for one in tried.values())
        body += f"| {name} | {' | '.join(cells)} | {own:g} | {seconds:.0f} |\n"
    return CHANCES + body if body else ""


def _tried(one: dict[str, Any]) -> str:
    return f"{one['valid']:.4f}" + (f" (stopped at epoch {one['epochs']})" if one.get("stopped") else "")


def write_samplers() -> None:
    """CCDRec's Table 3 as far as its runs are kept: the samplers of each host, paired by user with its own."""
    body, lines = "", list(map(json.loads, LINES.read_text(encoding="utf-8").splitlines()))
    for host, names in TABLE3.items():
        runs = [run for name in (host, *names) for run in kept(f"{name}-s*")]
        if {host} < {run.recipe.name for run in runs}:
            found = compare(runs, against=host, metrics=METRICS)
            body += f"\n## {host}\n\n{found.to_markdown()}\n{hard((host, *names), lines)}"
    if body:
        SAMPLERS.write_text(SAMPLERS_HEAD + body, encoding="utf-8")


def hard(names: tuple[str, ...], lines: list[dict[str, Any]]) -> str:
    """What the meter read of the negatives of some recipes, where their stored lines tell it."""
    body = ""
    for name in names:
        read = [one["hard"] for one in lines if one["recipe"] == name and one.get("hard")]
        known = {key: [one[key] for one in read if key in one] for key in READ}
        cells = [f"{mean(values):.3f}" if values else "" for values in known.values()]
        body += f"| {name} | {' | '.join(cells)} |\n" if read else ""
    head = f"| recipe | {' | '.join(READ.values())} |\n|---|{'--:|' * len(READ)}\n"
    return f"\n{head}{body}" if body else ""


def main() -> None:
    """Trains what is missing, then writes."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seeds", default="1,2,3")
    asked.add_argument("--only", nargs="*", default=[])
    asked.add_argument("--write-only", action="store_true")
    chosen = asked.parse_args()
    paths = sorted(path for path in Path("recipes").glob("*.toml") if path.stem != "shop")
    for seed in [] if chosen.write_only else map(int, chosen.seeds.split(",")):
        for path in paths:
            if chosen.only and path.stem not in chosen.only:
                continue
            recipe = Recipe.load(path, [f"seed={seed}"])
            folder = RUNS / f"{recipe.name}-s{seed}"
            run = train(recipe, folder, resume=(folder / "recipe.toml").is_file())
            print(f"{recipe.name} seed {seed}: {run.scores['test'][recipe.train.select]:.4f}", flush=True)
            write()
    write()


if __name__ == "__main__":
    main()
