"""An epoch of training on a GPU, beside one thread of the same machine's CPU; nothing where torch finds no GPU."""

from typing import Any

import torch

from benchmarks import world
from benchmarks.clock import Row, Timing, timed
from benchmarks.training import AXES, BATCH
from foilrec.data import Data
from foilrec.evaluation import Protocol, evaluate
from foilrec.launch import launch
from foilrec.numerics import memory
from foilrec.recipe import Recipe

HEADS: dict[str, Any] = {"name": "freedom", "head_weight": 1e-3}
RECIPES: dict[str, dict[str, Any]] = {
    "BPR-MF": {"backbone": {"name": "bprmf"}},
    "LightGCN": {"backbone": {"name": "lightgcn"}},
    "LightGCN with dns, pool = 32": {"backbone": {"name": "lightgcn"}, "sampler": {"name": "dns", "pool": 32}},
    "LightGCN with adar": {"backbone": {"name": "lightgcn"}, "sampler": {"name": "adar"}},
    "LightGCN with gdnsm, levels open": {
        "backbone": {"name": "lightgcn"},
        "sampler": {"name": "gdnsm", "start_epoch": 0},
    },
    "FREEDOM, features whole": {"backbone": HEADS},
    f"FREEDOM, features on {AXES} axes": {"backbone": HEADS | {"axes": AXES}},
    "FREEDOM, trainable features": {"backbone": HEADS | {"train_features": True}},
}
EPOCHS = 3  # the first pays for what is made once


def epoch(data: Data, tree: dict[str, Any], device: str) -> tuple[Timing, Timing]:
    """The least of some whole epochs, and of rankings of everyone."""
    train = {"epochs": EPOCHS, "batch": BATCH, "meter": 0, "every": EPOCHS}
    trainer = launch(Recipe.from_tree({**tree, "device": device, "train": train}), data)
    best = Timing(float("inf"), float("inf"))
    for one in trainer.epochs():
        best = Timing(min(best.cpu, one.cpu_seconds), min(best.wall, one.wall_seconds))
    return best, timed(lambda: evaluate(trainer.objective.model, Protocol()), 3)


def rows() -> list[Row]:
    """One row a recipe, and one of full ranking."""
    if not torch.cuda.is_available():
        print("gpu: torch finds no GPU")
        return []
    data, found, where = world.like_baby({"image": 4096, "text": 384}), [], torch.cuda.get_device_name()
    memory.keep_large_blocks()
    ranked = ""
    for what, tree in RECIPES.items():
        torch.cuda.reset_peak_memory_stats()
        (here, ranking), (there, ranking_there) = (epoch(data, tree, device) for device in ("cuda", "cpu"))
        peak = torch.cuda.max_memory_allocated() / 2**30
        times, note = there.wall / here.wall, f"{there.wall:.3g} s on one thread of its CPU; peak {peak:.2f} GB there"
        found.append(Row(f"{where}: {what}", here.cpu, here.wall, note=f"an epoch, {times:.1f} times faster: {note}"))
        if not ranked:
            ranked = f"all users; {ranking_there.wall / ranking.wall:.1f} times faster than one thread of its CPU"
            full = Row(f"{where}: full ranking", ranking.cpu, ranking.wall, note=ranked)
    return [*found, full]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(*rows(), sep="\n")
