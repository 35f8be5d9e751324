"""Pictures as pixels: files and arrays become uint8 [H, W, 3] of bounded size, or are refused in a sentence."""

import warnings
from collections.abc import Iterable
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from foilrec.content.encoder import Array
from foilrec.errors import BadData, MissingExtra

LONGEST = 512  # pixels of the longer edge that encoders are given
MOST_PIXELS = 2**26  # of a file: what claims more is refused before it is unpacked
MOST_BYTES = 2**27
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # grey in 16 bits


def digest(source: Any) -> bytes:
    """What tells a picture from others, 16 bytes: of a file's content, or of an array; BadData where there is none."""
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise BadData(f"there is no file {path}")
        if path.stat().st_size > MOST_BYTES:
            raise BadData(f"{path} is larger than {MOST_BYTES >> 20} MiB")
        try:
            return blake2b(path.read_bytes(), digest_size=16).digest()
        except OSError as error:
            raise BadData(f"{path} cannot be read ({error.strerror})") from error
    pixels = np.ascontiguousarray(source)
    told = f"{pixels.dtype.str} {pixels.shape}".encode()
    return blake2b(told + pixels.tobytes(), digest_size=16).digest()


def pixels(source: Any) -> Array:
    """The picture of a file or array, uint8 [H, W, 3], no edge above LONGEST; BadData says why it cannot be had.

    Files are turned as their EXIF data say; what is transparent is white; of an animation it is the first frame. Files
    need pillow.
    """
    return _of_file(Path(source)) if isinstance(source, str | Path) else _of_array(np.asarray(source))


def area(picture: Array, height: int, width: int) -> Array:
    """A picture [H, W, C] in another size: the mean colour of what each new pixel covers, float64 [h, w, C]."""
    down, across = _shares(picture.shape[0], height), _shares(picture.shape[1], width)
    made: Array = np.einsum("hH,wW,HWc->hwc", down, across, picture.astype(np.float64), optimize=True)
    return made


def _shares(old: int, new: int) -> Array:
    """How much of each of `new` equal parts of an edge every one of its `old` pixels makes up: [new, old]."""
    edges = np.linspace(0, old, new + 1)
    places = np.arange(old)
    overlap = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    shares: Array = np.clip(overlap, 0, None) * (new / old)
    return shares


def _of_array(picture: Array) -> Array:
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3, 4) or not picture.size:
        raise BadData(f"an array of {picture.dtype} {picture.shape} is no picture: uint8 [height, width, 3] is")
    if picture.shape[2] == 4:
        share = picture[..., 3:] / 255
        picture = (picture[..., :3] * share + 255 * (1 - share)).round().astype(np.uint8)
    elif picture.shape[2] == 1:
        picture = picture.repeat(3, axis=2)
    shrink = LONGEST / max(picture.shape[:2])
    if shrink >= 1:
        return picture
    height, width = (max(1, round(edge * shrink)) for edge in picture.shape[:2])
    made: Array = area(picture, height, width).round().astype(np.uint8)
    return made


def readable(sources: Iterable[Any]) -> None:
    """Raises MissingExtra where a source is a file, and pillow, which reads it, is not there."""
    first = next((source for source in sources if isinstance(source, Path)), None)
    if first is not None and not find_spec("PIL"):
        raise MissingExtra("pillow", "image", f"The picture {first.name}")


def _of_file(path: Path) -> Array:
    readable([path])
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise BadData(f"{path} claims {image.width:,} x {image.height:,} pixels, more than are unpacked")
                image.draft(None, (LONGEST, LONGEST))
                small = _coloured(ImageOps.exif_transpose(image))
                small.thumbnail((LONGEST, LONGEST))
                return np.array(small)
    except BadData:
        raise
    except Exception as error:  # damaged files make the library raise whatever it stumbles over
        raise BadData(
            f"{path} cannot be read as a picture ({str(error).splitlines()[0] if str(error) else error!r})"
        ) from error


def _coloured(image: Any) -> Any:
    """An image of any mode in RGB, on white."""
    from PIL import Image

    if image.mode in _DEEP:
        return Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode == "F":
        raise BadData("mode F does not say what is white")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
