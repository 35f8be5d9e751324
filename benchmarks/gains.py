"""Does it help? Generated negatives beside uniform and hard ones, on several hosts and data sets: docs/gains.md.

python -m benchmarks.gains [--only HOST ...] [--seeds 0,1,2] [--write-only]. A host is a recipe with uniform
negatives. Each method is given the same number of settings; the first seed tries them all, and the one that is best on
validation gets the other seeds. Finished runs are kept; several processes may share the work.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from foilrec.comparing.compare import compare
from foilrec.comparing.comparison import Line
from foilrec.errors import FoilrecError
from foilrec.measures import gauges
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train

RUNS, LINES, PAGE = Path("runs/gains"), Path("docs/gains.jsonl"), Path("docs/gains.md")
RATES = (1.0, 0.5)  # of the host's own learning rate: what uniform negatives are given to choose from
RATES_OF = {  # whose own is slow
    "lightgcn-lfm2k": (4.0, 1.0),
    "freedom-lfm2k": (4.0, 1.0),
    "freedom-baby": (4.0, 1.0),
    "lightgcn-ml1m": (4.0, 1.0),
}
HARD = ('push="easy"', "pool=4")
SETTINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "softmax": (("count=8",), ("count=32",)),
    "dns": (("pool=2",), ("pool=4",)),
    "adar": (('boundary="pair"', "weight=0.25"), ('boundary="quantile"', "weight=0.1")),
    "adar-push": (('push="easy"', "weight=0.1"), ('push="easy"', "weight=0.25")),
    "adar-hard": ((*HARD, "weight=0.1"), (*HARD, "weight=0.25")),
    "gdnsm": (("start_epoch=10", "beta=0.1"), ("start_epoch=30", "beta=0.3")),
    "gdnsm-push": (('push="easy"', "start_epoch=10", "beta=0.1"), ('push="easy"', "start_epoch=30", "beta=0.3")),
    "gdnsm-hard": ((*HARD, "start_epoch=10", "beta=0.1"), (*HARD, "start_epoch=30", "beta=0.3")),
    "cnsdiff": (("contrast=0.0",), ("contrast=0.1",)),
}
HIT = "hit@10"  # shown where ndcg@10 is chosen by: what is published of sequential recommenders
LOSSES = {"softmax": "loss=softmax"}  # methods that are uniform negatives under another loss
ANY = ("uniform", "softmax", "dns", "adar", "adar-push", "adar-hard")
GUIDED = ("gdnsm", "gdnsm-push", "gdnsm-hard")
HOSTS: dict[str, tuple[str, ...]] = {
    "bprmf-lastfm": (*ANY, "cnsdiff"),
    "lightgcn-lastfm": (*ANY, "cnsdiff"),
    "lightgcn-lfm2k": (*ANY, *GUIDED, "cnsdiff"),
    "freedom-lfm2k": (*ANY, *GUIDED),
    "lightgcn-tiktok": (*ANY, *GUIDED),
    "freedom-tiktok": (*ANY, *GUIDED),
    "lightgcn-baby": (*ANY, *GUIDED),
    "freedom-baby": (*ANY, *GUIDED),
    "sasrec-beauty": ANY,
    "gru4rec-beauty": ANY,
    "bprmf-ml1m": ANY,
    "lightgcn-ml1m": ANY,
}
OF_HOST: dict[str, tuple[str, ...]] = {  # so that all methods of a host read the same data
    "lightgcn-baby": ("data.surrogate=true",),
    "freedom-baby": ("data.surrogate=true",),
    "lightgcn-ml1m": ("train.epochs=100",),
    "sasrec-beauty": ("train.patience=5", "train.epochs=60"),
    "gru4rec-beauty": ("train.patience=5", "train.epochs=60"),
}
HEAD = """# Does it help?

Test scores of stored runs, written by `python -m benchmarks.gains`. Each method was given two settings, tried with
seed 0; the one that was best on validation is shown, with all its seeds. Uniform negatives chose among two learning
rates, and the others kept theirs. Gains are on uniform negatives, paired by user, with the interval of 95 % of draws
of users and seeds; * marks p < .05 by Holm's correction within the host. «On dns» is the same beside `dns`; «epoch» is
the best one, so that a method whose negatives begin later is uniform's alone. «softmax» is uniform negatives, several
a row, under the sampled softmax; all else keeps the host's loss. «-push» gives each made-up vector's push to the
uniform item beside it (`push = "easy"`); «-hard» has the hardest of four in that item's place, as dns draws it. By the
meter, over all epochs: the share of the catalogue that lies below a negative by the user's score («above»), and the
share of negatives that are held-out items of validation, beside uniform's («false»; made-up vectors are no items).
«Gini@20» is how unevenly items fill the lists; «drift» is how long the mean of all items' vectors is, in mean lengths
of one, with seed 0: near 1 they all point one way, which ranks by popularity.
"""
GENERATED = "features of Baby are 128-d surrogates; its item graphs are the official features' own."
GLANCE = """Gain on uniform negatives in test recall@20, of sequences in NDCG@10; intervals stand in the tables below.
Runs of lightgcn-ml1m end at 100 epochs at most, where uniform's still rise, and those of sequences at 60.
"""


def settings(method: str) -> tuple[tuple[str, ...], ...]:
    """The changes to the host's recipe that a method may choose from, none of them for uniform's rates."""
    return tuple(tuple(f"sampler.{one}" for one in setting) for setting in SETTINGS[method])


def rates_of(host: str) -> tuple[float, ...]:
    """What uniform negatives may choose from, as factors of the host's own rate."""
    return RATES_OF.get(host, RATES)


def recipe_of(host: str, method: str, choice: int, rate: float, seed: int) -> Recipe:
    """The recipe of one run; `rate` is that of the host times a factor."""
    path = Path("recipes") / f"{host}.toml"
    changes = [f"seed={seed}", f"name={method}-{host}", "train.patience=10", *OF_HOST.get(host, ())]
    if method != "uniform":
        changes += [LOSSES.get(method, f"sampler.name={method.split('-')[0]}"), *settings(method)[choice]]
    own = float(Recipe.load(path).optimizer.options["lr"])
    return Recipe.load(path, [*changes, f"optimizer.lr={own * rate:g}"])


def trained(host: str, method: str, choice: int, rate: float, seed: int) -> Run | None:
    """The finished run of a setting and seed; None if another process has it in hand."""
    folder = RUNS / host / f"{method}-{choice}-s{seed}"
    if not done(folder):
        claim = folder.with_suffix(".claim")
        claim.parent.mkdir(parents=True, exist_ok=True)
        if claim.exists() and _alive(claim.read_text()):
            return None
        claim.write_text(str(os.getpid()))
        begun = (folder / "recipe.toml").is_file()
        train(recipe_of(host, method, choice, rate, seed), folder, resume=begun)
        claim.unlink()
        print(f"{host} {method} setting {choice} seed {seed}: {validation(Run(folder)):.4f}", flush=True)
    return Run(folder)


def validation(run: Run) -> float:
    """What selected the run's epoch, and selects among settings."""
    return float(run.scores["valid"][run.recipe.train.select])


def _alive(number: str) -> bool:
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError):
        return False
    return True


def done(folder: Path) -> bool:
    """Whether a finished run lies there."""
    return (folder / "recipe.toml").is_file() and Run(folder).finished


def best(host: str, method: str) -> int | None:
    """The setting that is best on validation with the first seed; None while not all are tried."""
    count = len(rates_of(host)) if method == "uniform" else len(SETTINGS[method])
    tried = [RUNS / host / f"{method}-{choice}-s0" for choice in range(count)]
    if not all(map(done, tried)):
        return None
    return max(range(count), key=lambda choice: validation(Run(tried[choice])))


def work(host: str, methods: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """Trains what a host lacks: uniform first, whose rate the others take."""
    for method in methods:
        chosen = best(host, "uniform")
        if method != "uniform" and chosen is None:
            return  # another process tries uniform's rates
        tried = rates_of(host)
        rates = tried if method == "uniform" else (tried[chosen or 0],) * len(SETTINGS[method])
        for choice, rate in enumerate(rates):
            trained(host, method, choice, rate, seeds[0])
        final = best(host, method)
        for seed in seeds[1:] if final is not None else ():
            trained(host, method, final or 0, rates[final or 0], seed)


def readings(runs: list[Run]) -> dict[str, float]:
    """The meter's means over the epochs of the hard negatives of some runs."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for epoch in run.epochs():
            stages = epoch.get("hardness") or {}
            hard = [reading for name, reading in stages.items() if name not in ("all", "stage 0")]
            for reading in hard or [stages["all"]] if stages else ():
                for key in ("percentile", "similarity", "false_ratio", "nearest_taken", "to_positive"):
                    if reading.get(key) is not None:
                        found.setdefault(key, []).append(float(reading[key]))
    return {key: mean(values) for key, values in found.items()}


@torch.no_grad()
def drift(run: Run) -> float:
    """How long the items' mean is, in mean lengths of an item: 1 where all items are the same."""
    return gauges.drift(run.model.eval().propagate().items)


def against(picked: dict[str, list[Run]], name: str, metric: str) -> dict[str, Line]:
    """Every method beside the one of that name; nothing where it has not run, or stands alone."""
    runs = [run for each in picked.values() for run in each]
    if len(picked) < 2 or all(run.recipe.name != name for run in runs):
        return {}
    return {line.row: line for line in compare(runs, against=name, metrics=(metric,)).lines}


def interval(line: Line | None) -> list[float] | None:
    """A gain and the ends of its interval."""
    return None if line is None or line.gain is None else [line.gain.value, line.gain.low, line.gain.high]


def percent(gain: list[float] | None) -> str:
    """The same as a reader has it."""
    return "" if gain is None else "{:+.1%} [{:+.1%}, {:+.1%}]".format(*gain).replace("%", " %")


def lines_of(host: str) -> Iterator[dict[str, Any]]:
    """What is kept of a host's finished runs, one line a method."""
    picked: dict[str, list[Run]] = {}
    for method in HOSTS[host]:
        choice = best(host, method)
        if choice is not None:
            picked[method] = [Run(path) for path in sorted((RUNS / host).glob(f"{method}-{choice}-s*")) if done(path)]
    if "uniform" not in picked:
        return
    metric = picked["uniform"][0].recipe.train.select
    on_uniform, on_dns = (against(picked, f"{method}-{host}", metric) for method in ("uniform", "dns"))
    for method, runs in picked.items():
        line = on_uniform.get(f"{method}-{host}")
        yield {
            "host": host,
            "method": method,
            "setting": best(host, method),
            "changes": list(settings(method)[best(host, method) or 0]) if method != "uniform" else [],
            "rate": runs[0].recipe.optimizer.options["lr"],
            "seeds": [run.recipe.seed for run in runs],
            "fingerprint": runs[0].about["data"]["fingerprint"],
            "metric": metric,
            "valid": mean(map(validation, runs)),
            "test": [run.scores["test"][metric] for run in runs],
            "hit": mean(run.scores["test"][HIT] for run in runs),
            "gain": interval(line),
            "p": None if line is None else line.p_holm,
            "on_dns": interval(on_dns.get(f"{method}-{host}")),
            "epochs": [run.scores["best_epoch"] for run in runs],
            "cpu_seconds": mean(run.scores["cpu_seconds"] for run in runs),
            "meter": readings(runs),
            "gini": mean(run.scores["test"]["gini@20"] for run in runs),
            "drift": drift(runs[0]),
        }


def table(lines: list[dict[str, Any]]) -> str:
    """A host's table."""
    hit, told = lines[0]["metric"] == "ndcg@10" and "hit" in lines[0], "drift" in lines[0]
    head = [
        "method",
        "settings",
        "seeds",
        "validation",
        f"test {lines[0]['metric']}",
        *([HIT] if hit else []),
        "gain on uniform [95 %]",
        *(["on dns", "epoch"] if told else []),
        "above",
        "false",
        *(["Gini@20", "drift"] if told else []),
        "CPU s",
    ]
    body = [f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"]
    for one in lines:
        meter = one["meter"]
        cells = [
            one["method"],
            ", ".join([f"lr={one['rate']:g}", *(change.removeprefix("sampler.") for change in one["changes"])]),
            ", ".join(map(str, one["seeds"])),
            f"{one['valid']:.4f}",
            f"{mean(one['test']):.4f}",
            *([f"{one['hit']:.4f}"] if hit else []),
            percent(one["gain"]) + star(one),
            *([percent(one["on_dns"]), f"{mean(one['epochs']):.0f}"] if told else []),
            f"{meter['percentile']:.2f}" if "percentile" in meter else "",
            f"{meter['false_ratio']:.1f}" if "false_ratio" in meter else "",
            *([f"{one['gini']:.2f}", f"{one['drift']:.2f}"] if told else []),
            f"{one['cpu_seconds']:.0f}",
        ]
        body.append(f"| {' | '.join(cells)} |\n")
    return "".join(body)


def overview(kept: dict[str, list[dict[str, Any]]]) -> str:
    """Every host in a line: uniform's score, and each method's gain on it."""
    methods = [
        method for method in SETTINGS if any(one["method"] == method for lines in kept.values() for one in lines)
    ]
    body = [f"| host | uniform | {' | '.join(methods)} |\n|{'---|' * (len(methods) + 2)}\n"]
    for host, lines in kept.items():
        own = {one["method"]: one for one in lines}
        cells = [host, f"{mean(own['uniform']['test']):.4f}", *(glimpse(own[m]) if m in own else "" for m in methods)]
        body.append(f"| {' | '.join(cells)} |\n")
    return "".join(body)


def glimpse(one: dict[str, Any]) -> str:
    """A gain without its interval, and how many seeds it is of where they are fewer than three."""
    seeds = len(one["seeds"])
    return f"{one['gain'][0]:+.1%}{star(one)}".replace("%", " %") + (f" (seeds: {seeds})" if seeds < 3 else "")


def star(one: dict[str, Any]) -> str:
    """What marks a gain beyond chance."""
    return "*" if one["p"] is not None and one["p"] < 0.05 else ""


def write() -> None:
    """The page and its lines: hosts without runs here keep the lines that they have."""
    kept: dict[str, list[dict[str, Any]]] = {}
    for one in map(json.loads, LINES.read_text().splitlines()) if LINES.is_file() else ():
        kept.setdefault(one["host"], []).append(one)
    for host in HOSTS:
        fresh = list(lines_of(host))
        kept |= {host: fresh} if fresh else {}
    every = [host for host in HOSTS if host in kept]
    LINES.write_text("".join(json.dumps(one) + "\n" for host in every for one in kept[host]), encoding="utf-8")
    body = "".join(f"\n## {host}\n\n{table(kept[host])}" for host in every)
    told = f"{HEAD}Where features are used, the {GENERATED}\n\n## All at a glance\n\n{GLANCE}\n"
    PAGE.write_text(told + overview({host: kept[host] for host in every}) + body, encoding="utf-8")


def main() -> None:
    """Trains what is missing, then writes."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--only", nargs="*", default=list(HOSTS))
    asked.add_argument("--seeds", default="0,1,2")
    asked.add_argument("--write-only", action="store_true")
    chosen = asked.parse_args()
    for host in [] if chosen.write_only else chosen.only:
        try:
            work(host, HOSTS[host], tuple(map(int, chosen.seeds.split(","))))
        except FoilrecError as error:
            print(f"{host}: {error}", flush=True)
        write()
    write()


if __name__ == "__main__":
    main()
