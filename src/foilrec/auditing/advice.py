"""What a reading of the hardness meter means, in words: what stands out, the figure it rests on, and what helps."""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

from foilrec.hardness import Reading

EASY = (
    0.55  # mean percentile: uniform gives .50, and with 256 draws (as after each epoch) .55 is 2.8 standard errors off
)
EXTREME = 0.98  # the 2 % that a model likes best are where the held-out positives are
FALSE = 2.0  # times uniform's rate: half of such draws would not have been false by chance
ABOVE = 0.5  # share above the positive: at half, the model tells positives from these negatives no better than a coin
LOPSIDED = 0.2  # the gradient's share of the top 1 %: twenty times what even weights give
STEP = 0.05  # percentile between stages: less is within the noise of a few hundred draws, and no grading
REACHED = 0.5  # distinct items over what uniform draws reach: half the catalogue is then never a negative
REPEATED = 0.1  # share of draws that repeat one of their row: a tenth of the work is done twice
LENGTHS = (0.5, 2.0)  # a made-up vector's length over the items': outside, its score is decided by length alone
COPY = 0.05  # cosine distance to the nearest item: below, a made-up vector says what that item says
DRIFT = 0.7  # the items' mean over their length: trained on items, our hosts stay below .55 (docs/gains.md)
UNSURE = 4.0  # how far apart, as a factor, the bounds of a rate may lie before it tells nothing
EARLY = "Fine in the first epochs; later they are too hard for the model: start with easier ones, or lower the pool."
MADE = (
    "Later than the first epochs it teaches that the best there could be is bad: calibrate them, or corrupt them more."
)


def advise(readings: Mapping[str, Reading]) -> list[str]:
    """A sentence for each thing that stands out among readings by part of the draws; one that nothing does if so."""
    if "all" not in readings:
        return ["The sampler gave no negative for any of the rows that were measured: all were masked."]
    whole = readings["all"]
    found = [*_hard(whole), *_false(whole), *_gradient(whole), *_stages(readings), *_varied(whole), *_made(readings)]
    found += _drifting(whole)
    return found or ["Nothing stands out: neither too easy nor too hard, not false more often than uniform draws."]


def _hard(at: Reading) -> Iterator[str]:
    if at.percentile < EASY:
        than = "as easy as uniform" if at.percentile > 1 - EASY else "easier than uniform"
        yield (
            f"{than}: {ordinal(at.percentile)} percentile by the user's score. Take a sampler that looks at scores, "
            "or raise this one's pool or power where it has one."
        )
    if at.percentile > EXTREME:
        yield (
            f"nearly the hardest there are: {ordinal(at.percentile)} percentile by the user's score, where hidden "
            "positives are. Lower the pool, or keep more than the best."
        )
    if at.above > ABOVE:
        yield f"{at.above:.0%} of the negatives score above their positive. {MADE if _is_made(at) else EARLY}"


def _false(at: Reading) -> Iterator[str]:
    if at.false_ratio is not None and at.false_low is not None and at.false_high is not None:
        bounds = (
            f"{at.hits} of {at.draws} draws are validation positives; 95%: {at.false_low:.1f} to {at.false_high:.1f}"
        )
        if at.false_low > 1 and at.false_ratio >= FALSE:
            yield f"{at.false_ratio:.1f} times as many false negatives as uniform sampling ({bounds}). Draw less hard."
        elif at.liked is None and at.false_high >= FALSE and at.false_high > UNSURE * at.false_low:
            yield f"too few draws to tell how many are false ({bounds} times uniform's rate). Raise --rows."
    if at.liked is not None and at.liked_ratio is not None and at.liked_ratio >= FALSE:
        yield (
            f"{at.liked:.0%} of the negatives would truly be liked, {at.liked_ratio:.1f} times as many as of uniform "
            "ones. Draw less hard."
        )


def _gradient(at: Reading) -> Iterator[str]:
    if at.gradient_top > LOPSIDED:
        yield (
            f"1% of the negatives carry {at.gradient_top:.0%} of the gradient: the rest teach little. Take harder "
            "negatives, or a loss with a higher temperature."
        )


def _stages(readings: Mapping[str, Reading]) -> Iterator[str]:
    stages = sorted((float(name.split()[1]), r.percentile) for name, r in readings.items() if name.startswith("stage "))
    places = [place for _, place in stages]
    if any(b - a < STEP for a, b in pairwise(places)):
        listed = ", ".join(f"{place:.2f}".lstrip("0") for place in places)
        yield (f"stages do not grade: {listed}. Space them by measured percentile, {STEP:.2f} or more apart.")


def _varied(at: Reading) -> Iterator[str]:
    if at.coverage_ratio is not None and at.coverage_ratio < REACHED:
        yield (
            f"the draws reach {at.coverage_ratio:.0%} of the items that as many uniform draws reach (Gini "
            f"{at.gini:.2f}). Mix in uniform ones, or lower the pool or power."
        )
    if at.repeats is not None and at.repeats > REPEATED:
        yield f"{at.repeats:.0%} of the draws repeat an item of the same row. Draw fewer a row, or from a larger pool."


def _made(readings: Mapping[str, Reading]) -> Iterator[str]:
    """Of made-up vectors, by stage or group where there are any; a stage may hold items in the form of vectors."""
    whole, parts = readings["all"], {name: at for name, at in readings.items() if name != "all"} or dict(readings)
    made = [(_which(name), at) for name, at in parts.items() if _is_made(at) and at.nearest != 0]
    for which, at in sorted(made, key=lambda one: -one[1].above)[:1]:
        if at.above > ABOVE >= whole.above:
            yield f"{at.above:.0%} of the made-up vectors{which} score above their positive. {MADE}"
    for which, at in sorted(made, key=lambda one: -abs(math.log(one[1].norm or 1)))[:1]:
        if at.norm is not None and not LENGTHS[0] <= at.norm <= LENGTHS[1]:
            yield (
                f"made-up vectors{which} are {at.norm:.2g} times as long as items: their length decides the score. "
                "Scale them, or their noise."
            )
    for which, at in sorted(made, key=lambda one: 2 if one[1].nearest_cosine is None else one[1].nearest_cosine)[:1]:
        if at.nearest_cosine is not None and at.nearest_cosine < COPY:
            yield (
                f"made-up vectors{which} are next to copies: the nearest item is at cosine distance "
                f"{at.nearest_cosine:.3f}. Real items would do, or move further away."
            )


def _drifting(at: Reading) -> Iterator[str]:
    if at.drift is not None and at.drift > DRIFT:
        cure = (
            'Made-up vectors push no item down: set push = "easy" where the sampler has it, or mix in real items.'
            if _is_made(at)
            else "Look for what every item is given alike, or for a loss that pushes nothing down."
        )
        yield (
            f"the items' vectors point one way: their mean is {at.drift:.2f} as long as they are, so that ranks follow "
            f"popularity. {cure}"
        )


def _is_made(at: Reading) -> bool:
    return at.norm is not None or at.nearest_cosine is not None


def _which(name: str) -> str:
    return "" if name == "all" else f" of {name}"


def ordinal(share: float) -> str:
    """A share as a percentile.

    >>> ordinal(0.51), ordinal(0.12), ordinal(0.93), ordinal(1.0)
    ('51st', '12th', '93rd', '100th')
    """
    n = round(100 * share)
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
