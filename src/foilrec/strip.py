"""Pictures of items side by side, in rows, as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foilrec.errors import BadData, MissingExtra

SIDE, GAP = 96, 6  # pixels of a cell, and between cells
NONE = 225  # the grey of an item without a picture
Array = np.ndarray[Any, Any]


def strip(pictures: Sequence[Any], rows: Sequence[Sequence[int]]) -> Array:
    """uint8 [H, W, 3]: a row of pictures for each row of item numbers, the first column set off, on white.

    pictures: of each item uint8 [h, w, 3], the path of a file, or None; a picture keeps its proportions.
    """
    width = max(map(len, rows))
    sheet = np.full((GAP + len(rows) * (SIDE + GAP), 3 * GAP + width * (SIDE + GAP), 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, item in enumerate(row):
            top, left = GAP + r * (SIDE + GAP), GAP + c * (SIDE + GAP) + 2 * GAP * (c > 0)
            sheet[top : top + SIDE, left : left + SIDE] = _cell(pictures[item])
    return sheet


def _cell(source: Any) -> Array:
    """A picture in the middle of a square, every pixel the nearest of the original's."""
    cell = np.full((SIDE, SIDE, 3), NONE if source is None else 255, np.uint8)
    if source is None:
        return cell
    pixels = _of_file(source) if isinstance(source, Path) else np.asarray(source)
    high, wide = (max(1, round(edge * SIDE / max(pixels.shape[:2]))) for edge in pixels.shape[:2])
    rows, columns = (np.arange(n) * edge // n for n, edge in zip((high, wide), pixels.shape[:2], strict=True))
    top, left = (SIDE - high) // 2, (SIDE - wide) // 2
    cell[top : top + high, left : left + wide] = pixels[rows[:, None], columns]
    return cell


def _of_file(path: Path) -> Array:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtra("pillow", "image", f"The picture {path.name}") from error
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadData(f"{path} cannot be read as a picture ({error}): repair or remove it.") from error
