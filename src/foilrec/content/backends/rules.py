"""No model at all: attributes found by word lists, edits drawn by name, texts rewritten by putting word for word."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from foilrec.content.chat import Completion, Message
from foilrec.content.lexicons import WordLists, goods, pattern
from foilrec.content.schema import Schema
from foilrec.content.templates import EVERYWHERE, MOST
from foilrec.errors import ModelFailed
from foilrec.numerics import streams

_BLOCK = re.compile(r"^<(\w+)>\n(.*)\n</\1>$", re.MULTILINE)
_TASK = re.compile(r"^Task: (\w+)$", re.MULTILINE)
Blocks = Mapping[str, Any]


class Rules:
    """Answers the three questions by word lists alone: blind, the same each time, no model and not called one.

    It tells what the words say and changes words; captions are made of words too, never of the picture. lists: of
    attributes and their values, those of goods in English by default.
    """

    name, workers, sees = "rules", 1, False

    def __init__(self, *, lists: WordLists | None = None) -> None:
        self.lists = lists or goods()
        self.model = self.lists.name

    def look(self, *, pictures: bool) -> None:
        """Nobody to look for."""

    def complete(
        self, messages: Sequence[Message], schema: Schema, max_tokens: int, temperature: float, seed: int
    ) -> Completion:
        """The answer of the rules; ModelFailed to a question that is none of the three, or of an item without a value
        of the lists.
        """
        answers = {"analyse": self._analyse, "intervene": self._intervene, "generate": _generate}
        asked = messages[1].text
        blocks = {name: json.loads(told) for name, told in _BLOCK.findall(asked)}
        task = _TASK.search(asked)
        if task is None or task[1] not in answers:
            raise ModelFailed("The backend rules answers the templates of foilrec generate and nothing else.")
        return Completion(json.dumps(answers[task[1]](blocks, schema["properties"], seed), ensure_ascii=False))

    def _analyse(self, blocks: Blocks, members: Schema, seed: int) -> dict[str, Any]:
        item: Mapping[str, str] = blocks["item"]
        text = ". ".join(item.values())
        found = self.lists.found(text)
        if not found:
            raise ModelFailed(f"The item says no value of the word lists {self.lists.name}.")
        captions = {name: item.get(name) or self._caption(found) for name in members["captions"]["properties"]}
        attributes = [
            {
                "name": name,
                "value": value,
                "modality": EVERYWHERE if all(value.lower() in told.lower() for told in captions.values()) else "text",
                "importance": self.lists.attributes[name].importance,
                "kind": "key",
            }
            for name, value in found.items()
        ][:MOST]
        return {"captions": captions, "attributes": attributes}

    def _caption(self, found: Mapping[str, str]) -> str:
        """What a picture would show, going by the words: what matters most last, as the noun stands."""
        seen = [value for name, value in found.items() if self.lists.attributes[name].seen]
        return f"Picture of {' '.join(reversed(seen)) or 'the item'}."

    def _intervene(self, blocks: Blocks, members: Schema, seed: int) -> dict[str, Any]:
        """Edits of attributes drawn by name, one that shows everywhere first; values that the taste has least of."""
        attributes = blocks["analysis"]["attributes"]
        key = [a for a in attributes if a["kind"] == "key" and a["name"] in self.lists.attributes]
        key.sort(key=lambda a: (a["modality"] != EVERYWHERE, streams.key(seed, "rules", a["name"])))
        chosen = key[: members["edits"]["maxItems"]]
        said = ". ".join([*blocks["item"].values(), *blocks["analysis"]["captions"].values()])
        liked = " ".join(blocks.get("taste", ()))
        bound = {c["properties"]["name"]["const"]: c["properties"]["new"] for c in members["edits"]["items"]["anyOf"]}
        edits = [
            {
                "name": a["name"],
                "old": a["value"],
                "new": self._other(a["name"], bound[a["name"]].get("enum"), said, liked, seed),
                "modality": a["modality"],
            }
            for a in chosen
        ]
        return {"edits": edits}

    def _other(self, name: str, allowed: Sequence[str] | None, said: str, liked: str, seed: int) -> str:
        """A value that is not said of the item, least met in what is liked, drawn by name among the equal."""
        gone, tally = set(self.lists.said(name, said)), self.lists.said(name, liked)
        known = self.lists.attributes[name].values
        left = [v for v in allowed or known if v.lower() not in gone] or [v for v in known if v.lower() not in gone]
        if not left:
            raise ModelFailed(f"The item says every value of {name} that the word lists have.")
        return min(left, key=lambda value: (tally.count(value.lower()), streams.key(seed, "rules", name, value)))


def _generate(blocks: Blocks, members: Schema, seed: int) -> dict[str, Any]:
    edits = blocks["edits"]
    new = {edit["old"].lower(): edit["new"] for edit in edits}
    edited = pattern(new)

    def put(match: re.Match[str]) -> str:
        value = new[match[1].lower()]
        ending = "" if value.endswith("s") else match[2] or ""
        return _cased(value, match[1]) + ending

    def rewritten(text: str) -> str:
        return edited.sub(put, text) if new else text

    item: Mapping[str, str] = blocks["item"]
    return {
        "text": {name: rewritten(item[name]) for name in members["text"]["properties"]},
        **{m: {"caption": rewritten(item[m])} for m in members if m not in ("text", "echo")},
        "echo": [{"name": edit["name"], "new": edit["new"]} for edit in edits],
    }


def _cased(value: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return value.upper()
    return value[0].upper() + value[1:] if like[0].isupper() else value
