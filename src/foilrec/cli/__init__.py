"""The command line: `foilrec --help` lists it. Heavy imports happen inside the commands, so that help is instant."""

import signal
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from foilrec.cli import audit, contest, data, encode, export, generate, mine, shelf, show_negatives, work
from foilrec.errors import FoilrecError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Recommenders trained with negatives that are generated, of controlled difficulty, and fitted to the user.",
)
app.add_typer(data.app, name="data")
app.command()(work.demo)
app.command()(work.train)
app.command()(work.evaluate)
app.command()(audit.audit)
app.command()(show_negatives.show_negatives)
app.command()(work.recommend)
app.command()(export.export)
app.command()(contest.compare)
app.command()(mine.mine)
app.command()(generate.generate)
app.command()(encode.encode)
app.command("list")(shelf.list_parts)
app.command()(shelf.show)
app.command()(shelf.check)


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if show_version:
        typer.echo(version("foilrec"))
        raise typer.Exit


def main() -> None:
    """The entry point: an error of ours is one paragraph on stderr and exit code 2, never a traceback.

    To be told to end (SIGTERM, as clusters do) is as to be interrupted: what was trained is saved.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except FoilrecError as error:
        typer.echo(f"foilrec: {error}", err=True)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)):
            raise
        typer.echo(f"foilrec: memory ran out ({error}): lower the batch, the width or the counts.", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("foilrec: interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as head, has left
        sys.stderr.close()
        sys.exit(0)
