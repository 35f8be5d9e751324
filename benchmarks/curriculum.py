"""CCDRec around FREEDOM: its sampler alone, and a whole epoch with the diffusion and its chain."""

import time
from collections import deque
from itertools import islice

import torch

from benchmarks.clock import Row, Timing
from foilrec import parts
from foilrec.core import Data
from foilrec.trainer import Objective

BATCH, STAGE = 2048, 4  # the dearest stage: its pool is at the end of the chain


def seconds(data: Data, steps: int = 25, **options: object) -> tuple[Timing, Timing]:
    """An epoch of stage 4, all that begins and ends it included, and the part of the sampler's draws in it."""
    model = parts.build("backbone", "aligned", data, inner={"name": "freedom"}, **options)
    sampler = parts.build("sampler", "ccdrec", data, stage=STAGE)
    objective = Objective(model, sampler, parts.build("loss", "bpr")).train()
    adam = parts.build("optimizer", "adam", objective.parameters())

    def step(batch: object) -> None:
        adam.zero_grad()
        objective(batch).backward()
        adam.step()

    def border() -> None:
        model.end_epoch(0)
        model.begin_epoch(1)
        with torch.no_grad():
            sampler.begin_epoch(1, model, model.propagate())

    border()
    batches = list(islice(data.batches(BATCH, 0, 1), steps + 2))
    query = torch.zeros(BATCH, 64)
    for batch in batches[:2]:
        step(batch)
    fixed = _spent(border)
    steps_took = _spent(lambda: deque(map(step, batches[2:]), maxlen=0))
    draws = _spent(lambda: [sampler(None, batch, query) for batch in batches[2:]])
    scale = len(data.train) / BATCH / steps
    whole = Timing(fixed.cpu + scale * steps_took.cpu, fixed.wall + scale * steps_took.wall)
    return whole, Timing(scale * draws.cpu, scale * draws.wall)


def _spent(call: object) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    call()  # type: ignore[operator]
    return Timing(time.process_time() - cpu, time.perf_counter() - wall)


def rows(data: Data, usual: Timing) -> list[Row]:
    """Beside the usual form of plain FREEDOM, which has no diffusion at all."""
    found = []
    for axes in (None, 128):
        whole, draws = seconds(data, axes=axes)
        content = "features whole" if axes is None else f"features on {axes} axes"
        note = f"CPU seconds an epoch, T = 20; the usual form of plain FREEDOM; {content}"
        found.append(Row("CCDRec around FREEDOM", whole.cpu, whole.wall, usual.cpu, usual.wall, 8, note))
    found.append(Row("CCDRec's draws (CNS)", draws.cpu, draws.wall, note="CPU seconds an epoch (bar: 1)"))
    return found
