"""Pictures made small enough to be sent: no edge above 512 pixels, nothing kept but the pixels."""

import base64
import struct
import zlib
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from foilrec.errors import BadData, MissingExtra

LONGEST = 512  # pixels of the longer edge
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Picture:
    """A picture as a data set has it: uint8 [H, W, 3], or the path of a file; encoded when it is asked for."""

    source: Any

    @property
    def digest(self) -> str:
        """What tells it from other pictures: the hash of its pixels, or of its file."""
        if isinstance(self.source, Path):
            return sha256(self.source.read_bytes()).hexdigest()
        pixels: Array = np.ascontiguousarray(self.source)
        return sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()

    def uri(self) -> str:
        """The picture as a data URI: JPEG of files (read by pillow, without their metadata), PNG of arrays."""
        if isinstance(self.source, Path):
            return _uri("jpeg", _of_file(self.source))
        return _uri("png", png(_shrunk(np.asarray(self.source))))


PROBE = Picture(np.zeros((1, 1, 3), np.uint8))
"""One black pixel, to find out whether a server sees."""


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _shrunk(pixels: Array) -> Array:
    """Squares of pixels averaged until no edge is above LONGEST: [H, W, 3] -> [h, w, 3]."""
    step = -(-max(pixels.shape[:2]) // LONGEST)
    if step == 1:
        return pixels
    height, width = pixels.shape[0] // step * step or 1, pixels.shape[1] // step * step or 1
    rows, columns = min(step, height), min(step, width)
    squares = pixels[:height, :width].reshape(height // rows, rows, width // columns, columns, 3)
    small: Array = squares.mean((1, 3)).round().astype(np.uint8)
    return small


def png(pixels: Array) -> bytes:
    """A PNG file of uint8 [H, W, 3]."""
    height, width = pixels.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], 1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _of_file(path: Path) -> bytes:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtra("pillow", "image", f"The picture {path.name}") from error
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadData(f"{path} cannot be read as a picture ({error}): repair or remove it.") from error
    small.thumbnail((LONGEST, LONGEST))
    out = BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()
