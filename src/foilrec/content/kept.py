"""Rows that were encoded before: on disk by encoder and content, so that nothing slow is done twice."""

import json
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from foilrec import files
from foilrec.content.encoder import Array
from foilrec.content.encoders import Encodes
from foilrec.errors import RunBroken
from foilrec.graphs import nearest

FORMAT = 1  # raised when texts or pictures are prepared in another way


class Kept:
    """The rows of one encoder in the cache of foilrec (FOILREC_CACHE; 0 keeps nothing), by digests of 16 bytes.

    Encoders fitted to a catalogue are fast and of use to it alone: theirs are not kept. say: hears of files that are
    damaged, which are passed over, and of rows that could not be written.
    """

    def __init__(self, encoder: Encodes, say: Callable[[str], None]) -> None:
        self._key: dict[str, Any] = {"format": FORMAT, "name": encoder.name, "revision": encoder.revision}
        self._key["dim"] = encoder.dim
        name = blake2b(json.dumps(self._key, sort_keys=True).encode(), digest_size=16).hexdigest()
        where = None if getattr(encoder, "fitted", False) else nearest.folder()
        self.folder, self._say = where and where / "encoded" / name, say

    def find(self, wanted: Iterable[bytes]) -> dict[bytes, Array]:
        """The rows float32 [F] of those digests that are there."""
        looked_for = set(wanted)
        found: dict[bytes, Array] = {}
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder else ():
            try:
                tree = files.load_tree(path)
                digests, rows = tree["digests"].numpy(), tree["rows"].numpy()
                sound = tree["key"] == self._key and tree["digest"] == _digest(digests, rows)
            except (RunBroken, KeyError, TypeError, AttributeError):
                sound = False
            if not sound:
                self._say(f"{path} is damaged: what it held is encoded again.")
                continue
            found |= {d: rows[n] for n, one in enumerate(digests) if (d := one.tobytes()) in looked_for}
        return found

    def keep(self, made: dict[bytes, Array]) -> None:
        """Writes rows by digest, as one file."""
        if self.folder is None or not made:
            return
        digests = np.frombuffer(b"".join(made), np.uint8).reshape(len(made), -1).copy()
        rows = np.stack(list(made.values()))
        tree = {"key": self._key, "digest": _digest(digests, rows)}
        tree |= {"digests": torch.from_numpy(digests), "rows": torch.from_numpy(rows)}
        name = blake2b(digests.tobytes(), digest_size=16).hexdigest()
        try:
            files.save_tree(self.folder / f"{name}.safetensors", tree)
        except RunBroken as error:
            self._say(f"Rows were encoded and not kept: {error}")


def _digest(digests: Array, rows: Array) -> str:
    return blake2b(digests.tobytes() + rows.tobytes(), digest_size=16).hexdigest()
