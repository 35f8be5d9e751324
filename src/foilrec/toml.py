"""Writing TOML, which the standard library can only read, and reading a value alone."""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from foilrec.errors import BadOption


def dumps(tree: Mapping[str, Any]) -> str:
    """Nested mappings of plain values as TOML; None values are left out.

    >>> print(dumps({"seed": 1, "sampler": {"name": "dns", "pool": 8}}))
    seed = 1
    <BLANKLINE>
    [sampler]
    name = "dns"
    pool = 8
    <BLANKLINE>
    """
    return "\n".join(_lines(tree, ())) + "\n"


def value_of(text: str) -> Any:
    """The value that a text on a command line means as TOML, or the text itself; a number may leave its 0 out.

    >>> value_of("0.4"), value_of(".5"), value_of("[1, 2]"), value_of("dns"), value_of("[recall, ndcg]")
    (0.4, 0.5, [1, 2], 'dns', ['recall', 'ndcg'])
    """
    said = text.strip()
    whole = re.sub(r"^([+-]?)[.](?=[0-9])", r"\g<1>0.", said)
    try:
        return tomllib.loads(f"value = {whole}")["value"]
    except tomllib.TOMLDecodeError:
        bare = re.fullmatch(r"\[([\w@.+ ,-]+)\]", said)  # a list of texts that a shell took the quotes of
        return [value_of(each) for each in bare[1].split(",") if each.strip()] if bare else said


def _lines(tree: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {key: value for key, value in tree.items() if value is not None and not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in tree.items():
        if isinstance(value, Mapping):
            inner = (*path, key)
            lines += ["", f"[{'.'.join(map(_key, inner))}]", *_lines(value, inner)]
    return lines


def _key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isalnum() and bare.isascii() else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items() if inner is not None)
        return f"{{{inner}}}"
    if isinstance(value, int | float):
        return repr(int(value) if isinstance(value, int) else float(value))  # a float64 of numpy is a float
    raise BadOption(f"TOML has no word for {value!r}: take a text, a number, true or false, a list or a table.")


def _text(value: str) -> str:
    """JSON's quoted form, which is TOML's but for the one control character that JSON leaves bare."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
