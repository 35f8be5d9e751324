"""A recipe: everything a run follows from, as TOML, checked before anything is read or trained."""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

from foilrec import parts, toml
from foilrec.core import Backbone, Data, Loss, Sampler
from foilrec.errors import BadOption, did_you_mean
from foilrec.evaluation import Protocol
from foilrec.numerics import streams
from foilrec.settings import Settings

MOST_THREADS = 1024  # thousands of them end in a crash below Python
TABLES = {"data": "dataset", "backbone": "backbone", "sampler": "sampler", "loss": "loss", "optimizer": "optimizer"}


@dataclass(frozen=True)
class Part:
    """The name of a part and the options that were given."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """How to evaluate: cut-offs, metrics, and what is hidden from the ranking at test time.

    masked: ["train"] as in MMRec's published tables, or ["train", "valid"].
    """

    ks: tuple[int, ...] = (5, 10, 20, 50)
    metrics: tuple[str, ...] = ("recall", "ndcg", "precision", "map", "hit", "mrr")
    masked: tuple[str, ...] = ("train",)


SETTINGS: dict[str, type[Settings] | type[Ranking]] = {"train": Settings, "evaluate": Ranking}


@dataclass(frozen=True)
class Recipe:
    """Name, seed, five parts, and how to train and evaluate; made by Recipe.load, changed by `with_changes`.

    threads: OpenMP threads (0: as many cores as are free at the start). device: "cpu", "cuda", ...
    """

    name: str = "shop"
    seed: int = 0
    threads: int = 0
    device: str = "cpu"
    data: Part = Part("shop")
    backbone: Part = Part("lightgcn")
    sampler: Part = Part("uniform")
    loss: Part = Part("bpr")
    optimizer: Part = Part("adam")
    train: Settings = field(default_factory=Settings)
    evaluate: Ranking = field(default_factory=Ranking)

    def __post_init__(self) -> None:
        if not 0 <= self.threads <= MOST_THREADS:
            raise BadOption(
                f"threads = {self.threads} must lie between 0 (as many as cores are free) and {MOST_THREADS:,}."
            )
        if not self.name.isprintable() or Path(self.name).name != self.name or self.name in ("", ".."):
            raise BadOption(
                f"name = {self.name!r} must be a text of one line without slashes: run folders are called by it."
            )
        protocol, select = self.protocol("test"), self.train.select
        measured = [f"{metric}@{k}" for metric in protocol.metrics for k in protocol.ks]
        if select not in measured:
            raise BadOption(
                f"train.select = {select!r} is not measured{did_you_mean(select, measured) or '.'} "
                "evaluate.metrics and evaluate.ks must name it."
            )

    @classmethod
    def load(cls, source: str | Path, changes: Sequence[str] = ()) -> "Recipe":
        """Reads a TOML file and applies changes such as "sampler.pool=32"."""
        path = Path(source)
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            near = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
            raise BadOption(f"There is no recipe {path}{did_you_mean(path.name, near) or '.'}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadOption(f"{path} is no TOML file: {error}.") from error
        except OSError as error:
            raise BadOption(f"The recipe {path} cannot be read: {error.strerror}.") from error
        tree.setdefault("name", path.stem)
        return cls.from_tree(tree, changes)

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], changes: Sequence[str] = ()) -> "Recipe":
        """A recipe from nested mappings, every key and option checked."""
        if not isinstance(tree, Mapping):
            raise BadOption(f"A recipe is made of nested mappings, and this is {type(tree).__name__}: {tree!r}.")
        merged = deepcopy(dict(tree))
        for change in sorted(changes, key=_turn):  # a name drops options, so it comes first
            _apply(merged, change)
        known = [f.name for f in fields(cls)]
        for key, value in merged.items():
            if key not in known:
                inner = next((f"{t}.{key}" for t, kind in SETTINGS.items() if hasattr(kind, key)), None)
                near = f": did you mean {inner!r}?" if inner else did_you_mean(key, known)
                raise BadOption(f"A recipe has no key {key!r}{near or '.'} It has {', '.join(known)}.")
            default = getattr(cls, key, None)
            if isinstance(default, int | str) and (type(value) is not type(default)):
                raise BadOption(f"{key} must be {type(default).__name__}, not {value!r}.")
        made: dict[str, Any] = {key: merged[key] for key in ("name", "seed", "threads", "device") if key in merged}
        for key, family in TABLES.items():
            if key in merged:
                made[key] = _part(key, family, merged[key], getattr(cls, key))
        for key, kind in SETTINGS.items():
            made[key] = _settings(key, kind, merged.get(key, {}))
        return cls(**made)

    def with_changes(self, *changes: str) -> "Recipe":
        """The same recipe but for changes such as "seed=3" or "backbone.prune=0.9"."""
        return Recipe.from_tree(self.tree(), changes)

    def tree(self) -> dict[str, Any]:
        """Nested mappings of plain values, as TOML has them."""
        plain: dict[str, Any] = {key: getattr(self, key) for key in ("name", "seed", "threads", "device")}
        for key in TABLES:
            part: Part = getattr(self, key)
            plain[key] = {"name": part.name, **part.options}
        return {**plain, "train": asdict(self.train), "evaluate": _lists(asdict(self.evaluate))}

    def to_toml(self) -> str:
        """The recipe as a file, every default of training and evaluation spelled out."""
        return toml.dumps(self.tree())

    @property
    def digest(self) -> str:
        """A short name for the content: two recipes differ in it if they differ in anything but the name, and in what
        is measured on the way."""
        tree = {key: value for key, value in self.tree().items() if key != "name"}
        tree["train"] = {key: value for key, value in tree["train"].items() if key != "meter"}
        return blake2b(toml.dumps(_in_order(tree)).encode(), digest_size=4).hexdigest()

    def protocol(self, split: str) -> Protocol:
        """How to score a split: validation hides the training items, test what `evaluate.masked` says."""
        masked = ("train",) if split == "valid" else tuple(self.evaluate.masked)
        return Protocol(split=split, masked=masked, ks=tuple(self.evaluate.ks), metrics=tuple(self.evaluate.metrics))

    def read(self) -> Data:
        """The data set."""
        data: Data = parts.build("dataset", self.data.name, **expand(self.data.options)).read()
        return data

    def build(self, data: Data) -> tuple[Backbone, Sampler, Loss]:
        """The parts, their first weights drawn from the seed."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams.key(self.seed, "init"))
            model: Backbone = parts.build("backbone", self.backbone.name, data, **expand(self.backbone.options))
            sampler: Sampler = parts.build("sampler", self.sampler.name, data, **expand(self.sampler.options))
            loss: Loss = parts.build("loss", self.loss.name, **self.loss.options)
        model.seed, sampler.seed = streams.key(self.seed, "backbone"), streams.key(self.seed, "sampler")
        return model, sampler, loss

    def build_backbone(self, data: Data) -> Backbone:
        """The backbone alone, which is all that serving needs."""
        model: Backbone = parts.build("backbone", self.backbone.name, data, **expand(self.backbone.options))
        model.seed = streams.key(self.seed, "backbone")
        return model


def _apply(tree: dict[str, Any], change: str) -> None:
    """Sets one dotted key: "sampler.pool=32". Renaming a part drops the options of the old one; "sampler=dns" drops
    them all."""
    dotted, equals, text = change.partition("=")
    if not equals or not dotted:
        raise BadOption(f"{change!r} is no change: write key=value, such as sampler.pool=32.")
    *path, last = dotted.strip().split(".")
    table = tree
    for step in path:
        table = table.setdefault(step, {})
        if not isinstance(table, dict):
            raise BadOption(f"{change!r}: {step!r} is a value, and has no key {last!r}.")
    value = toml.value_of(text)
    if last in TABLES and not path and not isinstance(value, dict):
        value = {"name": value}
    if last == "name" and path and path[0] in TABLES:
        default: Part = getattr(Recipe, path[0])
        if table.get("name", default.name if len(path) == 1 else None) != value:
            table.clear()
    table[last] = value


def _turn(change: str) -> tuple[bool, int]:
    """Names of parts come before options, outer ones first: a new name drops the options that stood there."""
    *path, last = change.partition("=")[0].strip().split(".")
    names = (last == "name" and bool(path)) or (not path and last in TABLES)
    return not names, len(path) if names else 0


def _part(key: str, family: str, table: Any, default: Part) -> Part:
    if not isinstance(table, Mapping):
        raise BadOption(f"{key} must be a table with a name, such as [{key}] name = {default.name!r}, not {table!r}.")
    name = table.get("name", default.name)
    if not isinstance(name, str):
        raise BadOption(f"{key}.name must be a text, not {name!r}.")
    unset = {option.name for option in parts.options(parts.find(family, name)).values() if option.default is None}
    options = {k: _worded(v) for k, v in table.items() if k != "name" and not (v is None and k in unset)}
    parts.check_options(family, name, options)
    return Part(name, options)


def _worded(value: Any) -> Any:
    """An option as a file has it: None, for which TOML has no word, as "none"."""
    if isinstance(value, Mapping):
        return {key: _worded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_worded, value))
    return "none" if value is None else value


def _settings(key: str, kind: type, table: Any) -> Any:
    if not isinstance(table, Mapping):
        raise BadOption(f"{key} must be a table, not {table!r}.")
    takes = {f.name: f for f in fields(kind)}
    table = {name: [value] if _wants_list(takes, name, value) else value for name, value in table.items()}
    for name, value in table.items():
        if name not in takes:
            raise BadOption(f"[{key}] has no key {name!r}{did_you_mean(name, takes) or '.'} It has {', '.join(takes)}.")
        if not parts.fits(value, takes[name].type):
            kind_of = getattr(takes[name].type, "__name__", "") if isinstance(takes[name].type, type) else ""
            raise BadOption(f"{key}.{name} must be {kind_of or takes[name].type}, not {value!r}.")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in table.items()})


def _wants_list(takes: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether one value stands for a list of one."""
    listed = name in takes and str(takes[name].type).startswith("tuple")
    return listed and isinstance(value, str | int) and not isinstance(value, bool)


def _lists(table: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Where two recipes differ, in words: «train.epochs 3, not 5», the old value first."""
    before, after = (_flat(recipe.tree()) for recipe in (old, new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key} {before.get(key, 'by default')}, not {after.get(key, 'by default')}" for key in keys]


def _flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return found


def _in_order(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: _in_order(value) if isinstance(value, dict) else value for key, value in sorted(tree.items())}


def expand(value: Any) -> Any:
    """Environment variables in a path, or in those of a table or list; FOILREC_DATA stands for ../shared/data where it
    is unset and that exists."""
    if isinstance(value, dict):
        return {key: expand(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(expand(inner) for inner in value)
    if not isinstance(value, str):
        return value
    beside = Path("..", "shared", "data")
    known = {"FOILREC_DATA": str(beside), **os.environ} if beside.is_dir() else os.environ

    def meaning(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not known.get(name):
            raise BadOption(
                f"The path {value!r} names the environment variable {name}, which is not set. Set it, or "
                "write the path out, e.g. data.path=/where/it/lies."
            )
        return known[name]

    return re.sub(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", meaning, value)
