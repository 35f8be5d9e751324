"""No model at all: attributes found by word lists, edits drawn by name, texts rewritten by putting word for word."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from foilrec.content.chat import Completion, Message
from foilrec.content.lexicons import LEXICONS, PATTERNS, found, pattern
from foilrec.content.schema import Schema
from foilrec.content.templates import EVERYWHERE, MOST, NAME, VALUE
from foilrec.errors import ModelFailed
from foilrec.numerics import streams

_BLOCK = re.compile(r"^<(\w+)>\n(.*)\n</\1>$", re.MULTILINE)
_TASK = re.compile(r"^Task: (\w+)$", re.MULTILINE)
Blocks = Mapping[str, Any]


class Rules:
    """Answers the three questions by the word lists of content/lexicons.py alone: English, blind, the same each time.

    It tells what the words say and changes words; captions are made of words too, never of the picture. Of a text
    without known words it names words and changes nothing.
    """

    name, model, workers, sees = "rules", "lexicons/1", 1, False

    def look(self, *, pictures: bool) -> None:
        """Nobody to look for."""

    def complete(
        self, messages: Sequence[Message], schema: Schema, max_tokens: int, temperature: float, seed: int
    ) -> Completion:
        """The answer of the rules; ModelFailed to a question that is none of the three."""
        asked = messages[1].text
        blocks = {name: json.loads(told) for name, told in _BLOCK.findall(asked)}
        task = _TASK.search(asked)
        if task is None or task[1] not in _ANSWERS:
            raise ModelFailed("The backend rules answers the templates of foilrec generate and nothing else.")
        return Completion(json.dumps(_ANSWERS[task[1]](blocks, schema["properties"], seed), ensure_ascii=False))


def _analyse(blocks: Blocks, members: Schema, seed: int) -> dict[str, Any]:
    item: Mapping[str, str] = blocks["item"]
    text = ". ".join(item.values())
    captions = {name: item.get(name) or _caption(text) for name in members["captions"]["properties"]}
    attributes = [
        {
            "name": name,
            "value": value,
            "modality": EVERYWHERE if all(value.lower() in told.lower() for told in captions.values()) else "text",
            "importance": LEXICONS[name].importance,
            "kind": "key",
        }
        for name, value in found(text).items()
    ][:MOST]
    return {"captions": captions, "attributes": attributes or _plain(text)}


def _caption(text: str) -> str:
    """What a picture would show, going by the words."""
    order = ("style", "colour", "pattern", "material", "category", "function")
    seen = [value for name in order if (value := found(text).get(name)) and LEXICONS[name].seen]
    return f"Picture of {' '.join(seen) or 'the item'}."


def _plain(text: str) -> list[dict[str, Any]]:
    """Words as attributes that nobody chooses by: for texts without a known one."""
    words = [word[:VALUE] for word in dict.fromkeys(re.findall(r"\w+", text))][:3]
    return [
        {"name": f"word {n}"[:NAME], "value": word, "modality": "text", "importance": 0, "kind": "irrelevant"}
        for n, word in enumerate(words, 1)
    ]


def _intervene(blocks: Blocks, members: Schema, seed: int) -> dict[str, Any]:
    """Edits of attributes drawn by name, one that shows everywhere first; new values that the taste has least of."""
    attributes = blocks["analysis"]["attributes"]
    key = [a for a in attributes if a["kind"] == "key" and a["name"] in LEXICONS]
    key.sort(key=lambda a: (a["modality"] != EVERYWHERE, streams.key(seed, "rules", a["name"])))
    chosen = key[: members["edits"]["maxItems"]]
    said = ". ".join([*blocks["item"].values(), *blocks["analysis"]["captions"].values()])
    liked = " ".join(blocks.get("taste", ()))
    bound = {c["properties"]["name"]["const"]: c["properties"]["new"] for c in members["edits"]["items"]["anyOf"]}
    edits = [
        {
            "name": a["name"],
            "old": a["value"],
            "new": _other(a["name"], bound[a["name"]].get("enum"), said, liked, seed),
            "modality": a["modality"],
        }
        for a in chosen
    ]
    return {"edits": edits}


def _other(name: str, allowed: Sequence[str] | None, said: str, liked: str, seed: int) -> str:
    """A value that is not said of the item, least met in what is liked, drawn by name among the equal."""
    gone = {value.lower() for value, _ in PATTERNS[name].findall(said)}
    tally = [value.lower() for value, _ in PATTERNS[name].findall(liked)]
    known = LEXICONS[name].values
    left = [value for value in allowed or known if value not in gone] or [v for v in known if v not in gone]
    return min(left, key=lambda value: (tally.count(value), streams.key(seed, "rules", name, value)))


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
    return value.capitalize() if like[0].isupper() else value


_ANSWERS: Mapping[str, Callable[[Blocks, Schema, int], dict[str, Any]]] = {
    "analyse": _analyse,
    "intervene": _intervene,
    "generate": _generate,
}
