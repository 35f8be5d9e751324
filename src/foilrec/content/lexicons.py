"""Words for attributes in English, by which the backend `rules` reads and rewrites texts; none stands twice."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Lexicon(NamedTuple):
    """The values of an attribute that one may take for another; seen: a picture shows them; importance 0..1."""

    values: tuple[str, ...]
    seen: bool
    importance: float


def _words(line: str) -> tuple[str, ...]:
    return tuple(line.split(", "))


LEXICONS: Mapping[str, Lexicon] = {
    "category": Lexicon(
        _words(
            "shirt, trousers, dress, shoes, bag, jacket, jumper, skirt, hat, scarf, socks, gloves, sweater, "
            "coat, jeans, shorts, boots, sandals, sneakers, blouse, hoodie, belt, backpack, wallet, watch, "
            "necklace, bracelet, earrings, pajamas, onesie, romper, bodysuit, blanket, pillow, towel, "
            "curtain, rug, lamp, mug, bottle, bowl, plate, spoon"
        ),
        True,
        1,
    ),
    "function": Lexicon(
        _words(
            "stroller, car seat, crib, bassinet, high chair, playpen, bouncer, swing, walker, monitor, "
            "humidifier, thermometer, breast pump, pacifier, teether, rattle, diaper bag, diaper pail, potty, "
            "bathtub, bib, swaddle, mobile, puzzle, doll, ball, blocks, book, journal, night light, gate, bed "
            "rail, mattress, sling, carrier, shampoo, lotion, soap, perfume, lipstick, mascara, nail polish, "
            "sunscreen, hair dryer, razor, toothbrush, tent, sleeping bag, bicycle, helmet, dumbbell, yoga "
            "mat, fishing rod, flashlight, camera, headphones"
        ),
        True,
        1,
    ),
    "genre": Lexicon(
        _words(
            "comedy, drama, thriller, horror, western, romance, documentary, animation, musical, crime, "
            "mystery, fantasy, rock, jazz, techno, country music, hip hop, blues, reggae, folk, metal music, "
            "opera, punk, disco"
        ),
        False,
        1,
    ),
    "colour": Lexicon(
        _words(
            "black, navy, white, grey, red, green, brown, pink, yellow, turquoise, blue, purple, orange, "
            "beige, teal, ivory, lavender, burgundy, maroon, khaki, cream, gold, silver, violet, coral, "
            "charcoal, olive"
        ),
        True,
        0.75,
    ),
    "pattern": Lexicon(
        _words(
            "plain, striped, dotted, checked, zigzag, floral, polka dot, plaid, camouflage, paisley, chevron, tie-dye"
        ),
        True,
        0.5,
    ),
    "material": Lexicon(
        _words(
            "cotton, wool, leather, denim, linen, silk, velvet, canvas, polyester, nylon, fleece, cashmere, "
            "suede, bamboo, satin, rubber, plastic, wooden, glass, ceramic, stainless steel, aluminum, "
            "silicone, foam, plush"
        ),
        True,
        0.75,
    ),
    "style": Lexicon(
        _words("casual, sporty, formal, vintage, bohemian, minimal, modern, classic, rustic, gothic, elegant, retro"),
        True,
        0.5,
    ),
    "age": Lexicon(_words("newborn, infant, baby, toddler, kids, teen, adult, senior"), False, 0.5),
    "gender": Lexicon(_words("women, men, girls, boys, ladies, unisex"), False, 0.5),
    "size": Lexicon(
        _words("small, medium, large, x-large, mini, jumbo, compact, full size, king size, queen size, travel size"),
        False,
        0.5,
    ),
}
"""The attributes that `rules` knows, those that matter most first in each kind of shop."""


def pattern(values: Iterable[str]) -> re.Pattern[str]:
    """Any of some values as words of their own (group 1), with or without a plural's ending (group 2)."""
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})(s|es)?\b", re.IGNORECASE)


PATTERNS: Mapping[str, re.Pattern[str]] = {name: pattern(lexicon.values) for name, lexicon in LEXICONS.items()}


def found(text: str) -> dict[str, str]:
    """The first value of each attribute that a text has, as it stands there.

    >>> found("Red hats, blue hats")
    {'category': 'hat', 'colour': 'Red'}
    """
    first = {name: of.search(text) for name, of in PATTERNS.items()}
    return {name: match[1] for name, match in first.items() if match}


def met(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The values of each attribute that some texts have: those that a shop's goods can take. All, where it has one.

    >>> met(["red hat", "Blue hats"])["colour"]
    ('red', 'blue')
    """
    seen: dict[str, set[str]] = {name: set() for name in LEXICONS}
    for text in texts:
        for name, of in PATTERNS.items():
            seen[name].update(value.lower() for value, _ in of.findall(text))
    return {
        name: tuple(v for v in lexicon.values if v in seen[name]) if len(seen[name]) > 1 else lexicon.values
        for name, lexicon in LEXICONS.items()
    }
