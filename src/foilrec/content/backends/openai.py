"""Any server that speaks /v1/chat/completions: vLLM, llama.cpp, Ollama, or a hosted one. Standard library alone."""

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from foilrec.content.chat import Completion, Message
from foilrec.content.http import Endpoint
from foilrec.content.pictures import PROBE
from foilrec.content.schema import Schema
from foilrec.content.wire import FORMS, body, completion
from foilrec.errors import BadOption, ModelFailed, did_you_mean

_ABOUT_FORM = ("schema", "response_format", "grammar", "structured")


class OpenAI:
    """A server by its address, http://127.0.0.1:8080/v1 for instance.

    model: as the server calls it; empty: the only one that it has. key_env: the environment variable that holds the
    key; without it none is sent. timeout: seconds until an answer begins, and then between its pieces. workers:
    questions at once.
    """

    name = "openai"

    def __init__(
        self, *, url: str, model: str = "", key_env: str = "", timeout: float = 120.0, workers: int = 8
    ) -> None:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise BadOption(f"--url {url!r} is no address of a server ({error}).") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadOption(f"--url {url!r} is no address of a server, such as http://127.0.0.1:8080/v1.")
        if parts.username or parts.password or parts.query:
            raise BadOption("--url must hold no name, password or query: a key is named by --key-env.")
        if key_env and not os.environ.get(key_env):
            raise BadOption(f"--key-env {key_env}: there is no such environment variable, or it is empty.")
        if key_env and not (os.environ[key_env].isascii() and os.environ[key_env].isprintable()):
            raise BadOption(f"--key-env {key_env}: the key holds a line break or another sign that cannot be sent.")
        if timeout <= 0 or workers < 1:
            raise BadOption(f"timeout = {timeout} must be above 0, and workers = {workers} at least 1.")
        address = url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
        self.model, self.workers, self.sees = model, workers, False
        self._server = Endpoint(address, os.environ.get(key_env, "") if key_env else "", timeout)
        # What this server turned out to take: the form of answers, and the words of a question.
        self._form, self._renamed, self._left_out = 0, dict[str, str](), frozenset[str]()

    def look(self, *, pictures: bool) -> None:
        """Is the server there, has it the model, and does it see: one pixel is shown to it."""
        known = self._models()
        if not self.model:
            if len(known) != 1:
                has = f"it has {', '.join(known[:9])}" if known else "it does not tell what it has"
                raise BadOption(f"Say which --model the server shall use: {has}.")
            self.model = known[0]
        elif known and self.model not in known:
            near = did_you_mean(self.model, known) or f"; it has {', '.join(known[:9])}."
            raise BadOption(f"The server has no model {self.model!r}{near}")
        self.sees = pictures and self._sees()

    def _models(self) -> list[str]:
        """What the server says that it has; servers need not."""
        try:
            listed = self._server.get("/models").get("data")
        except ModelFailed as error:
            if error.status in (404, 405):
                return []
            raise
        return [str(one["id"]) for one in listed or () if isinstance(one, dict) and "id" in one]

    def _sees(self) -> bool:
        try:
            self._post(body([Message("user", "Is it dark?", PROBE)], {}, 1, 0.0, 0, "plain"))
        except ModelFailed as error:
            if error.passing or error.everywhere:
                raise
            return False
        return True

    def complete(
        self, messages: Sequence[Message], schema: Schema, max_tokens: int, temperature: float, seed: int
    ) -> Completion:
        """One answer; where the server refuses a question's form, it is asked in a plainer one from then on."""
        form = self._form
        while True:
            asked = body(messages, schema, max_tokens, temperature, seed, FORMS[form])
            try:
                found = completion(self._post(asked))
            except ModelFailed as error:
                if self._reworded(str(error), error.status, asked):
                    continue
                if form + 1 == len(FORMS) or not _refuses_form(str(error), error.status):
                    raise
                form += 1
            else:
                self._form = max(self._form, form)
                return found

    def _post(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        kept = {self._renamed.get(name, name): value for name, value in asked.items() if name not in self._left_out}
        return self._server.post("/chat/completions", {"model": self.model, **kept})

    def _reworded(self, error: str, status: int, asked: Mapping[str, Any]) -> bool:
        """Whether a question was refused for a word that some servers call otherwise or do not take."""
        if status not in (400, 422):
            return False
        if "max_completion_tokens" in error and "max_tokens" not in self._renamed:
            self._renamed = {"max_tokens": "max_completion_tokens"}
            return True
        refused = {n for n in ("temperature", "seed") if n in error and "support" in error and n in asked}
        fresh = refused - self._left_out
        self._left_out |= refused
        return bool(fresh)


def _refuses_form(error: str, status: int) -> bool:
    """Whether a refusal may be of the form of answers: a server that fails over it says so."""
    return status in (400, 422) or (status >= 500 and any(word in error.lower() for word in _ABOUT_FORM))
