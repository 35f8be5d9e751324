"""Every error that foilrec raises on purpose: what was wrong, the value, and the cure, in one paragraph.

FoilrecError
├── NoSuchPart      a name that no backbone, sampler, loss, dataset or optimizer has
├── BadOption       an option, key or value that a part, recipe or command does not take
├── PartsDoNotFit   two parts that cannot work together
├── BadData         a file, column, row or feature that cannot be read as told
├── RunBroken       a run folder that is missing, damaged, or of another data set
├── ModelFailed     a language model, or the server that runs it, that gave no answer
├── OutOfMemory     something larger than what is free
└── MissingExtra    a library that only some features need
"""

import difflib
import math
from collections.abc import Iterable, Mapping

Check = tuple[object, bool, str]  # an option's value, whether it is as it must be, and what is wanted


class FoilrecError(Exception):
    """The root of the tree: the command line prints it without a traceback and exits with 2."""


class NoSuchPart(FoilrecError, LookupError):
    """A recipe or a command names a part that no file in its folder has."""


class BadOption(FoilrecError, TypeError):
    """An option, key or value is unknown, or of the wrong type."""


class PartsDoNotFit(FoilrecError, ValueError):
    """Two parts were put together that cannot work together: the message says why, and what would."""


class BadData(FoilrecError, ValueError):
    """A file cannot be read as told: the message says file, line or row, column, value and cure."""


class RunBroken(FoilrecError, RuntimeError):
    """A run folder is missing, incomplete, damaged, or does not belong to the data at hand."""


class ModelFailed(FoilrecError, RuntimeError):
    """A language model, or the server that runs it, gave no answer.

    passing: asking again may help, after so many seconds if `after` is not None. everywhere: no other question would
    fare better. unsure: it may have worked on the question all the same, and charge for it. status: of HTTP, or 0.
    """

    def __init__(
        self,
        message: str,
        *,
        passing: bool = False,
        after: float | None = None,
        everywhere: bool = False,
        unsure: bool = False,
        status: int = 0,
    ) -> None:
        super().__init__(message)
        self.passing, self.after, self.everywhere, self.unsure = passing, after, everywhere, unsure
        self.status = status


class OutOfMemory(FoilrecError, MemoryError):
    """Something was asked for that takes more memory than there is: the message says how much, and what is free."""


class MissingExtra(FoilrecError, ImportError):
    """A feature needs a library that is not installed: the message is the pip command."""

    def __init__(self, library: str, extra: str, what: str) -> None:
        super().__init__(f"{what} needs {library}, which is not installed: pip install 'foilrec[{extra}]'.")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question with the nearest known word, or nothing: «: did you mean 'dns'?».

    >>> did_you_mean("lightgnc", ["bprmf", "lightgcn"])
    ": did you mean 'lightgcn'?"
    """
    near = difflib.get_close_matches(str(word), list(known), 1)
    return f": did you mean {near[0]!r}?" if near else ""


def must_hold(owner: str, /, **checks: Check) -> None:
    """Raises BadOption on the first option that is not as it must be: name=(value, whether it is, what is wanted).

    A number that is NaN or infinite is refused whatever was checked, also in a list or a table of numbers.

    >>> must_hold("dns", count=(1, True, "at least 1"), pool=(-1, False, "at least 0"))
    Traceback (most recent call last):
    foilrec.errors.BadOption: dns: pool = -1 must be at least 0.
    """
    for name, (value, good, wanted) in checks.items():
        if not (_finite(value) and good):
            raise BadOption(f"{owner}: {name} = {value!r} must be {wanted if _finite(value) else 'finite'}.")


def at_least(bound: float, /, **options: float | None) -> dict[str, Check]:
    """For must_hold: options that must not be below the bound, where they are given.

    >>> must_hold("lightgcn", **at_least(1, dim=64), **at_least(0, layers=-1))
    Traceback (most recent call last):
    foilrec.errors.BadOption: lightgcn: layers = -1 must be at least 0.
    """
    return {name: (value, value is None or value >= bound, f"at least {bound}") for name, value in options.items()}


def above(bound: float, /, **options: float | None) -> dict[str, Check]:
    """For must_hold: options that must lie above the bound, where they are given."""
    return {name: (value, value is None or value > bound, f"above {bound}") for name, value in options.items()}


def below_one(**options: float) -> dict[str, Check]:
    """For must_hold: shares of something of which a part must be left, at least 0 and below 1."""
    return {name: (value, 0 <= value < 1, "at least 0 and below 1") for name, value in options.items()}


def _finite(value: object) -> bool:
    """Whether a value, or what it holds, is nowhere NaN or infinite."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return all(map(_finite, inner)) and not (isinstance(value, float) and not math.isfinite(value))


def some(values: Iterable[object], most: int = 5) -> str:
    """The first few values of many, for a message: «3, 8, 9 and 4 more».

    >>> some(range(7), most=3)
    '0, 1, 2 and 4 more'
    """
    all_of_them = list(values)
    shown = ", ".join(str(value) for value in all_of_them[:most])
    return shown if len(all_of_them) <= most else f"{shown} and {len(all_of_them) - most} more"
