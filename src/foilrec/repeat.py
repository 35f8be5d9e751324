"""One recipe with several seeds: which seeds, which folders, and one run after another."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from foilrec.core import Data
from foilrec.errors import BadOption
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import default_folder, train

OneRun = Callable[[Recipe, Path, Data], Run]


def seeds_of(text: str, first: int) -> list[int]:
    """The seeds that a text means: a count, from `first` on, or the seeds themselves with commas between.

    >>> seeds_of("3", 7), seeds_of("1,2,5", 7), seeds_of("4,", 7)
    ([7, 8, 9], [1, 2, 5], [4])
    """
    words = [word.strip() for word in text.split(",")]
    if not words[-1]:
        words.pop()
    if not words or not all(word.isascii() and word.isdigit() for word in words):
        raise BadOption(f"--seeds {text!r} must be a count, such as 5, or seeds with commas between, such as 1,2,5.")
    numbers = [int(word) for word in words]
    if "," not in text:
        numbers = [first + i for i in range(numbers[0])]
    if not numbers:
        raise BadOption(f"--seeds {text!r} asks for no run: take 1 or more.")
    if len(set(numbers)) < len(numbers):
        raise BadOption(f"--seeds {text!r} names a seed twice.")
    return numbers


def planned(
    recipe: Recipe, seeds: Sequence[int], out: str | Path | None = None, *, resume: bool = False
) -> list[tuple[Recipe, Path]]:
    """The recipe with each seed, and its folder: OUT/NAME-sSEED, or runs/NAME-DIGEST-sSEED where out is left out.

    BadOption if one of the folders holds a run already and resume is off: nothing is trained then.
    """
    plan = []
    for seed in seeds:
        chosen = replace(recipe, seed=seed)
        folder = default_folder(chosen) if out is None else Path(out) / f"{recipe.name}-s{seed}"
        if not resume and (folder / "recipe.toml").is_file():
            raise BadOption(
                f"{folder} already holds a run: go on with --resume, or choose another parent folder with --out."
            )
        plan.append((chosen, folder))
    return plan


def repeat(
    recipe: Recipe,
    seeds: Sequence[int],
    out: str | Path | None = None,
    *,
    data: Data | None = None,
    resume: bool = False,
    one: OneRun | None = None,
) -> list[Run]:
    """Trains the recipe with each seed and gives the finished runs; the data is read once.

    out: the folder that the run folders go into, OUT/NAME-sSEED. resume: keep finished runs, and go on with the others
    where their checkpoints stand. one: how to make one run, foilrec.train by default.
    """

    def to_the_end(chosen: Recipe, folder: Path, data: Data) -> Run:
        return train(chosen, folder, data=data, resume=resume)

    runs = []
    for chosen, folder in planned(recipe, seeds, out, resume=resume):
        if (run := _finished(folder, chosen)) is None:
            data = chosen.read() if data is None else data
            run = (one or to_the_end)(chosen, folder, data)
        elif data is not None:
            run.check_data(data)
        runs.append(run)
    return runs


def _finished(folder: Path, recipe: Recipe) -> Run | None:
    """The run of this recipe in the folder, if it is finished."""
    if not (folder / "recipe.toml").is_file():
        return None
    run = Run(folder)
    return run if run.finished and run.recipe.digest == recipe.digest else None
