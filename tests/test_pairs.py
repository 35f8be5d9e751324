"""Every backbone with every sampler, and every loss with every form of negatives: an epoch, or one sentence why not."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from foilrec import contracts, parts
from foilrec.core import Backbone, Batch, Data, Loss, Negatives, Sampler, Tables
from foilrec.errors import PartsDoNotFit
from foilrec.evaluation import Protocol
from foilrec.trainer import Epoch, Objective, Settings, Trainer

INSIDE = {name: {"inner": {"name": "lightgcn"}} for name in ("aligned", "cosine")}
AROUND = {"mixed": {"parts": [{"name": "uniform"}, {"name": "dns"}]}, "cached": {"inner": {"name": "dns"}}}

OFFLINE = ("causalneg", "neggen")  # parts that read a folder of generated negatives


def folder_for(part: str, data: Data) -> dict[str, str]:
    """The path of such a folder, for a part that needs one."""
    return {"path": contracts._generated(data)} if part in OFFLINE else {}


def trained(data: Data, model: Backbone, sampler: Sampler, loss: Loss) -> tuple[Epoch, set[str]]:
    """What the second epoch tells, and the names of the backbone's parameters that have not moved."""
    before = {name: value.clone() for name, value in model.named_parameters()}
    objective = Objective(model, sampler, loss)
    optimizer = parts.build("optimizer", "adam", objective.parameters(), lr=0.01)
    trainer = Trainer(objective, optimizer, Settings(batch=256, epochs=2, meter=32), Protocol("valid"))
    *_, epoch = trainer.epochs()
    return epoch, {name for name, value in model.named_parameters() if torch.equal(value, before[name])}


@pytest.mark.parametrize(("backbone", "sampler"), [*itertools.product(parts.names("backbone"), parts.names("sampler"))])
def test_a_backbone_learns_from_a_sampler_or_says_why_not(backbone: str, sampler: str, world: Data) -> None:
    torch.manual_seed(0)
    try:
        model = parts.build("backbone", backbone, world, **INSIDE.get(backbone, {}), **folder_for(backbone, world))
        drawn = parts.build("sampler", sampler, world, **AROUND.get(sampler, {}), **folder_for(sampler, world))
        epoch, still = trained(world, model, drawn, parts.build("loss", "bpr"))
    except PartsDoNotFit as error:
        sentence = str(error)
        assert sentence.endswith(".") and sentence.count(". ") == 0 and len(sentence) < 300, sentence
        return
    assert math.isfinite(epoch.loss) and epoch.valid is not None and epoch.hardness is not None
    assert not still


class Made(Sampler):
    """Three negatives a row, in whatever form: uniform items, their vectors, or their features. form: which."""

    def __init__(self, data: Data, *, form: str) -> None:
        super().__init__(data)
        self.form = form

    def forward(self, tables: Tables, batch: Batch, query: Tensor) -> Negatives:
        """ids, vectors or features of the same items, with their law."""
        ids = self.unseen(batch, 3)
        log_q = torch.full(ids.shape, -math.log(self.data.n_items))
        if self.form == "ids":
            return Negatives(ids=ids, log_q=log_q)
        if self.form == "vectors":
            return Negatives(vectors=tables.items.detach()[ids], log_q=log_q)
        return Negatives(
            features={name: torch.from_numpy(each.rows)[ids] for name, each in self.data.features.items()}, log_q=log_q
        )


@pytest.mark.parametrize(("loss", "form"), [*itertools.product(parts.names("loss"), ("ids", "vectors", "features"))])
def test_a_loss_learns_from_negatives_in_any_form(loss: str, form: str, world: Data) -> None:
    torch.manual_seed(0)
    model = parts.build("backbone", "vbpr", world)
    epoch, still = trained(world, model, Made(world, form=form), parts.build("loss", loss))
    assert math.isfinite(epoch.loss) and not still
