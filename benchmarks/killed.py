"""A generation killed at random moments: python -m benchmarks.killed [KILLS] fails if anything is lost or paid twice.

A server on loopback answers by rules, counts what it is asked, and takes its time. Workers that ask it are killed with
SIGKILL and started again; two work on one folder at once. The files that come out must be those of an undisturbed run,
and nothing may be asked twice but what was under way at the moment of a kill.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from foilrec import parts
from foilrec.content.backends.openai import OpenAI
from foilrec.content.backends.rules import Rules
from foilrec.content.chat import Message
from foilrec.content.export import export
from foilrec.content.generation import Generation, Order
from foilrec.data import Data

WORKERS, SECONDS = 4, 0.01  # questions at once, and how long the server thinks
FILES = ("negatives.jsonl", "rejected.jsonl", "text_neg.npy", "image_neg.npy", "features.json")


class Server(BaseHTTPRequestHandler):
    """Answers by rules; GET /counts tells how often each question came."""

    protocol_version = "HTTP/1.1"
    asked: Counter[str] = Counter()

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        """The one model, or the counts."""
        self._send(dict(self.asked) if self.path == "/counts" else {"data": [{"id": "rules"}]})

    def do_POST(self) -> None:
        """One answer."""
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        self.asked[raw.decode()] += 1
        time.sleep(SECONDS)
        messages = [Message(m["role"], m["content"]) for m in body["messages"]]
        schema = body["response_format"]["json_schema"]["schema"]
        given = Rules().complete(messages, schema, body["max_tokens"], 0.0, body["seed"])
        usage = {"prompt_tokens": len(raw) // 4, "completion_tokens": len(given.text) // 4}
        self._send({"choices": [{"message": {"content": given.text}, "finish_reason": "stop"}], "usage": usage})

    def _send(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:  # whoever asked has been killed
            self.close_connection = True


def forked(work: Callable[[], None]) -> int:
    """A process of its own for some work; its number."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server in a process of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    pid = forked(server.serve_forever)
    server.server_close()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def worker(data: Data, folder: Path, address: str) -> int:
    """A process that goes on with a folder to its end, and exports."""

    def work() -> None:
        backend, order = OpenAI(url=address, workers=WORKERS), Order(difficulties=(1, 2), pictures=False)
        made = Generation(data, folder, backend, order, resume=True, lease=2.0)
        for _ in made.run():
            pass
        export(made.store, made.goods, made.encoder, folder)
        made.store.close()

    return forked(work)


def ended(*pids: int) -> None:
    """Waits for processes, which must end well."""
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "a worker failed"


def repeats(address: str) -> tuple[int, int]:
    """Distinct questions so far, and how many came again."""
    with build_opener(ProxyHandler({})).open(address + "/counts", timeout=10) as response:
        asked = json.loads(response.read())
    return len(asked), sum(asked.values()) - len(asked)


def same(folder: Path, other: Path) -> bool:
    """Whether two folders hold the same negatives, byte for byte."""
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def disturbed(data: Data, whole: Path, folder: Path, kills: int) -> dict[str, Any]:
    """A run that is killed so many times and then let go on."""
    moments, really = random.Random(0), 0
    with serving() as address:
        for _ in range(kills):
            one = worker(data, folder, address)
            time.sleep(moments.uniform(0.05, 0.3))
            os.kill(one, signal.SIGKILL)
            really += os.WIFSIGNALED(os.waitpid(one, 0)[1])
        ended(worker(data, folder, address))
        distinct, again = repeats(address)
    assert same(folder, whole), "the negatives are not those of an undisturbed run"
    assert again <= really * WORKERS, f"{again} questions came again after {really} kills"
    return {"kills": really, "questions": distinct, "asked again": again, "at most": really * WORKERS}


def together(data: Data, whole: Path, folder: Path) -> dict[str, Any]:
    """Two processes on one folder at once."""
    with serving() as address:
        ended(worker(data, folder, address), worker(data, folder, address))
        distinct, again = repeats(address)
    assert same(folder, whole), "the negatives are not those of one process"
    assert again == 0, f"{again} questions were asked twice"
    return {"processes": 2, "questions": distinct, "asked again": again}


def main(kills: int) -> None:
    """Prints a JSON line for each part."""
    data: Data = parts.build("dataset", "shop", users=30, items=30).read()
    folder = Path(tempfile.mkdtemp())
    try:
        with serving() as address:
            ended(worker(data, folder / "whole", address))
        print(json.dumps(disturbed(data, folder / "whole", folder / "killed", kills)), flush=True)
        print(json.dumps(together(data, folder / "whole", folder / "two")), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
