"""GDNSM beside plain FREEDOM: an epoch of each in turn, the generator's chain of several lengths and kinds."""

import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from benchmarks.clock import Row, Timing
from benchmarks.world import like_baby
from foilrec import parts
from foilrec.core import Batch, Data
from foilrec.numerics import memory
from foilrec.trainer import Objective

BATCH, STEPS, TURNS = 2048, 12, 3
WIDTHS = {"image": 128, "text": 128}
FORMS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("T = 5, every step", {"steps": 5, "reverse_steps": None}),
    ("T = 10, every step", {"steps": 10, "reverse_steps": None}),
    ("T = 25, every step", {"steps": 25, "reverse_steps": None}),
    ("T = 50, every step", {"steps": 50, "reverse_steps": None}),
    ("T = 50, 5 of DDIM", {"steps": 50, "reverse_steps": 5}),
    ("T = 50, 5 of DDIM, a pool an epoch", {"steps": 50, "reverse_steps": 5, "refresh": "epoch"}),
    ("no level open: the generator alone learns", {"start_epoch": 10**6}),
)


@dataclass
class Host:
    """FREEDOM with a sampler, and how to spend an epoch on them: its begin, and as many steps as are measured."""

    data: Data
    sampler: str
    options: dict[str, Any]

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        model = parts.build("backbone", "freedom", self.data)
        sampler = parts.build("sampler", self.sampler, self.data, **self.options)
        self.objective = Objective(model, sampler, parts.build("loss", "bpr")).train()
        self.adam = parts.build("optimizer", "adam", self.objective.parameters())

    def epoch(self) -> Timing:
        """CPU and wall seconds of one epoch: the begin in full, and STEPS of the steps scaled up."""
        begin = _spent(self._begin)
        batches = list(islice(self.data.batches(BATCH, 0, 1), STEPS))
        steps, scale = _spent(lambda: self._steps(batches)), len(self.data.train) / BATCH / STEPS
        return Timing(begin.cpu + scale * steps.cpu, begin.wall + scale * steps.wall)

    def _steps(self, batches: list[Batch]) -> None:
        for batch in batches:
            self._step(batch)

    def _begin(self) -> None:
        model, sampler = self.objective.model, self.objective.sampler
        model.begin_epoch(1)
        with torch.no_grad():
            sampler.begin_epoch(1, model, model.propagate())

    def _step(self, batch: Batch) -> None:
        self.adam.zero_grad()
        self.objective(batch).backward()
        self.adam.step()


def _spent(call: Any) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Timing(time.process_time() - cpu, time.perf_counter() - wall)


def rows(data: Data | None = None, bar: float = 1 / 3) -> list[Row]:
    """The least of TURNS epochs, in turn with plain FREEDOM's; every level open but where a row says otherwise."""
    data = like_baby(WIDTHS) if data is None else data
    plain, found = Host(data, "uniform", {}), []
    for name, options in FORMS:
        host = Host(data, "gdnsm", {"start_epoch": 0, **options})
        pairs = [(host.epoch(), plain.epoch()) for _ in range(1 + TURNS)][1:]  # the first may have to compile
        ours, usual = ((min(t.cpu for t in side), min(t.wall for t in side)) for side in zip(*pairs, strict=True))
        note = "CPU seconds an epoch, three vectors a row; plain FREEDOM with uniform negatives"
        found.append(Row(f"GDNSM around FREEDOM, {name}", *ours, *usual, bar=bar, note=note))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    memory.keep_large_blocks()
    for row in rows():
        assert row.usual_cpu is not None and row.ratio is not None
        print(f"{row.what}: {row.ours_cpu:.2f} s, FREEDOM {row.usual_cpu:.2f} s, {1 / row.ratio:.2f} times")
