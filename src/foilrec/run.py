"""A run folder: load it, and put it to use."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from foilrec import files
from foilrec.core import Backbone, Data, Loss, Sampler
from foilrec.errors import BadData, BadOption, RunBroken, did_you_mean, some
from foilrec.evaluation import Scores, evaluate, top_k
from foilrec.hardness import ROWS, Meter, Reading
from foilrec.recipe import Recipe

if TYPE_CHECKING:
    import polars as pl


class Run:
    """What one recipe and one seed came to, in a folder of its own.

    recipe.toml  the resolved recipe         epochs.jsonl   a line an epoch        best.safetensors  the best weights
    about.json   versions, data, protocol    scores.json    test means             last.safetensors  to go on from
                                             users.parquet  test values by user

    data: the data set that it was made on, if it is at hand; else the recipe says where to read it. And, of a sampler
    that learns or remembers, sampler.safetensors: what it knew after the best epoch.
    """

    def __init__(self, folder: str | Path, data: Data | None = None) -> None:
        self.folder, self._given = Path(folder), data
        if not (self.folder / "recipe.toml").is_file():
            inside = sorted(path.parent.name for path in self.folder.glob("*/recipe.toml"))
            beside = [path.parent.name for path in self.folder.parent.glob("*/recipe.toml")]
            near = f"; it holds the runs {some(inside)}." if inside else did_you_mean(self.folder.name, beside) or "."
            raise RunBroken(f"{self.folder} is no run folder: it has no recipe.toml{near}")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

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
        """The data set, given or read again, and compared with the one that the run was made on."""
        data = self._read() if self._given is None else self._given
        self.check_data(data)
        return data

    def _read(self) -> Data:
        try:
            return self.recipe.read()
        except BadData as error:
            trained = self.about.get("folder", "")
            if not trained or Path(trained) == Path.cwd():
                raise
            raise BadData(
                f"{error} The run was made from {trained}, from where paths in its recipe count: go there, or give "
                "the data, Run(folder, data=...)."
            ) from error

    def check_data(self, data: Data) -> None:
        """Raises RunBroken if the data is not the one that the run was made on."""
        try:
            known = self.about["data"]["fingerprint"]
        except (KeyError, TypeError) as error:
            raise RunBroken(f"{self.folder}/about.json is damaged: it does not name the data.") from error
        rows = [len(part) for part in (data.train, data.valid, data.test)]  # the fingerprint has them end to end
        before = self.about["data"].get("rows", rows)  # not noted by older runs
        if (data.fingerprint, rows) != (known, before):
            raise RunBroken(
                f"{self.folder} was made on other data: its fingerprint is {known}, of {_rows(before)} rows, and that "
                f"of {data.name!r} now is {data.fingerprint}, of {_rows(rows)}. Restore the data, or train into a new "
                "folder. If it was trained on data that was handed over in Python, hand that over again: "
                "Run(folder, data=...)."
            )

    @cached_property
    def model(self) -> Backbone:
        """The backbone with its best weights, in evaluation mode."""
        if not (self.folder / "best.safetensors").is_file() and (self.folder / "last.safetensors").is_file():
            raise RunBroken(f"{self.folder} is not finished: go on with its recipe, --out {self.folder} and --resume.")
        model, weights = self.recipe.build_backbone(self.data), files.load_tree(self.folder / "best.safetensors")
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

    def recommend(
        self,
        users: Sequence[object] | None = None,
        top: int = 10,
        *,
        hide: Sequence[object] = (),
        only: Sequence[object] | None = None,
    ) -> "pl.DataFrame":
        """The `top` items for some users (all by default): columns user, rank, item, score (6 digits), title if known.

        Ids are the source's own. Items taken in training are left out; a backbone that reads histories is told of all
        that a user took, and all of it is left out. BadOption names users that the data does not have, or of whom the
        model has seen nothing: `known_users` tells them apart beforehand, and all leaves them out. hide: items that
        nobody gets, what is out of stock, say. only: items to choose from. What the data does not have is passed over
        in both: `known_items` tells.
        """
        import polars as pl

        everyone = self.data.raw_users(range(self.data.n_users))
        numbers, unknown = self.known_users(everyone if users is None else [users] if isinstance(users, str) else users)
        if unknown and users is not None:
            raise BadOption(f"{self.data.name} has no user {some(unknown)}, or no training row of them.")
        known = self._told
        who = torch.tensor(numbers, dtype=torch.long)
        hidden = self._hidden(hide, only)
        ids, scores = top_k(self.model, who, top, self.data.seen_in(*known), hidden=hidden, known=known)
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

    @property
    def _told(self) -> tuple[str, ...]:
        return ("train", "valid", "test") if self.model.history else ("train",)

    def _hidden(self, hide: Sequence[object], only: Sequence[object] | None) -> torch.Tensor | None:
        if only is None and not len(hide):
            return None
        gone = torch.full((self.data.n_items,), only is not None)
        if only is not None:
            gone[self.known_items(only)[0]] = False
        gone[self.known_items(hide)[0]] = True
        if gone.all():
            raise BadOption(f"None of the items to choose from is one of {self.data.name}'s that may be shown.")
        return gone.nonzero().squeeze(1)

    @cached_property
    def _item_numbers(self) -> dict[str, int]:
        return {str(raw): number for number, raw in enumerate(self.data.raw_items(range(self.data.n_items)))}

    def known_items(self, items: Sequence[object]) -> tuple[list[int], list[str]]:
        """Numbers of the items that the data has, and the raw ids of those that it does not."""
        numbers, asked = self._item_numbers, dict.fromkeys(map(str, [items] if isinstance(items, str) else items))
        return [numbers[raw] for raw in asked if raw in numbers], [raw for raw in asked if raw not in numbers]

    def known_users(self, users: Sequence[object]) -> tuple[list[int], list[str]]:
        """Numbers of the users that the model knows, and the raw ids of those that the data does not have, or of whom
        there is no training row (of a backbone that reads histories: no row at all)."""
        met = self.data.seen_in(*self._told).counts > 0
        numbers = {str(raw): self.data.user_number(raw) for raw in users}
        found = [(raw, n if n is not None and met[n] else None) for raw, n in numbers.items()]
        return [n for _, n in found if n is not None], [raw for raw, n in found if n is None]


def _rows(sizes: Sequence[int]) -> str:
    return "/".join(f"{size:,}" for size in sizes)
