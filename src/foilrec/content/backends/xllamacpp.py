"""A GGUF model in this process, by llama.cpp: answers are held to their schema by a grammar."""

import threading
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from foilrec.content.chat import Completion, Message
from foilrec.content.pictures import PROBE
from foilrec.content.schema import Schema
from foilrec.content.wire import body, completion
from foilrec.errors import BadOption, MissingExtra, ModelFailed

_END = 2**20  # bytes hashed at each end of a model's file


class Xllamacpp:
    """llama.cpp on this machine.

    model: the path of a GGUF file. projector: the path of its mmproj file, with which it sees. threads: of the
    processor; more than there are free cores make it slower. context: tokens of question and answer.
    """

    name, workers = "xllamacpp", 1

    def __init__(self, *, model: str, projector: str = "", threads: int = 1, context: int = 8192) -> None:
        for path in (model, projector):
            if path and not Path(path).is_file():
                raise BadOption(f"There is no model file {path}.")
        if threads < 1 or context < 1024:
            raise BadOption(f"threads = {threads} must be at least 1, and context = {context} at least 1024.")
        self._paths, self._threads, self._context = (model, projector), threads, context
        self.model = "+".join(_fingerprint(Path(path)) for path in self._paths if path)
        self.sees, self._lock = False, threading.Lock()
        self._server: Any = None

    def look(self, *, pictures: bool) -> None:
        """Loads the model, and shows it a pixel."""
        self._server = self._loaded()
        if pictures and self._paths[1]:
            self.complete([Message("user", "Is it dark?", PROBE)], {}, 1, 0.0, 0)
            self.sees = True

    def _loaded(self) -> Any:
        try:
            import xllamacpp
        except ImportError as error:
            raise MissingExtra("xllamacpp", "llm", "The backend xllamacpp") from error
        settings = xllamacpp.CommonParams()
        settings.model.path, settings.mmproj.path = self._paths
        settings.n_ctx, settings.n_parallel, settings.verbosity = self._context, 1, -1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = self._threads
        try:
            return xllamacpp.Server(settings)
        except (RuntimeError, ValueError) as error:
            raise ModelFailed(f"{self._paths[0]} cannot be loaded: {error}.", everywhere=True) from error

    def complete(
        self, messages: Sequence[Message], schema: Schema, max_tokens: int, temperature: float, seed: int
    ) -> Completion:
        """One answer, valid by its schema unless it ran out of tokens."""
        assert self._server is not None, "look() loads the model"
        asked = body(messages, schema, max_tokens, temperature, seed, "json_schema")
        try:
            with self._lock:
                reply = self._server.handle_chat_completions(asked)
        except RuntimeError as error:
            raise ModelFailed(f"llama.cpp did not answer: {error}.") from error
        return completion(reply)


def _fingerprint(path: Path) -> str:
    """A model's file by name, size and the hash of its two ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(_END)
        file.seek(max(0, size - _END))
        ends += file.read(_END)
    return f"{path.name}:{size}:{sha256(ends).hexdigest()[:12]}"
