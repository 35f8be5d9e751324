"""Training in a run folder: from the start or a checkpoint, to the end or an interruption."""

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from foilrec import files
from foilrec.core import Backbone, Data, Sampler
from foilrec.errors import BadOption, RunBroken, some
from foilrec.evaluation import evaluate
from foilrec.launch import launch
from foilrec.numerics import memory
from foilrec.provenance import about, free_cores
from foilrec.recipe import Recipe, differences
from foilrec.run import Run
from foilrec.trainer import Epoch

SECONDS_BETWEEN_CHECKPOINTS = 20.0
FILES = (
    "recipe.toml",
    "about.json",
    "epochs.jsonl",
    "last.safetensors",
    "best.safetensors",
    "sampler.safetensors",
    "users.parquet",
    "scores.json",
)


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    data: Data | None = None,
    resume: bool = False,
    on_start: Callable[[Sequence[str]], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Run:
    """Trains to the end (early stopping, or the last epoch), scores the test set once, and gives the finished run.

    out: the run folder, runs/NAME-DIGEST-sSEED by default. resume: go on bit for bit where the folder's checkpoint
    stands. on_start hears the notes of the parts. KeyboardInterrupt saves the last finished epoch and passes on; a run
    that fails before its first epoch is done leaves nothing. One process at a time trains into a folder.
    """
    folder = Path(out) if out is not None else default_folder(recipe)
    with files.claimed(folder):
        stretch = Stretch(recipe, folder, data, resume=resume, on_step=on_step)
        if on_start is not None:
            on_start(stretch.notes)
        try:
            with closing(stretch.epochs()) as epochs:
                for epoch in epochs:
                    if on_epoch is not None:
                        on_epoch(epoch)
        except Exception:
            stretch.withdraw()
            raise
        return stretch.finish()


def default_folder(recipe: Recipe) -> Path:
    """runs/NAME-DIGEST-sSEED below the working directory."""
    return Path("runs") / f"{recipe.name}-{recipe.digest}-s{recipe.seed}"


class Stretch:
    """One stretch of training in a run folder: from the start or a checkpoint, to the end or an interruption."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        data: Data | None = None,
        *,
        resume: bool = False,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self.folder, self.recipe = folder, recipe
        old = _existing(folder, recipe, resume=resume)
        memory.keep_large_blocks()
        torch.set_num_threads(recipe.threads or (old.about.get("threads") if old else 0) or free_cores())
        self.data = recipe.read() if data is None else data
        self._fresh = old is None
        self.already = Run(folder, self.data) if old is not None and old.finished else None
        if old is not None:
            old.check_data(self.data)
        for name in FILES:
            files.sweep(folder / name)
        if self.already:
            return
        self.trainer = launch(recipe, self.data, on_step)
        self._saved, self._saved_at = -1, time.monotonic()
        if old is not None and (folder / "last.safetensors").is_file():
            self.trainer.load_state(files.load_tree(folder / "last.safetensors"))
            self._saved = self.trainer.progress.epoch
        elif old is None:
            files.write_json(folder / "about.json", about(recipe, self.data))
            files.write_text(folder / "recipe.toml", recipe.to_toml())
        self._lines = Run(folder).epochs()[: self.trainer.progress.epoch]
        if len(self._lines) < self.trainer.progress.epoch:
            raise RunBroken(
                f"{folder}/epochs.jsonl lacks epochs that last.safetensors counts: put it back from a copy, or "
                "train again into a new folder."
            )

    @property
    def notes(self) -> list[str]:
        """What the parts have to tell before they train; nothing of a run that is finished."""
        parts = [] if self.already else self.trainer.objective.modules()
        return [note for part in parts if isinstance(part, Backbone | Sampler) for note in part.notes]

    def epochs(self) -> Generator[Epoch, None, None]:
        """Trains, noting each epoch and saving a checkpoint every so often; an interruption saves the last epoch."""
        if self.already:
            return
        state = None
        try:
            for epoch in self.trainer.epochs():
                state = self.trainer.state()
                self._lines.append(_line(epoch))
                if epoch.last or time.monotonic() - self._saved_at > SECONDS_BETWEEN_CHECKPOINTS:
                    self._save(state)
                yield epoch
        except BaseException:
            if state is not None and state["progress"]["epoch"] != self._saved:
                self._save(state)
            raise

    def withdraw(self) -> None:
        """Takes back what was written of a run that failed in its first epoch, so that a mended one may stand there."""
        if self._fresh and not (self.folder / "last.safetensors").is_file():
            for name in FILES:
                (self.folder / name).unlink(missing_ok=True)

    def _save(self, state: dict[str, Any]) -> None:
        done = state["progress"]["epoch"]
        text = "".join(json.dumps(line) + "\n" for line in self._lines[:done])
        files.write_text(self.folder / "epochs.jsonl", text)  # first: too many lines do no harm, missing ones would
        files.save_tree(self.folder / "last.safetensors", state)
        self._saved, self._saved_at = done, time.monotonic()

    def finish(self) -> Run:
        """Writes the best weights, scores the test set once from them, and gives the run."""
        if self.already:
            return self.already
        model, progress = self.trainer.objective.model, self.trainer.progress
        model.load_state_dict(self.trainer.best())
        files.save_tree(self.folder / "best.safetensors", self.trainer.best())
        if self.trainer.best_sampler():
            files.save_tree(self.folder / "sampler.safetensors", self.trainer.best_sampler())
        scores = evaluate(model, self.recipe.protocol("test"), lists=True)
        with files.written_whole(self.folder / "users.parquet") as draft:
            scores.to_frame(self.data).write_parquet(draft)
        valid = next(line["valid"] for line in self._lines if line["epoch"] == progress.best_epoch)
        files.write_json(
            self.folder / "scores.json",
            {
                "test": scores.means,
                "valid": valid,
                "best_epoch": progress.best_epoch,
                "epochs": progress.epoch,
                "users": len(scores.users),
                "protocol": self.recipe.protocol("test").as_dict(),
                "protocol_hash": self.recipe.protocol("test").hash,
                "cpu_seconds": sum(line["cpu_seconds"] for line in self._lines),
                "wall_seconds": sum(line["wall_seconds"] for line in self._lines),
            },
        )
        (self.folder / "last.safetensors").unlink(missing_ok=True)
        return Run(self.folder, self.data)


def _existing(folder: Path, recipe: Recipe, *, resume: bool) -> Run | None:
    """The run that the folder already holds, if it may be gone on with."""
    if folder.exists() and not folder.is_dir():
        raise BadOption(f"{folder} is a file: choose a folder with --out.")
    if not (folder / "recipe.toml").is_file():
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []
        if inside and not _only_told_about(inside):
            raise BadOption(f"{folder} exists and is no run folder: choose another with --out.")
        return None
    if not resume:
        raise BadOption(f"{folder} already holds a run: go on with --resume, or choose another folder with --out.")
    old = Run(folder)
    if old.recipe.digest != recipe.digest:
        raise RunBroken(
            f"{folder} was started with another recipe ({some(differences(old.recipe, recipe))}): resume that one, or "
            "choose another folder with --out."
        )
    return old


def _only_told_about(inside: list[Path]) -> bool:
    """Whether a run was begun there and got no further than its first file."""
    try:
        return [path.name for path in inside] == ["about.json"] and "protocol" in json.loads(inside[0].read_text())
    except (ValueError, TypeError):  # not of ours, which are written whole: no JSON, or no table
        return False


def _line(epoch: Epoch) -> dict[str, Any]:
    noted = asdict(epoch)
    return {"epoch": noted.pop("number"), **noted}
