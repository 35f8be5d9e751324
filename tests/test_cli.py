"""The command line: what it prints, where, and with which exit code."""

import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pytest
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from commands import Command, Said, tiny
from foilrec import cli, demonstration, parts
from foilrec.recipe import Recipe
from foilrec.run import Run


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and a finished run of it, made by the command in a process of its own."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "tiny.toml").write_text(tiny(3))
    done = process("train", "tiny.toml", "sampler.name=dns", "--out", "run", cwd=folder)
    assert done.code == 0, done.err
    (folder / "said.json").write_text(json.dumps(done))
    return folder


def installed() -> str:
    """The command that an installation puts on the path."""
    found = shutil.which("foilrec", path=str(Path(sys.executable).parent)) or shutil.which("foilrec")
    assert found is not None, "foilrec is not installed"
    return found


def surroundings() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}


def process(*words: str, cwd: Path) -> Said:
    done = subprocess.run(
        [installed(), *words], cwd=cwd, env=surroundings(), capture_output=True, text=True, timeout=120, check=False
    )
    return Said(done.returncode, done.stdout, done.stderr)


def is_an_error(said: Said, *words: str) -> None:
    """Exit code 2, and one paragraph on stderr that holds the words."""
    assert said.code == 2, said
    assert said.out == "" and said.err.startswith("foilrec: ") and said.err.endswith("\n")
    assert "Traceback" not in said.err and "\n\n" not in said.err.strip()
    for word in words:
        assert word in said.err, said.err


def test_training_tells_each_epoch_in_a_plain_line_and_the_result_on_stdout(shelf: Path) -> None:
    said = Said(*json.loads((shelf / "said.json").read_text()))
    lines = said.err.splitlines()
    assert len(lines) == 3 and "\x1b" not in said.err + said.out and "\r" not in said.err
    for number, line in enumerate(lines):
        assert re.fullmatch(rf"epoch +{number}  loss 0\.\d{{5}}  valid recall@20 0\.\d{{5}}( \*)?  \d+\.\d s", line), (
            line
        )
    result, folder = said.out.splitlines()
    run = Run(shelf / folder)
    assert folder == "run" and run.recipe.sampler.name == "dns" and run.recipe.name == "tiny"
    assert f"recall@20 {run.scores['test']['recall@20']:.4f}" in result


def test_an_error_in_a_process_of_its_own_is_one_paragraph(tmp_path: Path) -> None:
    said = process("show", "sampler", "dsn", cwd=tmp_path)
    is_an_error(said, "did you mean 'dns'")


def test_help_and_version_need_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from foilrec import cli; sys.argv = ['foilrec', sys.argv[1]]\n"
        "try: cli.main()\n"
        "finally: assert not {'torch', 'polars', 'numba'} & set(sys.modules), 'heavy'"
    )
    for word, wanted in (("--help", "recommend"), ("--version", version("foilrec"))):
        done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and wanted in done.stdout, done.stderr


def test_every_command_explains_itself() -> None:
    runner = CliRunner()
    for words in ([], ["demo"], ["train"], ["evaluate"], ["recommend"], ["list"], ["show"], ["check"], ["data"]):
        said = runner.invoke(cli.app, [*words, "--help"])
        assert said.exit_code == 0 and "Usage" in said.output


def test_the_version_is_the_packages(foilrec: Command) -> None:
    assert foilrec("--version") == (0, version("foilrec") + "\n", "")


def test_list_names_what_the_folders_hold_and_says_what_it_is(foilrec: Command) -> None:
    listed = dict(line.split(maxsplit=1) for line in foilrec("list", "samplers").out.splitlines())
    assert list(listed) == parts.names("sampler")
    for name, what in listed.items():
        assert what == inspect.getdoc(inspect.getmodule(parts.find("sampler", name)))
    everything = [line.split()[0] for line in foilrec("list").out.splitlines()]
    assert "sampler/dns" in everything and "dataset/shop" in everything
    assert len(everything) == sum(len(parts.names(kind)) for kind in parts.FAMILIES)


def test_show_tells_the_docstring_the_options_and_the_shapes(foilrec: Command) -> None:
    said = foilrec("show", "sampler", "dns")
    assert said.code == 0 and said.out.startswith("sampler dns\n")
    assert "pool: int = 16" in said.out and "[B, top]" in said.out and "SIGIR 2013" in said.out
    for kind in parts.FAMILIES:
        for name in parts.names(kind):
            assert foilrec("show", kind, name).code == 0


def test_show_takes_a_part_as_list_writes_it(foilrec: Command) -> None:
    assert foilrec("show", "sampler/dns") == foilrec("show", "sampler", "dns")


def test_no_help_text_holds_what_the_terminal_would_take_for_markup() -> None:
    commands = [*get_command(cli.app).commands.values()]  # type: ignore[attr-defined]
    texts = [getattr(p, "help", None) or "" for command in commands for p in command.params]
    assert not [text for text in texts if Text.from_markup(text).plain != text]


def test_a_folder_that_holds_runs_names_them(shelf: Path, foilrec: Command) -> None:
    is_an_error(foilrec("evaluate", str(shelf)), "is no run folder", "it holds the runs run")


def test_a_part_that_lacks_a_method_is_broken_and_says_which(foilrec: Command) -> None:
    said = foilrec("check", "foilrec.core:Sampler")
    assert said.code == 1
    assert "BROKEN" in said.out and "no forward of its own" in said.out


def test_check_says_which_parts_keep_their_contract(
    foilrec: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert foilrec("check", "sampler/uniform") == (0, "ok     sampler/uniform\n", "")
    assert foilrec("check", "losses").out.count("ok ") == len(parts.names("loss"))
    source = (
        "from foilrec.core import Negatives, Sampler\n\n\n"
        "class Careless(Sampler):\n"
        '    """Draws what was taken."""\n\n'
        "    def forward(self, tables, batch, query):\n"
        '        """ids [B, 1]."""\n'
        "        return Negatives(ids=batch.positives[:, None])\n"
    )
    (tmp_path / "carelesslab.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = foilrec("check", "carelesslab:Careless")
    assert said.code == 1 and said.out.startswith("BROKEN sampler/carelesslab:Careless: ")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("list samplrs", "did you mean 'sampler'"),
        ("show samplr dns", "did you mean 'sampler'"),
        ("show sampler dsn", "did you mean 'dns'"),
        ("show sampler no.such:Part", "no module"),
        ("check sampler/dsn", "did you mean 'dns'"),
        ("check samplr", "did you mean 'sampler'"),
        ("check foilrec.errors:BadData", "is no part"),
        ("check nowhere:Mine", "there is no module 'nowhere'"),
        ("show dns", "dns is a sampler: `foilrec show sampler dns`"),
        ("show nothing", "There is no family 'nothing'"),
        ("train tniy.toml", "did you mean 'tiny.toml'"),
        ("train tiny.toml sampler.name=dsn", "did you mean 'dns'"),
        ("train tiny.toml train.epoch=3", "did you mean 'epochs'"),
        ("train tiny.toml sampler.pol=3", "no option 'pol'"),
        ("train tiny.toml sede=3", "did you mean 'seed'"),
        ("train tiny.toml epochs", "write key=value"),
        ("train tiny.toml sampler.name=dns --out run", "go on with --resume"),
        ("train tiny.toml --out run --resume", "another recipe"),
        ("train tiny.toml --out said.json", "is a file"),
        ("train tiny.toml device=cua --out new", "device = 'cua'"),
        ("train said.json", "is no TOML file"),
        ("evaluate nowhere", "is no run folder"),
        ("evaluate run --split train", "valid or test"),
        ("recommend nowhere", "is no run folder"),
        ("recommend run --out best.txt", ".parquet, .csv, .jsonl"),
        ("recommend run --users nobody,nor-he", "none of the users nobody, nor-he"),
        ("recommend run --users @nowhere.txt", "there is no file nowhere.txt"),
        ("recommend run --users ,", "names none"),
        ("recommend run --users u0001 --out said.json/best.csv", "cannot be written"),
    ],
)
def test_an_error_is_one_paragraph_and_code_2(
    words: str, answer: str, shelf: Path, foilrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shelf)
    before = sorted(shelf.rglob("*"))
    is_an_error(foilrec(*words.split()), answer)
    assert sorted(shelf.rglob("*")) == before


def test_wrong_usage_is_code_2(foilrec: Command) -> None:
    for words in (["trian"], ["train"], ["recommend", "run", "--top", "0"], ["train", "a.toml", "--nope"]):
        said = foilrec(*words)
        assert said.code == 2 and "Traceback" not in said.err


def test_quiet_training_tells_only_the_result(shelf: Path, foilrec: Command, tmp_path: Path) -> None:
    said = foilrec("train", shelf / "tiny.toml", "train.epochs=1", "--out", tmp_path / "run", "--quiet")
    assert said.code == 0 and said.err == "" and len(said.out.splitlines()) == 2


def test_training_without_out_goes_below_runs(
    shelf: Path, foilrec: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = foilrec("train", shelf / "tiny.toml", "train.epochs=1")
    folder = Path(said.out.splitlines()[-1])
    assert folder.parts[0] == "runs" and folder.name.startswith("tiny-") and Run(tmp_path / folder).finished


def test_a_finished_run_is_told_again_at_once(shelf: Path, foilrec: Command) -> None:
    said = foilrec("train", shelf / "tiny.toml", "sampler.name=dns", "--out", shelf / "run", "--resume")
    assert said.code == 0 and said.err == ""
    assert said.out.splitlines()[0] == json.loads((shelf / "said.json").read_text())[1].splitlines()[0]


def test_evaluate_gives_the_stored_scores(shelf: Path, foilrec: Command) -> None:
    scores = Run(shelf / "run").scores
    said = json.loads(foilrec("evaluate", shelf / "run", "--json").out)
    assert said.pop("users") == scores["users"] and said.pop("protocol") == scores["protocol"]
    assert said == scores["test"]
    table = foilrec("evaluate", shelf / "run")
    assert table.code == 0 and f"{scores['test']['ndcg@10']:.6f}" in table.out
    valid = json.loads(foilrec("evaluate", shelf / "run", "--split", "valid", "--json").out)
    assert valid["recall@20"] == scores["valid"]["recall@20"]


def test_every_format_holds_the_same_rows(shelf: Path, foilrec: Command, tmp_path: Path) -> None:
    readers = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}
    tables = []
    for ending, read in readers.items():
        said = foilrec("recommend", shelf / "run", "--top", 5, "--out", tmp_path / f"best.{ending}")
        assert said == (0, f"60 users, 300 rows: {tmp_path / f'best.{ending}'}\n", "")
        tables.append(read(tmp_path / f"best.{ending}"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.csv", "best.jsonl", "best.parquet"]
    shown = foilrec("recommend", shelf / "run", "--top", 5)
    assert shown.code == 0 and shown.err == ""
    tables.append(pl.read_csv(shown.out.encode(), separator="\t"))
    assert all(table.equals(tables[0]) for table in tables)
    assert tables[0].equals(Run(shelf / "run").recommend(top=5))


def test_partly_unknown_users_are_named_and_the_others_answered(shelf: Path, foilrec: Command, tmp_path: Path) -> None:
    (tmp_path / "who.txt").write_text("u0003\nnobody\n\n u0001 \n", encoding="utf-8")
    for users in ("u0003,nobody,u0001", f"@{tmp_path / 'who.txt'}"):
        said = foilrec("recommend", shelf / "run", "--users", users, "--top", 2)
        assert said.code == 1 and "nothing of 1 of those asked for" in said.err and "nobody" in said.err
        assert [line.split("\t")[0] for line in said.out.splitlines()] == ["user", *["u0003"] * 2, *["u0001"] * 2]
    assert foilrec("recommend", shelf / "run", "--users", "u0003").code == 0


def test_what_is_out_of_stock_is_not_recommended(shelf: Path, foilrec: Command, tmp_path: Path) -> None:
    words = ("recommend", shelf / "run", "--users", "u0003", "--top", 4)
    items = [line.split("\t")[2] for line in foilrec(*words).out.splitlines()[1:]]
    (tmp_path / "gone.txt").write_text(f"{items[0]}\nnew\n", encoding="utf-8")
    said = foilrec(*words, "--hide", f"@{tmp_path / 'gone.txt'}")
    assert said.code == 0 and said.err == "--hide: the training data has none of new.\n"
    assert [line.split("\t")[2] for line in said.out.splitlines()[1:4]] == items[1:]
    only = foilrec(*words, "--only", ",".join(items[1:3]))
    assert [line.split("\t")[2] for line in only.out.splitlines()[1:]] == items[1:3]
    assert foilrec(*words, "--only", "new").code == foilrec(*words, "--hide", f"@{tmp_path / 'no'}").code == 2


def test_a_damaged_run_is_named(shelf: Path, foilrec: Command, tmp_path: Path) -> None:
    shutil.copytree(shelf / "run", tmp_path / "run")
    best = tmp_path / "run" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:100])
    for command in ("evaluate", "recommend"):
        is_an_error(foilrec(command, tmp_path / "run"), "best.safetensors", "truncated")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupted_training_says_how_to_go_on_and_does(
    foilrec: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my shop.toml").write_text(tiny(3))
    words = ["train", "my shop.toml", "train.epochs=12", "data.users=400", "data.items=200", "train.batch=64"]
    command = [installed(), *words, "--out", "a run"]
    with subprocess.Popen(command, env=surroundings(), stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        first = child.stderr.readline()
        child.send_signal(signal.SIGINT)
        rest = child.stderr.read()
    assert child.returncode == 130 and first.startswith("epoch    0"), first + rest
    assert "Traceback" not in rest and "Interrupted. The last finished epoch is saved in a run; go on with:" in rest
    done = len(Run("a run").epochs())
    assert 1 <= done < 12 and not Run("a run").finished
    program, *again = shlex.split(rest.strip().splitlines()[-1])
    assert program == "foilrec" and again == [*words, "--out", "a run", "--resume"]
    said = foilrec(*again)
    assert said.code == 0 and said.err.startswith(f"epoch {done:>4}  loss")
    assert [line["epoch"] for line in Run("a run").epochs()] == list(range(12))


def test_an_interruption_before_the_first_epoch_can_be_gone_on_from(
    foilrec: Command, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    words = ["train", shelf / "tiny.toml", "--out", tmp_path / "run"]
    with monkeypatch.context() as patched:
        patched.setattr("foilrec.trainer.Trainer._step", stop)
        said = foilrec(*words)
    assert said.code == 130 and "No epoch was finished" in said.err and "--resume" in said.err
    assert foilrec(*words, "--resume").code == 0


def test_an_interruption_elsewhere_is_code_130(foilrec: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demonstration, "demonstrate", stop)
    said = foilrec("demo")
    assert said.code == 130 and "Traceback" not in said.err


def test_the_demo_trains_compares_and_recommends(
    foilrec: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Recipe.from_tree

    def brief(tree: dict[str, object], changes: tuple[str, ...] = ()) -> Recipe:
        return whole(tree, [*changes, "train.epochs=2"])

    monkeypatch.setattr(Recipe, "from_tree", brief)
    said = foilrec("demo", "--out", tmp_path / "runs", "--seed", 3)
    assert said.code == 0 and "recall@20" in said.out and "is recommended" in said.out and "\x1b" not in said.out
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == len(demonstration.SAMPLERS) and all(Run(folder).finished for folder in folders)
    is_an_error(Said(2, "", foilrec("demo", "--out", tmp_path / "runs", "--seed", 3).err), "already holds a run")
