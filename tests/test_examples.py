"""What a reader copies works: the examples, the code in README and CONTRIBUTING, and the recipes."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from foilrec.recipe import Recipe, expand

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
NOT_HERE = ("make", "git", "pip", "uv", "python3 -m venv")  # what sets up a clone; CI itself runs make
SECONDS = 120


class Block(NamedTuple):
    line: int
    language: str
    text: str


def blocks(text: str) -> Iterator[Block]:
    """Fenced code that is to be run: all but what a comment on the line before says is «not run: reason»."""
    fence = re.compile(r"^```([\w-]*)[^\n]*\n(.*?)^```[ ]*$", re.DOTALL | re.MULTILINE)
    for found in fence.finditer(text):
        before = text[: found.start()].rstrip("\n").rpartition("\n")[2]
        if re.fullmatch(r"<!-- not run: .+ -->", before.strip()) is None:
            yield Block(text.count("\n", 0, found.start()) + 1, found[1], found[2])


def commands(block: Block) -> list[str]:
    """The lines of a block for the shell that are to be run here; of a console block, those after «$ »."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    stripped = (line.strip() for line in lines)
    return [line for line in stripped if line and not re.match(rf"#|(?:{'|'.join(NOT_HERE)})\b", line)]


def runs(words: list[str], folder: Path, where: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    known = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run(words, cwd=folder, env=known, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{where}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A working directory with copies of what a clone has beside its code."""
    for name in ("recipes", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_has_something_to_say(example: Path, clone: Path) -> None:
    assert runs([sys.executable, f"examples/{example.name}"], clone, example.name).strip()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_code_in_a_document_runs(document: Path, clone: Path) -> None:
    for block in blocks(document.read_text(encoding="utf-8")):
        where = f"{document.name}, line {block.line}"
        if block.language == "python":
            runs([sys.executable, "-c", block.text], clone, where)
        elif block.language in ("bash", "console", "sh", "shell"):
            for command in commands(block):
                runs(["bash", "-ec", command], clone, f"{where}: {command}")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_sound_and_named_after_its_file(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOILREC_DATA", str(tmp_path))
    loaded = Recipe.load(recipe)
    assert loaded.name == recipe.stem
    (tmp_path / "again.toml").write_text(loaded.to_toml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "again.toml") == loaded
    for value in loaded.data.options.values():
        assert "$" not in str(expand(value))


def test_no_two_recipes_are_the_same() -> None:
    assert RECIPES and len({Recipe.load(path).digest for path in RECIPES}) == len(RECIPES)


def test_blocks_and_commands_are_found() -> None:
    text = (
        "```python\na\n```\n\n<!-- not run: needs a GPU -->\n```python\nb\n```\n\n"
        "```bash\nmake demo  # x\npip install y\n# z\nfoilrec list \\\n  samplers\nmakeshift\n```\n"
        "```console\n$ foilrec list\ndns\n```\n```\nfoilrec\n```\n"
    )
    found = list(blocks(text))
    assert [(block.line, block.language) for block in found] == [(1, "python"), (10, "bash"), (18, "console"), (22, "")]
    assert [commands(block) for block in found[1:3]] == [["foilrec list    samplers", "makeshift"], ["foilrec list"]]
