"""Curricula in whole runs on the shop: what the meter sees of them, and that an interrupted one goes on bit for bit."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foilrec import parts
from foilrec.core import Data
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train
from foilrec.trainer import Epoch

STAGES = (0.6, 0.75, 0.85, 0.95)


@pytest.fixture(scope="module")
def shop() -> Data:
    """A shop large enough to tell hardness apart."""
    data: Data = parts.build("dataset", "shop", users=200, items=200).read()
    return data


def recipe(sampler: dict[str, Any], aligned: bool, epochs: int, **more: Any) -> Recipe:
    """LightGCN, alone or with its content aligned."""
    plain = {"name": "lightgcn", "dim": 16}
    return Recipe.from_tree(
        {
            "name": "curriculum",
            "threads": 1,
            "data": {"name": "shop", "users": 200, "items": 200},
            "backbone": {"name": "aligned", "inner": plain, "steps": 6} if aligned else plain,
            "sampler": sampler,
            "optimizer": {"name": "adam", "lr": 0.02},
            "train": {"batch": 256, "epochs": epochs, "patience": 0, "meter": 1500},
            "evaluate": {"ks": [20], "metrics": ["recall", "ndcg"]},
            **more,
        }
    )


@pytest.mark.parametrize("by", ["user", "positive", "aligned"])
def test_a_calibrated_curriculum_is_as_hard_as_it_says_stage_by_stage(by: str, shop: Data, tmp_path: Path) -> None:
    sampler = {"name": "graded", "targets": list(STAGES), "delta": 2, "by": by}
    run = train(recipe(sampler, by == "aligned", 8), tmp_path / "run", data=shop)
    measure = "percentile" if by == "user" else "similarity"
    for stage, target in enumerate(STAGES):
        for line in run.epochs()[2 * stage : 2 * stage + 2]:
            found = line["hardness"]["all"]
            if by != "aligned":  # that percentile is of other rows, E^0
                assert found[measure] == pytest.approx(target, abs=0.02)
    last = [line["hardness"]["all"][measure] for line in run.epochs()[1::2]]
    assert all(b > a for a, b in itertools.pairwise(last))


def test_hard_negatives_of_ccdrec_are_falser_than_easy_ones_and_the_oracle_knows(shop: Data, tmp_path: Path) -> None:
    run = train(recipe({"name": "ccdrec", "delta": 1, "end": 4}, True, 8), tmp_path / "run", data=shop)
    last = run.epochs()[-1]["hardness"]
    easy, hard = last["stage 0"], last["stage 5"]
    assert hard["liked"] > 1.2 * easy["liked"]
    assert easy["liked_ratio"] == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("sampler", ["ccdrec", "graded"])
def test_an_interrupted_curriculum_goes_on_bit_for_bit(sampler: str, shop: Data, tmp_path: Path) -> None:
    chosen = recipe({"name": sampler, "delta": 1}, True, 5)

    def stop_at(epoch: int) -> Callable[[Epoch], None]:
        def halt(told: Epoch) -> None:
            if told.number == epoch:
                raise KeyboardInterrupt

        return halt

    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "halted", data=shop, on_epoch=stop_at(2))
    resumed = train(chosen, tmp_path / "halted", data=shop, resume=True)
    straight = train(chosen, tmp_path / "straight", data=shop)
    weights = [run.model.state_dict() for run in (resumed, straight)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [line["loss"] for line in resumed.epochs()] == [line["loss"] for line in straight.epochs()]
    assert Run(tmp_path / "halted").scores["test"] == straight.scores["test"]
