"""A run folder: start it, go on with it, load it, and put it to use."""

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from foilrec import files
from foilrec.core import Backbone, Data, Loss, Sampler
from foilrec.errors import BadOption, RunBroken, did_you_mean, some
from foilrec.evaluation import Scores, evaluate, top_k
from foilrec.hardness import ROWS, Meter, Reading
from foilrec.launch import launch
from foilrec.numerics import memory
from foilrec.provenance import about, free_cores
from foilrec.recipe import Recipe, differences
from foilrec.trainer import Epoch

if TYPE_CHECKING:
    import polars as pl

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


class Run:
    """What one recipe and one seed came to, in a folder of its own.

    recipe.toml  the resolved recipe         epochs.jsonl   a line an epoch        best.safetensors  the best weights
    about.json   versions, data, protocol    scores.json    test means             last.safetensors  to go on from
                                             users.parquet  test values by user

    And, of a sampler that learns or remembers, sampler.safetensors: what it knew after the best epoch.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "recipe.toml").is_file():
            inside = sorted(path.parent.name for path in self.folder.glob("*/recipe.toml"))
            beside = [path.parent.name for path in self.folder.parent.glob("*/recipe.toml")]
            near = f"; it holds the runs {some(inside)}." if inside else did_you_mean(self.folder.name, beside) or "."
            raise RunBroken(f"{self.folder} is no run folder: it has no recipe.toml{near}")

    @property
    def recipe(self) -> Recipe:
        """The recipe that the run followed."""
        return Recipe.load(self.folder / "recipe.toml")

    @property
    def about(self) -> dict[str, Any]:
        """Versions, the data's fingerprint, threads, protocol."""
        return self._json("about.json")

    @property
    def scores(self) -> dict[str, Any]:
        """The test means and the validation means of the best epoch, once the run is finished."""
        return self._json("scores.json")

    @property
    def finished(self) -> bool:
        """Whether the test set has been scored."""
        return (self.folder / "scores.json").is_file()

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            raise RunBroken(f"{path} is missing: the run was interrupted; go on with --resume.")
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunBroken(f"{path} is damaged ({error}).") from error
        return value

    def epochs(self) -> list[dict[str, Any]]:
        """What was noted after each epoch."""
        path = self.folder / "epochs.jsonl"
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise RunBroken(f"{path} is damaged ({error}).") from error

    @cached_property
    def data(self) -> Data:
        """The data set, read again and compared with the one that the run was made on."""
        data = self.recipe.read()
        self.check_data(data)
        return data

    def check_data(self, data: Data) -> None:
        """Raises RunBroken if the data is not the one that the run was made on."""
        try:
            known = self.about["data"]["fingerprint"]
        except (KeyError, TypeError) as error:
            raise RunBroken(f"{self.folder}/about.json is damaged: it does not name the data.") from error
        if data.fingerprint != known:
            raise RunBroken(
                f"{self.folder} was made on other data: its fingerprint is {known}, that of {data.name!r} "
                f"now is {data.fingerprint}. Restore the data, or train into a new folder."
            )

    @cached_property
    def model(self) -> Backbone:
        """The backbone with its best weights, in evaluation mode."""
        model, _, _ = self.recipe.build(self.data)
        weights = files.load_tree(self.folder / "best.safetensors")
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise RunBroken(f"{self.folder}/best.safetensors does not fit the recipe's backbone: {error}.") from error
        return model.eval()

    def evaluate(self, split: str = "test", *, lists: bool = True) -> Scores:
        """Scores the best weights on a split, by the recipe's protocol."""
        return evaluate(self.model, self.recipe.protocol(split), lists=lists)

    def hardness(self, rows: int = ROWS) -> dict[str, Reading]:
        """How hard the sampler's negatives are for the best weights, as hardness.Meter tells."""
        epoch = self.scores["best_epoch"]
        model, sampler, loss = self.primed(epoch)
        return Meter(self.data, rows, seed=self.recipe.seed, history=model.history)(model, sampler, loss, epoch)

    def primed(self, epoch: int) -> tuple[Backbone, Sampler, Loss]:
        """Fresh parts that know what they did after the best epoch, with an epoch begun: theirs, or another's stage."""
        model, sampler, loss = self.recipe.build(self.data)
        model.load_state_dict(self.model.state_dict())
        if sampler.state_dict():
            known = files.load_tree(self.folder / "sampler.safetensors")
            try:
                sampler.load_state_dict(known)
            except RuntimeError as error:
                raise RunBroken(
                    f"{self.folder}/sampler.safetensors does not fit the recipe's sampler: {error}."
                ) from error
        model.begin_epoch(epoch)
        with torch.no_grad():
            sampler.begin_epoch(epoch, model, model.propagate())
        return model, sampler, loss

    @property
    def knows_its_sampler(self) -> bool:
        """Whether the sampler can be asked again: it learns nothing, or what it learnt was kept."""
        return (self.folder / "sampler.safetensors").is_file() or not self.recipe.build(self.data)[1].state_dict()

    def recommend(self, users: Sequence[object] | None = None, top: int = 10) -> "pl.DataFrame":
        """The `top` items for some users (all by default): columns user, rank, item, score (6 digits), title if known.

        Ids are the source's own. Items taken in training are left out; a backbone that reads histories is told of all
        that a user took, and all of it is left out. BadOption names users that the data does not have: `known_users`
        tells them apart beforehand.
        """
        import polars as pl

        numbers, unknown = (list(range(self.data.n_users)), []) if users is None else self.known_users(users)
        if unknown:
            raise BadOption(f"{self.data.name} has no user {some(unknown)}.")
        known = ("train", "valid", "test") if self.model.history else ("train",)
        who = torch.tensor(numbers, dtype=torch.long)
        ids, scores = top_k(self.model, who, top, self.data.seen_in(*known), known=known)
        keep = ids >= 0
        place = (torch.arange(ids.shape[1]) + 1).expand_as(ids)[keep].tolist()
        what = ids[keep].tolist()
        columns = {
            "user": self.data.raw_users(who[:, None].expand_as(ids)[keep].tolist()),
            "rank": place,
            "item": self.data.raw_items(what),
            "score": pl.Series(scores[keep].double().cpu().numpy()).round_sig_figs(6),
        }
        if self.data.titles is not None:
            columns["title"] = [self.data.titles[i] for i in what]
        return pl.DataFrame(columns)

    def known_users(self, users: Sequence[object]) -> tuple[list[int], list[str]]:
        """Numbers of the users that the data has, and the raw ids of those that it does not have."""
        found = [(str(raw), self.data.user_number(raw)) for raw in users]
        return [n for _, n in found if n is not None], [raw for raw, n in found if n is None]


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
    stands. on_start hears the notes of the parts. KeyboardInterrupt saves the last finished epoch and passes on.
    """
    folder = Path(out) if out is not None else default_folder(recipe)
    stretch = Stretch(recipe, folder, data, resume=resume, on_step=on_step)
    if on_start is not None:
        on_start(stretch.notes)
    with closing(stretch.epochs()) as epochs:
        for epoch in epochs:
            if on_epoch is not None:
                on_epoch(epoch)
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
        self.already = old if old is not None and old.finished else None
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
        return Run(self.folder)


def _existing(folder: Path, recipe: Recipe, *, resume: bool) -> Run | None:
    """The run that the folder already holds, if it may be gone on with."""
    if folder.exists() and not folder.is_dir():
        raise BadOption(f"{folder} is a file: choose a folder with --out.")
    if not (folder / "recipe.toml").is_file():
        begun = (folder / "about.json").is_file()
        if folder.exists() and not begun and any(not path.name.startswith(".") for path in folder.iterdir()):
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


def _line(epoch: Epoch) -> dict[str, Any]:
    noted = asdict(epoch)
    return {"epoch": noted.pop("number"), **noted}
