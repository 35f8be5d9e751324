"""From a name in a recipe to a class: the folder is the register, the constructor the only place of a default."""

import importlib
import inspect
import math
import pkgutil
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foilrec.core import Backbone, Loss, Reader, Sampler
from foilrec.errors import BadOption, NoSuchPart, did_you_mean

FAMILIES: dict[str, tuple[str, type]] = {
    "backbone": ("backbones", Backbone),
    "dataset": ("datasets", Reader),
    "loss": ("losses", Loss),
    "optimizer": ("optimizers", torch.optim.Optimizer),
    "sampler": ("samplers", Sampler),
}


@dataclass(frozen=True)
class Option:
    """One keyword-only argument of a part: its name, type and default (Option.REQUIRED if it has none)."""

    REQUIRED = inspect.Parameter.empty
    name: str
    type: Any
    default: Any

    def __str__(self) -> str:
        kind = self.type.__name__ if isinstance(self.type, type) else str(self.type).replace("typing.", "")
        return f"{self.name}: {kind}" + ("" if self.default is self.REQUIRED else f" = {self.default!r}")


def family(word: str) -> str:
    """The family that a word names, singular or plural: "samplers" -> "sampler"."""
    for name, (folder, _) in FAMILIES.items():
        if word in (name, folder):
            return name
    raise NoSuchPart(
        f"There is no family {word!r}{did_you_mean(word, FAMILIES) or '.'} The families are {', '.join(FAMILIES)}."
    )


def names(kind: str) -> list[str]:
    """Every part of a family: the names of the files in its folder."""
    package = importlib.import_module(f"foilrec.{FAMILIES[family(kind)][0]}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def line(kind: str, name: str) -> str:
    """What a part of ours is, in its file's first line; nothing is imported for it.

    >>> line("sampler", "uniform")
    'Uniform negatives.'
    """
    package = importlib.import_module(f"foilrec.{FAMILIES[family(kind)][0]}")
    with (Path(next(iter(package.__path__))) / f"{name}.py").open(encoding="utf-8") as file:
        return file.readline().strip().strip('"')


def find(kind: str, name: str) -> type:
    """The class of a part: "dns", or "mylab.samplers:Mine" for one of your own."""
    kind = family(kind)
    folder, base = FAMILIES[kind]
    if ":" in name:
        return _imported(kind, name, base)
    if name not in names(kind):
        raise NoSuchPart(
            f"There is no {kind} {name!r}{did_you_mean(name, names(kind)) or '.'} "
            f"There are: {', '.join(names(kind))}; «module:Class» names one of your own."
        )
    module = importlib.import_module(f"foilrec.{folder}.{name}")
    return next(
        c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, base) and c.__module__ == module.__name__
    )


def _imported(kind: str, name: str, base: type) -> type:
    module, _, wanted = name.partition(":")
    if not all(module.split(".")):
        raise NoSuchPart(f"{name!r} names no module: write «module:Class» for a part of your own.")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # as `python -m` has it: a file in the folder of the command
    try:
        found = getattr(importlib.import_module(module), wanted)
    except ModuleNotFoundError as error:
        raise NoSuchPart(
            f"{name!r}: there is no module {error.name!r} in this folder or on the path. Go to the folder of its file, "
            "or name that in PYTHONPATH."
        ) from error
    except AttributeError as error:
        raise NoSuchPart(f"{name!r}: module {module!r} has no {wanted!r}.") from error
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise NoSuchPart(f"{name!r} is no {kind}: it must be a class derived from {base.__module__}.{base.__name__}.")
    return found


def options(part: type) -> dict[str, Option]:
    """The keyword-only arguments of a part."""
    hints = typing.get_type_hints(vars(part).get("__init__", object.__init__))
    return {
        p.name: Option(p.name, hints.get(p.name, Any), p.default)
        for p in inspect.signature(part).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }


def check_options(kind: str, name: str, given: dict[str, Any]) -> None:
    """Raises BadOption if a part does not take one of the given options, or lacks a required one."""
    takes = options(find(kind, name))
    for key, word in given.items():
        if key not in takes:
            listed = "; ".join(map(str, takes.values())) or "no options"
            raise BadOption(
                f"{kind} {name!r} has no option {key!r}{did_you_mean(key, [*takes, 'name']) or '.'} It takes {listed}."
            )
        value = meant(takes[key].type, word)
        if (inner := nested(takes[key].type, value)) is not None:
            for table in value if isinstance(value, list | tuple) else [value]:
                check_options(inner, table["name"], {k: v for k, v in table.items() if k != "name"})
        elif _unnamed(takes[key].type, value):
            raise BadOption(f'{kind} {name!r}: {key} holds a part without its name: write {{name = "...", ...}}.')
        elif not fits(value, takes[key].type):
            cure = " Write none for None." if str(word).lower() == "none" else ""
            raise BadOption(f"{kind} {name!r}: {takes[key]} cannot be {word!r}.{cure}")
    missing = [o for o in takes.values() if o.default is Option.REQUIRED and o.name not in given]
    if missing:
        raise BadOption(f"{kind} {name!r} needs {', '.join(map(str, missing))}.")


def meant(hint: Any, word: Any) -> Any:
    """What a recipe's word stands for: "none", which TOML has no word for, is None where an option may be that.

    A text for an option that is a part itself is that part's name.

    >>> meant(float | None, "none"), meant(str | None, "none"), meant(Backbone, "lightgcn")
    (None, 'none', {'name': 'lightgcn'})
    """
    kinds = typing.get_args(hint)
    if isinstance(word, list | tuple) and _is_list(hint):
        return [meant(kinds[0], one) for one in word]
    if not isinstance(word, str):
        return word
    if word == "none" and type(None) in kinds and str not in kinds:
        return None
    return {"name": word} if any(base in (hint, *kinds) for _, base in FAMILIES.values()) else word


def nested(hint: Any, value: object) -> str | None:
    """The family of an option that is a part itself, or several, when the value is a recipe's table for it, or a list
    of tables: name and options."""
    kinds = [hint, *typing.get_args(hint)]
    if _is_list(hint):
        found = {nested(kinds[1], one) for one in value} if isinstance(value, list | tuple) else set()
        return found.pop() if len(found) == 1 else None
    of = next((kind for kind, (_, base) in FAMILIES.items() if base in kinds), None)
    return of if isinstance(value, dict) and isinstance(value.get("name"), str) else None


def _unnamed(hint: Any, value: object) -> bool:
    """Whether an option that is a part itself, or several, holds a table that does not say which part."""
    tables = value if isinstance(value, list | tuple) else [value]
    kinds = [hint, *typing.get_args(hint)]
    is_part = any(base in kinds for _, base in FAMILIES.values())
    return is_part and any(isinstance(table, dict) and "name" not in table for table in tables)


def _is_list(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return origin in (tuple, list) or bool(origin and origin.__name__ == "Sequence")


def fits(value: object, hint: Any) -> bool:
    """Whether a value from a recipe can stand for an option of that type (an int also for a float, NaN for none).

    >>> fits(3, float), fits(True, int), fits([1, 2], tuple[int, ...]), fits("x", float | None), fits(math.nan, float)
    (True, False, True, False, False)
    """
    if hint is Any:
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if _is_list(hint):
        return isinstance(value, list | tuple) and all(fits(v, inner[0]) for v in value)
    if origin is dict or (origin and origin.__name__ == "Mapping"):
        return isinstance(value, dict) and all(fits(v, inner[1]) for v in value.values())
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, hint) if isinstance(hint, type) else True


def build(kind: str, name: str, *given: Any, **chosen: Any) -> Any:
    """The part itself, its options checked; `given` is what the family's contract hands to every member."""
    check_options(kind, name, chosen)
    part = find(kind, name)
    if family(kind) in ("backbone", "sampler") and not given:
        raise BadOption(f"{family(kind)} {name!r} is made for data: foilrec.build({kind!r}, {name!r}, data).")
    takes = options(part)
    for key, word in chosen.items():
        value = chosen[key] = meant(takes[key].type, word)
        if (inner := nested(takes[key].type, value)) is not None:
            several = isinstance(value, list | tuple)
            options_of = [dict(table) for table in (value if several else [value])]
            made = [build(inner, table.pop("name"), *given, **table) for table in options_of]
            chosen[key] = made if several else made[0]
    return part(*given, **chosen)
