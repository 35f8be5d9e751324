"""Recommenders trained with negatives that are generated, of controlled difficulty, and fitted to the user.

The names below are loaded when first used, so that `import foilrec` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foilrec.core import Backbone, Batch, Loss, Negatives, Reader, Sampler, Tables, score
    from foilrec.data import Data, Features
    from foilrec.evaluation import Protocol, evaluate
    from foilrec.parts import build
    from foilrec.reading import read
    from foilrec.recipe import Recipe
    from foilrec.run import Run
    from foilrec.stretch import train

_HOMES = {
    "core": ("Backbone", "Batch", "Loss", "Negatives", "Reader", "Sampler", "Tables", "score"),
    "data": ("Data", "Features"),
    "evaluation": ("Protocol", "evaluate"),
    "parts": ("build",),
    "reading": ("read",),
    "recipe": ("Recipe",),
    "run": ("Run",),
    "stretch": ("train",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Backbone",
    "Batch",
    "Data",
    "Features",
    "Loss",
    "Negatives",
    "Protocol",
    "Reader",
    "Recipe",
    "Run",
    "Sampler",
    "Tables",
    "build",
    "evaluate",
    "read",
    "score",
    "train",
]


def __getattr__(name: str) -> Any:
    """The late import of a public name (PEP 562)."""
    if name not in _HOME:
        if name == "__version__":
            return import_module("importlib.metadata").version("foilrec")
        raise AttributeError(f"module 'foilrec' has no attribute {name!r}")
    return getattr(import_module(f"foilrec.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return __all__
