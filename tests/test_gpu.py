"""On a GPU every part does what it does on a CPU; where torch finds none, on a device that is pretended.

Draws are functions of rows and keys, so that both devices see the same ones; sums differ in their last bits.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from commands import Command, tiny
from foilrec import contracts, parts
from foilrec.core import Backbone, Negatives, Sampler
from foilrec.errors import PartsDoNotFit
from foilrec.evaluation import Protocol, evaluate
from foilrec.numerics import memory
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train
from foilrec.trainer import Objective
from pretend import pretended, waited

CPU, OTHER = torch.device("cpu"), torch.device("cuda" if torch.cuda.is_available() else "meta")
LEAST_ALIKE = 0.9  # of the draws: a candidate may be the best by a last bit


@pytest.fixture(autouse=True)
def _pretended() -> Iterator[None]:
    with pretended() if OTHER.type == "meta" else nullcontext():
        yield


def made(kind: str, name: str) -> Any:
    data, part = contracts.small_world(), parts.find(kind, name)
    return contracts._seeded(lambda: part(data, **contracts._inner_parts(part, data)))


def begun(objective: Objective, device: torch.device, epoch: int = 1) -> Objective:
    """Moved there, with its first epochs begun."""
    objective = objective.to(device).train()
    for number in range(epoch + 1):
        objective.model.begin_epoch(number)
        with torch.no_grad():
            objective.sampler.begin_epoch(number, objective.model, objective.model.propagate())
    return objective


def step(objective: Objective, device: torch.device, rows: int = 64) -> float:
    """The loss of a batch; every gradient is finite, and some are not 0."""
    data, model = contracts.small_world(), objective.model
    batch = data.batch(torch.arange(rows), 1, history=model.history).to(device)
    loss = objective(batch)
    loss.backward()
    found = [p.grad for p in objective.parameters() if p.grad is not None]
    assert found and all(g.device.type == device.type for g in found)
    sums = torch.stack([(g.coalesce().values() if g.is_sparse else g).abs().sum() for g in found])
    assert sums.isfinite().all() and sums.any()
    return float(loss.detach())


def draw(objective: Objective, device: torch.device) -> tuple[Negatives, Tensor]:
    """Negatives of a batch, and their vectors, on the CPU."""
    data, model = contracts.small_world(), objective.model
    batch = data.batch(torch.arange(64), 1, history=model.history).to(device)
    with torch.no_grad():
        tables = model.step_tables(batch)
        negatives: Negatives = objective.sampler(tables, batch, model.query(tables, batch))
        return negatives, negatives.look_up(model, tables).cpu()


@pytest.mark.parametrize("name", parts.names("backbone"))
def test_a_backbone_ranks_as_on_the_cpu_and_learns(name: str) -> None:
    found = []
    for device in (CPU, OTHER):
        model: Backbone = made("backbone", name)
        objective = begun(Objective(model, made("sampler", "uniform"), parts.build("loss", "bpr")), device)
        loss = step(objective, device)
        tables = model.eval().propagate()
        assert tables.items.device.type == device.type
        scores = evaluate(model, Protocol("valid"))
        found.append((tables.items.detach().cpu(), scores.means["recall@20"], loss))
    (items, recall, loss), (others, again, there) = found
    assert torch.allclose(items, others, atol=1e-4, rtol=1e-3)
    assert again == pytest.approx(recall, abs=0.02)
    assert there == pytest.approx(loss, rel=0.2)  # dropout falls otherwise there


@pytest.mark.parametrize("name", parts.names("sampler"))
def test_a_sampler_draws_what_it_draws_on_the_cpu(name: str) -> None:
    found = []
    for device in (CPU, OTHER):
        sampler: Sampler = made("sampler", name)
        model = contracts._host(type(sampler), sampler.data, contracts._inner_parts(type(sampler), sampler.data))
        objective = begun(Objective(model, sampler, parts.build("loss", "bpr")), device)
        found.append(draw(objective, device))
        step(objective, device)
    (here, vectors), (there, others) = found
    assert here.shape == there.shape
    if here.ids is not None and there.ids is not None:
        assert (here.ids == there.ids.cpu()).double().mean() >= LEAST_ALIKE
    for field in ("level", "mask"):
        one, other = getattr(here, field), getattr(there, field)
        assert (one is None) == (other is None)
        if one is not None:
            assert (one == other.cpu()).double().mean() >= LEAST_ALIKE
    near = (vectors - others).norm(dim=2) <= 1e-3 * (1e-3 + vectors.norm(dim=2))
    assert near.double().mean() >= LEAST_ALIKE


def alike(*chosen: str) -> None:
    """A step on the CPU and there comes to the same loss, if backbone, sampler and loss fit together at all."""
    kinds, losses = ("backbone", "sampler"), []
    for device in (CPU, OTHER):
        objective = Objective(*map(made, kinds, chosen), parts.build("loss", chosen[2]))
        try:
            objective = begun(objective, device, 3)
            losses.append(step(objective, device))
        except PartsDoNotFit as error:
            pytest.skip(str(error))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("name", parts.names("sampler"))
def test_a_sampler_serves_another_host_there(name: str) -> None:
    alike("freedom", name, "softmax")


@pytest.mark.parametrize("name", parts.names("sampler"))
def test_a_sampler_serves_histories_there(name: str) -> None:
    objective = Objective(made("backbone", "sasrec"), made("sampler", name), parts.build("loss", "bce"))
    try:
        step(begun(objective, OTHER, 3), OTHER)
    except PartsDoNotFit as error:
        pytest.skip(str(error))


@pytest.mark.skipif(OTHER.type != "meta", reason="a real device does not tell")
@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        *((backbone, "uniform") for backbone in ("bprmf", "lightgcn", "mmgcn", "sasrec", "gru4rec")),
        *(("freedom", name) for name in ("uniform", "dns", "adar", "gdnsm", "bns", "graded")),
    ],
)
def test_a_step_waits_for_nothing(backbone: str, name: str) -> None:
    model = made("backbone", backbone)
    objective = Objective(model, made("sampler", name), parts.build("loss", "bpr"))
    step(begun(objective, OTHER, 3), OTHER)
    batch = model.data.batch(torch.arange(64), 3, history=model.history).to(OTHER)
    waited.clear()
    objective(batch).backward()
    assert not waited
    assert objective(batch).isfinite()  # which is to be read
    assert waited


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize(("name", "options"), [("vbpr", {}), ("freedom", {"head_weight": 0.1})])
def test_frozen_features_lie_there_if_they_fit(
    name: str, options: dict[str, Any], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_on", lambda device: 2**40 if fits else 0)
    losses, whole = [], contracts.small_world()
    image = replace(whole.features["image"], present=torch.arange(60) % 7 > 0)
    for device in (CPU, OTHER):
        data = replace(whole, features={"image": image, "text": replace(whole.features["text"])})
        model = contracts._seeded(lambda data=data: parts.build("backbone", name, data, **options))
        objective = Objective(model, parts.build("sampler", "uniform", data), parts.build("loss", "bpr"))
        losses += [step(begun(objective, device), device) for _ in range(2)]
    assert losses[2:] == pytest.approx(losses[:2], rel=1e-4)
    assert all((one._on(OTHER) is not None) is fits for one in data.features.values())


@pytest.mark.parametrize("name", parts.names("loss"))
@pytest.mark.parametrize("sampler", ["uniform", "adar"])
def test_a_loss_is_what_it_is_on_the_cpu(name: str, sampler: str) -> None:
    alike("lightgcn", sampler, name)


@pytest.mark.parametrize("name", parts.names("optimizer"))
def test_an_optimizer_steps_as_on_the_cpu(name: str) -> None:
    ends = []
    for device in (CPU, OTHER):
        model = made("backbone", "bprmf")
        objective = begun(Objective(model, made("sampler", "uniform"), parts.build("loss", "bpr")), device)
        optimizer = parts.build("optimizer", name, objective.parameters(), lr=1e-3)
        if getattr(optimizer, "wants_rows", False):
            model.use_row_gradients()

        def closure(objective: Objective = objective, optimizer: Any = optimizer, device: Any = device) -> float:
            optimizer.zero_grad()
            return step(objective, device)

        for _ in range(3):
            optimizer.step(closure)
        ends.append(model.propagate().items.detach().cpu())
    assert torch.allclose(*ends, atol=1e-3)


def test_a_run_made_there_is_served_from_here(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(tiny(6))
    recipe = Recipe.load(tmp_path / "recipe.toml", [f"device={OTHER}", "backbone.name=freedom", "sampler.name=adar"])

    def stop(epoch: Any) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", on_epoch=stop)
    run = train(recipe, tmp_path / "run", resume=True)
    assert len(run.epochs()) == 6 and run.epochs()[3]["hardness"]
    again = Run(tmp_path / "run")
    assert again.model.propagate().items.device.type == "cpu"
    assert again.evaluate().means["recall@20"] == pytest.approx(run.scores["test"]["recall@20"], abs=0.02)
    assert len(again.recommend(top=3)) == 180


def test_the_command_line_works_there(foilrec: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text(tiny(2))
    there = f"recipe.toml device={OTHER}"
    for asked in (
        f"train {there} --out run",
        "audit run",
        "evaluate run",
        "export run --out vectors",
        f"audit {there} --samplers uniform,adar --epochs 1 --rows 100",
        f"train {there} backbone.name=sasrec data.split=leave-one-out --out sequences",
        "recommend sequences --top 3 --out best.csv",
    ):
        said = foilrec(*asked.split())
        assert said.code == 0, (asked, said.err)


def test_the_pretended_device_refuses_what_a_gpu_refuses() -> None:
    with pretended() as away:
        rows, here = torch.ones(3, 2, device=away), torch.ones(3, 2)
        assert rows.device == away and (rows + rows).device == away and (rows + here[0, 0]).device == away
        assert rows[torch.tensor([0, 2])].shape == (2, 2) and float((rows @ rows.T).sum()) == 18
        for wrong in (
            lambda: rows + here,
            lambda: here[torch.zeros(1, dtype=torch.long, device=away)],
            lambda: rows.index_add_(0, torch.tensor([0]), rows[:1]),
            lambda: torch.rand(3, device=away, generator=torch.Generator()),
        ):
            with pytest.raises(RuntimeError, match=r"one device|another device"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            rows.numpy()
        assert (rows + here.to(away)).cpu().numpy().sum() == 12
