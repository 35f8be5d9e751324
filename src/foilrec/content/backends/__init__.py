"""Whom to ask: one backend a file, named as on the command line; the folder is the register."""

import importlib
import inspect
import pkgutil
from typing import Any

from foilrec.content.chat import Backend
from foilrec.errors import BadOption, NoSuchPart, did_you_mean


def names() -> list[str]:
    """Every backend: the names of the files in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def build(name: str, **options: Any) -> Backend:
    """A backend by name; BadOption for an option that it does not take or misses, NoSuchPart for an unknown name."""
    if name not in names():
        raise NoSuchPart(
            f"There is no backend {name!r}{did_you_mean(name, names()) or '.'} There are {', '.join(names())}."
        )
    module = importlib.import_module(f"{__name__}.{name}")
    kind = next(made for made in vars(module).values() if getattr(made, "name", None) == name)
    takes = inspect.signature(kind).parameters
    unknown = [option for option in options if option not in takes]
    if unknown:
        raise BadOption(f"Backend {name} takes no {unknown[0]}; it takes {', '.join(takes) or 'no options'}.")
    missing = [option for option, of in takes.items() if of.default is of.empty and option not in options]
    if missing:
        raise BadOption(f"Backend {name} needs {' and '.join(missing)}.")
    made: Backend = kind(**options)
    return made
