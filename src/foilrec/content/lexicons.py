"""Word lists: the attributes of items and the values that each can take, by which texts are read and rewritten."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from foilrec.content.templates import IMPORTANCE, NAME, VALUE
from foilrec.errors import BadOption, some

GOODS = Path(__file__).with_name("goods.toml")


class Lexicon(NamedTuple):
    """The values of an attribute that one may take for another; seen: a picture shows them; importance 0..1."""

    values: tuple[str, ...]
    seen: bool = False
    importance: float = 0.75


class WordLists:
    """Attributes, those that matter most first, each with its values; no value stands twice.

    name: what tells these lists from others: that of their file, and a digest of what they hold.
    """

    def __init__(self, title: str, attributes: Mapping[str, Lexicon]) -> None:
        self.attributes = dict(attributes)
        self.name = f"{title}@{blake2b(repr(list(self.attributes.items())).encode(), digest_size=4).hexdigest()}"
        self._patterns = {name: pattern(of.values) for name, of in self.attributes.items()}

    def found(self, text: str) -> dict[str, str]:
        """The first value of each attribute that a text has, as it stands there.

        >>> goods().found("Red hats, blue hats")
        {'category': 'hat', 'colour': 'Red'}
        """
        first = {name: of.search(text) for name, of in self._patterns.items()}
        return {name: match[1] for name, match in first.items() if match}

    def said(self, name: str, text: str) -> list[str]:
        """Every mention of a value of an attribute in a text, in lower case.

        >>> goods().said("colour", "Red hats, blue hats")
        ['red', 'blue']
        """
        return [value.lower() for value, _ in self._patterns[name].findall(text)]

    def met(self, texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The values of each attribute that some texts have: those that items can take. All, where they have one.

        >>> goods().met(["red hat", "Blue hats"])["colour"]
        ('red', 'blue')
        """
        seen: dict[str, set[str]] = {name: set() for name in self.attributes}
        for text in texts:
            for name, values in seen.items():
                values.update(self.said(name, text))
        return {
            name: tuple(v for v in of.values if v.lower() in seen[name]) if len(seen[name]) > 1 else of.values
            for name, of in self.attributes.items()
        }


def pattern(values: Iterable[str]) -> re.Pattern[str]:
    """Any of some values as words of their own (group 1), with or without a plural's ending (group 2)."""
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})(s|es)?\b", re.IGNORECASE)


@cache
def goods() -> WordLists:
    """What goods are told by, in English: content/goods.toml."""
    return read_lists(GOODS)


def read_lists(path: Path) -> WordLists:
    """The word lists of a TOML or JSON file: {attribute: [values]}, or {attribute: {values, seen, importance}}.

    BadOption says what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:  # what is no UTF-8, no TOML or no JSON is a ValueError too
        raise BadOption(f"The word lists {path} cannot be read as TOML (or .json as JSON): {error}.") from error
    if not isinstance(tree, dict) or not tree:
        raise BadOption(f"{path} holds no word lists: write genre = ['comedy', 'drama'], an attribute a line.")
    found = {name: _lexicon(f"{path}: {name}", name, told) for name, told in tree.items()}
    owner: dict[str, str] = {}
    for name, lexicon in found.items():
        for value in map(str.casefold, lexicon.values):
            if owner.setdefault(value, name) != name or [v.casefold() for v in lexicon.values].count(value) > 1:
                raise BadOption(f"{path}: {value!r} stands twice, in {owner[value]} and {name}: keep one.")
    return WordLists(path.stem, found)


def _lexicon(where: str, name: str, told: Any) -> Lexicon:
    """One attribute of a file."""
    whole = told if isinstance(told, dict) else {"values": told}
    if unknown := set(whole) - set(Lexicon._fields):
        raise BadOption(f"{where} has {some(map(repr, sorted(unknown)))}; it takes {', '.join(Lexicon._fields)}.")
    values, seen, importance = whole.get("values"), whole.get("seen", False), whole.get("importance", 0.75)
    if not isinstance(values, list) or len(values) < 2 or not all(isinstance(v, str) and v.strip() for v in values):
        raise BadOption(f"{where} must have two values or more, each a text, so that one can stand for another.")
    if longest := [v for v in values if len(v) > VALUE] + ([name] if len(name) > NAME else []):
        raise BadOption(f"{where}: {longest[0]!r} is longer than {VALUE} characters ({NAME} for a name).")
    if not isinstance(seen, bool) or importance not in IMPORTANCE:
        raise BadOption(
            f"{where}: seen must be true or false, and importance one of {', '.join(map(str, IMPORTANCE))}."
        )
    return Lexicon(tuple(v.strip() for v in values), seen, float(importance))
