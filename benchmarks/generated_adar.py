"""What ADAR's negatives cost beside a step of LightGCN on data of Baby's size: python -m benchmarks.generated_adar."""

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from benchmarks.world import like_baby
from foilrec import parts
from foilrec.core import Batch, Data, Tables
from foilrec.numerics import memory
from foilrec.trainer import Objective

BATCH, ROUNDS, LAYERS = 2048, 40, 3
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform, one a row": ("uniform", {}),
    "uniform, two a row": ("uniform", {"count": 2}),
    "adar": ("adar", {}),
    "adar, an item pushed in its place": ("adar", {"push": "easy"}),
    "adar, scores taken as normal": ("adar", {"sample": 0}),
    "adar, q = .9": ("adar", {"confidence": 0.9}),
    "adar, by draw": ("adar", {"transition": "draw"}),
    "adar, 512 items for the boundary": ("adar", {"sample": 512}),
    "adar, denoised in one step": ("adar", {"reverse": 1}),
}


class Host:
    """LightGCN with a sampler: the least seconds of a step, and of drawing alone."""

    def __init__(self, data: Data, sampler: str, options: dict[str, Any]) -> None:
        torch.manual_seed(0)
        model = parts.build("backbone", "lightgcn", data, layers=LAYERS)
        self.objective = Objective(model, parts.build("sampler", sampler, data, **options), parts.build("loss", "bpr"))
        self.adam = parts.build("optimizer", "adam", self.objective.parameters())
        self.step = self.draw = float("inf")
        with torch.no_grad():
            self.objective.sampler.begin_epoch(1, model, model.propagate())

    def measure(self, batch: Batch) -> None:
        """One step, and one answer of the sampler from whole tables with the vectors that the loss will score."""
        self.step = min(self.step, _seconds(lambda: self._step(batch)))
        with torch.no_grad():
            tables = self.objective.model.propagate()
            query = self.objective.model.query(tables, batch)
            tables.item_rows(batch.positives)  # a loss reads them in any case
            self.draw = min(self.draw, _seconds(lambda: self._draw(tables, batch, query)))

    def _draw(self, tables: Tables, batch: Batch, query: Tensor) -> None:
        self.objective.sampler(tables, batch, query).look_up(self.objective.model, tables)

    def _step(self, batch: Batch) -> None:
        self.adam.zero_grad()
        self.objective(batch).backward()
        self.adam.step()


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def main() -> None:
    """All forms in turn, batch by batch, so that a noisy machine is noisy for all of them."""
    torch.set_num_threads(1)
    memory.keep_large_blocks()
    data = like_baby()
    hosts = {name: Host(data, *form) for name, form in FORMS.items()}
    for batch in islice(data.batches(BATCH, 0, 1), ROUNDS):
        for host in hosts.values():
            host.measure(batch)
    plain = hosts["uniform, one a row"]
    print(
        f"LightGCN, {LAYERS} layers, {BATCH} rows, one thread: a step {1e3 * plain.step:.1f} ms with uniform negatives"
    )
    for name, host in hosts.items():
        more = (host.draw - plain.draw) / plain.step
        whole = host.step / plain.step - 1
        print(f"{name:34} draws in {1e3 * host.draw:5.2f} ms, {more:+6.1%} of a step; a step {whole:+6.1%}")


if __name__ == "__main__":
    main()
