"""What `foilrec export` writes: vectors whose dot products are the run's scores, beside the source's ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from commands import Command
from foilrec.core import Data
from foilrec.errors import BadData, BadOption, RunBroken
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.serving import export
from foilrec.stretch import train
from reference.chains import ring

BACKBONES: dict[str, dict[str, Any]] = {
    "bprmf": {"name": "bprmf", "dim": 8},
    "lightgcn": {"name": "lightgcn", "dim": 8},
    "cosine": {"name": "cosine", "temperature": 0.2, "inner": {"name": "lightgcn", "dim": 8}},
}


def trained(folder: Path, data: Data, backbone: dict[str, Any]) -> Run:
    tree = {"name": "tiny", "threads": 1, "backbone": backbone, "train": {"batch": 128, "epochs": 1, "meter": 0}}
    recipe = {**tree, "data": {"name": "shop", "users": 60, "items": 60}}
    return train(Recipe.from_tree(recipe), folder, data=data)


@pytest.fixture(scope="module", params=list(BACKBONES))
def run(request: pytest.FixtureRequest, world: Data, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of each backbone."""
    return trained(tmp_path_factory.mktemp("serve") / "run", world, BACKBONES[request.param])


@pytest.fixture(scope="module", name="one")
def _one(world: Data, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One finished run."""
    return trained(tmp_path_factory.mktemp("serve") / "run", world, BACKBONES["bprmf"])


@pytest.fixture(scope="module", name="reader")
def _reader(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of a backbone that reads histories."""
    return trained(tmp_path_factory.mktemp("serve") / "run", ring(60), {"name": "sasrec", "dim": 8, "max_len": 6})


def rows(folder: Path, side: str, form: str) -> dict[Any, Any]:
    """Raw id -> vector, as another program reads them."""
    if form == "npy":
        ids = (folder / f"{side}s.txt").read_text(encoding="utf-8").splitlines()
        vectors = np.load(folder / f"{side}s.npy", allow_pickle=False)
        assert vectors.dtype == np.float32
    else:
        frame = pl.read_parquet(folder / f"{side}s.parquet")
        assert frame.columns == [side, "vector"] and frame["vector"].dtype == pl.Array(pl.Float32, 8)
        ids, vectors = frame[side].to_list(), frame["vector"].to_numpy()
    assert len(set(ids)) == len(ids) == len(vectors)
    return dict(zip(ids, vectors, strict=True))


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_dot_products_are_the_scores_that_the_run_recommends_by(form: str, run: Run, tmp_path: Path) -> None:
    about = export(run, tmp_path / "out", form=form)
    items, users = (rows(tmp_path / "out", side, form) for side in ("item", "user"))
    data = run.data
    assert list(items) == data.raw_items(range(data.n_items))
    who = list(users)[:9]
    best = run.recommend(who, top=data.n_items)
    assert best["user"].n_unique() == 9 and best["item"].n_unique() == data.n_items
    for row in best.iter_rows(named=True):
        assert users[row["user"]] @ items[row["item"]] == pytest.approx(row["score"], rel=1e-4, abs=1e-6)
    assert about == json.loads((tmp_path / "out" / "about.json").read_text())
    assert sorted([*about["files"], "about.json"]) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert about["dim"] == 8 and about["data"] == {"name": data.name, "fingerprint": data.fingerprint}
    assert about["run"]["name"] == "tiny" and about["run"]["digest"] == run.recipe.digest and about["format"] == 1


def test_users_without_a_training_row_are_left_out_and_numbers_stay_numbers(tmp_path: Path) -> None:
    pairs = torch.tensor([(u, i) for u in range(0, 12, 2) for i in range(u, u + 4)])
    held = torch.tensor([(1, 0), (2, 9)])
    data = Data(12, 16, pairs, held, held, user_ids=range(100, 112), item_ids=range(500, 516))
    export(trained(tmp_path / "run", data, BACKBONES["bprmf"]), tmp_path / "out")
    assert list(rows(tmp_path / "out", "user", "parquet")) == [100, 102, 104, 106, 108, 110]
    assert list(rows(tmp_path / "out", "item", "parquet")) == list(range(500, 516))


def test_the_command_says_what_it_wrote_and_refuses_to_write_over_it(
    foilrec: Command, one: Run, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    said = foilrec("export", one.folder, "--out", out)
    assert said.code == 0 and said.err == "" and f"{out / 'items.parquet'}: 60 rows x 8\n" in said.out
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    said = foilrec("export", one.folder, "--out", out, "--format", "npy")
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert "holds about.json, items.parquet, users.parquet" in said.err and "--force" in said.err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "mine.csv").write_text("stays")
    said = foilrec("export", one.folder, "--out", out, "--format", "npy", "--force")
    assert said.code == 0 and f"{out / 'users.txt'}: 60 rows\n" in said.out
    names = ["about.json", "items.npy", "items.txt", "mine.csv", "users.npy", "users.txt"]
    assert sorted(path.name for path in out.iterdir()) == names, "nothing of the former form is left"
    assert foilrec("export", one.folder, "--out", out, "--format", "csv").code == 2


def test_a_backbone_that_reads_histories_has_no_users_and_says_so(reader: Run, one: Run, tmp_path: Path) -> None:
    export(one, tmp_path / "out")
    about = export(reader, tmp_path / "out", force=True)
    assert "sasrec makes its query from a history" in about["query"]
    assert about["files"] == {"items.parquet": reader.data.n_items}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["about.json", "items.parquet"]
    data, model = reader.data, reader.model
    with torch.no_grad():
        query = model.query(model.propagate(), data.ask(torch.tensor([3]), model.history, ("train", "valid", "test")))
    items = rows(tmp_path / "out", "item", "parquet")
    for row in reader.recommend([3], top=5).iter_rows(named=True):
        assert query[0].numpy() @ items[row["item"]] == pytest.approx(row["score"], rel=1e-4, abs=1e-6)


def test_the_command_tells_that_a_run_has_no_users(
    foilrec: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "_read", lambda self: ring(60))
    run = trained(tmp_path / "run", ring(60), {"name": "gru4rec", "dim": 8, "hidden": 8, "max_len": 6})
    said = foilrec("export", run.folder, "--out", tmp_path / "out")
    assert said.code == 0 and "gru4rec makes its query from a history" in said.err and "users.parquet" not in said.out


@pytest.mark.parametrize("side", ["item", "user"])
@pytest.mark.parametrize("raw", ["a\nb", "a\r", "\u2028"])
def test_ids_that_hold_line_breaks_go_into_parquet_alone(
    side: str, raw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: Data, one: Run
) -> None:
    ids = [raw, "", *(f"x{n}" for n in range(58))]
    monkeypatch.setattr(one.data.__class__, f"raw_{side}s", lambda self, numbers: [ids[n] for n in numbers])
    with pytest.raises(BadData, match=rf"do not fit {side}s\.txt: '.*Take the format parquet\.$"):
        export(one, tmp_path / "out", form="npy")
    assert not (tmp_path / "out").exists()
    export(one, tmp_path / "out")
    assert next(iter(rows(tmp_path / "out", side, "parquet"))) == raw


def test_a_folder_that_is_none_of_its_own_is_refused(one: Run, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in one.folder.iterdir()}
    for force in (False, True):
        with pytest.raises(BadOption, match="is a run folder"):
            export(one, one.folder, force=force)
    assert {path.name: path.read_bytes() for path in one.folder.iterdir()} == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadOption, match="is a file: name a folder"):
        export(one, tmp_path / "file", force=True)
    with pytest.raises(RunBroken, match="cannot be written"):
        export(one, tmp_path / "file" / "out")
    with pytest.raises(BadOption, match="form = 'csv' must be parquet or npy"):
        export(one, tmp_path / "out", form="csv")


def test_what_cannot_serve_is_refused_before_a_file_is_written(
    foilrec: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: Data
) -> None:
    run = trained(tmp_path / "run", world, BACKBONES["bprmf"])
    said = foilrec("export", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert said.code == 2 and "is no run folder" in said.err
    with torch.no_grad():
        next(run.model.parameters())[0, 0] = torch.nan
    with pytest.raises(RunBroken, match="vectors are not finite: it has diverged"):
        export(run, tmp_path / "out")
    (run.folder / "scores.json").unlink()
    with pytest.raises(RunBroken, match=r"scores\.json is missing: .* --resume"):
        export(Run(run.folder, world), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_export_is_no_export(one: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    export(one, tmp_path / "out")
    monkeypatch.setattr(pl.DataFrame, "write_parquet", stop)
    with pytest.raises(KeyboardInterrupt):
        export(one, tmp_path / "out", force=True)
    assert not list((tmp_path / "out").iterdir())
