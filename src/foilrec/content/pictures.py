"""Pictures made ready to be sent: no edge above 512 pixels, nothing kept but the pixels."""

import base64
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from foilrec.content.encoder import Array
from foilrec.content.pixels import digest, pixels
from foilrec.errors import BadData

Read = TypeVar("Read")


@dataclass(frozen=True)
class Picture:
    """A picture as a data set has it: uint8 [H, W, 3], or the path of a file; read when it is asked for."""

    source: Any

    @cached_property
    def digest(self) -> str:
        """What tells it from other pictures: the hash of its pixels, or of its file."""
        return _readable(digest, self.source).hex()

    def uri(self) -> str:
        """The picture as a data URI: JPEG of files (without their metadata), PNG of arrays."""
        small = _readable(pixels, self.source)
        return _uri("jpeg", _jpeg(small)) if isinstance(self.source, Path) else _uri("png", png(small))


PROBE = Picture(np.zeros((1, 1, 3), np.uint8))
"""One black pixel, to find out whether a server sees."""


def _readable(read: Callable[[Any], Read], source: Any) -> Read:
    try:
        return read(source)
    except BadData as error:
        raise BadData(f"A picture cannot be sent: {error}. Repair or remove it.") from error


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png(pixels: Array) -> bytes:
    """A PNG file of uint8 [H, W, 3]."""
    height, width = pixels.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], 1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _jpeg(small: Array) -> bytes:
    from PIL import Image

    out = BytesIO()
    Image.fromarray(small).save(out, "JPEG", quality=85)
    return out.getvalue()
