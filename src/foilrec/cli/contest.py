"""The command that compares runs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foilrec.errors import BadOption

if TYPE_CHECKING:
    from foilrec.comparing.comparison import Comparison


class Format(StrEnum):
    """How a comparison is written."""

    text = "text"
    markdown = "markdown"
    latex = "latex"
    json = "json"


ENDINGS = {".txt": Format.text, ".md": Format.markdown, ".tex": Format.latex, ".json": Format.json}


def compare(
    runs: Annotated[list[str], typer.Argument(help="run folders, a folder that holds some, or patterns")],
    against: Annotated[
        str | None, typer.Option(help="the reference: a recipe's name or a run (default: first)")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="such as recall@20; repeat it (default: what selected, and its ndcg)")
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="(default: text, or what the ending of --out says)")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="a file to write (default: the terminal)")] = None,
) -> None:
    """Compares finished runs by user: means, intervals, gains and corrected tests; seeds of a recipe are one row."""
    from foilrec.comparing.compare import compare as compared
    from foilrec.files import write_text

    chosen = form or (Format.text if out is None else ENDINGS.get(out.suffix))
    if chosen is None:
        raise BadOption(f"--out {out}: the ending must be one of {', '.join(ENDINGS)}, or --format must be given.")
    metrics = [name.strip() for word in metric or () for name in word.split(",") if name.strip()]
    found = compared(runs, against=against, metrics=metrics)
    if out is not None:
        write_text(out, _written(found, chosen))
        typer.echo(str(out))
    elif chosen is Format.text:
        show(found)
    else:
        typer.echo(_written(found, chosen), nl=False)


def _written(found: "Comparison", form: Format) -> str:
    import json

    if form is Format.json:
        return json.dumps(found.as_dict(), indent=2, ensure_ascii=False) + "\n"
    writers = {Format.text: found.to_text, Format.markdown: found.to_markdown, Format.latex: found.to_latex}
    return writers[form]()


def show(found: "Comparison") -> None:
    """A table on a terminal, plain lines elsewhere."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        typer.echo(found.to_text(), nl=False)
        return
    header, body = found.cells()
    table = Table()
    for i, title in enumerate(header):
        table.add_column(title, justify="left" if i < 2 else "right", overflow="fold")
    for i, row in enumerate(body):
        table.add_row(*row, end_section=i + 1 < len(body) and body[i + 1][0] != row[0])
    console.print(table)
    for remark in found.remarks():
        console.print(remark)
