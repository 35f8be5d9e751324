"""The validator of answers: what a schema makes passes, what is spoilt in one place does not; JSON found in chatter."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foilrec.content.schema import KEYWORDS, Schema, first_object, problems

NAMES = ("a", "b", "c")


@st.composite
def pairs(draw: st.DrawFn, depth: int = 2) -> tuple[dict[str, Any], Any]:
    """A schema and a value that it allows."""
    kinds = [
        "string",
        "integer",
        "number",
        "boolean",
        "enum",
        "const",
        *(["array", "object", "anyOf"] if depth else []),
    ]
    kind = draw(st.sampled_from(kinds))
    if kind == "string":
        low = draw(st.integers(0, 3))
        return {"type": kind, "minLength": low, "maxLength": low + 3}, "é" * draw(st.integers(low, low + 3))
    if kind == "integer":
        value = draw(st.integers(-5, 5))
        return {"type": kind, "minimum": value - 1, "maximum": value + 1}, value
    if kind == "number":
        value = draw(st.floats(-5, 5))
        return {"type": kind, "minimum": value - 0.5, "maximum": value + 0.5}, value
    if kind == "boolean":
        return {"type": kind}, draw(st.booleans())
    if kind == "enum":
        values = draw(st.lists(st.text(max_size=3), min_size=1, max_size=3))
        return {"type": "string", "enum": values}, draw(st.sampled_from(values))
    if kind == "const":
        value = draw(st.text(max_size=3))
        return {"const": value}, value
    if kind == "array":
        schema, value = draw(pairs(depth - 1))
        count = draw(st.integers(1, 3))
        return {"type": "array", "items": schema, "minItems": count, "maxItems": count}, [value] * count
    if kind == "anyOf":
        choices = [draw(pairs(depth - 1)) for _ in range(2)]
        return {"anyOf": [schema for schema, _ in choices]}, draw(st.sampled_from(choices))[1]
    members = {name: draw(pairs(depth - 1)) for name in NAMES[: draw(st.integers(1, 3))]}
    schema = {
        "type": "object",
        "properties": {name: one for name, (one, _) in members.items()},
        "required": list(members),
        "additionalProperties": False,
    }
    return schema, {name: value for name, (_, value) in members.items()}


def spoilt(schema: Schema, value: Any) -> list[Any]:
    """Values that differ from an allowed one in a way that the schema forbids."""
    if "anyOf" in schema or "const" in schema or "enum" in schema:
        return [None, {"not": "this"}]
    kind = schema["type"]
    if kind == "string":
        shorter = [value[: schema["minLength"] - 1]] if schema["minLength"] else []
        return [7, None, "é" * (schema["maxLength"] + 1), *shorter]
    if kind in ("integer", "number"):
        return [True, str(value), schema["maximum"] + 1, schema["minimum"] - 1]
    if kind == "boolean":
        return [0, "true"]
    if kind == "array":
        return [value + value[:1], value[1:], "x"] + [[s, *value[1:]] for s in spoilt(schema["items"], value[0])]
    broken: list[Any] = [{**value, "more": 1}, [value]]
    for name, one in schema["properties"].items():
        broken.append({n: v for n, v in value.items() if n != name})
        broken += [{**value, name: s} for s in spoilt(one, value[name])]
    return broken


@settings(max_examples=80, deadline=None)
@given(pairs())
def test_what_a_schema_allows_passes_and_what_it_forbids_does_not(pair: tuple[dict[str, Any], Any]) -> None:
    schema, value = pair
    assert problems(value, schema) == []
    for wrong in spoilt(schema, value):
        found = problems(wrong, schema)
        assert found and all(isinstance(told, str) and told.startswith("$") for told in found), (schema, wrong)


def test_errors_say_where() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}, "required": ["a"]}
    assert problems({"a": [1, "x"]}, schema) == ["$.a[1] must be of type integer"]
    assert problems({}, schema) == ["$.a is missing"]
    assert "'secret'" in problems({"secret": 1}, {"type": "object", "additionalProperties": False})[0]


@given(st.dictionaries(st.text(max_size=5), st.recursive(st.text(max_size=5) | st.integers(), st.lists, max_leaves=5)))
def test_an_object_is_found_in_any_chatter(value: dict[str, Any]) -> None:
    told = json.dumps(value)
    assert first_object(told) == value
    assert first_object(f"Here {{it}} is:\n```json\n{told}\n``` and {{}} more") == value
    assert first_object(f'<think>{{"no": 1}}</think>{told}') == value


@pytest.mark.parametrize(
    "text",
    ["", "none", '{"a": 1', '{"a": NaN}', "[1, 2]", "{'a': 1}", '{"a": {}, "b', '{"a": {"b": 1}, ', '{"a":' * 30_000],
)
def test_what_is_no_object_is_none(text: str) -> None:
    assert first_object(text) is None


def test_numbers_are_not_booleans() -> None:
    assert problems(True, {"type": "number"}) and problems(1, {"type": "boolean"})
    assert problems(True, {"enum": [1]}) and problems(1, {"const": True})
    assert not problems(1, {"const": 1.0}) and math.isclose(1, 1.0)


def test_every_keyword_is_known() -> None:
    assert {"anyOf", "const", "maxLength", "additionalProperties"} <= KEYWORDS
