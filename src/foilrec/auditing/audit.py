"""An audit of negatives: a recipe trained for a few epochs and thrown away, or a run looked at again."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from foilrec.auditing.advice import advise
from foilrec.core import Data, Sampler
from foilrec.errors import BadOption, PartsDoNotFit, RunBroken
from foilrec.hardness import Reading
from foilrec.recipe import Recipe
from foilrec.run import Run
from foilrec.stretch import Stretch
from foilrec.trainer import Epoch, Objective

SHOWN = 8  # stored epochs of a run that are told, at most, besides the best


@dataclass(frozen=True)
class Moment:
    """When a reading was taken, in words, and the readings by part of the draws."""

    when: str
    readings: dict[str, Reading]
    cost: float | None = None  # CPU milliseconds of drawing for 1,000 positives


@dataclass
class Audit:
    """What was measured, in order, and what there is to note besides."""

    moments: list[Moment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def advice(self) -> list[str]:
        """What the last moment means, in words; of several samplers, what each of them means."""
        if self.moments[-1].cost is None:
            return advise(self.moments[-1].readings)
        return [f"{sampler.when}: {sentence}" for sampler in self.moments for sentence in advise(sampler.readings)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        moments = [
            {
                "when": moment.when,
                "hardness": {name: r.as_dict() for name, r in moment.readings.items()},
                **({} if moment.cost is None else {"cost": moment.cost}),
            }
            for moment in self.moments
        ]
        return {"moments": moments, "notes": self.notes, "advice": self.advice}


def audit_recipe(
    recipe: Recipe,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Audit:
    """Trains as the recipe says, with train.meter rows measured after each epoch; the test set is not scored, and
    nothing is left behind."""
    audit = Audit()
    with tempfile.TemporaryDirectory(prefix="foilrec-audit-") as folder:
        stretch = Stretch(recipe, Path(folder) / "run", on_step=on_step)
        with closing(stretch.epochs()) as epochs:
            for epoch in epochs:
                audit.moments.append(Moment(f"epoch {epoch.number}", _read(epoch.hardness or {})))
                if on_epoch is not None:
                    on_epoch(epoch)
    audit.notes += _not_begun(recipe.sampler.name, stretch)
    return audit


def _not_begun(name: str, stretch: Stretch) -> list[str]:
    """What to say of a sampler that had not begun when the training ended."""
    inside, epochs = stretch.trainer.objective.sampler.modules(), stretch.trainer.progress.epoch
    begins = max(part.begins for part in inside if isinstance(part, Sampler))
    if begins < epochs:
        return []
    return [
        f"{name} begins with epoch {begins}, counted from 0, and {epochs} epochs were trained: what was measured are "
        f"the easy negatives before that. Give --epochs {begins + 1} or more."
    ]


def audit_samplers(recipe: Recipe, samplers: Sequence[str], on_sampler: Callable[[str], None] | None = None) -> Audit:
    """The same recipe with one sampler after another, each with its defaults: the last epoch's readings, and the cost.

    A sampler that cannot work with the recipe's backbone becomes a note that says why.
    """
    audit, data = Audit(), recipe.read()
    for name in samplers:
        if on_sampler is not None:
            on_sampler(name)
        with tempfile.TemporaryDirectory(prefix="foilrec-audit-") as folder:
            try:
                chosen = recipe if name == recipe.sampler.name else recipe.with_changes(f"sampler={name}")
                stretch = Stretch(chosen, Path(folder) / "run", data)
                with closing(stretch.epochs()) as epochs:
                    *_, last = epochs
            except (PartsDoNotFit, BadOption) as error:
                audit.notes.append(f"{name} is left out: {error}")
                continue
            whole = {key: reading for key, reading in _read(last.hardness or {}).items() if key == "all"}
            if not whole:
                audit.notes.append(f"{name} is left out: after the last epoch it gave no negative for any row.")
                continue
            audit.notes += _not_begun(name, stretch)
            audit.moments.append(Moment(name, whole, cost(stretch.trainer.objective, data, last.number)))
    if not audit.moments:
        raise PartsDoNotFit(f"None of the samplers works with this recipe. {' '.join(audit.notes)}")
    return audit


@torch.no_grad()
def cost(objective: Objective, data: Data, epoch: int = 0, batches: int = 4) -> float:
    """CPU milliseconds of drawing negatives for 1,000 positives of an epoch, tables being there already."""
    model, sampler = objective.model, objective.sampler
    tables, spent, drawn = model.propagate(), 0.0, 0
    for n, each in enumerate(islice(data.batches(2048, 0, epoch, model.history), batches + 1)):
        batch = each.to(tables.items.device)
        query = model.query(tables, batch)
        begun = time.process_time()
        sampler(tables, batch, query)
        if n or len(data.train) <= 2048:  # the first may have to compile
            spent, drawn = spent + time.process_time() - begun, drawn + len(batch)
    return 1e6 * spent / max(1, drawn)


def audit_run(run: Run, rows: int) -> Audit:
    """What a run noted after some of its epochs, and a new measurement with its best weights where that is possible."""
    audit, lines = Audit(), run.epochs()
    if not lines:
        raise RunBroken(f"{run.folder} has no finished epoch yet: there is nothing to audit. Go on with --resume.")
    best = max((n for n, line in enumerate(lines) if line.get("best")), default=0)
    for n in some_of(len(lines), best):
        if lines[n].get("hardness"):
            when = f"epoch {n} (best)" if n == best else f"epoch {n}"
            audit.moments.append(Moment(when, _stored(run, n, lines[n]["hardness"])))
    if not audit.moments:
        audit.notes.append("The run stored no readings: it was trained with train.meter = 0, or before there was one.")
    if not run.finished:
        audit.notes.append("The run is not finished: its best weights cannot be measured yet.")
    elif not run.knows_its_sampler:
        audit.notes.append("The sampler learns, and the run lacks its weights: the best epoch cannot be measured anew.")
    else:
        audit.moments.append(Moment(f"epoch {best} (best) anew", run.hardness(rows)))
    if not audit.moments:
        raise RunBroken(f"{run.folder}: there is nothing to audit. {' '.join(audit.notes)}")
    return audit


def some_of(count: int, best: int) -> list[int]:
    """The first, the last, the best and some between of `count` epochs.

    >>> some_of(3, 1), some_of(30, 12)
    ([0, 1, 2], [0, 4, 8, 12, 17, 21, 25, 29])
    """
    last = count - 1
    return sorted({best, *(round(last * k / (SHOWN - 1)) for k in range(SHOWN))})


def _read(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, Reading]:
    return {name: Reading.of(values) for name, values in stored.items()}


def _stored(run: Run, number: int, hardness: Any) -> dict[str, Reading]:
    try:
        readings = _read(hardness)
        _ = readings["all"]
    except (AttributeError, KeyError, TypeError) as error:
        raise RunBroken(
            f"{run.folder}/epochs.jsonl is damaged: the hardness of epoch {number} lacks {error}. Restore the file."
        ) from error
    return readings
