"""Which negatives to make, and what that will roughly take before anyone is asked."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from foilrec.content import templates
from foilrec.content.budget import Price
from foilrec.content.chat import Usage, rough, tokens
from foilrec.content.goods import Goods, Item
from foilrec.content.store import Job
from foilrec.numerics import streams

Jobs = Mapping[int, list[Job]]
MEASURED = 200  # items whose questions are written out for an estimate


def jobs(goods: Goods, difficulties: Sequence[int], *, sample: int | None, personal: bool, seed: int) -> Jobs:
    """The negatives to make, {item: jobs}, items in a random order by name, so that a smaller sample is a part of a
    larger one.

    Items that have a text and that someone took in training, `sample` of them at most; with `personal` such pairs of a
    user and an item.
    """
    train = goods.data.train
    train = train[goods.told[train[:, 1]]]
    pairs = train.unique(dim=0) if personal else train[:, 1].unique()
    order = torch.randperm(len(pairs), generator=streams.generator(seed, "generate", personal))[:sample]
    made: dict[int, list[Job]] = {}
    for pair in pairs[order].tolist():
        user, item = pair if personal else (-1, pair)
        made.setdefault(item, []).extend(Job(item, user, d) for d in sorted(set(difficulties)))
    return made


class Estimate(NamedTuple):
    """What a generation takes if every first answer passes; up to twice that if none does."""

    items: int
    negatives: int
    requests: int
    usage: Usage
    price: Price

    def __str__(self) -> str:
        cost = f", {self.price.of(self.usage):.2f} money" if any(self.price) else ""
        return (
            f"{self.negatives:,} negatives of {self.items:,} items: about {self.requests:,} requests, "
            f"{self.usage.prompt:,} tokens asked and {self.usage.completion:,} answered{cost}; "
            "up to twice that where answers must be asked for again."
        )


def estimate(goods: Goods, wanted: Jobs, price: Price, *, sees: bool) -> Estimate:
    """From the questions of up to 200 of the items, with a made-up analysis: tokens counted as a quarter of letters."""
    some = list(wanted)[:MEASURED]
    prompt = completion = 0
    for number in some:
        item = goods[number]
        asked, answered = _of_item(item, wanted[number], sees)
        prompt, completion = prompt + asked, completion + answered
    scale = len(wanted) / max(1, len(some))
    negatives = sum(map(len, wanted.values()))
    usage = Usage(round(prompt * scale), round(completion * scale))
    return Estimate(len(wanted), negatives, len(wanted) + 2 * negatives, usage, price)


def _of_item(item: Item, its: Sequence[Job], sees: bool) -> tuple[int, int]:
    attribute = {"name": "attribute", "value": "some value", "modality": "text", "importance": 0.5, "kind": "key"}
    captions = dict.fromkeys(item.modalities[1:], "one sentence on what it shows of the item")
    analysis = {"captions": captions, "attributes": [attribute] * 5}
    first = rough(templates.analyse(item, sees=sees).messages)
    asked, answered = first, tokens(str(analysis))
    for job in its:
        edit = {"name": "attribute", "old": "some value", "new": "other value", "modality": "text"}
        plan = {"edits": [edit] * job.difficulty}
        taste = ["a title of some length that the user took"] * (12 if job.user >= 0 else 0)
        asked += rough(templates.intervene(item, analysis, job.difficulty, taste).messages)
        asked += rough(templates.generate(item, analysis, plan).messages)
        echo = [{"name": "attribute", "new": "other value"}] * job.difficulty
        answered += tokens(str(plan)) + tokens(item.text + str(captions) + str(echo)) + 20
    return asked, answered
