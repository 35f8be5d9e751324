"""Drawings of goods, 32 x 32 pixels: the category is the outline, the other attributes fill it.

Whole numbers throughout, so that a picture is the same bytes on every machine.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np

from foilrec.world import draws
from foilrec.world.draws import Array
from foilrec.world.words import VOCABULARIES

SIDE = 32
"""Pixels along each edge of a picture."""

_SHIFTS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
_PHASES = 6  # every pattern repeats after 6 pixels

# A band (middle, top, bottom, half width at the top, half width at the bottom), or a disc (middle x, y, radii).
_OUTLINES: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "shirt": ((16, 6, 28, 7, 7), (16, 6, 14, 11, 14)),
    "trousers": ((16, 4, 9, 7, 8), (11.5, 9, 30, 4, 3), (20.5, 9, 30, 4, 3)),
    "dress": ((16, 3, 12, 5, 4), (16, 12, 30, 4, 12)),
    "shoes": ((9, 12, 24, 3, 5), (14, 20, 27, 7, 13), (16, 25, 28, 14, 14)),
    "bag": ((16, 13, 28, 10, 12), (11, 5, 13, 1, 1), (21, 5, 13, 1, 1), (16, 4, 6, 6, 6)),
    "jacket": ((10.5, 5, 28, 4, 5), (21.5, 5, 28, 4, 5), (4.5, 7, 24, 2, 2), (27.5, 7, 24, 2, 2)),
    "jumper": ((16, 7, 26, 8, 8), (5, 8, 26, 3, 2), (27, 8, 26, 3, 2), (16, 4, 7, 4, 4)),
    "skirt": ((16, 8, 11, 6, 6), (16, 11, 27, 6, 13)),
    "hat": ((16, 14, 7, 8), (16, 19, 23, 14, 14)),
    "scarf": ((16, 6, 11, 12, 12), (9, 11, 29, 3, 3), (22, 11, 24, 3, 3)),
    "socks": ((10, 4, 22, 3, 3), (12, 24, 6, 3.5), (22, 4, 22, 3, 3), (24, 24, 6, 3.5)),
    "gloves": ((16, 18, 8, 8), (16, 24, 30, 6, 6), (10, 5, 16, 1.5, 1.5), (14, 3, 14, 1.5, 1.5), (18, 3, 14, 1.5, 1.5)),
}
_PALETTE = {
    "black": (32, 32, 36),
    "navy": (28, 44, 110),
    "white": (236, 236, 230),
    "grey": (136, 138, 142),
    "red": (200, 36, 44),
    "green": (48, 140, 66),
    "brown": (122, 78, 44),
    "pink": (238, 140, 180),
    "yellow": (240, 204, 56),
    "turquoise": (44, 180, 186),
}
_GROUNDS = {
    "casual": (232, 228, 212),
    "sporty": (206, 232, 208),
    "formal": (204, 212, 234),
    "vintage": (238, 214, 196),
    "bohemian": (228, 206, 236),
    "minimal": (242, 242, 242),
}


def _outline(shapes: tuple[tuple[float, ...], ...], dy: int, dx: int) -> Array:
    y, x = np.mgrid[:SIDE, :SIDE]
    y, x = y - dy + 0.5, x - dx + 0.5
    inside = np.zeros((SIDE, SIDE), bool)
    for shape in shapes:
        if len(shape) == 4:
            middle, height, rx, ry = shape
            inside |= ((x - middle) / rx) ** 2 + ((y - height) / ry) ** 2 <= 1
        else:
            middle, top, bottom, above, below = shape
            width = above + (below - above) * (y - top) / (bottom - top)
            inside |= (y >= top) & (y < bottom) & (abs(x - middle) <= width)
    return inside


@cache
def _outlines() -> Array:
    """[category, shift, SIDE, SIDE] bool."""
    return np.stack([[_outline(_OUTLINES[c], *s) for s in _SHIFTS] for c in VOCABULARIES["category"]])


@cache
def _patterns() -> Array:
    """[pattern, phase, SIDE, SIDE]: how much of the second colour, in quarters (0..4)."""
    made = []
    for phase in range(_PHASES):
        y, x = np.mgrid[phase : SIDE + phase, phase : SIDE + phase]
        wave = abs(x % 6 - 3)
        made.append(
            {
                "plain": 0 * x,
                "striped": 4 * (x % 6 < 2),
                "dotted": 4 * ((x % 6 < 3) & (y % 6 < 3)),
                "checked": 2 * (x % 6 < 3) + 2 * (y % 6 < 3),
                "zigzag": 4 * ((y + wave) % 6 < 2),
            }
        )
    return np.array([[m[p] for m in made] for p in VOCABULARIES["pattern"]], np.int16)


@cache
def _textures() -> Array:
    """[material, SIDE, SIDE]: what the weave adds to the brightness, about -30..30."""
    y, x = np.mgrid[:SIDE, :SIDE]
    grain = draws.below(49, 7, y // 2, x // 2) - 24
    made = {
        "cotton": 0 * x,
        "wool": grain,
        "leather": 16 - y,
        "denim": 12 * ((x + y) % 3) - 12,
        "linen": 14 * (y % 2) - 7,
        "silk": 26 - 4 * abs((x + y) % 24 - 12),
        "velvet": 14 - ((x - 16) ** 2 + (y - 16) ** 2) // 8,
        "canvas": 22 * ((x + y) % 2) - 11,
    }
    return np.array([made[m] for m in VOCABULARIES["material"]], np.int16)


def draw(values: Mapping[str, Array], variants: Array, key: int) -> Array:
    """Pictures uint8 [n, SIDE, SIDE, 3]: values {attribute: [n]}; variants [n] decide place, phase and light.

    With the same variants, only what a changed attribute paints is changed.
    """
    palette, grounds = np.array(list(_PALETTE.values()), np.int16), np.array(list(_GROUNDS.values()), np.int16)
    first = palette[values["colour"]]
    # The second colour must be seen on the first: bright on dark, dark on bright.
    second = np.where(first.sum(1, keepdims=True) > 360, -26, 26).astype(np.int16)
    phase = draws.below(_PHASES, key, variants, 5)
    shift = draws.below(len(_SHIFTS), key, variants, 6)
    light = (draws.below(21, key, variants, 7) - 10).astype(np.int16)
    shade = _patterns()[values["pattern"], phase] * second[:, :, None]
    shade += _textures()[values["material"]] + light[:, None, None]
    inside = _outlines()[values["category"], shift][..., None]
    cloth = first[:, None, None] + shade[..., None]
    return np.where(inside, cloth, grounds[values["style"]][:, None, None]).clip(0, 255).astype(np.uint8)
