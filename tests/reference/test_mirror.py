"""Mirror Gradient, written a second time with torch's Adam: on a parabola, and on the shop."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foilrec import files, parts, stretch
from foilrec.core import Batch, Data, Sampler
from foilrec.errors import BadOption
from foilrec.numerics import streams
from foilrec.recipe import Recipe
from foilrec.trainer import Objective, Settings, Trainer

SCALES = torch.tensor([1.0, 3.0, 0.2])


def loss_at(weight: Tensor, batch: int) -> Tensor:
    """A parabola whose lowest point moves from batch to batch."""
    return (SCALES * (weight - batch % 4).square()).sum()


def closure_of(optimizer: Any, weight: Tensor, batch: int, calls: list[float]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_at(weight, batch)
        loss.backward()
        calls.append(float(loss.detach()))
        return loss.detach()

    return closure


def ours(batches: int, **options: Any) -> tuple[Tensor, list[float], list[float]]:
    """The weights after so many batches, the losses told, and the losses of every pass."""
    weight, calls, told = torch.nn.Parameter(torch.ones(3)), list[float](), []
    optimizer = parts.build("optimizer", "mirror", [weight], lr=0.05, **options)
    for batch in range(batches):
        told.append(float(optimizer.step(closure_of(optimizer, weight, batch, calls))))
    return weight.detach(), told, calls


def slowly(batches: int, alpha1: float, alpha2: float, beta: int, epoch: int, **options: Any) -> Tensor:
    """The paper's loop: at batch 0, beta, 2 beta ... of each epoch, two steps."""
    weight = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([weight], lr=0.05, fused=False, foreach=False, **options)
    for batch in range(batches):
        mirrored = batch % epoch % beta == 0
        for factor in (alpha1, -alpha2) if mirrored else (1.0,):
            adam.zero_grad()
            (factor * loss_at(weight, batch)).backward()
            adam.step()
    return weight.detach()


@pytest.mark.parametrize(
    ("alpha1", "alpha2", "beta", "epoch"),
    [(1.0, 0.1, 3, 7), (1.0, 0.3, 3, 6), (0.5, 0.2, 1, 5), (2.0, 0.0, 2, 4), (1.0, 0.2, 9, 4)],
)
def test_two_steps_at_every_beta_th_batch_of_an_epoch(alpha1: float, alpha2: float, beta: int, epoch: int) -> None:
    weight, told, calls = ours(20, alpha1=alpha1, alpha2=alpha2, beta=beta, restart=epoch)
    assert torch.allclose(weight, slowly(20, alpha1, alpha2, beta, epoch), atol=1e-5)
    mirrored = [batch % epoch % beta == 0 for batch in range(20)]  # beta above the epoch: its first batch alone
    assert len(calls) == 20 + sum(mirrored)
    first = iter(calls)
    for loss, twice in zip(told, mirrored, strict=True):
        assert loss == next(first)
        if twice:
            next(first)


def test_without_restart_the_count_runs_on() -> None:
    assert torch.allclose(ours(20, alpha2=0.2, beta=3)[0], slowly(20, 1.0, 0.2, 3, 10**6), atol=1e-5)


def test_adams_constants_and_weight_decay_are_adams() -> None:
    found = ours(10, alpha2=0.2, restart=5, beta1=0.7, beta2=0.9, eps=1e-4, weight_decay=0.1)[0]
    wanted = slowly(10, 1.0, 0.2, 3, 5, betas=(0.7, 0.9), eps=1e-4, weight_decay=0.1)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_at_alpha2_0_adam_takes_a_step_without_gradient_and_moves_on() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([weight], lr=0.05, fused=False, foreach=False)
    loss_at(weight, 0).backward()
    adam.step()
    between = weight.detach().clone()
    weight.grad = torch.zeros(3)
    adam.step()
    assert torch.allclose(ours(1, alpha2=0.0)[0], weight.detach(), atol=1e-6)
    moved = weight.detach() - between  # the moments alone: .9 of the first over the root of .999 of the second
    ratio = (0.9 * 0.1 / (1 - 0.9**2)) / (0.999 * 0.001 / (1 - 0.999**2)) ** 0.5
    assert torch.allclose(moved, 0.05 * ratio * torch.ones(3) * moved.sign(), rtol=1e-4)
    assert float(moved.abs().min()) > 0.03


def test_the_count_is_part_of_the_state(tmp_path: Path) -> None:
    whole = ours(11, alpha2=0.3, beta=3, restart=7)[0]
    weight = torch.nn.Parameter(torch.ones(3))
    for batch in range(11):  # a new optimizer at every batch, its state through a file
        optimizer = parts.build("optimizer", "mirror", [weight], lr=0.05, alpha2=0.3, beta=3, restart=7)
        if batch:
            optimizer.load_state_dict(files.load_tree(tmp_path / "state.safetensors"))
        optimizer.step(closure_of(optimizer, weight, batch, []))
        files.save_tree(tmp_path / "state.safetensors", optimizer.state_dict())
    assert torch.equal(weight.detach(), whole)


@pytest.mark.parametrize("wrong", [{"alpha1": -1.0}, {"alpha2": -0.1}, {"beta": 0}, {"restart": -1}])
def test_wrong_options_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"{next(iter(wrong))} = .* must be at least"):
        ours(1, **wrong)


def test_a_step_needs_a_closure() -> None:
    with pytest.raises(BadOption, match=r"call step\(closure\)"):
        parts.build("optimizer", "mirror", [torch.nn.Parameter(torch.ones(3))]).step()


def recipe(backbone: str = "freedom", **options: Any) -> Recipe:
    return Recipe.from_tree(
        {
            "name": "mirrored",
            "threads": 1,
            "data": {"name": "shop", "users": 60, "items": 60},
            "backbone": {"name": backbone, "dim": 8},
            "optimizer": {"name": "mirror", "lr": 0.01, **options},
            "train": {"batch": 128, "epochs": 3, "patience": 0},
            "evaluate": {"ks": [20], "metrics": ["recall"]},
        }
    )


@pytest.mark.parametrize("backbone", ["bprmf", "freedom"])
def test_a_training_on_the_shop_is_the_loop_with_torchs_adam(backbone: str, world: Data) -> None:
    steps = -(-len(world.train) // 128)
    chosen = recipe(backbone, alpha2=0.2, beta=2, restart=steps)
    model, sampler, loss = chosen.build(world)
    objective = Objective(model, sampler, loss)
    optimizer = parts.build("optimizer", "mirror", list(model.parameters()), **chosen.optimizer.options)
    trainer = Trainer(objective, optimizer, Settings(batch=128, epochs=2), chosen.protocol("valid"), seed=3)
    losses = [epoch.loss for epoch in trainer.epochs()]

    model, sampler, loss = chosen.build(world)
    slow = Objective(model, sampler, loss).train()
    adam = torch.optim.Adam(model.parameters(), lr=0.01, fused=False, foreach=False)
    for epoch in range(2):
        model.begin_epoch(epoch)
        total = 0.0
        for number, batch in enumerate(world.batches(128, 3, epoch)):
            for turn, factor in enumerate((1.0, -0.2) if number % 2 == 0 else (1.0,)):
                adam.zero_grad()
                value = slow(batch)
                (factor * value).backward()
                adam.step()
                total += 0 if turn else float(value.detach()) * len(batch)
        assert losses[epoch] == pytest.approx(total / len(world.train), rel=1e-4)
    for one, other in zip(objective.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-4)


class Listener(Sampler):
    """Draws uniformly, and remembers what it drew and heard."""

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.heard: list[Tensor] = []

    def forward(self, tables: Any, batch: Batch, query: Tensor) -> Any:
        """Uniform draws."""
        return parts.build("sampler", "uniform", self.data)(tables, batch, query)

    def feedback(self, batch: Batch, negatives: Any, scores: Tensor) -> None:
        """Keeps the ids."""
        self.heard.append(negatives.ids)


def test_both_passes_see_the_same_draws_and_the_sampler_hears_twice(world: Data) -> None:
    model, _, loss = recipe("bprmf").build(world)
    sampler = Listener(world)
    optimizer = parts.build("optimizer", "mirror", list(model.parameters()), beta=2)
    trainer = Trainer(Objective(model, sampler, loss), optimizer, Settings(batch=128), recipe().protocol("valid"))
    for batch in list(world.batches(128, streams.key(0, "x"), 0))[:2]:
        trainer._step(batch)
    first, again, second = sampler.heard
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_a_stopped_run_goes_on_bit_for_bit(world: Data, tmp_path: Path) -> None:
    chosen = recipe(alpha2=0.3, beta=4)
    straight = stretch.train(chosen, tmp_path / "straight", data=world)
    calls = iter(range(6))  # stops inside the second epoch

    def on_step(step: int, steps: int) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stretch.train(chosen, tmp_path / "halted", data=world, on_step=on_step)
    resumed = stretch.train(chosen, tmp_path / "halted", data=world, resume=True)
    assert resumed.scores["test"] == straight.scores["test"]
    weights = [(one.folder / "best.safetensors").read_bytes() for one in (straight, resumed)]
    assert weights[0] == weights[1]
    plain = stretch.train(chosen.with_changes("optimizer=adam", "optimizer.lr=0.01"), tmp_path / "plain", data=world)
    assert json.dumps(plain.scores["test"]) != json.dumps(straight.scores["test"])
