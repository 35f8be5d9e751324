"""Asking again after errors that pass: six tries, 1 to 60 seconds apart, as long as the server asks for."""

import random
from collections.abc import Callable
from typing import TypeVar

from foilrec.errors import ModelFailed

TRIES, FIRST, LONGEST = 6, 1.0, 60.0
PATIENCE = 600.0  # seconds; a server that asks for more is not waited for

Result = TypeVar("Result")


def persist(send: Callable[[], Result], sleep: Callable[[float], None], name: str) -> Result:
    """What send() gives, after as many tries as errors that pass call for; the last error when tries run out.

    sleep: waits so many seconds. name: by which the jitter is drawn.
    """
    for attempt in range(TRIES):
        try:
            return send()
        except ModelFailed as error:
            if not error.passing or attempt == TRIES - 1 or (error.after or 0.0) > PATIENCE:
                raise
            sleep(pause(attempt, error.after, name))
    raise AssertionError("every way out of the loop returns or raises")


def pause(attempt: int, after: float | None, name: str) -> float:
    """Seconds before the next try: exponential with jitter, and never less than the server asks for.

    >>> [round(pause(n, None, "x") / 2**n, 1) <= 1 for n in range(3)], pause(0, 30.0, "x")
    ([True, True, True], 30.0)
    """
    longest = min(LONGEST, FIRST * 2.0**attempt)
    return max(longest * random.Random(f"{name} {attempt}").uniform(0.5, 1.0), after or 0.0)
