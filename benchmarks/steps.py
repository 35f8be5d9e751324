"""What each sampler costs in training: an epoch of LightGCN with it, beside the same with uniform negatives."""

from benchmarks import training, world
from benchmarks.clock import Row, Timing, timed
from foilrec import contracts, parts
from foilrec.core import Backbone, Sampler
from foilrec.data import Data
from foilrec.errors import FoilrecError
from foilrec.numerics import memory
from foilrec.trainer import Objective

LAYERED = ("dens", "mixgcf")  # samplers that choose layer by layer
CHOSEN = {"dns": {"pool": 32}}


def epoch(data: Data, model: Backbone, sampler: Sampler) -> Timing:
    """An epoch scaled from some steps, what begins it included."""
    objective = Objective(model, sampler, parts.build("loss", "bpr")).train()
    adam = parts.build("optimizer", "adam", objective.parameters())

    def begin() -> None:
        sampler.begin_epoch(1, model, model.propagate())

    def step(batch: object) -> None:
        adam.zero_grad()
        objective(batch).backward()
        adam.step()

    begin()
    fixed = timed(begin)
    run = training.per_epoch(step, data.batches(training.BATCH, 0, 1), len(data.train) / training.BATCH)
    return Timing(fixed.cpu + run.cpu, fixed.wall + run.wall)


def rows() -> list[Row]:
    """One row a sampler; those that need another backbone are left out, as ccdrec, which has rows of its own."""
    data = world.like_baby({"image": 128})
    memory.keep_large_blocks()
    hosts = {keep: parts.build("backbone", "lightgcn", data, keep_layers=keep) for keep in (False, True)}
    uniform = {keep: epoch(data, host, parts.build("sampler", "uniform", data)) for keep, host in hosts.items()}
    found = []
    for name in parts.names("sampler"):
        part, keep = parts.find("sampler", name), name in LAYERED
        options = CHOSEN.get(name, {}) | contracts._inner_parts(part, data)
        try:
            spent = epoch(data, hosts[keep], part(data, **options))
        except (FoilrecError, TypeError) as error:
            print(f"steps: {name} is left out: {error}")
            continue
        times, bar = spent.cpu / uniform[keep].cpu, 1.5 if name == "dns" else 3
        told = "".join(f", {key} = {value}" for key, value in CHOSEN.get(name, {}).items())
        note = f"CPU seconds an epoch; {times:.2f} times uniform's (bar: at most {bar:g})"
        found.append(Row(f"LightGCN with {name}{told}", spent.cpu, spent.wall, note=note))
    return found
