"""The command that audits negatives: what it prints of a recipe and of a run, and what it refuses."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from commands import Command, Said, tiny
from foilrec.cli.audit import pages
from foilrec.core import Data
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train
from foilrec.trainer import Trainer


@pytest.fixture
def audit(foilrec: Command) -> Command:
    """`foilrec audit` in this process."""
    return lambda *words: foilrec("audit", *words)


@pytest.fixture(scope="module")
def shelf(world: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, a finished run of it, and one that was stopped at once."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "tiny.toml").write_text(tiny(12))
    chosen = Recipe.load(folder / "tiny.toml", ["sampler=dns"])
    train(chosen, folder / "run", data=world)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for name, how in (("early", {"on_step": stop}), ("halted", {"on_epoch": stop})):
        with pytest.raises(KeyboardInterrupt):
            train(chosen, folder / name, data=world, **how)
    return folder


def head_and_rows(said: Said) -> tuple[str, list[str]]:
    lines = said.out.splitlines()
    return lines[0], lines[1 : lines.index("")]


def test_a_recipe_is_trained_told_and_thrown_away(
    audit: Command, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    said = audit(shelf / "tiny.toml", "sampler=dns", "sampler.pool=8")
    head, rows = head_and_rows(said)
    assert said.code == 0 and head.startswith("when ") and "truly liked" in head and "length" not in head
    assert [row.split()[:3] for row in rows] == [["epoch", str(n), "all"] for n in range(3)]
    assert "score above their positive" in said.out and "\x1b" not in said.out and said.err.count("\n") == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "epochs"), [(["--epochs", "2"], 2), (["train.epochs=1"], 1), ([], 3)])
def test_epochs_are_few_unless_told(words: list[str], epochs: int, audit: Command, shelf: Path, tmp_path: Path) -> None:
    said = audit(shelf / "tiny.toml", "--rows", 50, "--out", tmp_path / "a.json", *words)
    told = json.loads((tmp_path / "a.json").read_text())
    assert said.code == 0 and [moment["when"] for moment in told["moments"]] == [f"epoch {n}" for n in range(epochs)]
    assert {moment["hardness"]["all"]["draws"] for moment in told["moments"]} == {50}
    assert all(sentence in said.out for sentence in told["advice"]) and told["notes"] == []


def test_a_run_is_told_from_what_it_stored_and_measured_anew(audit: Command, shelf: Path, tmp_path: Path) -> None:
    run = Run(shelf / "run")
    best = run.scores["best_epoch"]
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    said = audit(run.folder, "--out", tmp_path / "a.json")
    assert json.loads(audit(run.folder, "--json").out) == json.loads((tmp_path / "a.json").read_text())
    moments = json.loads((tmp_path / "a.json").read_text())["moments"]
    assert said.code == 0 and said.err == "" and len(head_and_rows(said)[1]) == len(moments)
    names = [moment["when"] for moment in moments]
    assert (
        names[0].startswith("epoch 0") and f"epoch {best} (best)" in names and names[-1] == f"epoch {best} (best) anew"
    )
    assert any(name.startswith("epoch 11") for name in names) and len(names) <= 10
    for moment in moments[:-1]:
        assert moment["hardness"] == run.epochs()[int(moment["when"].split()[1])]["hardness"]
    anew = moments[-1]["hardness"]["all"]
    assert anew == run.hardness(16384)["all"].as_dict() and anew["draws"] == len(run.data.train)
    assert before == {path: path.read_bytes() for path in run.folder.iterdir()}


def test_a_run_without_readings_is_measured_all_the_same(
    audit: Command, world: Data, shelf: Path, tmp_path: Path
) -> None:
    train(Recipe.load(shelf / "tiny.toml", ["train.meter=0", "train.epochs=1"]), tmp_path / "run", data=world)
    said = audit(tmp_path / "run")
    assert said.code == 0 and "stored no readings" in said.out and "epoch 0 (best) anew" in said.out


def test_a_run_that_stopped_is_told_as_far_as_it_came(audit: Command, shelf: Path) -> None:
    said = audit(shelf / "halted")
    assert said.code == 0 and "The run is not finished" in said.out and "epoch 0 (best)" in said.out


def test_a_sampler_that_learns_is_measured_with_what_it_knew_after_the_best_epoch(
    audit: Command, world: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import torch\nfrom foilrec.core import Negatives, Sampler\n\n\n"
        "class Learns(Sampler):\n    def __init__(self, data):\n        super().__init__(data)\n"
        "        self.scale = torch.nn.Parameter(torch.ones(()))\n\n"
        "    def forward(self, tables, batch, query):\n"
        "        return Negatives(vectors=tables.item_rows(self.unseen(batch, 1)) * self.scale)\n\n"
        "    def own_loss(self, tables, batch, query):\n        return (self.scale - 2) ** 2\n"
    )
    (tmp_path / "learnslab.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tiny.toml").write_text(tiny(12))
    chosen = Recipe.load(tmp_path / "tiny.toml", ["sampler=learnslab:Learns", "train.epochs=2"])
    scales: list[float] = []
    with monkeypatch.context() as patch:
        noted = Trainer._note

        def note(self: Trainer, *words: Any) -> bool:
            scales.append(float(self.objective.sampler.scale.detach()))
            return noted(self, *words)

        patch.setattr(Trainer, "_note", note)
        run = train(chosen, tmp_path / "run", data=world)
    best = run.scores["best_epoch"]
    assert float(run.primed(best)[1].scale.detach()) == scales[best] != 1
    said = audit(run.folder)
    assert said.code == 0 and f"epoch {best} (best) anew" in said.out and "length / items'" in said.out
    (run.folder / "sampler.safetensors").write_bytes(b"cut")
    assert audit(run.folder).code == 2
    (run.folder / "sampler.safetensors").unlink()  # as of runs from before they were kept
    said = audit(run.folder)
    assert said.code == 0 and "the run lacks its weights" in said.out and "anew" not in said.out.partition("- The")[0]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("tniy.toml", "no recipe and no run tniy.toml: did you mean 'tiny.toml'"),
        ("rnu", "did you mean 'run'"),
        ("far/away.toml", "no recipe and no run far/away.toml."),
        (".", "is no run folder"),
        ("early", "no finished epoch"),
        ("run sampler=uniform", "run is a run, whose recipe is settled"),
        ("run --epochs 2", "--epochs go with a recipe"),
        ("tiny.toml sampler=dsn", "did you mean 'dns'"),
        ("tiny.toml epochs", "write key=value"),
        ("run/scores.json", "is no TOML file"),
        ("run --rows 5 --out tiny.toml/a.json", "cannot be written"),
        ("run --out a.csv", "let its name end in .json"),
    ],
)
def test_an_error_is_one_paragraph_and_code_2(
    words: str, answer: str, audit: Command, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shelf)
    before = sorted(shelf.rglob("*"))
    said = audit(*words.split())
    assert said.code == 2 and said.out == "" and said.err.startswith("foilrec: ") and answer in said.err, said
    assert "Traceback" not in said.err and sorted(shelf.rglob("*")) == before


def test_a_damaged_line_is_named(audit: Command, world: Data, shelf: Path, tmp_path: Path) -> None:
    train(Recipe.load(shelf / "tiny.toml", ["train.epochs=1"]), tmp_path / "run", data=world)
    lines = tmp_path / "run" / "epochs.jsonl"
    lines.write_text(lines.read_text().replace('"percentile"', '"percentle"'))
    said = audit(tmp_path / "run")
    assert said.code == 2 and "epochs.jsonl is damaged: the hardness of epoch 0" in said.err


def test_wrong_numbers_are_refused(audit: Command, shelf: Path) -> None:
    for words in (["--rows", "0"], ["--epochs", "0"]):
        said = audit(shelf / "tiny.toml", *words)
        assert said.code == 2 and "Traceback" not in said.err


def test_a_table_that_is_too_wide_becomes_several() -> None:
    rows = [["when", "which", "a long head", "b", "c"], ["epoch 0", "all", "12345678", "1234", "1"]]
    assert pages(rows, 200) == [[0, 1, 2, 3, 4]]
    assert pages(rows, 29) == [[0, 1, 2], [0, 1, 3, 4]]
    assert pages(rows, 5) == [[0, 1, 2], [0, 1, 3], [0, 1, 4]]  # nothing is left out


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_on_a_terminal_every_figure_is_whole(
    width: int, audit: Command, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    said = audit(shelf / "run")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.out)
    reading = Run(shelf / "run").hardness(16384)["all"]
    for figure in (
        f"{reading.percentile:.1%}",
        f"{reading.false_low:.2f}-{reading.false_high:.2f})",
        f"{reading.repeats:.1%}",
    ):
        assert figure in text
    assert "…" not in text and "truly" in text and "anew" in text


def test_samplers_side_by_side(audit: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(tiny(12))
    out = tmp_path / "figures.json"
    said = audit(
        tmp_path / "mine.toml", "--samplers", "uniform, dns,ccdrec,neggen", "--epochs", 1, "--rows", 300, "--out", out
    )
    assert said.code == 0, said.err
    lines = [line.split() for line in said.out.splitlines() if line.startswith(("sampler", "uniform", "dns"))]
    assert [line[0] for line in lines] == ["sampler", "uniform", "dns"]
    assert "ccdrec is left out: ccdrec takes its pools from a reverse diffusion" in said.out
    assert "neggen is left out: sampler 'neggen' needs path" in said.out
    stored = json.loads(out.read_text())["moments"]
    easy, hard = (moment["hardness"]["all"]["percentile"] for moment in stored)
    assert easy < hard
    assert all(moment["cost"] > 0 for moment in stored)
    wrong = audit(tmp_path / "mine.toml", "--samplers", "uniform,dsn")
    assert wrong.code == 2
    assert "did you mean 'dns'" in wrong.err
