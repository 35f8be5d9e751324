"""Classifier-free guidance by several conditions at once: which to leave out, and how outputs are put together."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from foilrec.diffusion.schedules import Schedule
from foilrec.errors import BadOption

NOISE = 0.05  # the most that may be left of a clean vector's variance where a chain starts from pure noise


def subsets(count: int) -> list[tuple[int, ...]]:
    """Every way to take some of `count` conditions, the fewest first.

    >>> subsets(2)
    [(0,), (1,), (0, 1)]
    """
    return [taken for size in range(1, count + 1) for taken in combinations(range(count), size)]


def kept(chance: Tensor, drop: float, count: int) -> Tensor:
    """Which of `count` conditions rows keep in training, bool [N, count], by even chances [N]: one outcome a row.

    Each of the 2^count - 1 ways to lack some has probability `drop`; otherwise all are kept. For two that is 1 - 3 drop
    for both, and drop each for the first alone missing, the second alone, and both.
    """
    lacking = (chance / drop).clamp(max=2**count).long() + 1 if drop else torch.full_like(chance, 2**count).long()
    present = (lacking[:, None] >> torch.arange(count, device=chance.device)) & 1 == 0
    return present.logical_or((lacking >= 2**count)[:, None])


def composed(levels: Sequence[Sequence[int]], scales: Sequence[float]) -> tuple[list[tuple[int, ...]], Tensor]:
    """The subsets of conditions that some levels need, each once, and the share of each subset's output in each level.

    A level (m_1 .. m_k), in its order of composition, is e_0 + s_m1 (e_m1 - e_0) + s_m2 (e_m1m2 - e_m1) + ..., with e
    the outputs under the first of its conditions alone, and scales s by condition: shares [L, S] of sum 1.
    """
    found: dict[tuple[int, ...], int] = {}
    rows: list[dict[int, float]] = []
    for level in levels:
        row: dict[int, float] = {}
        steps = [1.0, *(scales[m] for m in level), 0.0]
        for size in range(len(level) + 1):
            place = found.setdefault(tuple(sorted(level[:size])), len(found))
            row[place] = steps[size] - steps[size + 1]
        rows.append(row)
    shares = torch.zeros(len(rows), len(found))
    for line, row in zip(shares, rows, strict=True):
        for place, share in row.items():
            line[place] = share
    return list(found), shares


def must_end_in_noise(part: str, schedule: Schedule) -> None:
    """Raises BadOption where a chain that starts from pure noise has never seen any in training."""
    left = float(schedule.abar[-1])
    if left > NOISE:
        raise BadOption(
            f"{part} starts its chains from pure noise, and this schedule still has {left:.2f} of the clean vector's "
            f"variance after its {len(schedule)} steps (at most {NOISE}): take schedule = 'cosine' or 'linear-scaled', "
            "or more steps; faithful = true runs it as published."
        )
