"""Generated content in training: the shop and 200 films, NegGen beside uniform and hard negatives.

python -m benchmarks.content_results [--folders] [--only HOST ...] [--seeds 0,1,2] [--write-only] writes
docs/content-results.md. It first makes the folders of generated negatives that are missing, always the same ones, and
says by which commands; --folders stops there. Finished runs are kept.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from foilrec.comparing.compare import compare
from foilrec.data import Data
from foilrec.errors import FoilrecError
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train

RUNS, LINES, PAGE = Path("runs/content"), Path("docs/content-results.jsonl"), Path("docs/content-results.md")
METRICS = ("recall@20", "ndcg@20")
FILMS = "--items $FOILREC_DATA/tiny_ml100k/items.jsonl --text-columns title,genres,summary"
OF_FILMS = (
    f"generate recipes/vbpr-films.toml {FILMS} --lexicon examples/films.toml --modalities text --band .2,.995 "
    "--route delta"
)
COMMANDS = {  # folder: the command that makes it, in this order
    "generated/shop-delta": "generate shop --route delta",
    "generated/shop-data": "data convert shop",
    "generated/shop-features": "encode shop --text tfidf --image colours",
    "generated/shop-pictured": "generate shop --encoder tfidf --balance .4 --route image --image colours",
    "generated/films-features": f"encode $FOILREC_DATA/tiny_ml100k {FILMS} --text hashed",
    "generated/films": OF_FILMS,
    "generated/films-model": f"{OF_FILMS} --backend xllamacpp --model $FOILREC_GGUF --choose --asked 40",
}
DNS = ("sampler.name=dns",)
WORDS = ('sampler.form="words"',)
CAUSAL = {
    "no generated negative in a loss": ("noloss-", ("backbone.beta=0.0", "backbone.alpha=0.0")),
    "whole": ("", ()),
    "no causal part": ("nocausal-", ("backbone.lam=0.0", "backbone.alpha=0.0")),
    "no alignment": ("noalign-", ("backbone.alpha=0.0",)),
    "another item's edits": ("shuffled-", ("backbone.edits=shuffled",)),
}
MODEL = {
    "neggen, features, 40 items' edits chosen by SmolLM2-135M": (
        "neggen-vbpr-films",
        ("sampler.path=generated/films-model",),
    )
}


Rows = dict[str, tuple[str, tuple[str, ...]]]


def host(name: str, form: str, uniform: str = "", *, words: bool = True) -> Rows:
    """The rows of a host: {label: (recipe, changes)}."""
    rows: Rows = {"uniform": (uniform or name, ()), "dns": (uniform or name, DNS)}
    rows[f"neggen, {form}"] = (f"neggen-{name}", ())
    return rows | ({"neggen, real items by words": (f"neggen-{name}", WORDS)} if words else {})


def causal(name: str) -> Rows:
    """The rows of the causal model: its ablations are recipes on the shop, and the same changes elsewhere."""
    if name == "causalneg-shop":
        return {label: (f"causalneg-{ablation}shop", ()) for label, (ablation, _) in CAUSAL.items()}
    return {label: (name, changes) for label, (_, changes) in CAUSAL.items()}


LOOKS, SEES = "real items by features", "features"
HOSTS = {
    "lightgcn-shop": host("lightgcn-shop", LOOKS, "shop"),
    "vbpr-shop": host("vbpr-shop", SEES),
    "freedom-shop": host("freedom-shop", LOOKS),
    "vbpr-pictured-shop": host("vbpr-pictured-shop", "words and edited pictures", words=False),
    "causalneg-shop": causal("causalneg-shop") | {"words alone": ("causalneg-text-shop", ())},
    "lightgcn-films": host("lightgcn-films", LOOKS),
    "vbpr-films": host("vbpr-films", SEES) | MODEL,
    "freedom-films": host("freedom-films", LOOKS),
    "causalneg-films": causal("causalneg-films"),
}
HEAD = """# Generated negatives in training

Test scores of stored runs, written by `python -m benchmarks.content_results`: means over seeds with the standard
deviation between them, and gains on the first row of each table, paired by user, with the interval of 95 % of draws of
users and seeds; * marks p < .05 by Holm's correction within a table and metric. Settings are those of the host's
recipe for all rows: none was searched for. Generated negatives stand beside a uniform one; all are made by `rules`,
which is no model and knows nothing of tastes. How methods and folders are made is in [generate](generate.md), what the
ablations are in [causalneg](fidelity/causalneg.md).

## Folders

"""


def make_folders() -> None:
    """Runs the commands whose folders are missing."""
    for folder, words in COMMANDS.items():
        said = shlex.split(os.path.expandvars(words))
        if Path(folder).exists() or any(word.startswith("$") for word in said):
            continue
        out = [folder] if said[:2] == ["data", "convert"] else ["--out", folder]
        print("foilrec", words, *out, flush=True)
        script = "from foilrec.cli import main; main()"
        subprocess.run([sys.executable, "-c", script, *said, *out], check=True, stderr=subprocess.DEVNULL)


def label_of(name: str, label: str) -> str:
    """What a row's runs are called."""
    return f"{name}: {label}"


def work(name: str, seeds: list[int]) -> None:
    """Trains what a host lacks."""
    data: Data | None = None
    for label, (path, changes) in HOSTS[name].items():
        for seed in seeds:
            folder = RUNS / name / f"{label.replace(' ', '-').replace(',', '')}-s{seed}"
            if (folder / "scores.json").is_file():
                continue
            recipe = Recipe.load(Path("recipes") / f"{path}.toml", ["threads=1", *changes, f"seed={seed}"])
            recipe = replace(recipe, name=label_of(name, label))
            data = recipe.read() if data is None else data
            run = train(recipe, folder, data=data, resume=(folder / "recipe.toml").is_file())
            print(f"{label_of(name, label)} seed {seed}: {run.scores['test']['recall@20']:.4f}", flush=True)


def lines_of(name: str) -> Iterator[dict[str, Any]]:
    """What is kept of a host's finished runs, one line a row; nothing unless all rows have some."""
    runs = [run for run in map(Run, sorted((RUNS / name).glob("*-s*"))) if run.finished]
    called = {label_of(name, label): label for label in HOSTS[name]}
    if {run.recipe.name for run in runs} != set(called):
        return
    found = compare(runs, against=next(iter(called)), metrics=METRICS)
    for called_so, label in called.items():
        mine = [run for run in runs if run.recipe.name == called_so]
        by_metric = {line.metric: line for line in found.lines if line.row == called_so}
        yield {
            "host": name,
            "row": label,
            "recipe": HOSTS[name][label][0],
            "changes": list(HOSTS[name][label][1]),
            "seeds": [run.recipe.seed for run in mine],
            "fingerprint": mine[0].about["data"]["fingerprint"],
            "test": {metric: list(line.by_seed) for metric, line in by_metric.items()},
            "gain": {
                m: line.gain and [line.gain.value, line.gain.low, line.gain.high] for m, line in by_metric.items()
            },
            "p": {metric: line.p_holm for metric, line in by_metric.items()},
            "epochs": mean(run.scores["epochs"] for run in mine),
            "cpu_seconds": mean(run.scores["cpu_seconds"] for run in mine),
        }


def table(lines: list[dict[str, Any]]) -> str:
    """A host's table."""
    head = ["", "recall@20", "gain [95 %]", "ndcg@20", "gain [95 %]", "seeds", "epochs", "CPU s"]
    text = f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    for one in lines:
        cells = [one["row"]]
        for metric in METRICS:
            values, gain, p = one["test"][metric], one["gain"][metric], one["p"][metric]
            cells.append(f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else ""))
            told = "" if gain is None else "{:+.1%} [{:+.1%}, {:+.1%}]".format(*gain).replace("%", " %")
            cells.append(told + ("*" if p is not None and p < 0.05 else ""))
        cells += [", ".join(map(str, one["seeds"])), f"{one['epochs']:.0f}", f"{one['cpu_seconds']:.0f}"]
        text += f"| {' | '.join(cells)} |\n"
    return text


def folder_lines() -> Iterator[dict[str, Any]]:
    """How each folder of negatives came out."""
    from foilrec.content.datasheet import coverage, makers

    for folder, words in COMMANDS.items():
        sheet = Path(folder) / "datasheet.json"
        if sheet.is_file():
            found = json.loads(sheet.read_text())
            said = coverage(found["items"], found["about"]["word lists"])
            yield {"folder": folder, "command": f"foilrec {words} --out {folder}", "by": makers(found), "items": said}


def write() -> None:
    """The page and its lines: what has no runs or folder here keeps the lines that it has."""
    stored = list(map(json.loads, LINES.read_text().splitlines())) if LINES.is_file() else []
    kept: dict[str, list[dict[str, Any]]] = {}
    for one in [*stored, *folder_lines()]:
        key = one.get("host") or one["folder"]
        kept[key] = [*kept.get(key, []), one] if "host" in one else [one]
    for name in HOSTS:
        kept |= {name: fresh} if (fresh := list(lines_of(name))) else {}
    text = HEAD
    for folder in COMMANDS:
        for one in kept.get(folder, ()):
            text += f"- `{folder}`: {one['by']}; {one['items']}.\n  `{one['command']}`\n"
    text += "".join(f"\n## {name}\n\n{table(kept[name])}" for name in HOSTS if name in kept)
    every = [one for key in (*COMMANDS, *HOSTS) for one in kept.get(key, ())]
    LINES.write_text("".join(json.dumps(one) + "\n" for one in every), encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Makes folders, trains what is missing, writes."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--folders", action="store_true")
    asked.add_argument("--only", nargs="*", default=list(HOSTS))
    asked.add_argument("--seeds", default="0,1,2")
    asked.add_argument("--write-only", action="store_true")
    chosen = asked.parse_args()
    os.environ["PWD"] = str(Path.cwd())  # recipes name generated features from here
    if not chosen.write_only:
        make_folders()
    for name in [] if chosen.folders or chosen.write_only else chosen.only:
        try:
            work(name, list(map(int, chosen.seeds.split(","))))
        except FoilrecError as error:  # data that is not there
            print(f"{name} is left out: {error}", flush=True)
        write()
    if not chosen.folders:
        write()


if __name__ == "__main__":
    main()
