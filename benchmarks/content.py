"""Generated negatives of the shop beside the truth: python -m benchmarks.content [rules, or options of a server].

The shop knows the attributes of its goods and how much anybody likes any combination of them, sold or not. So it can
be said of every generated negative whether it differs from its positive in exactly what was meant, and whether users
like it less.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from foilrec import parts
from foilrec.content import backends
from foilrec.content.encoder import HashedWords
from foilrec.content.gates import said
from foilrec.content.generation import Generation, Order
from foilrec.content.store import Outcome
from foilrec.data import Data
from foilrec.world.words import VOCABULARIES


def told(text: str) -> dict[str, str | None]:
    """The value of each attribute of the shop that a text names; None where it names none, or several."""
    found = {name: [v for v in values if said(v, text)] for name, values in VOCABULARIES.items()}
    return {name: values[0] if len(values) == 1 else None for name, values in found.items()}


def places(values: Sequence[dict[str, str]]) -> dict[str, torch.Tensor]:
    """Attribute values as the oracle takes them, {name: [n, 1]}."""
    return {
        name: torch.tensor([[vocabulary.index(one[name])] for one in values])
        for name, vocabulary in VOCABULARIES.items()
    }


def measured(data: Data, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Rates over negatives that were made: exact edits in title, text and caption, and what the oracle says."""
    oracle: Any = data.oracle
    rates: Counter[str] = Counter()
    rows: list[tuple[int, dict[str, str], dict[str, str]]] = []
    for outcome in outcomes:
        content, item = outcome.content or {}, outcome.job.item
        true = {name: VOCABULARIES[name][int(v[item])] for name, v in oracle.catalogue.attributes.items()}
        meant = {**true, **{e["name"]: e["new"] for e in content["edits"]}}
        had = told((data.titles or ())[item])
        wanted = {name: None if had[name] is None else meant[name] for name in VOCABULARIES}
        rates["title"] += told(content["title"]) == wanted
        rates["text"] += told(f"{content['title']} {content['description']}") == meant
        rates["caption"] += told(content["captions"]["image"]) == meant
        if all(meant[name] in values for name, values in VOCABULARIES.items()):
            taken = data.train[data.train[:, 1] == item, 0].tolist() if outcome.job.user < 0 else [outcome.job.user]
            rows += [(user, true, meant) for user in taken]
    users = torch.tensor([row[0] for row in rows])
    was, now = (
        oracle.like(users, places(side)) for side in ([true for _, true, _ in rows], [meant for _, _, meant in rows])
    )
    made = max(1, len(outcomes))
    return {
        "negatives": len(outcomes),
        **{f"exact in {name}": round(rates[name] / made, 4) for name in ("title", "text", "caption")},
        "liked, positive": round(float(was.mean()), 4),
        "liked, negative": round(float(now.mean()), 4),
        "negative liked less": round(float((now < was).float().mean()), 4),
    }


def main(backend: str = "rules", *options: str) -> None:
    """Prints a JSON line for each difficulty, for everyone and for each user's own taste."""
    data: Data = parts.build("dataset", "shop").read()
    encoder = HashedWords(f"{t}. {d}" for t, d in zip(data.titles or (), data.descriptions or (), strict=True))
    for personal in (False, True):
        order = Order(personal=personal, sample=2000, word_lists=True)
        with tempfile.TemporaryDirectory() as folder:
            asked = backends.build(backend, **dict(option.split("=", 1) for option in options))
            made = Generation(data, folder, asked, order, encoder=encoder)
            list(made.run())
            everything = list(made.store.outcomes())
            made.store.close()
        for difficulty in order.difficulties:
            its = [outcome for outcome in everything if outcome.job.difficulty == difficulty]
            done = [outcome for outcome in its if outcome.state == "done"]
            line = {"backend": backend, "personal": personal, "difficulty": difficulty, "asked": len(its)}
            print(json.dumps(line | measured(data, done)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
