"""Pictures of items side by side, in rows, as one picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from foilrec.content.encoder import Array
from foilrec.content.pixels import pixels
from foilrec.errors import BadData

SIDE, GAP = 96, 6  # pixels of a cell, and between cells
NONE = 225  # the grey of an item without a picture


def strip(pictures: Sequence[Any], rows: Sequence[Sequence[int]]) -> Array:
    """uint8 [H, W, 3]: a row of pictures for each row of item numbers, the first column set off, on white.

    pictures: of each item an array, the path of a file (which needs pillow), or None; proportions are kept.
    """
    width = max(map(len, rows))
    sheet = np.full((GAP + len(rows) * (SIDE + GAP), 3 * GAP + width * (SIDE + GAP), 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, item in enumerate(row):
            top, left = GAP + r * (SIDE + GAP), GAP + c * (SIDE + GAP) + 2 * GAP * (c > 0)
            sheet[top : top + SIDE, left : left + SIDE] = _cell(pictures[item], item)
    return sheet


def _cell(source: Any, item: int) -> Array:
    """A picture in the middle of a square, every pixel the nearest of the original's."""
    cell = np.full((SIDE, SIDE, 3), NONE if source is None else 255, np.uint8)
    if source is None:
        return cell
    try:
        picture = pixels(source)
    except BadData as error:
        raise BadData(f"The picture of item number {item} cannot be shown: {error}.") from error
    high, wide = (max(1, round(edge * SIDE / max(picture.shape[:2]))) for edge in picture.shape[:2])
    rows, columns = (np.arange(n) * edge // n for n, edge in zip((high, wide), picture.shape[:2], strict=True))
    top, left = (SIDE - high) // 2, (SIDE - wide) // 2
    cell[top : top + high, left : left + wide] = picture[rows[:, None], columns]
    return cell
