"""`foilrec generate`: what it writes, what it says, how it stops and goes on, and what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import model_server as server
from commands import Command
from foilrec import cli
from foilrec.content.backends.openai import OpenAI
from foilrec.content.backends.replay import Replay
from foilrec.content.backends.rules import Rules
from foilrec.content.budget import Budget, BudgetSpent, Price
from foilrec.content.encoder import HashedWords
from foilrec.content.export import export
from foilrec.content.gates import Gates
from foilrec.content.generation import Generation, Order
from foilrec.data import Data
from foilrec.errors import BadOption, PartsDoNotFit

FILES = ("negatives.parquet", "negatives.jsonl", "rejected.jsonl", "text_neg.npy", "text_pos.npy", "image_neg.npy")
SMALL = ("shop", "-o", "users=60", "-o", "items=60")


def made(data: Data, folder: Path, order: Order | None = None, **options: object) -> Generation:
    """A generation by rules, to its end and exported."""
    one = Generation(data, folder, Rules(), order, **options)  # type: ignore[arg-type]
    for _ in one.run():
        pass
    export(one.store, one.goods, one.encoder, folder)
    one.store.close()
    return one


@pytest.fixture(scope="module")
def whole(world: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The negatives of every item of the tiny shop."""
    folder = tmp_path_factory.mktemp("whole")
    made(world, folder)
    return folder


def same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def test_a_table_with_raw_ids_and_features_in_its_order(world: Data, whole: Path) -> None:
    table = pl.read_parquet(whole / "negatives.parquet")
    lines = [json.loads(line) for line in (whole / "negatives.jsonl").read_text().splitlines()]
    assert lines == table.to_dicts() and len(table) > 150
    assert set(table["item"]) <= set(world.item_ids or ()) and table["user"].null_count() == len(table)
    assert table["difficulty"].to_list() == [len(edits) for edits in table["edits"]]
    assert table.equals(table.sort("item", "difficulty"))
    encode = HashedWords(f"{t}. {d}" for t, d in zip(world.titles or (), world.descriptions or (), strict=True))
    for row in (0, 57, len(table) - 1):
        one = table.row(row, named=True)
        texts = [one["image_caption"], one["image_caption_before"], f"{one['title']}. {one['description'].rstrip('.')}"]
        rows = encode(texts)
        np.testing.assert_allclose(np.load(whole / "image_neg.npy")[row], rows[0], atol=1e-6)
        np.testing.assert_allclose(np.load(whole / "image_pos.npy")[row], rows[1], atol=1e-6)
        np.testing.assert_allclose(np.load(whole / "text_neg.npy")[row], rows[2], atol=1e-6)
        assert rows[0] @ rows[1] == pytest.approx(one["cos_image"], abs=1e-3)
    notes = json.loads((whole / "features.json").read_text())
    assert notes["rows"] == len(table) == len(np.load(whole / "text_pos.npy")) and notes["route"] == "caption"
    assert notes["encoder"] == "hashed" and notes["revision"] == encode.revision


def test_the_same_comes_of_pieces_of_threads_and_of_replay(world: Data, whole: Path, tmp_path: Path) -> None:
    for requests in (40, 41, 190, None):
        one = Generation(
            world, tmp_path, Rules(), resume=True, budget=Budget(requests=requests), workers=1 if requests else 6
        )
        try:
            list(one.run())
            assert requests is None
        except BudgetSpent:
            assert one.store.spent().requests == requests
        export(one.store, one.goods, one.encoder, tmp_path)
        one.store.close()
        assert same(tmp_path, whole) == (requests is None)
    again = Generation(world, tmp_path, Replay())
    before = again.store.spent()
    list(again.run())
    export(again.store, again.goods, again.encoder, tmp_path)
    assert again.store.spent() == before and same(tmp_path, whole)
    again.store.close()


def test_answers_are_judged_again_by_other_limits(world: Data, tmp_path: Path) -> None:
    made(world, tmp_path, Order(difficulties=(1,)))
    strict = Generation(world, tmp_path, Replay(), Order(difficulties=(1, 2)), gates=Gates(0.2, 0.85))
    outcomes = [outcome for each in strict.run() for outcome in each]
    reasons = {outcome.reason for outcome in outcomes if outcome.state == "failed"}
    assert reasons == {"The answer is not in the store, and replay asks nobody."}
    kept = [o for o in outcomes if o.state == "done"]
    assert kept and all(cosine <= 0.85 for o in kept for cosine in (o.content or {})["cosines"].values())
    assert {o.job.difficulty for o in kept} == {1}
    strict.store.close()


def test_a_sample_grows_and_another_order_is_refused(world: Data, tmp_path: Path) -> None:
    made(world, tmp_path, Order(sample=5, difficulties=(2,)))
    more = Generation(world, tmp_path, Rules(), Order(sample=9, difficulties=(1, 2)), resume=True)
    assert sum(map(len, more.left().values())) == 9 * 2 - 5
    more.store.close()
    with pytest.raises(BadOption, match="--resume"):
        Generation(world, tmp_path, Rules())
    for order in (Order(seed=1), Order(personal=True), Order(modalities=("text",)), Order(temperature=0.5)):
        with pytest.raises(BadOption, match="was made with"):
            Generation(world, tmp_path, Rules(), order, resume=True)
    with pytest.raises(BadOption, match="no answers to replay"):
        Generation(world, tmp_path / "none", Replay())
    with pytest.raises(BadOption, match="needs a price"):
        Generation(world, tmp_path / "none", Rules(), budget=Budget(money=1.0))
    assert not (tmp_path / "none").exists()


def test_negatives_for_one_user_follow_his_taste_and_name_him(world: Data, tmp_path: Path) -> None:
    one = made(world, tmp_path, Order(sample=20, personal=True, difficulties=(1,)))
    table = pl.read_parquet(tmp_path / "negatives.parquet")
    taken = {(world.raw_users([u])[0], world.raw_items([i])[0]) for u, i in world.train.tolist()}
    assert len(table) == 20 and set(zip(table["user"], table["item"], strict=True)) <= taken
    store = (tmp_path / "store.sqlite").read_bytes()
    assert not [user for user in set(table["user"]) if f'"{user}"'.encode() in store]
    assert one.order.personal


def test_text_alone_and_words_for_other_modalities(world: Data, tmp_path: Path) -> None:
    words = {
        "audio": {
            str(raw): f"a {title.lower()}" for raw, title in zip(world.item_ids or (), world.titles or (), strict=True)
        }
    }
    made(world, tmp_path / "text", Order(modalities=("text",), sample=8))
    made(world, tmp_path / "audio", Order(modalities=("text", "audio"), sample=8, words=words, difficulties=(1, 2)))
    assert "image_caption" not in pl.read_parquet(tmp_path / "text" / "negatives.parquet").columns
    audio = pl.read_parquet(tmp_path / "audio" / "negatives.parquet")
    assert len(audio) > 8 and (tmp_path / "audio" / "audio_neg.npy").exists()
    for row in audio.iter_rows(named=True):
        assert all(edit["new"] in row["audio_caption"] for edit in row["edits"] if edit["modality"] != "text")


def test_items_without_text_are_left_out_and_counted(world: Data, tmp_path: Path) -> None:
    data = Data(60, 60, world.train, world.valid, world.test, titles=["", "  ", *["red hat"] * 58])
    one = Generation(data, tmp_path, Rules(), Order(difficulties=(1, 3)))
    assert {0, 1} <= set(world.train[:, 1].tolist()) and not {0, 1} & set(one.left())
    outcomes = [outcome for each in one.run() for outcome in each]
    assert one.store.about()["items without text"] == 2
    assert {o.gate for o in outcomes if o.job.difficulty == 3} == {"intervene: too few"}
    one.store.close()


def test_moved_features_keep_what_no_edit_touches(world: Data, tmp_path: Path) -> None:
    one = Generation(world, tmp_path, Rules())
    list(one.run())
    try:
        export(one.store, one.goods, one.encoder, tmp_path, "delta")
    except PartsDoNotFit as error:  # sixty items may be too few to learn pictures from
        assert "variance of image" in str(error)
    notes = json.loads((tmp_path / "features.json").read_text()) if (tmp_path / "features.json").exists() else None
    items = [outcome.job.item for outcome in one.store.outcomes("done")]
    np.testing.assert_array_equal(np.load(tmp_path / "text_pos.npy"), world.features["text"].rows[items])
    moved = np.load(tmp_path / "text_neg.npy") - np.load(tmp_path / "text_pos.npy")
    assert moved.any(1).all() and (notes is None or notes["modalities"]["text"]["r2"] >= 0.05)
    bare = Data(60, 60, world.train, world.valid, world.test, titles=world.titles, descriptions=world.descriptions)
    one.store.close()
    other = Generation(bare, tmp_path / "bare", Rules(), Order(sample=3))
    list(other.run())
    with pytest.raises(PartsDoNotFit, match="no features of text"):
        export(other.store, other.goods, other.encoder, tmp_path / "bare", "delta")
    other.store.close()


def test_a_route_that_is_refused_leaves_the_export_before_it_whole(world: Data, tmp_path: Path) -> None:
    bare = Data(60, 60, world.train, world.valid, world.test, titles=world.titles, descriptions=world.descriptions)
    made(bare, tmp_path, Order(sample=3))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.[pnj]*")}
    other = Generation(bare, tmp_path, Rules(), Order(sample=6), resume=True)
    list(other.run())
    with pytest.raises(PartsDoNotFit, match="no features of text"):
        export(other.store, other.goods, other.encoder, tmp_path, "delta")
    other.store.close()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.[pnj]*")} == before


@pytest.mark.parametrize("ids", [[n + 0.5 for n in range(60)], [2**63 + n for n in range(60)]])
def test_ids_of_any_kind_come_back(ids: list[object], world: Data, tmp_path: Path) -> None:
    data = replace(world, item_ids=ids, features={}, pictures=None, oracle=None)
    made(data, tmp_path, Order(sample=4, difficulties=(1,)))
    assert set(pl.read_parquet(tmp_path / "negatives.parquet")["item"]) <= set(ids)


def test_a_replay_adds_nothing_to_what_was_spent(world: Data, tmp_path: Path) -> None:
    made(world, tmp_path, Order(sample=3))
    again = Generation(world, tmp_path, Replay(), Order(), resume=True)
    before = again.store.spent()
    list(again.run())
    assert again.store.spent() == before
    again.store.close()


def test_the_command_writes_a_folder_and_says_what_it_took(foilrec: Command, tmp_path: Path) -> None:
    said = foilrec("generate", *SMALL, "--out", tmp_path / "out", "--sample", "10", "--difficulty", "1,2")
    assert said.code == 0, said.err
    first, items, makers, folder = said.out.splitlines()
    assert folder == str(tmp_path / "out") and first.startswith("20 negatives; 0 rejected") and "50 requests" in first
    assert items.startswith("10 of 60 items have a negative; 50 were not asked for")
    assert makers == "rules: 20, dropped: 0"
    assert "20 of 20" in said.err and "\x1b" not in said.err
    sheet = (tmp_path / "out" / "datasheet.md").read_text()
    assert "do not exist" in sheet and "without a model" in sheet and "| 2 | 10 | 0 | 0 |" in sheet
    again = foilrec("generate", *SMALL, "--out", tmp_path / "out", "--sample", "10", "--difficulty", "1,2", "--resume")
    assert again.code == 0 and "50 requests" in again.out


def test_a_dry_run_asks_nobody_and_is_about_right(foilrec: Command, tmp_path: Path) -> None:
    words = ("generate", *SMALL, "--sample", "10", "--out", tmp_path / "out")
    prices = tmp_path / "prices.toml"
    prices.write_text("[m]\nprompt = 1000.0\ncompletion = 1000.0\n")
    dry = foilrec(*words, "--dry-run", "--backend", "openai", "--url", "http://127.0.0.1:9", "--no-pictures")
    assert dry.code == 0 and "30 negatives of 10 items: about 70 requests" in dry.out
    assert not (tmp_path / "out").exists()
    told = foilrec(*words, "--dry-run", "--backend", "openai", "--url", "http://h", "--model", "m", "--prices", prices)
    assert " money;" in told.out
    tokens = sum(
        int(word.replace(",", "")) for word in dry.out.split() if word.replace(",", "").isdigit() and "," in word
    )
    foilrec(*words)
    spent = json.loads((tmp_path / "out" / "datasheet.json").read_text())["spent"]
    assert spent["requests"] == 70 and 0.6 < tokens / spent["tokens"] < 1.6
    rest = foilrec(*words, "--dry-run")
    assert "0 negatives of 0 items" in rest.out


def test_a_spent_budget_is_a_clean_stop(foilrec: Command, tmp_path: Path) -> None:
    said = foilrec("generate", *SMALL, "--out", tmp_path / "out", "--budget-requests", "30", "--difficulty", "1")
    assert said.code == 1 and "budget of 30 requests is spent" in said.err
    assert f"--out {tmp_path / 'out'} --budget-requests 30 --difficulty 1 --resume" in said.err
    assert len((tmp_path / "out" / "negatives.jsonl").read_text().splitlines()) == 10


def test_the_command_says_what_would_help_where_one_gate_takes_most(foilrec: Command, tmp_path: Path) -> None:
    words = ("generate", *SMALL, "--sample", "10", "--difficulty", "1")
    said = foilrec(*words, "--band", ".97,.98", "--out", tmp_path / "narrow").out
    assert re.search(r"\n\d+ were refused by «generate: contrast»: --band says .* asks nobody\.\n", said)
    assert "were refused by «" not in foilrec(*words, "--out", tmp_path / "wide").out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.toml"], "There is no recipe"),
        (["shpo"], "did you mean 'shop'"),
        (["shop", "--backend", "rulez"], "did you mean 'rules'"),
        (["shop", "--backend", "openai"], "needs url"),
        (["shop", "--url", "http://x"], "takes no url"),
        (["shop", "--difficulty", "one"], "numbers with commas"),
        (["shop", "--difficulty", "0"], "1 to 8"),
        (["shop", "--band", ".9"], "two cosines"),
        (["shop", "--band", ".9,.1"], "must rise"),
        (["shop", "--route", "picture"], "caption, delta or image"),
        (["shop", "--words", "image"], "modality and a file"),
        (["shop", "--words", "image=none.csv"], "no file none.csv"),
        (["shop", "--modalities", "image"], "begin with text"),
        (["shop", "--budget-money", "1"], "needs a price"),
        (["shop", "--prices", "p.toml"], "say which --model"),
        (["shop", "--encoder", "hashd"], "did you mean 'hashed'"),
        (["shop", "--backend", "xllamacpp", "--model", "none.gguf"], "no model file"),
        (["shop", "--backend", "replay"], "no answers to replay"),
        (["shop", "--backend", "openai", "--url", "http://127.0.0.1:9"], "No server answers"),
    ],
)
def test_what_cannot_be_is_explained(
    foilrec: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = foilrec("generate", *words, "--out", "out", "--sample", "2")
    assert said.code == 2 and told in said.err and said.err.startswith("foilrec: "), said
    assert not Path("out").exists()


def test_the_first_interruption_keeps_what_comes_and_says_how_to_go_on(foilrec: Command, tmp_path: Path) -> None:
    def soon() -> None:
        while len(one.asked) < 9:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    words = ("generate", *SMALL, "--backend", "openai", "--no-pictures", "--difficulty", "1", "--out", tmp_path / "out")
    with server.serving() as one:
        thread = threading.Thread(target=soon)
        thread.start()
        said = foilrec(*words, "--url", one.url, "--workers", "2")
        thread.join()
        assert said.code == 130 and "go on with:\n  foilrec generate shop" in said.err and "--resume" in said.err
        interrupted = len(one.asked)
        assert interrupted < 100
        assert foilrec(*words, "--url", one.url, "--resume").code == 0
        assert len({json.dumps(body) for body in one.asked}) == len(one.asked) > interrupted


def test_a_second_interruption_leaves_at_once(tmp_path: Path) -> None:
    with server.serving() as one:
        one.then = server.hang(30.0)
        script = "import sys; from foilrec import cli; cli.main()"
        words = ["generate", *SMALL, "--backend", "openai", "--no-pictures", "--url", one.url, "--out", str(tmp_path)]
        child = subprocess.Popen([sys.executable, "-c", script, *words], stderr=subprocess.PIPE, text=True)
        while not one.asked:
            assert child.poll() is None, child.communicate()
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        while "Ctrl-C again" not in child.stderr.readline():
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=60) == 130
        child.stderr.close()


def test_help_says_what_there_is() -> None:
    from typer.testing import CliRunner

    said = CliRunner().invoke(cli.app, ["generate", "--help"])
    assert said.exit_code == 0 and "negatives" in said.output.lower()


def test_money_is_counted_by_the_table(world: Data, tmp_path: Path) -> None:
    with server.serving() as one:
        made_of = Generation(
            world,
            tmp_path,
            OpenAI(url=one.url),
            Order(sample=4, difficulties=(1,), pictures=False),
            price=Price(10.0, 20.0),
            budget=Budget(money=10.0),
        )
        list(made_of.run())
        spent = made_of.store.spent()
        made_of.store.close()
    assert spent.requests == 12 and spent.money == pytest.approx(12 * (300 * 10 + 60 * 20) / 1e6)
