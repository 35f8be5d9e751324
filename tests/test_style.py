"""The code stays small and plain: figures of the source tree, from its syntax alone."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "foilrec"
FILES = sorted(SOURCE.rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def body_length(function: ast.FunctionDef) -> int:
    """Lines of a function's body, its docstring not counted."""
    first, documented = function.body[0], ast.get_docstring(function) is not None
    length = (function.end_lineno or 0) - first.lineno + 1
    return length - ((first.end_lineno or 0) - first.lineno + 1) * documented


def functions() -> Iterator[tuple[Path, ast.FunctionDef]]:
    """Every function of the package."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, FUNCTIONS):
                yield path, node


def test_files_are_short() -> None:
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in FILES]
    assert statistics.median(lengths) <= 120
    assert max(lengths) <= 350, FILES[lengths.index(max(lengths))]


def test_functions_are_short() -> None:
    lengths = sorted((body_length(function), f"{path.name}:{function.name}") for path, function in functions())
    assert lengths[-1][0] <= 50, lengths[-1]
    assert lengths[int(0.9 * len(lengths))][0] <= 20


def test_public_names_are_documented() -> None:
    missing = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        for node in tree.body + [inner for outer in classes for inner in outer.body]:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
                missing += [f"{path.name}:{node.name}"] * (ast.get_docstring(node) is None)
    assert not [name for name in missing if "overload" not in name and ":step" not in name]
