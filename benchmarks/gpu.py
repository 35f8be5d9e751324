"""An epoch of training on a GPU, beside one thread of the same machine's CPU; nothing where torch finds no GPU."""

from typing import Any

import torch

from benchmarks import world
from benchmarks.clock import Row, Timing, timed
from benchmarks.training import AXES, BATCH
from foilrec import parts
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


def epoch(data: Data, tree: dict[str, Any], device: str) -> Timing:
    """The least of some whole epochs."""
    train = {"epochs": EPOCHS, "batch": BATCH, "meter": 0, "every": EPOCHS}
    epochs = list(launch(Recipe.from_tree({**tree, "device": device, "train": train}), data).epochs())
    return Timing(min(one.cpu_seconds for one in epochs), min(one.wall_seconds for one in epochs))


def ranking(data: Data, device: str) -> Timing:
    """The least of some rankings of everyone."""
    model = parts.build("backbone", "lightgcn", data).to(device)
    return timed(lambda: evaluate(model, Protocol()), 3)


def row(what: str, here: Timing, there: Timing, note: str) -> Row:
    """What a GPU takes, beside one thread of the same machine's CPU."""
    times = there.wall / here.wall
    told = f"{note}, {times:.1f} times faster than one thread of its CPU ({there.wall:.3g} s)"
    return Row(f"{torch.cuda.get_device_name()}: {what}", here.cpu, here.wall, note=told)


def rows() -> list[Row]:
    """One row a recipe, and one of full ranking."""
    if not torch.cuda.is_available():
        print("gpu: torch finds no GPU")
        return []
    data, found = world.like_baby({"image": 4096, "text": 384}), []
    memory.keep_large_blocks()
    for what, tree in RECIPES.items():
        torch.cuda.reset_peak_memory_stats()
        here = epoch(data, tree, "cuda")
        peak = torch.cuda.max_memory_allocated() / 2**30
        found.append(row(what, here, epoch(data, tree, "cpu"), f"an epoch, peak {peak:.2f} GB"))
    return [*found, row("full ranking", ranking(data, "cuda"), ranking(data, "cpu"), "all users")]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(*rows(), sep="\n")
