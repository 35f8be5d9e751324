"""The command that shows negatives: what it says of items and of made-up vectors, and what it refuses."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import normalize

from commands import Command, tiny
from foilrec.auditing.showing import Shown, show
from foilrec.content.strip import GAP, SIDE, strip
from foilrec.core import Data
from foilrec.errors import BadData
from foilrec.numerics import streams
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import train

RUNS = {
    "dns": ["sampler=dns"],
    "adar": ["sampler=adar", "sampler.boundary=pair", "sampler.start=0.9", "sampler.ramp=3"],
    "graded": ["sampler=graded", "sampler.targets=[0.3, 0.9]", "sampler.delta=2", "sampler.omega=0.5"],
    "inbatch": ["sampler=inbatch"],
    "denoised": ["sampler=adar", "sampler.boundary=midpoint", "sampler.reverse=1", "sampler.dim=8"],
}


@pytest.fixture(scope="module")
def runs(world: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of each kind of sampler, and one that was stopped."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.toml").write_text(tiny(4))
    return {
        name: train(Recipe.load(folder / "tiny.toml", words), folder / name, data=world) for name, words in RUNS.items()
    }


@pytest.fixture
def told(foilrec: Command, runs: dict[str, Run]) -> Command:
    """`foilrec show-negatives RUN` in this process, the run by its name."""
    return lambda run, *words: foilrec("show-negatives", runs[run].folder, *words)


def user_of(data: Data, least: int = 5) -> int:
    """Someone who took some items."""
    return int((data.seen.counts >= least).nonzero()[0])


def test_items_are_shown_as_they_are(runs: dict[str, Run], world: Data) -> None:
    user = user_of(world)
    found = show(runs["dns"], world.raw_users([user])[0], draws=40, top=60)
    positives = [each for each in found if each.level == "positive"]
    mine = world.train[world.train[:, 0] == user, 1].tolist()
    assert [each.item for each in positives] == world.raw_items(mine[:3])
    model = runs["dns"].model
    scores = (model.propagate().items @ model.propagate().users[user]).tolist()
    for each in found:
        assert each.score == pytest.approx(scores[each.number], abs=1e-5)
        assert each.item_score == pytest.approx(scores[each.number], abs=1e-5)
        assert each.nearest == pytest.approx(1) and each.seen == (each.number in mine) == (each.level == "positive")
        assert each.title == world.titles[each.number] and each.item == world.raw_items([each.number])[0]
        liked = world.oracle.probability(torch.tensor([user]), torch.tensor([[each.number]]))
        assert each.liked == pytest.approx(float(liked))
    drawn = [each for each in found if each.level != "positive"]
    assert {each.level for each in drawn} == {"all"} and sum(each.draws for each in drawn) == 3 * 40
    assert sum(each.share for each in drawn) == pytest.approx(3)
    counts = [each.draws for each in drawn[: len({each.item for each in drawn if each.positive == positives[0].item})]]
    assert counts == sorted(counts, reverse=True)


def test_made_up_vectors_are_shown_by_the_nearest_items(runs: dict[str, Run], world: Data) -> None:
    run, row = runs["adar"], int((world.train[:, 0] == user_of(world)).nonzero()[0])
    user, positive = world.train[row].tolist()
    raw = world.raw_users([user])[0], world.raw_items([positive])[0]
    found = show(run, raw[0], [raw[1]], epochs=[0, 1, 3], draws=30, top=60)
    assert [each.epoch for each in found if each.level == "positive"] == [0, 1, 3]
    levels = {epoch: {each.level for each in found if each.epoch == epoch} - {"positive"} for epoch in (0, 1, 3)}
    assert levels[0] == {"stage 0"}
    assert (
        levels[1] <= {"stage 0", "stage 1"} and levels[3] <= {"stage 0", "stage 4"} and len(levels[1] | levels[3]) > 1
    )
    model, sampler, _ = run.primed(3)
    with torch.no_grad():
        tables, slow = model.eval().propagate(), {}
    for n in range(30):
        sampler.eval().seed = streams.key(run.recipe.seed, "show", n)
        batch = world.batch(torch.tensor([row]), 3, seed=sampler.seed)
        answer = sampler(tables, batch, model.query(tables, batch))
        if answer.mask[0, 1]:
            vector = answer.vectors[0, 1].detach()
            item = int((normalize(tables.items) @ normalize(vector, dim=0)).argmax())
            slow.setdefault(item, []).append(vector)
    made = [each for each in found if each.epoch == 3 and each.level == "stage 4"]
    assert {each.number: each.draws for each in made} == {item: len(vectors) for item, vectors in slow.items()}
    query, items = tables.users[user].detach(), tables.items.detach()
    for each in made:
        scores = [float(query @ vector) for vector in slow[each.number]]
        nearest = [
            float(normalize(vector, dim=0) @ normalize(items[each.number], dim=0)) for vector in slow[each.number]
        ]
        assert each.score == pytest.approx(sum(scores) / len(scores), abs=1e-5) and each.nearest < 1
        assert each.nearest == pytest.approx(sum(nearest) / len(nearest), abs=1e-5)


@pytest.mark.parametrize(
    ("run", "levels"),
    [("graded", {"stage 0", "stage 2"}), ("inbatch", {"all"}), ("denoised", {"stage 0", "stage 5"})],
)
def test_every_kind_of_sampler_can_be_asked(run: str, levels: set[str], runs: dict[str, Run], world: Data) -> None:
    found = show(runs[run], world.raw_users([user_of(world)])[0], epochs=[3], draws=8)
    assert {each.level for each in found} == levels | {"positive"}
    again = show(runs[run], world.raw_users([user_of(world)])[0], epochs=[3], draws=8)
    assert found == again
    if run != "denoised":
        assert not any(each.seen for each in found if each.level != "positive")


def test_a_backbone_that_reads_histories_is_told_them(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(tiny(2).replace("items = 60", 'items = 60\nsplit = "leave-one-out"'))
    changes = ["backbone=sasrec", "backbone.dim=8", "sampler=adar", "sampler.boundary=midpoint"]
    run = train(Recipe.load(tmp_path / "tiny.toml", changes), tmp_path / "run")
    user = user_of(run.data)
    found = show(run, run.data.raw_users([user])[0], epochs=[1], draws=4)
    first = int(run.data.train[run.data.train[:, 0] == user, 1][0])
    assert found and first not in [each.number for each in found if each.level == "positive"]  # it has no past


def test_the_command_prints_a_table_json_or_a_file(
    told: Command, runs: dict[str, Run], world: Data, tmp_path: Path
) -> None:
    raw = world.raw_users([user_of(world)])[0]
    said = told("graded", "--user", raw, "--draws", 9, "--epoch", "0,3")
    shown = show(runs["graded"], raw, draws=9, epochs=[0, 3])
    lines = [line for line in said.out.splitlines() if line]
    assert said.code == 0 and len(lines) == len(shown) + 6 and "\x1b" not in said.out
    assert lines[0].startswith(f"{raw} took {shown[0].item} «{shown[0].title}»: score") and "truly liked" in lines[0]
    assert lines[1].split()[:4] == ["level", "item", "title", "drawn"] and "seen" not in lines[1]
    as_json = told("graded", "--user", raw, "--draws", 9, "--epoch", "0,3", "--json")
    assert json.loads(as_json.out) == [each.as_dict() for each in shown]
    for ending, read in ((".csv", pl.read_csv), (".jsonl", pl.read_ndjson), (".parquet", pl.read_parquet)):
        out = tmp_path / f"a{ending}"
        assert told("graded", "--user", raw, "--draws", 9, "--epoch", "0,3", "--out", out).code == 0
        assert read(out)["item"].to_list() == [each.item for each in shown]


def decoded(path: Path) -> np.ndarray:
    """The pixels of a PNG of 8-bit colours without filters."""
    content, at, packed = path.read_bytes(), 8, b""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(content):
        (length,), kind = struct.unpack(">I", content[at : at + 4]), content[at + 4 : at + 8]
        data = content[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + data) == struct.unpack(">I", content[at + 8 + length : at + 12 + length])[0]
        if kind == b"IHDR":
            width, height = struct.unpack(">II", data[:8])
        packed += data if kind == b"IDAT" else b""
        at += 12 + length
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + 3 * width)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)


def test_the_strip_has_a_row_a_level_and_the_positive_first(
    told: Command, runs: dict[str, Run], world: Data, tmp_path: Path
) -> None:
    raw = world.raw_users([user_of(world)])[0]
    assert told("graded", "--user", raw, "--draws", 9, "--top", 3, "--png", tmp_path / "s.png").code == 0
    shown = show(runs["graded"], raw, draws=9, top=3)
    levels: list[list[Shown]] = []
    for each in shown:
        if each.level == "positive":
            positive, last = each, ""
            continue
        if each.level != last:
            levels.append([positive])
        last = each.level
        levels[-1].append(each)
    pixels = decoded(tmp_path / "s.png")
    assert pixels.shape[0] == GAP + len(levels) * (SIDE + GAP)
    for r, row in enumerate(levels):
        for c, each in enumerate(row):
            top, left = GAP + r * (SIDE + GAP), GAP + c * (SIDE + GAP) + 2 * GAP * (c > 0)
            original = world.pictures[each.number]
            assert (pixels[top : top + SIDE : 3, left : left + SIDE : 3] == original).all()


def test_pictures_keep_their_proportions_and_none_is_grey(tmp_path: Path) -> None:
    wide = np.arange(60, dtype=np.uint8).reshape(2, 10, 3)
    sheet = strip([wide, None], [[0, 1], [0]])
    high = round(2 * SIDE / 10)
    top = GAP + (SIDE - high) // 2
    assert (sheet[top : top + high, GAP] == np.repeat(wide[:, 0], [-(-high // 2), high // 2], 0)).all()
    assert (sheet[GAP:top, GAP : GAP + SIDE] == 255).all()
    assert len(np.unique(sheet[GAP : GAP + SIDE, 3 * GAP + GAP + SIDE : 3 * GAP + GAP + 2 * SIDE - GAP])) == 1
    with pytest.raises(BadData, match="item number 0 cannot be shown"):
        strip([np.zeros(3)], [[0]])
    image = pytest.importorskip("PIL.Image")
    image.fromarray(wide).save(tmp_path / "a.png")
    assert (strip([tmp_path / "a.png"], [[0]]) == strip([wide], [[0]])).all()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("dns --user u00O1", "shop has no user u00O1: did you mean 'u00"),
        ("dns --user u0001 --item item-0000", "shop has no item item-0000: did you mean 'item-000"),
        ("dns --user u0001 --item {other}", "did not take {other} in training. He took item-"),
        ("dns --user u0001 --epoch two", "--epoch two: write a number from 0"),
        ("dns --user u0001 --epoch 0,-1", "--epoch 0,-1: write a number from 0"),
        ("dns --user u0001 --out a.txt", "the ending must be one of .csv"),
        ("dns --user u0001 --png a.jpg", "the ending must be .png"),
    ],
)
def test_an_error_is_one_paragraph_and_code_2(
    words: str, answer: str, told: Command, world: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = next(i for i in range(60) if not world.seen.contains(torch.tensor([1]), torch.tensor([[i]])))
    raw = world.raw_items([other])[0]
    said = told(*words.format(other=raw).split())
    assert said.code == 2 and said.out == "" and answer.format(other=raw) in said.err and "Traceback" not in said.err
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_none_and_data_without_pictures_are_told(foilrec: Command, world: Data, tmp_path: Path) -> None:
    assert "is no run folder" in foilrec("show-negatives", tmp_path, "--user", "u0001").err
    pairs = np.concatenate([world.train.numpy(), world.valid.numpy(), world.test.numpy()])
    rows = "\n".join(f"{u}\t{i}" for u, i in pairs.tolist())
    (tmp_path / "log.csv").write_text("user\titem\n" + rows + "\n")
    (tmp_path / "t.toml").write_text(
        f'threads = 1\n[data]\nname = "table"\npath = "{tmp_path}/log.csv"\nsplit = "random"\n[train]\nepochs = 1\n'
    )
    run = train(Recipe.load(tmp_path / "t.toml"), tmp_path / "run")
    assert run.data.pictures is None and run.data.titles is None
    said = foilrec("show-negatives", run.folder, "--user", run.data.raw_users([0])[0], "--png", tmp_path / "a.png")
    assert said.code == 2 and "has no pictures" in said.err
    said = foilrec("show-negatives", run.folder, "--user", run.data.raw_users([0])[0], "--draws", 2)
    assert said.code == 0 and "title" not in said.out and "liked" not in said.out
