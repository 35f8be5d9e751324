"""What goods are called: the vocabularies of their attributes, and the titles and descriptions made of them."""

from collections.abc import Mapping

from foilrec.world import draws
from foilrec.world.draws import Array

VOCABULARIES: Mapping[str, tuple[str, ...]] = {
    "category": (
        *("shirt", "trousers", "dress", "shoes", "bag", "jacket"),
        *("jumper", "skirt", "hat", "scarf", "socks", "gloves"),
    ),
    "colour": ("black", "navy", "white", "grey", "red", "green", "brown", "pink", "yellow", "turquoise"),
    "material": ("cotton", "wool", "leather", "denim", "linen", "silk", "velvet", "canvas"),
    "pattern": ("plain", "striped", "dotted", "checked", "zigzag"),
    "style": ("casual", "sporty", "formal", "vintage", "bohemian", "minimal"),
}
"""The attributes of goods and the values that each can take, the more frequent ones first."""

_FIRST = (
    "From our {style} line: {category} in {colour} {material}.",
    "Simply {style} {category}, cut from {colour} {material}.",
    "Soft {material} in {colour} turned into {style} {category}.",
    "Made for {style} days: {colour} {category} of good {material}.",
)
_SECOND = (
    "The {pattern} finish lasts wash after wash.",
    "Its {pattern} surface suits every season.",
    "A {pattern} design goes well with what you own.",
    "The look is {pattern} and made to be worn often.",
)
_STARTS = ("Al", "Be", "Cor", "Da", "El", "Fi", "Gra", "Ha", "Is", "Jo", "Ka", "Lo", "Mi", "Nor", "Ol", "Per")
_MIDDLES = ("ba", "do", "fe", "ga", "li", "mo", "na", "pe", "ri", "so", "ta", "ve", "wi", "xa", "yo", "zu")
_ENDS = ("ra", "lin", "do", "mar", "ne", "sa", "ton", "vi", "ck", "ll", "na", "rst", "th", "m", "go", "x")


def _spelled(values: Mapping[str, Array]) -> list[dict[str, str]]:
    columns = [[VOCABULARIES[name][v] for v in numbers] for name, numbers in values.items()]
    return [dict(zip(values, row, strict=True)) for row in zip(*columns, strict=True)]


def titles(values: Mapping[str, Array], variants: Array, key: int) -> list[str]:
    """«Navy striped cotton shirt Corvera»: values {attribute: [n]} and variants [n], which decide the name."""
    parts = [draws.below(16, key, variants, place).tolist() for place in range(3)]
    names = [_STARTS[a] + _MIDDLES[b] + _ENDS[c] for a, b, c in zip(*parts, strict=True)]
    return [
        f"{v['colour'].capitalize()} {v['pattern']} {v['material']} {v['category']} {name}"
        for v, name in zip(_spelled(values), names, strict=True)
    ]


def descriptions(values: Mapping[str, Array], variants: Array, key: int) -> list[str]:
    """Two sentences that name every attribute: values {attribute: [n]}; variants [n] decide the turn of phrase."""
    first = draws.below(len(_FIRST), key, variants, 3).tolist()
    second = draws.below(len(_SECOND), key, variants, 4).tolist()
    return [
        f"{_FIRST[a].format(**v)} {_SECOND[b].format(**v)}"
        for v, a, b in zip(_spelled(values), first, second, strict=True)
    ]
