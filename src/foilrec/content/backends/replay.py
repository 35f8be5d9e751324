"""Nobody is asked: every answer comes out of the store, and one that is not there is an error."""

from collections.abc import Sequence

from foilrec.content.chat import Completion, Message
from foilrec.content.schema import Schema
from foilrec.errors import ModelFailed


class Replay:
    """Stands for the backend that filled a store: model and sees are those that the store tells."""

    name, workers = "replay", 1

    def __init__(self, *, model: str = "", sees: bool = False) -> None:
        self.model, self.sees = model, sees

    def look(self, *, pictures: bool) -> None:
        """Nobody to look for."""

    def complete(
        self, messages: Sequence[Message], schema: Schema, max_tokens: int, temperature: float, seed: int
    ) -> Completion:
        """Never an answer: whoever asks has looked into the store before."""
        raise ModelFailed("The answer is not in the store, and replay asks nobody.")
