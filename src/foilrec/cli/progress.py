"""What a training shows while it runs: a bar on a terminal, a line an epoch elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from foilrec.graphs import nearest

if TYPE_CHECKING:
    from foilrec.recipe import Recipe
    from foilrec.trainer import Epoch

SOON = 5.0  # seconds, within which a count is not worth a line
Shown = tuple["Callable[[Epoch], None]", "Callable[[int, int], None] | None"]


@contextmanager
def shown(recipe: "Recipe", *, quiet: bool = False) -> "Iterator[Shown]":
    """Callbacks for foilrec.train that show where it stands."""
    console = Console(stderr=True)
    if quiet:
        yield (lambda epoch: None), None
    elif not console.is_terminal:
        with nearest.heard(_printed(console), _tenths(console)):
            yield (lambda epoch: console.print(line(epoch, recipe.train.select), highlight=False, soft_wrap=True)), None
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            search = bar.add_task("neighbours", total=None, visible=False)

            def on_block(block: int, blocks: int) -> None:
                bar.update(search, completed=block, total=blocks, visible=block < blocks)

            with nearest.heard(_printed(bar.console), on_block):
                yield _with_bar(bar, recipe)


def _printed(console: Console) -> nearest.Say:
    return lambda text: console.print(text, highlight=False, soft_wrap=True)


def _tenths(console: Console) -> nearest.Step:
    """A line a tenth of the way, for a search without a terminal."""

    def step(block: int, blocks: int) -> None:
        if block * 10 // blocks > (block - 1) * 10 // blocks:
            console.print(f"neighbours {block * 100 // blocks} %", highlight=False)

    return step


@contextmanager
def counted(what: str) -> Iterator[tuple[nearest.Step, nearest.Say]]:
    """step(done, total) and say(text): a bar on a terminal, elsewhere a line a tenth of the way if it takes long."""
    console = Console(stderr=True)
    if not console.is_terminal:
        tenth, began = 0, monotonic()

        def line(done: int, total: int) -> None:
            nonlocal tenth
            if done * 10 // total > tenth and monotonic() - began > SOON:
                tenth = done * 10 // total
                console.print(f"{what} {done:,} of {total:,}", highlight=False)

        yield line, _printed(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total), _printed(bar.console)


def _with_bar(bar: Progress, recipe: "Recipe") -> Shown:
    task = bar.add_task(f"{recipe.name}: epoch 0", total=None)

    def on_epoch(epoch: "Epoch") -> None:
        bar.console.print(line(epoch, recipe.train.select), highlight=False)
        bar.update(task, description=f"{recipe.name}: epoch {epoch.number + 1}", completed=0)

    def on_step(step: int, steps: int) -> None:
        bar.update(task, completed=step, total=steps)

    return on_epoch, on_step


def line(epoch: "Epoch", select: str) -> str:
    """An epoch in one line."""
    valid = "" if epoch.valid is None else f"  valid {select} {epoch.valid[select]:.5f}{' *' if epoch.best else ''}"
    return f"epoch {epoch.number:>4}  loss {epoch.loss:.5f}{valid}  {epoch.wall_seconds:.1f} s"
