"""What a language model is asked and what it answers, whoever runs it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from foilrec.content.pictures import Picture
from foilrec.content.schema import Schema

CHARACTERS, PER_MESSAGE, PER_PICTURE = 4, 8, 800  # a token's usual length; tokens a message and a picture add


class Message(NamedTuple):
    """One turn: role is "system", "user" or "assistant"; a picture goes with a user's turn."""

    role: str
    text: str
    picture: Picture | None = None


class Usage(NamedTuple):
    """Tokens of a question and of its answer."""

    prompt: int = 0
    completion: int = 0


class Completion(NamedTuple):
    """An answer: its text, the tokens it took (None: not said), and why it ended ("stop", "length")."""

    text: str
    usage: Usage | None = None
    finish: str = "stop"


class Backend(Protocol):
    """Answers questions. A class of that name in content/backends/NAME.py, whose constructor takes options alone.

    model: what tells two models apart in keys of stored answers. workers: questions at once, unless told otherwise.
    sees: whether pictures may be sent; settled by look().
    """

    name: str
    model: str
    workers: int
    sees: bool

    def look(self, *, pictures: bool) -> None:
        """Called once before the first question: is anybody there, and, if pictures are at hand, does he see?"""

    def complete(
        self, messages: Sequence[Message], schema: Schema, max_tokens: int, temperature: float, seed: int
    ) -> Completion:
        """One answer, by the schema if that can be had; ModelFailed if there is none."""


def tokens(text: str) -> int:
    """A rough count of the tokens of a text: one for four characters."""
    return -(-len(text) // CHARACTERS)


def rough(messages: Sequence[Message]) -> int:
    """A rough count of the tokens of a question."""
    return sum(tokens(m.text) + PER_MESSAGE + PER_PICTURE * (m.picture is not None) for m in messages)


def credible(told: Usage | None, messages: Sequence[Message], answer: str, max_tokens: int) -> Usage | None:
    """What a backend says it used, if that can be true of these texts, else None.

    No token is longer than 16 characters on average over a text, none shorter than a byte of it; thoughts that are
    not shown count up to max_tokens.
    """
    asked = sum(len(m.text.encode()) for m in messages)
    pictures = sum(m.picture is not None for m in messages)
    most = asked + 256 * len(messages) + 20_000 * pictures, max(2 * len(answer.encode()), max_tokens) + 16
    least = sum(len(m.text) for m in messages) // 16, len(answer) // 16
    if told is None or not all(low <= n <= high for low, n, high in zip(least, told, most, strict=True)):
        return None
    return told
