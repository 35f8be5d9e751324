"""No part takes a number that makes no sense: not one of its numeric options goes unchecked."""

import math
import types
import typing
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from foilrec import contracts, parts
from foilrec.core import Backbone, Reader, Sampler
from foilrec.errors import BadOption

Named = tuple[str, str, str]  # family, part, option

BELOW_ZERO: dict[Named, str] = {  # where -1 makes sense
    ("dataset", "shop", "seed"): "a seed is a name",
    **{
        ("dataset", name, option): reason
        for name in ("mmrec", "movielens", "pairs", "recbole", "table")
        for option, reason in (("split_seed", "a seed is a name"), ("min_rating", "some scales of ratings go below 0"))
    },
    ("loss", "ccl", "margin"): "a cosine",
    ("sampler", "ahns", "p"): "published as -2",
    ("sampler", "gdnsm", "guard"): "a cosine",
    ("sampler", "graded", "ceiling"): "a difference of scores",
    ("sampler", "graded", "likeness"): "a cosine",
    ("sampler", "popularity", "power"): "below 0 it favours the tail",
}


def kinds_of(hint: Any) -> set[Any]:
    """The types that an option's annotation allows."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return set(typing.get_args(hint)) if union else {hint}


NUMBERS: dict[Named, bool] = {  # and whether a fraction will do
    (kind, name, option.name): float in kinds_of(option.type)
    for kind in parts.FAMILIES
    for name in parts.names(kind)
    for option in parts.options(parts.find(kind, name)).values()
    if kinds_of(option.type) & {int, float}
}


def make(kind: str, name: str, **options: Any) -> Any:
    """A part on the tiny shop, past the types that a recipe is checked for."""
    part, data = parts.find(kind, name), contracts.small_world()
    asked: list[Any] = [data] if issubclass(part, Backbone | Sampler) else []
    if issubclass(part, torch.optim.Optimizer):
        asked = [[torch.nn.Parameter(torch.zeros(3, 2))]]
    needed = contracts._inner_parts(part, data)
    if issubclass(part, Reader) and "path" in parts.options(part):
        needed["path"] = "a folder that is looked into later"
    return part(*asked, **{**needed, **options})


@pytest.mark.parametrize("named", NUMBERS, ids="-".join)
def test_nonsense_is_refused_by_name(named: Named) -> None:
    kind, name, option = named
    nonsense: Sequence[float] = (math.nan, math.inf, -math.inf) if NUMBERS[named] else ()
    for wrong in [*nonsense, *([] if named in BELOW_ZERO else [-1])]:
        with pytest.raises(BadOption) as caught:
            make(kind, name, **{option: wrong})
        assert f"{option} = {wrong!r}" in str(caught.value)


@pytest.mark.parametrize("named", BELOW_ZERO, ids="-".join)
def test_a_number_below_zero_is_taken_where_it_makes_sense(named: Named) -> None:
    assert named in NUMBERS
    kind, name, option = named
    make(kind, name, **{option: -1})


@pytest.mark.parametrize("name", parts.names("optimizer"))
def test_a_whole_number_stands_for_a_fraction(name: str) -> None:
    make("optimizer", name, lr=1, beta1=0, beta2=0, eps=1)
