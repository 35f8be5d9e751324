"""The backend without a model: valid answers for every item, and in the shop exactly the edits that were meant."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from foilrec import parts
from foilrec.content import gates, templates
from foilrec.content.backends.rules import Rules
from foilrec.content.generation import Generation, Order
from foilrec.content.goods import Goods, Item
from foilrec.content.lexicons import goods as lists_of_goods
from foilrec.content.schema import problems
from foilrec.content.templates import Prompt
from foilrec.data import Data
from foilrec.errors import ModelFailed
from foilrec.world.words import VOCABULARIES


@pytest.fixture(scope="module")
def shop() -> Data:
    data: Data = parts.build("dataset", "shop", users=120, items=100).read()
    return data


def answer(prompt: Prompt, seed: int = 0) -> dict[str, Any]:
    told = Rules().complete(prompt.messages, prompt.schema, prompt.max_tokens, 0.0, seed).text
    found: dict[str, Any] = json.loads(told)
    assert problems(found, prompt.schema) == []
    return found


def chain(item: Item, difficulty: int, seed: int = 0, **more: Any) -> tuple[dict[str, Any], ...]:
    """Analysis, plan and answer, each valid and without a fault."""
    analysis = answer(templates.analyse(item), seed)
    assert gates.analysed(item, analysis) == []
    plan = answer(templates.intervene(item, analysis, difficulty, **more), seed)
    assert gates.planned(item, analysis, plan) == []
    made = answer(templates.generate(item, analysis, plan), seed)
    assert gates.generated(item, analysis, plan, made) == []
    return analysis, plan, made


def test_no_word_stands_twice_and_the_shops_words_are_there() -> None:
    attributes = lists_of_goods().attributes
    counts = Counter(value for lexicon in attributes.values() for value in lexicon.values)
    assert counts.most_common(1)[0][1] == 1
    for name, values in VOCABULARIES.items():
        assert set(values) <= set(attributes[name].values)


def test_every_item_of_the_shop_gets_valid_answers(shop: Data) -> None:
    goods = Goods(shop)
    for number in range(shop.n_items):
        for difficulty in (1, 2, 3):
            _, plan, made = chain(goods[number], difficulty, seed=number)
            assert len(plan["edits"]) == difficulty == len(made["echo"])


def test_answers_follow_from_the_seed_alone(shop: Data) -> None:
    item = Goods(shop)[5]
    assert chain(item, 2, 7) == chain(item, 2, 7)
    assert len({json.dumps(chain(item, 2, seed)) for seed in range(20)}) > 10


@pytest.mark.parametrize(
    ("title", "wanted"),
    [
        ("Sassy Rattles in stainless steel", {"function": "rattle", "material": "stainless steel"}),
        ("Women's LARGE leather boots", {"category": "boots", "gender": "women", "size": "large"}),
        ("Forbidden: a horror film", {"genre": "horror"}),
    ],
)
def test_general_english_is_read(title: str, wanted: dict[str, str]) -> None:
    item = Item(0, title, modalities=("text", "image"))
    found = {a["name"]: a["value"].lower() for a in answer(templates.analyse(item))["attributes"] if a["kind"] == "key"}
    assert wanted.items() <= found.items()


def test_a_text_without_a_known_value_is_refused() -> None:
    prompt = templates.analyse(Item(0, "Zwiggo 5000"))
    with pytest.raises(ModelFailed, match="says no value of the word lists goods@"):
        Rules().complete(prompt.messages, prompt.schema, 10, 0.0, 0)


def test_words_are_put_with_their_case_and_number() -> None:
    item = Item(0, "RED hats. Two red hats, a redwood", modalities=("text",))
    analysis = answer(templates.analyse(item))
    edits = [
        {"name": "colour", "old": "RED", "new": "blue", "modality": "text"},
        {"name": "category", "old": "hat", "new": "shoes", "modality": "text"},
    ]
    made = answer(templates.generate(item, analysis, {"edits": edits}))
    assert made["text"]["title"] == "BLUE shoes. Two blue shoes, a redwood"


def test_values_swap_without_overwriting_each_other() -> None:
    item = Item(0, "cotton shirt, wool hat", modalities=("text",))
    edits = [
        {"name": "a", "old": "cotton", "new": "wool", "modality": "text"},
        {"name": "b", "old": "wool", "new": "cotton", "modality": "text"},
    ]
    made = answer(templates.generate(item, {"captions": {}, "attributes": []}, {"edits": edits}))
    assert made["text"]["title"] == "wool shirt, cotton hat"


def test_new_values_are_those_that_the_goods_have_and_the_taste_has_not(shop: Data) -> None:
    goods = Goods(shop)
    values = lists_of_goods().met(goods.text(number) for number in range(len(goods)))
    assert {name: set(values[name]) <= set(of) for name, of in VOCABULARIES.items()} == dict.fromkeys(
        VOCABULARIES, True
    )
    taste = [f"{colour} thing" for colour in VOCABULARIES["colour"] if colour not in ("pink", "yellow")]
    for number in range(30):
        edits = chain(goods[number], 3, number, taste=taste, values=values)[1]["edits"]
        news = {edit["name"]: edit["new"] for edit in edits}
        assert all(new in VOCABULARIES[name] for name, new in news.items())
        assert news.get("colour", "pink") in ("pink", "yellow")


def test_another_question_is_refused() -> None:
    prompt = templates.analyse(Item(0, "hat"))
    system, user = prompt.messages
    with pytest.raises(ModelFailed, match="templates"):
        Rules().complete([system, user._replace(text="How are you?")], {}, 10, 0.0, 0)


def named(text: str) -> dict[str, list[str]]:
    return {name: sorted(set(lists_of_goods().said(name, text))) for name in VOCABULARIES}


@pytest.mark.parametrize("personal", [False, True])
def test_in_the_shop_exactly_what_was_meant_changes_and_people_like_it_less(
    shop: Data, tmp_path: Path, personal: bool
) -> None:
    made = Generation(shop, tmp_path, Rules(), Order(sample=70, personal=personal))
    assert sum(len(outcomes) for outcomes in made.run()) == 210
    done = list(made.store.outcomes("done"))
    made.store.close()
    assert len(done) > 195
    oracle: Any = shop.oracle
    liked: dict[int, list[tuple[float, float]]] = {1: [], 2: [], 3: []}
    for outcome in done:
        content, (item, user, difficulty) = outcome.content or {}, outcome.job
        true = {name: VOCABULARIES[name][int(v[item])] for name, v in oracle.catalogue.attributes.items()}
        meant = {**true, **{edit["name"]: edit["new"] for edit in content["edits"]}}
        assert sum(meant[name] != true[name] for name in true) == difficulty == len(content["edits"])
        for text in (f"{content['title']} {content['description']}", content["captions"]["image"]):
            assert named(text) == {name: [value] for name, value in meant.items()}
        assert all(made.gates.lo <= cosine <= made.gates.hi for cosine in content["cosines"].values())
        who = shop.train[shop.train[:, 1] == item, 0] if user < 0 else torch.tensor([user])
        both = [
            {name: torch.full((len(who), 1), of.index(values[name])) for name, of in VOCABULARIES.items()}
            for values in (true, meant)
        ]
        before, after = (float(oracle.like(who, values).mean()) for values in both)
        liked[difficulty].append((before, after))
    means = {difficulty: torch.tensor(pairs).mean(0).tolist() for difficulty, pairs in liked.items()}
    assert all(after < 0.9 * before for before, after in means.values()), means
    assert means[3][1] < means[2][1] < means[1][1], means
