"""What colours a picture has, where, and which way its edges run: counted, without a model."""

import numpy as np

from foilrec.content.encoder import Array
from foilrec.content.pixels import area

SIDE = 64  # pixels along each edge, after averaging
LEVELS, CELLS, TURNS = 4, 4, 8  # shades of a primary colour; squares along each edge; directions of half a turn


class Colours:
    """A histogram of colours, mean colours of squares, and histograms of gradients; 240 numbers of length 1.

    The picture is averaged to 64 x 64 pixels. Histogram: the share of pixels in each of 4 x 4 x 4 cubes of RGB. Layout:
    the mean red, green and blue of each of 4 x 4 squares, less their means over the picture. Gradients (Dalal and
    Triggs 2005, without their overlapping blocks): in each square, the lengths of the gradients of luma (central
    differences, borders repeated) by direction in 8 parts of half a turn. Shares and lengths enter as square roots,
    whose products are Bhattacharyya's coefficient; each of the three parts is scaled to length 1, then the row.
    """

    name, revision, dim = "colours", "1", LEVELS**3 + CELLS**2 * (3 + TURNS)

    def __call__(self, pictures: list[Array]) -> Array:
        """Float32 [n, 240]."""
        rows = np.zeros((len(pictures), self.dim))
        for row, picture in zip(rows, pictures, strict=True):
            small = area(picture, SIDE, SIDE).round(3)  # roots make much of what is zero but for rounding
            row[:] = _unit(np.concatenate([_unit(part) for part in (_colours(small), _layout(small), _edges(small))]))
        return rows.astype(np.float32)


def _unit(row: Array) -> Array:
    """Scaled to length 1, where it has one."""
    length = float(np.linalg.norm(row))
    scaled: Array = row / length if length > 1e-9 else np.zeros_like(row)
    return scaled


def _colours(small: Array) -> Array:
    shade = np.minimum(small * LEVELS / 256, LEVELS - 1).astype(np.int64)
    cube = (shade[..., 0] * LEVELS + shade[..., 1]) * LEVELS + shade[..., 2]
    counts: Array = np.sqrt(np.bincount(cube.ravel(), minlength=LEVELS**3))
    return counts


def _layout(small: Array) -> Array:
    means = area(small, CELLS, CELLS)
    return np.ravel(means - means.mean((0, 1)))


def _edges(small: Array) -> Array:
    luma = np.pad(small @ np.array([0.299, 0.587, 0.114]), 1, mode="edge")
    down, across = luma[2:, 1:-1] - luma[:-2, 1:-1], luma[1:-1, 2:] - luma[1:-1, :-2]
    turn = np.floor(np.arctan2(down, across) / np.pi * TURNS + 0.5).astype(np.int64) % TURNS
    square = np.arange(SIDE) * CELLS // SIDE
    place = (square[:, None] * CELLS + square) * TURNS + turn
    lengths = np.bincount(place.ravel(), np.hypot(down, across).ravel(), minlength=CELLS**2 * TURNS)
    found: Array = np.sqrt(lengths)
    return found
