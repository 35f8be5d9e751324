"""A server of language models on loopback that answers by rules, and misbehaves as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from foilrec.content.backends.rules import Rules
from foilrec.content.chat import Message

Act = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Each question is dealt with by the next act of the server's script, and well when that has come to its end."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.headers.append(dict(self.headers))
        with self.server.taking:
            act = self.server.script.pop(0) if self.server.script else self.server.then
        act(self, body)

    def reply(self, status: int, content: Any, headers: dict[str, str] | None = None, *, cut: int = 0) -> None:
        """Sends JSON, less its last `cut` bytes."""
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])
        if cut:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    """script: acts for the first questions; then: the act for all others; asked: the bodies that came."""

    def __init__(self, *script: Act) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.then, self.models = list(script), good, ["small-model"]
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.taking = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked may be gone."""


@contextmanager
def serving(*script: Act) -> Iterator[Server]:
    """A server with a script, until the block ends."""
    server = Server(*script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def text_of(body: dict[str, Any]) -> str:
    """What rules would answer: the schema is that of the question, or that of the task."""
    form = body.get("response_format", {}).get("json_schema", {}).get("schema") or body["_schema"]
    messages = [Message(m["role"], m["content"]) for m in body["messages"] if isinstance(m["content"], str)]
    return Rules().complete(messages, form, 1000, 0.0, body.get("seed", 0)).text


def message(text: str | None, **usage: Any) -> dict[str, Any]:
    """A reply that holds a text."""
    told = usage or {"prompt_tokens": 300, "completion_tokens": 60}
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": told}


def good(handler: Handler, body: dict[str, Any]) -> None:
    handler.reply(200, message(text_of(body)))


def says(text: str | None, **usage: Any) -> Act:
    return lambda handler, body: handler.reply(200, message(text, **usage))


def lying(**usage: Any) -> Act:
    return lambda handler, body: handler.reply(200, message(text_of(body), **usage))


def status(code: int, told: str = "no", **headers: str) -> Act:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, body: handler.reply(code, {"error": {"message": told}}, named)


def hang(seconds: float) -> Act:
    def act(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return act


def drop(handler: Handler, body: dict[str, Any]) -> None:
    handler.close_connection = True


def cut(handler: Handler, body: dict[str, Any]) -> None:
    handler.reply(200, message("x" * 500), cut=300)


def garbage(handler: Handler, body: dict[str, Any]) -> None:
    handler.reply(200, "<html>gateway</html>")


def echo_key(code: int) -> Act:
    """Tells the secret that it was sent, as careless servers do."""

    def act(handler: Handler, body: dict[str, Any]) -> None:
        told = f"key {handler.headers['Authorization']} is fine"
        handler.reply(code, message(told) if code == 200 else {"error": told})

    return act
