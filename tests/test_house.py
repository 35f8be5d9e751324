"""The rules of the house, read off the syntax of the source: imports go down, files are named, nothing is pickled."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import foilrec
from foilrec import parts

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "foilrec"
FILES = sorted(SOURCE.rglob("*.py"))
FOLDERS = {folder for folder, _ in parts.FAMILIES.values()}
GROUND = {"errors", "faithful", "files", "numerics", "seen", "sequences", "toml"}  # knows nothing above
SHARED = {"diffusion", "graphs", "measures", "negatives", "tables"}  # what parts are made of: knows the contract too
CONTRACT = {"core", "data"}
PUBLIC = [
    "Backbone",
    "Batch",
    "Data",
    "Features",
    "Loss",
    "Negatives",
    "Protocol",
    "Reader",
    "Recipe",
    "Run",
    "Sampler",
    "Tables",
    "build",
    "evaluate",
    "read",
    "score",
    "train",
]


def module_of(path: Path) -> str:
    """foilrec.samplers.dns for src/foilrec/samplers/dns.py."""
    names = ("foilrec", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


MODULES = {module_of(path): path for path in FILES}


def label(path: Path) -> str:
    """The path below the package, for the name of a test."""
    return path.relative_to(SOURCE).as_posix()


def statements(tree: ast.AST, *, late: bool) -> Iterator[ast.AST]:
    """All nodes that run when a module is imported; with `late` those in functions and for type checkers too."""
    for node in ast.iter_child_nodes(tree):
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if late or not (guarded or inside):
            yield node
            yield from statements(node, late=late)


def imports(path: Path, *, late: bool = True) -> set[str]:
    """The modules of ours that a file imports: `from foilrec import kernels` is foilrec.numerics.kernels."""
    found = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), late=late):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{label(path)}: imports by full names only"
            whole = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in MODULES else str(node.module) for name in whole}
    return {name for name in found if name.split(".")[0] == "foilrec"}


def foreign_imports(path: Path) -> set[str]:
    """The top names of everything else that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=label)
def test_line_1_is_a_docstring_that_says_what_the_file_is(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith('"""')
    summary = lines[0].removeprefix('"""')
    if summary.endswith('"""'):
        assert len(summary) > 7
    else:  # a whole sentence, a blank line, and then more
        assert summary[-1] in ".:"
        assert not lines[1]


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not {"utils", "util", "common", "helpers", "misc", "base"} & {
        part for path in FILES for part in path.relative_to(SOURCE).with_suffix("").parts
    }


@pytest.mark.parametrize("path", FILES, ids=label)
def test_every_function_is_annotated(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            takes = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            bare = [a.arg for a in takes if a and a.annotation is None and a.arg not in ("self", "cls")]
            assert not bare, f"{node.name}: {bare}"
            assert node.returns is not None, node.name


def test_type_checkers_of_those_who_import_it_see_the_types() -> None:
    assert (SOURCE / "py.typed").is_file()


@pytest.mark.parametrize(
    ("floor", "below"), [(GROUND, GROUND), (CONTRACT, CONTRACT | GROUND), (SHARED, SHARED | CONTRACT | GROUND)]
)
def test_a_floor_rests_on_nothing_above(floor: set[str], below: set[str]) -> None:
    for name in sorted(floor):
        files = [path for module, path in MODULES.items() if f"{module}.".startswith(f"foilrec.{name}.")]
        assert files, name
        for path in files:
            assert {other.removeprefix("foilrec.").split(".")[0] for other in imports(path)} <= below, label(path)


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name in FOLDERS], ids=label)
def test_a_part_knows_no_other_part_and_nothing_above_it(path: Path) -> None:
    names = {name.split(".")[1] for name in imports(path)}
    assert not names & FOLDERS, "another part"
    reads = {"reading", "splits", "world"} if path.parent.name == "datasets" else set()
    assert names <= GROUND | CONTRACT | SHARED | reads


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name not in FOLDERS], ids=label)
def test_no_file_imports_a_part_by_its_name(path: Path) -> None:
    assert not [name for name in imports(path) if len(name.split(".")) > 1 and name.split(".")[1] in FOLDERS]


def test_offline_content_knows_no_training_and_is_known_to_the_command_line_alone() -> None:
    for path in FILES:
        names = {name.split(".")[1] for name in imports(path) if "." in name}
        if "content" in path.relative_to(SOURCE).parts:
            assert not names & {"trainer", "run", "evaluation", "contracts", "hardness", "cli"}, label(path)
        elif path.parent.name != "cli":
            assert "content" not in names, label(path)


@pytest.mark.parametrize("name", ["core", "data", "trainer", "evaluation", "hardness"])
def test_the_loop_names_no_part(name: str) -> None:
    every = {part for kind in parts.FAMILIES for part in parts.names(kind)}
    classes = {parts.find(kind, part).__name__ for kind in parts.FAMILIES for part in parts.names(kind)}
    tree = ast.parse((SOURCE / f"{name}.py").read_text(encoding="utf-8"))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not words & every
    assert not used & (classes - {"Table"})
    assert "foilrec.parts" not in imports(SOURCE / f"{name}.py")


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {n for n in imports(path, late=False) if n in MODULES} for name, path in MODULES.items()}
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                walk(other, (*above, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_the_public_names_are_these_in_order() -> None:
    assert foilrec.__all__ == PUBLIC == sorted(PUBLIC)
    assert dir(foilrec) == PUBLIC
    for name in PUBLIC:
        assert getattr(foilrec, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = foilrec.nothing


def loaded_after(code: str, *heavy: str) -> str:
    """Which of the heavy libraries a fresh interpreter has loaded after running the code."""
    script = f"{code}\nimport sys\nprint([name for name in {heavy!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import foilrec", "torch", "numpy", "polars", "numba") == "[]"


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
import foilrec.cli
from typer.testing import CliRunner
result = CliRunner().invoke(foilrec.cli.app, ["--help"])
assert result.exit_code == 0 and "train" in result.output, result.output
"""
    assert loaded_after(code, "torch", "numpy", "polars", "numba") == "[]"


@pytest.mark.parametrize("path", FILES, ids=label)
def test_nothing_is_pickled(path: Path) -> None:
    assert not foreign_imports(path) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            refused = [k.arg for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
            assert not refused, f"line {node.lineno}"
            assert ast.unparse(node.func) not in ("torch.save", "torch.load"), f"line {node.lineno}"


def tracked() -> list[Path]:
    """The files under version control."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout: no list of the project's files")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_the_text_speaks_of_the_project_alone() -> None:
    elsewhere = ["/" + "work/", "shared" + "/tools"]
    found = []
    for path in tracked():
        if path.is_file():
            content = path.read_bytes()
            found += [f"{path.relative_to(ROOT)}: {word}" for word in elsewhere if word.encode() in content]
    assert not found
