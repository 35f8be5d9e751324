"""Questions and answers as /v1/chat/completions words them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from foilrec.content.chat import Completion, Message, Usage
from foilrec.content.schema import Schema
from foilrec.errors import ModelFailed

Form = Literal["json_schema", "json_object", "plain"]
FORMS: tuple[Form, ...] = ("json_schema", "json_object", "plain")
"""How an answer's form is asked for, the strictest first."""


def body(
    messages: Sequence[Message], schema: Schema, max_tokens: int, temperature: float, seed: int, form: Form
) -> dict[str, Any]:
    """A question, less the model's name; an empty schema asks for no form."""
    made: dict[str, Any] = {
        "messages": [{"role": m.role, "content": _content(m)} for m in messages],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    if schema and form == "json_schema":
        made["response_format"] = {"type": form, form: {"name": "answer", "strict": True, "schema": schema}}
    elif schema and form == "json_object":
        made["response_format"] = {"type": form}
    return made


def _content(message: Message) -> str | list[dict[str, Any]]:
    if message.picture is None:
        return message.text
    picture = {"type": "image_url", "image_url": {"url": message.picture.uri()}}
    return [{"type": "text", "text": message.text}, picture]


def completion(reply: Mapping[str, Any]) -> Completion:
    """The first choice of a reply; ModelFailed if it holds none, or no text."""
    try:
        choice = reply["choices"][0]
        text, usage = choice["message"]["content"], reply.get("usage")
    except (KeyError, IndexError, TypeError) as error:
        raise ModelFailed("The server's answer holds no message.", passing=True, unsure=True) from error
    if not isinstance(text, str):
        told = choice["message"].get("refusal") or "its message holds no text"
        raise ModelFailed(f"The model did not answer: {str(told)[:200]}.", unsure=True)
    told = usage if isinstance(usage, dict) else {}
    counts = [n for name in ("prompt_tokens", "completion_tokens") if type(n := told.get(name)) is int]
    return Completion(text, Usage(*counts) if len(counts) == 2 else None, str(choice.get("finish_reason") or "stop"))
