"""A run is repeatable, survives every way of being stopped, and never goes on from the wrong thing."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from foilrec import evaluation, files, parts, stretch
from foilrec.core import Batch, Data, Negatives, Sampler, Tables
from foilrec.errors import BadData, BadOption, FoilrecError, RunBroken
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train
from foilrec.trainer import Epoch, Progress, Settings, Trainer

COMBINATIONS = {
    "bprmf": ("bprmf", "lazyadam", "popularity", "softmax"),
    "freedom": ("freedom", "adam", "dns", "bpr"),
    "vbpr": ("vbpr", "adam", "uniform", "bpr"),
    "lightgcn": ("lightgcn", "adam", "uniform", "softmax"),
}
DOCUMENTED = re.findall(r"\b\w+\.(?:toml|json|jsonl|safetensors|parquet)\b", Run.__doc__ or "")


def recipe(which: str = "bprmf", **settings: Any) -> Recipe:
    backbone, optimizer, sampler, loss = COMBINATIONS[which]
    return Recipe.from_tree(
        {
            "name": which,
            "threads": 1,
            "data": {"name": "shop", "users": 60, "items": 60},
            "backbone": {"name": backbone, "dim": 8},
            "sampler": {"name": sampler},
            "loss": {"name": loss},
            "optimizer": {"name": optimizer, "lr": 0.02},
            "train": {"batch": 128, "epochs": 5, "patience": 0, **settings},
            "evaluate": {"ks": [5, 20], "metrics": ["recall", "ndcg"]},
        }
    )


def weights(run: Run) -> bytes:
    return (run.folder / "best.safetensors").read_bytes()


def course(run: Run) -> list[tuple[Any, ...]]:
    return [(line["epoch"], line["loss"], line["valid"], line["best"]) for line in run.epochs()]


def same(one: Run, other: Run) -> bool:
    scores = [{k: v for k, v in run.scores.items() if "seconds" not in k} for run in (one, other)]
    users = [pl.read_parquet(run.folder / "users.parquet") for run in (one, other)]
    alike = weights(one) == weights(other) and course(one) == course(other)
    return alike and scores[0] == scores[1] and users[0].equals(users[1])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def stop_at_epoch(number: int) -> Callable[[Epoch], None]:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == number:
            raise KeyboardInterrupt

    return on_epoch


def stop_at_call(number: int) -> Callable[[int, int], None]:
    calls = iter(range(number))

    def on_step(step: int, steps: int) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    return on_step


@pytest.fixture(scope="session")
def straight(world: Data, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Uninterrupted runs, each trained once and not to be changed."""
    made: dict[str, Run] = {}

    def run_of(which: str) -> Run:
        if which not in made:
            made[which] = train(recipe(which), tmp_path_factory.mktemp("straight") / which, data=world)
        return made[which]

    return run_of


@pytest.fixture
def run(world: Data, tmp_path: Path) -> Run:
    """A finished run that a test may take apart."""
    return train(recipe(epochs=1), tmp_path / "run", data=world)


@pytest.fixture
def halted(world: Data, tmp_path: Path) -> Path:
    """The folder of a run that was stopped after two epochs of five."""
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), tmp_path / "halted", data=world, on_epoch=stop_at_epoch(1))
    return tmp_path / "halted"


def test_a_finished_run_leaves_what_its_docstring_names(straight: Callable[[str], Run], world: Data) -> None:
    run = straight("bprmf")
    assert len(DOCUMENTED) == 8
    of_no_use = {"last.safetensors", "sampler.safetensors"}  # a checkpoint any more, and what uniform would learn
    assert names(run.folder) == set(DOCUMENTED) - of_no_use
    assert run.finished and run.recipe == recipe() and run.about["data"]["fingerprint"] == world.fingerprint
    assert [line["epoch"] for line in run.epochs()] == list(range(5))
    assert run.scores["valid"] == run.epochs()[run.scores["best_epoch"]]["valid"]
    assert run.scores["epochs"] == 5 and run.scores["protocol"]["masked"] == ["train"]


def test_a_stopped_run_leaves_a_checkpoint_and_no_scores(halted: Path) -> None:
    assert names(halted) == {"recipe.toml", "about.json", "epochs.jsonl", "last.safetensors"}
    with pytest.raises(RunBroken, match="go on with --resume"):
        _ = Run(halted).scores
    with pytest.raises(RunBroken, match="is not finished: go on"):
        _ = Run(halted).model


def test_nothing_in_the_folder_is_a_pickle(straight: Callable[[str], Run], halted: Path) -> None:
    for folder in (straight("freedom").folder, halted):
        for path in folder.iterdir():
            content = path.read_bytes()
            if path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".parquet":
                assert content[:4] == b"PAR1"
            else:
                content.decode("utf-8")
            assert not content.startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK"))


def test_the_test_set_is_scored_once(world: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[str] = []
    true = evaluation.evaluate

    def counted(model: Any, protocol: Any, **how: Any) -> Any:
        splits.append(protocol.split)
        return true(model, protocol, **how)

    monkeypatch.setattr("foilrec.stretch.evaluate", counted)
    monkeypatch.setattr("foilrec.trainer.evaluate", counted)
    run = train(recipe(epochs=3), tmp_path / "run", data=world)
    assert splits == ["valid"] * 3 + ["test"]
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    again = train(recipe(epochs=3), run.folder, data=world, resume=True)
    assert len(splits) == 4 and again.scores == run.scores
    assert before == {path.name: path.read_bytes() for path in run.folder.iterdir()}


@pytest.mark.parametrize("which", COMBINATIONS)
def test_one_seed_makes_one_run(which: str, straight: Callable[[str], Run], world: Data, tmp_path: Path) -> None:
    torch.manual_seed(123)  # the global generator has no say
    assert same(train(recipe(which), tmp_path / "again", data=world), straight(which))
    other = train(recipe(which).with_changes("seed=1"), tmp_path / "other", data=world)
    assert weights(other) != weights(straight(which)) and course(other) != course(straight(which))


@pytest.mark.parametrize("which", COMBINATIONS)
def test_a_stop_between_epochs_changes_nothing(
    which: str, straight: Callable[[str], Run], world: Data, tmp_path: Path
) -> None:
    for stop in (0, 2):
        with pytest.raises(KeyboardInterrupt):
            train(recipe(which), tmp_path / which, data=world, resume=stop > 0, on_epoch=stop_at_epoch(stop))
        assert len(Run(tmp_path / which).epochs()) == stop + 1
    assert same(train(recipe(which), tmp_path / which, data=world, resume=True), straight(which))


@pytest.mark.parametrize("which", COMBINATIONS)
def test_a_stop_inside_an_epoch_changes_nothing(
    which: str, straight: Callable[[str], Run], world: Data, tmp_path: Path
) -> None:
    steps = -(-len(world.train) // 128)
    assert steps > 2
    for stop, done in ((1, 0), (2 * steps + 1, 2), (1, 2), (steps + 1, 3)):  # counted from where the last one stopped
        with pytest.raises(KeyboardInterrupt):
            train(recipe(which), tmp_path / which, data=world, resume=True, on_step=stop_at_call(stop))
        assert len(Run(tmp_path / which).epochs()) == done
    assert same(train(recipe(which), tmp_path / which, data=world, resume=True), straight(which))


def test_a_stop_before_the_test_set_is_scored_changes_nothing(
    straight: Callable[[str], Run], world: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("foilrec.stretch.evaluate", stop)
        train(recipe(), tmp_path / "run", data=world)
    assert not Run(tmp_path / "run").finished
    assert same(train(recipe(), tmp_path / "run", data=world, resume=True), straight("bprmf"))


CHILD = """
    import sys, time
    from foilrec import stretch
    from foilrec.recipe import Recipe
    stretch.SECONDS_BETWEEN_CHECKPOINTS = 0
    stretch.train(Recipe.load(sys.argv[1]), sys.argv[2], on_step=lambda step, steps: time.sleep(0.02))
"""


def test_one_training_at_a_time_in_a_folder(world: Data, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    folder, heard = tmp_path / "run", []

    def again(epoch: Epoch) -> None:
        with pytest.raises(RunBroken, match="Another process is training into"):
            train(recipe(), folder, data=world, resume=True)
        heard.append(epoch.number)

    run = train(recipe(), folder, data=world, on_epoch=again)
    assert heard == list(range(5))
    assert not list(folder.glob(".*")), "the claim is gone"
    assert weights(train(recipe(), folder, data=world, resume=True)) == weights(run), "and the folder is free"


def test_a_claim_left_by_a_kill_is_none(world: Data, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / files.LOCK).touch()
    assert train(recipe(), tmp_path / "run", data=world).finished


def test_what_fails_at_once_leaves_no_folder(world: Data, tmp_path: Path) -> None:
    wrong = replace(recipe(), sampler=replace(recipe().sampler, name="uniform", options={"count": 0}))
    with pytest.raises(BadOption, match="count = 0"):
        train(wrong, tmp_path / "a" / "b", data=world)
    assert not list(tmp_path.iterdir())


def test_a_kill_inside_an_epoch_changes_nothing(world: Data, tmp_path: Path) -> None:
    chosen = recipe("freedom", epochs=40)
    (tmp_path / "child.py").write_text(textwrap.dedent(CHILD))
    (tmp_path / "recipe.toml").write_text(chosen.to_toml())
    folder = tmp_path / "run"
    command = [sys.executable, "child.py", "recipe.toml", str(folder)]
    with subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}) as child:
        give_up = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < give_up:
            if (folder / "recipe.toml").is_file() and len(Run(folder).epochs()) >= 3:
                break
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert 3 <= len(Run(folder).epochs()) < 40 and not Run(folder).finished
    (folder / ".last.safetensors.x1y2.safetensors").write_text("what a kill while writing leaves")
    resumed = train(chosen, folder, data=world, resume=True)
    assert same(resumed, train(chosen, tmp_path / "straight", data=world))
    assert names(folder) == names(tmp_path / "straight")


def test_lines_that_outlived_their_checkpoint_are_written_anew(
    halted: Path, straight: Callable[[str], Run], world: Data
) -> None:
    lines = (halted / "epochs.jsonl").read_text()
    (halted / "epochs.jsonl").write_text(lines + '{"epoch": 2, "loss": 9.0}\n')
    assert same(train(recipe(), halted, data=world, resume=True), straight("bprmf"))


def test_a_folder_in_use_is_not_written_over(halted: Path, run: Run, world: Data, tmp_path: Path) -> None:
    for folder in (halted, run.folder):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(BadOption, match="already holds a run: go on with --resume"):
            train(recipe(), folder, data=world)
        assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("much work")
    (tmp_path / "mine" / "file").write_text("")
    for place in (tmp_path / "mine", tmp_path / "mine" / "file"):
        with pytest.raises(BadOption, match="--out"):
            train(recipe(), place, data=world)
    with pytest.raises(RunBroken, match="is no run folder"):
        Run(tmp_path / "mine")


def test_another_recipe_does_not_go_on(halted: Path, straight: Callable[[str], Run], world: Data) -> None:
    for change in ("seed=1", "sampler.power=0.5", "train.epochs=6"):
        with pytest.raises(RunBroken, match="another recipe"):
            train(recipe().with_changes(change), halted, data=world, resume=True)
    renamed = recipe().with_changes("name=other")
    assert weights(train(renamed, halted, data=world, resume=True)) == weights(straight("bprmf"))


def test_other_data_does_not_go_on(halted: Path, run: Run, world: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(world, train=world.train[:-1])
    for folder, settings in ((halted, {}), (run.folder, {"epochs": 1})):
        with pytest.raises(RunBroken, match=f"{world.fingerprint}.*{other.fingerprint}"):
            train(recipe(**settings), folder, data=other, resume=True)
    monkeypatch.setattr(Recipe, "read", lambda self: other)
    with pytest.raises(RunBroken, match="other data"):
        _ = Run(run.folder).data


@pytest.mark.parametrize("keep", [0.5, 0.0, 0.99])
def test_a_truncated_file_of_weights_is_named(keep: float, halted: Path, run: Run, world: Data) -> None:
    for path in (halted / "last.safetensors", run.folder / "best.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(RunBroken, match=r"last\.safetensors cannot be read"):
        train(recipe(), halted, data=world, resume=True)
    with pytest.raises(RunBroken, match=r"best\.safetensors cannot be read"):
        _ = Run(run.folder).model


def test_weights_of_another_kind_are_named(run: Run) -> None:
    (run.folder / "best.safetensors").write_text("not weights")
    with pytest.raises(RunBroken, match=r"best\.safetensors cannot be read"):
        _ = Run(run.folder).model
    files.save_tree(run.folder / "best.safetensors", {"users.weight": torch.zeros(2, 2)})
    with pytest.raises(RunBroken, match=r"best\.safetensors does not fit"):
        _ = Run(run.folder).model


@pytest.mark.parametrize("name", ["best.safetensors", "scores.json", "about.json", "recipe.toml"])
def test_a_missing_file_is_named(name: str, run: Run) -> None:
    (run.folder / name).unlink()
    with pytest.raises(RunBroken, match=name):
        again = Run(run.folder)
        _ = again.model, again.scores


@pytest.mark.parametrize("name", ["scores.json", "about.json", "recipe.toml", "epochs.jsonl"])
def test_a_damaged_file_is_named(name: str, run: Run) -> None:
    (run.folder / name).write_text('{"half": ')
    with pytest.raises(FoilrecError, match=name):
        again = Run(run.folder)
        _ = again.data, again.scores, again.epochs()


def test_lost_lines_are_noticed(halted: Path, world: Data) -> None:
    (halted / "epochs.jsonl").unlink()
    with pytest.raises(RunBroken, match=r"epochs\.jsonl lacks epochs"):
        train(recipe(), halted, data=world, resume=True)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_in_rust(*_: Any, **__: Any) -> None:
        raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")

    writers: list[Callable[[Path], None]] = [
        lambda path: files.write_text(path, "new"),
        lambda path: files.write_json(path, {"new": 1}),
        lambda path: files.save_tree(path, {"new": torch.ones(3)}),
    ]
    places = [("pathlib.Path.write_text", full), ("safetensors.torch.save_file", full_in_rust), ("os.fsync", full)]
    path = tmp_path / "kept.txt"
    path.write_text("old")
    failures = 0
    for place, fail in [*places, ("pathlib.Path.replace", full), ("tempfile.mkstemp", full)]:
        for write in writers:
            with monkeypatch.context() as patched:
                patched.setattr(place, fail)
                try:
                    write(path)
                except RunBroken as error:
                    assert "disk is full" in str(error) and "kept.txt" in str(error) and "--resume" in str(error)
                    failures += 1
                    assert path.read_text() == "old"
            path.write_text("old")
            assert names(tmp_path) == {"kept.txt"}
    assert failures == 2 + 1 + 3 + 3 + 3


def test_a_full_disk_stops_a_training_that_can_go_on(
    straight: Callable[[str], Run], world: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretch, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    folder, real, full = tmp_path / "run", os.fsync, [False]

    def fsync(handle: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    def fill(epoch: Epoch) -> None:
        full[0] = epoch.number == 1

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RunBroken, match="disk is full"):
        train(recipe(), folder, data=world, on_epoch=fill)
    assert names(folder) == {"recipe.toml", "about.json", "epochs.jsonl", "last.safetensors"}
    assert len(Run(folder).epochs()) == 2
    full[0] = False
    assert same(train(recipe(), folder, data=world, resume=True), straight("bprmf"))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunBroken, match="cannot be written"):
        files.write_text(tmp_path / "file" / "below" / "a.txt", "x")


def test_any_tree_comes_back_from_its_file(tmp_path: Path) -> None:
    tree = {
        "state": {0: {"step": 3, "mean": torch.rand(2, 3)}, 1: {"on": torch.tensor(True)}},
        "groups": [{"lr": 0.1, "betas": [0.9, 0.999], "params": [0, 1], "fused": None}],
        "best": float("-inf"),
        "empty": {},
    }
    files.save_tree(tmp_path / "a.safetensors", tree)
    back = files.load_tree(tmp_path / "a.safetensors")
    assert back["state"][0]["mean"].equal(tree["state"][0]["mean"]) and bool(back["state"][1]["on"])  # type: ignore[index]
    assert {k: v for k, v in back.items() if k != "state"} == {k: v for k, v in tree.items() if k != "state"}
    assert back["state"][0]["step"] == 3


class Poison(Sampler):
    """Negatives that are no numbers from epoch 1 on."""

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        ids = self.unseen(batch, 1)
        return Negatives(vectors=tables.item_rows(ids) * (float("nan") if batch.epoch else 1.0))


def test_a_loss_that_is_no_number_stops_the_run(world: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = parts.find
    monkeypatch.setattr(parts, "find", lambda kind, name: Poison if name == "poison" else find(kind, name))
    chosen = recipe("lightgcn").with_changes("sampler=poison")
    with pytest.raises(RunBroken, match=r"loss became nan in epoch 1: lower optimizer\.lr"):
        train(chosen, tmp_path / "run", data=world)
    assert not Run(tmp_path / "run").finished and len(Run(tmp_path / "run").epochs()) == 1


@pytest.mark.parametrize("phase", ["train", "valid", "test"])
def test_data_that_lacks_rows_are_refused_before_anything_is_written(phase: str, world: Data, tmp_path: Path) -> None:
    empty = torch.empty(0, 2, dtype=torch.long)
    with pytest.raises(BadOption, match=f"has no {phase} rows: choose a split"):
        train(recipe(), tmp_path / "run", data=replace(world, **{phase: empty}))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_user_who_took_every_item_is_named(world: Data, tmp_path: Path) -> None:
    everything = torch.stack([torch.full((60,), 7), torch.arange(60)], 1)
    greedy = replace(world, train=torch.cat([world.train, everything]))
    with pytest.raises(BadData, match="no negative for user u0007: all 60 items"):
        train(recipe(), tmp_path / "run", data=greedy)
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_named(world: Data, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="device = 'cua' cannot be used"):
        train(recipe().with_changes("device=cua"), tmp_path / "run", data=world)


def progress_after(values: list[float | None], **settings: Any) -> tuple[Progress, list[bool]]:
    """How early stopping takes a course of validation values; None is an epoch without evaluation."""
    trainer = object.__new__(Trainer)
    trainer.settings, trainer.progress = Settings(**settings), Progress()
    trainer.objective = torch.nn.Module()  # type: ignore[assignment]
    trainer.objective.model = torch.nn.Linear(1, 1)  # type: ignore[assignment]
    trainer.objective.sampler = torch.nn.Module()  # type: ignore[assignment]
    best = []
    for number, value in enumerate(values):
        assert not trainer.progress.done
        best.append(trainer._note(number, None if value is None else {"recall@20": value}))
    return trainer.progress, best


def test_a_tie_is_no_improvement() -> None:
    progress, best = progress_after([0.1, 0.1, 0.2, 0.2], patience=3)
    assert best == [True, False, True, False] and progress.best_epoch == 2 and progress.without_gain == 1
    assert progress_after([0.0])[0].best_epoch == 0
    assert progress_after([0.1, 0.1 + 1e-15])[1] == [True, True]  # full precision counts


def test_patience_counts_evaluations_without_gain() -> None:
    assert progress_after([0.3, 0.1, 0.2], patience=2)[0].done
    assert not progress_after([0.3, 0.1, 0.4, 0.2], patience=2)[0].done
    assert not progress_after([0.3, None, None, 0.2, None], patience=2, every=3)[0].done
    assert not progress_after([0.3] + [0.1] * 50, patience=0)[0].done
    assert progress_after([0.1, 0.2], epochs=2)[0].done


def test_evaluation_comes_every_so_many_epochs_and_at_the_end(world: Data, tmp_path: Path) -> None:
    run = train(recipe(every=2), tmp_path / "run", data=world)
    assert [line["valid"] is not None for line in run.epochs()] == [False, True, False, True, True]
    assert run.epochs()[run.scores["best_epoch"]]["valid"] == run.scores["valid"]


def test_training_stops_when_patience_is_out_and_keeps_the_best(world: Data, tmp_path: Path) -> None:
    chosen = recipe(epochs=200, patience=2)
    run = train(chosen, tmp_path / "run", data=world)
    lines, best = run.epochs(), run.scores["best_epoch"]
    assert len(lines) == best + 3 < 200
    assert lines[best]["valid"]["recall@20"] == max(line["valid"]["recall@20"] for line in lines)
    assert run.evaluate("valid", lists=False).means == lines[best]["valid"]


def test_scoring_again_gives_the_stored_scores(straight: Callable[[str], Run]) -> None:
    for which in COMBINATIONS:
        again = Run(straight(which).folder)
        assert again.evaluate().means == again.scores["test"]
        assert again.evaluate("valid", lists=False).means == again.scores["valid"]


def test_the_means_of_the_users_are_the_scores(straight: Callable[[str], Run], world: Data) -> None:
    run = straight("freedom")
    users = pl.read_parquet(run.folder / "users.parquet")
    assert len(users) == run.scores["users"] == len(world.test[:, 0].unique())
    assert set(users["user"]) == set(world.raw_users(world.test[:, 0].unique().tolist()))
    for name in users.columns[1:]:
        assert users[name].mean() == pytest.approx(run.scores["test"][name], abs=1e-12)
    assert {"recall@5", "ndcg@20"} <= set(users.columns)


def test_recommendations_speak_in_raw_ids_and_leave_out_what_was_taken(
    straight: Callable[[str], Run], world: Data
) -> None:
    run = Run(straight("lightgcn").folder)
    table = run.recommend(["u0003", "u0001"], 4)
    assert table.columns == ["user", "rank", "item", "score", "title"]
    assert table["user"].to_list() == ["u0003"] * 4 + ["u0001"] * 4 and table["rank"].to_list() == [1, 2, 3, 4] * 2
    everyone = run.recommend(top=100)
    assert everyone["user"].n_unique() == 60
    for user in range(60):
        taken = set(world.raw_items(world.seen.of(user).tolist()))
        mine = everyone.filter(pl.col("user") == f"u{user:04d}")
        assert len(mine) == 60 - len(taken) and not taken & set(mine["item"])
        assert mine["score"].is_sorted(descending=True)
    title = dict(zip(world.raw_items(range(60)), world.titles or (), strict=True))
    assert [title[item] for item in table["item"]] == table["title"].to_list()


def test_some_items_are_hidden_from_all_or_are_all_there_is_to_choose_from(straight: Callable[[str], Run]) -> None:
    run = straight("bprmf")
    whole = run.recommend(top=60)
    first = whole["item"][0]
    left = run.recommend(top=60, hide=[first, "never-was"])
    assert left.drop("rank").equals(whole.filter(pl.col("item") != first).drop("rank"))
    assert left.group_by("user", maintain_order=True).agg(pl.col("rank").is_sorted())["rank"].all()
    some = sorted(whole["item"].unique())[:7]
    chosen = run.recommend(top=60, hide=some[0], only=some)
    assert chosen.drop("rank").equals(whole.filter(pl.col("item").is_in(some[1:])).drop("rank"))
    assert run.known_items([first, "never-was", first]) == (run.known_items(first)[0], ["never-was"])
    for hide, only in ((whole["item"].unique(), None), ((), ["never-was"]), (some, some)):
        with pytest.raises(BadOption, match="None of the items to choose from"):
            run.recommend(hide=hide, only=only)


def test_unknown_users_are_named(straight: Callable[[str], Run]) -> None:
    run = straight("bprmf")
    assert run.known_users(["u0001", "nobody", 5]) == ([1], ["nobody", "5"])
    with pytest.raises(BadOption, match="no user nobody, 5"):
        run.recommend(["u0001", "nobody", 5])
    assert len(run.recommend([])) == 0


def test_a_run_needs_no_folder_name(world: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = recipe(epochs=1)
    run = train(chosen, data=world)
    assert run.folder == Path("runs") / f"bprmf-{chosen.digest}-s0" and run.finished


def test_the_epoch_file_is_one_json_object_a_line(straight: Callable[[str], Run]) -> None:
    for line in (straight("vbpr").folder / "epochs.jsonl").read_text().splitlines():
        noted = json.loads(line)
        assert {"epoch", "loss", "valid", "best", "wall_seconds", "cpu_seconds"} <= set(noted)


def test_a_run_from_elsewhere_says_from_where_its_paths_count(
    tmp_path: Path, world: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    for folder in (home, away):
        folder.mkdir()
    np.savez(home / "pairs.npz", train=world.train.numpy(), test=world.test.numpy())
    monkeypatch.chdir(home)
    chosen = recipe(epochs=1).with_changes("data=pairs", "data.path=pairs.npz", "data.valid_share=0.1")
    run = train(chosen, home / "run")
    monkeypatch.chdir(away)
    with pytest.raises(BadData, match=f"The run was made from {re.escape(str(home))}"):
        _ = Run(home / "run").data
    assert Run(home / "run", data=run.data).recommend(top=1).height == world.n_users
