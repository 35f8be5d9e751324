"""The rows of a comparison: runs of one recipe that differ in the seed stand together, and all must be comparable."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from foilrec.errors import BadOption, RunBroken, did_you_mean

if TYPE_CHECKING:
    from foilrec.run import Run


@dataclass(frozen=True)
class Row:
    """One recipe: what it is called in this comparison, its own name, its seeds in rising order, the run of each."""

    label: str
    name: str
    seeds: tuple[int, ...]
    runs: "tuple[Run, ...]"


def grouped(runs: "Sequence[Run]") -> list[Row]:
    """Rows in the order of their first runs; recipes of the same name are told apart by the keys that differ."""
    found: dict[str, dict[int, Run]] = {}
    trees: dict[str, dict[str, Any]] = {}
    for run in runs:
        recipe = run.recipe
        content = replace(recipe, seed=0).digest
        trees.setdefault(content, recipe.tree())
        other = found.setdefault(content, {}).setdefault(recipe.seed, run)
        if other is not run:
            raise BadOption(
                f"{other.folder} and {run.folder} hold the same recipe with the same seed, {recipe.seed}: "
                "leave one of them out."
            )
    labels, rows = _labels(trees), []
    for content, by_seed in found.items():
        seeds = tuple(sorted(by_seed))
        rows.append(Row(labels[content], trees[content]["name"], seeds, tuple(by_seed[seed] for seed in seeds)))
    return rows


def _labels(trees: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    labels = {}
    flat = {content: dict(_flat(tree)) for content, tree in trees.items()}
    for content, tree in trees.items():
        namesakes = [flat[other] for other in trees if trees[other]["name"] == tree["name"]]
        keys = dict.fromkeys(key for one in namesakes for key in one)
        differ = [key for key in keys if len({repr(one.get(key)) for one in namesakes}) > 1]
        own = [f"{key}={flat[content][key]}" for key in differ if key in flat[content]]
        labels[content] = " ".join([tree["name"], *own])
    return labels


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every key but name and seed as one writes it on a command line: sampler, sampler.pool, train.epochs."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        elif above or key not in ("name", "seed"):
            yield f"{above}{key}".removesuffix(".name"), value


def row_called(rows: Sequence[Row], word: str) -> Row | None:
    """The row of that label, or the only one of that name; BadOption if several have the name."""
    alike = [row for row in rows if row.label == word] or [row for row in rows if row.name == word]
    if len(alike) > 1:
        raise BadOption(
            f"--against {word}: {len(alike)} rows are called so; name one in full, or by a run folder of it: "
            f"{'; '.join(repr(row.label) for row in alike)}."
        )
    return alike[0] if alike else None


def check_alike(runs: "Sequence[Run]") -> None:
    """Raises RunBroken unless all runs were made on the same interactions and scored by the same protocol.

    Features may differ: what a method makes of them is what is compared.
    """
    first, *others = runs
    for run in others:
        for what, here, there in (
            ("was made on other data", _data(run), _data(first)),
            ("was made on another split", *_rows(run, first)),
            ("was scored by another protocol", *_protocols(run, first)),
        ):
            if here != there:
                raise RunBroken(
                    f"{run.folder} cannot be compared with {first.folder}: it {what} ({here}; not {there}). "
                    "Compare them apart, or train again with the same settings."
                )


def _data(run: "Run") -> str:
    data = _value(run, "about.json", run.about, "data")
    if not (isinstance(data, dict) and {"name", "fingerprint"} <= set(data)):
        raise RunBroken(f"{run.folder}/about.json is damaged: it does not name the data.")
    if "interactions" in data:
        return f"interactions {data['interactions']}"  # whatever the file is called
    return f"{data['name']}, fingerprint {data['fingerprint']}"


def _rows(run: "Run", other: "Run") -> tuple[str, str]:
    """How many rows train, valid and test have; nothing of runs from before that was noted."""
    rows = [_value(each, "about.json", each.about, "data").get("rows") for each in (run, other)]
    return (f"rows {rows[0]}", f"rows {rows[1]}") if all(rows) else ("", "")


def _protocols(run: "Run", other: "Run") -> tuple[str, str]:
    """What the protocols of two runs differ in, said of each; alike where their hashes are the same."""
    hashes = [_value(each, "scores.json", each.scores, "protocol_hash") for each in (run, other)]
    here, there = (_value(each, "scores.json", each.scores, "protocol") for each in (run, other))
    differ = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    said = [", ".join([f"{key} {each.get(key)}" for key in differ]) for each in (here, there)]
    if hashes[0] == hashes[1] or not differ:
        return hashes[0], hashes[1]
    return said[0], said[1]


def _value(run: "Run", file: str, tree: object, key: str) -> Any:
    if not isinstance(tree, dict) or key not in tree:
        raise RunBroken(f"{run.folder}/{file} is damaged: it has no {key!r}.")
    return tree[key]


def chosen_metrics(asked: Sequence[str], stored: Sequence[str], select: str) -> list[str]:
    """The metrics asked for, each once, if they are stored by user; by default what selected, and its ndcg."""
    if not asked:
        return [name for name in dict.fromkeys([select, f"ndcg@{select.partition('@')[2]}"]) if name in stored]
    for name in asked:
        if name not in stored:
            raise BadOption(
                f"--metric {name}: not stored by user{did_you_mean(name, stored) or '.'} There are {', '.join(stored)}."
            )
    return list(dict.fromkeys(asked))
