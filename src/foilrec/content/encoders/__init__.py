"""Items as vectors: an encoder a file, under text/ or image/, named as on the command line; folders are a register."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from foilrec.errors import BadOption, NoSuchPart, did_you_mean

OPEN = {"text": "transformers", "image": "vision"}  # what takes a model by name or folder
MODALITIES = tuple(OPEN)


class Encodes(Protocol):
    """What an encoder of either modality is: contents in, rows of length 1 out.

    Contents are texts, or pictures uint8 [H, W, 3]. name and revision say which encoder, so that nobody mixes rows of
    two; dim is F. A class may also have `about`, plain facts for the record, and `fitted`, true if its constructor
    takes the texts of the catalogue.
    """

    name: str
    revision: str
    dim: int

    def __call__(self, contents: list[Any]) -> Any:
        """Float32 [n, F], a row a content, each a function of its own content; zeros where it says nothing."""


def names(modality: str) -> list[str]:
    """The encoders of a modality: the names of the files in its folder."""
    if modality not in MODALITIES:
        raise BadOption(f"There are no encoders of {modality!r}: take one of {', '.join(MODALITIES)}.")
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__path__[0]) / modality)]))


def find(modality: str, name: str) -> type:
    """The class of an encoder; NoSuchPart for an unknown name."""
    known = names(modality)
    if name not in known:
        raise NoSuchPart(
            f"There is no encoder of {modality} {name!r}{did_you_mean(name, known) or '.'} There are: "
            f"{', '.join(known)}; or name a model, such as ./FOLDER or OWNER/MODEL."
        )
    module = importlib.import_module(f"{__name__}.{modality}.{name}")
    found: type = next(
        made for made in vars(module).values() if inspect.isclass(made) and made.__module__ == module.__name__
    )
    return found


def load(modality: str, name: str, texts: Iterable[str] = (), **options: Any) -> Encodes:
    """An encoder by name, or a model of the library transformers by its folder or its name OWNER/MODEL.

    texts: those of the catalogue, read only by encoders that are fitted to it. BadOption for an option that it does
    not take; MissingExtra for a library that is not there.
    """
    if name not in names(modality) and ("/" in name or Path(name).is_dir()):
        name, options = OPEN[modality], {"model": name} | options
    kind = find(modality, name)
    _check(modality, name, kind, options)
    made: Encodes = kind(*([texts] if getattr(kind, "fitted", False) else []), **options)
    return made


def _check(modality: str, name: str, kind: type, given: dict[str, Any]) -> None:
    from foilrec import parts

    takes = parts.options(kind)
    listed = "; ".join(map(str, takes.values())) or "no options"
    for key, value in given.items():
        if key not in takes:
            raise BadOption(f"Encoder {name} has no option {key!r}{did_you_mean(key, takes) or '.'} It takes {listed}.")
        if not parts.fits(value, takes[key].type):
            raise BadOption(f"Encoder {name}: {takes[key]} cannot be {value!r}.")
    missing = [str(o) for o in takes.values() if o.default is o.REQUIRED and o.name not in given]
    if missing:
        raise BadOption(f"Encoder {name} needs {', '.join(missing)}: --{modality} {name} {modality}.model=NAME.")
