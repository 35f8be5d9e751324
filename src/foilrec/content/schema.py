"""JSON answers: the first whole object in a text, and what is wrong with it by the part of JSON Schema used here."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

_SHAPE = ("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf")
_SIZE = ("minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum")
KEYWORDS = frozenset((*_SHAPE, *_SIZE))
LONGEST = 65_536  # characters of an answer that are looked at
_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
}
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


def first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object that opens and closes in a text, or None; a model's thoughts before it are passed over.

    >>> first_object('Sure! {"a": {"b": 1}} and {"c": 2}')
    {'a': {'b': 1}}
    """
    text = _THOUGHT.sub("", text[:LONGEST])
    decoder = json.JSONDecoder(parse_constant=_refuse)
    for opening in re.finditer(r"\{", text):
        try:
            found = decoder.raw_decode(text, opening.start())[0]
        except json.JSONDecodeError as error:
            if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
                return None  # cut short: what is whole within it is not the answer
            continue
        except (ValueError, RecursionError):
            return None
        if isinstance(found, dict):
            return found
    return None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def problems(value: object, schema: Schema, place: str = "$") -> list[str]:
    """What is wrong with a JSON value by a schema, a sentence each; [] if nothing is.

    Knows KEYWORDS alone.
    """
    if "anyOf" in schema:
        found = [problems(value, choice, place) for choice in schema["anyOf"]]
        return [] if any(not wrong for wrong in found) else min(found, key=len)
    if "const" in schema and not _same(value, schema["const"]):
        return [f"{place} must be {json.dumps(schema['const'], ensure_ascii=False)}"]
    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        return [f"{place} must be one of {json.dumps(schema['enum'], ensure_ascii=False)}"]
    kind = schema.get("type")
    if kind is not None and not _is(value, kind):
        return [f"{place} must be of type {kind}"]
    return list(_inside(value, schema, place))


def _is(value: object, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _same(value: object, other: object) -> bool:
    """Equal as JSON: True is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def _inside(value: object, schema: Schema, place: str) -> Iterator[str]:
    if isinstance(value, str):
        yield from _bounds(len(value), schema, "Length", f"{place} has", "characters")
    elif isinstance(value, list):
        yield from _bounds(len(value), schema, "Items", f"{place} has", "entries")
        for number, entry in enumerate(value):
            yield from problems(entry, schema.get("items", {}), f"{place}[{number}]")
    elif isinstance(value, dict):
        yield from _members(value, schema, place)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _bounds(value, schema, "imum", f"{place} is", "")


def _bounds(size: float, schema: Schema, ending: str, what: str, unit: str) -> Iterator[str]:
    low, high = schema.get("min" + ending, size), schema.get("max" + ending, size)
    if size < low:
        yield f"{what} {size} {unit}".rstrip() + f", at least {low} wanted"
    if size > high:
        yield f"{what} {size} {unit}".rstrip() + f", at most {high} wanted"


def _members(value: Mapping[str, Any], schema: Schema, place: str) -> Iterator[str]:
    known: Mapping[str, Schema] = schema.get("properties", {})
    missing: Sequence[str] = [name for name in schema.get("required", ()) if name not in value]
    yield from (f"{place}.{name} is missing" for name in missing)
    for name, member in value.items():
        if name in known:
            yield from problems(member, known[name], f"{place}.{name}")
        elif schema.get("additionalProperties") is False:
            yield f"{place} must not have {str(name)[:40]!r}"
