"""Encoding a catalogue: every distinct content once, in batches that are kept as they are made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from time import monotonic
from typing import Any

import numpy as np

from foilrec.content import pixels
from foilrec.content.encoder import Array
from foilrec.content.encoders import Encodes
from foilrec.content.kept import Kept
from foilrec.errors import BadData, BadOption

TOGETHER = 32  # contents in a batch
EVERY = 20.0  # seconds after which rows are kept
WORDS = {"text": "text", "image": "picture"}
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Encoded:
    """Rows float32 [I, F], zeros for items that are masked; why each of those is, by number.

    contents: a digest of what was encoded. distinct: how many contents differ; found: how many were kept before.
    """

    rows: Array
    masked: dict[int, str]
    contents: str
    distinct: int
    found: int


def encode(
    modality: str,
    sources: Sequence[Any],
    encoder: Encodes,
    step: Step = lambda done, total: None,
    say: Callable[[str], None] = lambda text: None,
) -> Encoded:
    """The rows of items that say or show `sources` [I]: texts, or pictures as paths or arrays; None or "" for nothing.

    Rows are kept (see kept.py) every 20 seconds and whatever ends it; one that goes on makes the same batches as one
    that was not interrupted. step(done, total) hears of distinct contents. BadData if no item has the modality.
    """
    digests, masked = _looked_at(modality, sources)
    first: dict[bytes, int] = {}
    for number, digest in digests.items():
        first.setdefault(digest, number)
    if modality == "text":  # those of like length together, which language models are fastest with
        first = dict(sorted(first.items(), key=lambda pair: len(sources[pair[1]])))
    kept = Kept(encoder, say)
    known = kept.find(first)
    found = len(known)
    refused = _fill(modality, sources, first, encoder, known, kept, step)
    rows = np.zeros((len(sources), encoder.dim), np.float32)
    for number, digest in digests.items():
        if digest in known and known[digest].any():
            rows[number] = known[digest]
        else:
            masked[number] = refused.get(digest, f"the encoder {encoder.name} finds nothing in it")
    if len(masked) == len(sources):
        raise BadData(f"No item has a {WORDS[modality]} that can be encoded; the first: {masked.get(0, 'no items')}.")
    told = blake2b(b"".join(digests.get(number, b"-") for number in range(len(sources))), digest_size=16)
    return Encoded(rows, dict(sorted(masked.items())), told.hexdigest(), len(first), found)


def _looked_at(modality: str, sources: Sequence[Any]) -> tuple[dict[int, bytes], dict[int, str]]:
    """By number: a digest of each content, or why there is none."""
    digests: dict[int, bytes] = {}
    masked: dict[int, str] = {}
    for number in range(len(sources)):
        source = sources[number]
        try:
            if source is None or (isinstance(source, str) and not source.strip()):
                masked[number] = f"it has no {WORDS[modality]}"
            elif modality == "text":
                digests[number] = blake2b(source.encode(), digest_size=16).digest()
            else:
                digests[number] = pixels.digest(source)
        except BadData as error:
            masked[number] = str(error)
    return digests, masked


def _fill(
    modality: str,
    sources: Sequence[Any],
    first: Mapping[bytes, int],
    encoder: Encodes,
    known: dict[bytes, Array],
    kept: Kept,
    step: Step,
) -> dict[bytes, str]:
    """Adds to `known` what it lacks of `first`; what cannot be read, and why."""
    order, last = list(first), monotonic()
    refused: dict[bytes, str] = {}
    fresh: dict[bytes, Array] = {}
    try:
        for start in range(0, len(order), TOGETHER):
            wanted = [digest for digest in order[start : start + TOGETHER] if digest not in known]
            contents = _opened(modality, {digest: sources[first[digest]] for digest in wanted}, refused)
            if contents:
                made = dict(zip(contents, _asked(encoder, list(contents.values())), strict=True))
                fresh |= made
                known |= made
            if monotonic() - last > EVERY:
                kept.keep(fresh)
                fresh, last = {}, monotonic()
            step(min(start + TOGETHER, len(order)), len(order))
    finally:
        kept.keep(fresh)
    return refused


def _opened(modality: str, sources: dict[bytes, Any], refused: dict[bytes, str]) -> dict[bytes, Any]:
    """What an encoder takes; pictures that cannot be read go to `refused`."""
    if modality == "text":
        return sources
    contents = {}
    for digest, source in sources.items():
        try:
            contents[digest] = pixels.pixels(source)
        except BadData as error:
            refused[digest] = str(error)
    return contents


def _asked(encoder: Encodes, contents: list[Any]) -> Array:
    rows: Array = encoder(contents)
    if not np.isfinite(rows).all():
        raise BadOption(f"Encoder {encoder.name}@{encoder.revision} makes NaN or infinite numbers: take another one.")
    return rows
