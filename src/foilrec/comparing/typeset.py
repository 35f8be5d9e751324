"""A table of texts as aligned lines, Markdown or LaTeX, with every character standing for itself."""

import re
from collections.abc import Sequence

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "{}$&#%_"},
}


def plain(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, the first two to the left and the others to the right.

    >>> print(plain(["a", "b", "c"], [["1", "2", "3.25"]]))
    a  b     c
    1  2  3.25
    """
    rows = [[_one_line(cell) for cell in row] for row in [header, *body]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    r"""A table of GitHub's Markdown.

    >>> print(markdown(["a", "b", "c"], [["x|y", "*", "_z"]]))
    | a | b | c |
    |---|---|--:|
    | x\|y | \* | \_z |
    """
    rule = "|" + "|".join("---" if i < 2 else "--:" for i in range(len(header))) + "|"
    first, *rest = (f"| {' | '.join(markdown_text(cell) for cell in row)} |" for row in [header, *body])
    return "\n".join([first, rule, *rest])


def markdown_text(text: str) -> str:
    """Text in which no character marks anything up."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", _one_line(text))


def latex(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    r"""A tabular of LaTeX with booktabs' rules.

    >>> print(latex(["a", "b", "c"], [["x_y", "5 %", "-1"]]))
    \begin{tabular}{llr}
    \toprule
    a & b & c \\
    \midrule
    x\_y & 5 \% & $-$1 \\
    \bottomrule
    \end{tabular}
    """
    columns = "".join("l" if i < 2 else "r" for i in range(len(header)))
    first, *rest = (f"{' & '.join(latex_text(cell) for cell in row)} \\\\" for row in [header, *body])
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", first, "\\midrule", *rest]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def latex_text(text: str) -> str:
    """Text in which no character is a command, and a minus sign is one."""
    safe = "".join(_LATEX.get(sign, sign) for sign in _one_line(text))
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", safe)


def _one_line(text: str) -> str:
    return " ".join(text.split())
