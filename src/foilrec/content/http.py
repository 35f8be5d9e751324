"""JSON over HTTP to one server: which errors pass and which are final, bounded answers, no redirects, no leaked key."""

import json
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from foilrec.errors import ModelFailed

MOST = 4 * 2**20  # bytes of an answer that are read
EVERYWHERE = (401, 402, 403, 404)  # other questions would fare no better
PASSING = (408, 409, 425, 429)  # and 5xx
_FINAL = ("mmproj", "image input is not supported")  # said with 500 by llama.cpp without a projector: it stays blind


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None: a key must not follow to another address."""
        return


class Endpoint:
    """A server below an address. key: sent as a bearer token, and struck out wherever it comes back."""

    def __init__(self, address: str, key: str = "", timeout: float = 120.0) -> None:
        self.address, self._key, self.timeout = address, key, timeout
        handlers = [_NoRedirects(), *([ProxyHandler({})] if _here(address) else [])]
        self._opener = build_opener(*handlers)

    def get(self, path: str) -> dict[str, Any]:
        """A JSON object from the server; ModelFailed says what went wrong, and whether it passes."""
        return self._fetch(path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The same in answer to a JSON object."""
        return self._fetch(path, json.dumps(body).encode())

    def _fetch(self, path: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "foilrec"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            with self._opener.open(Request(self.address + path, body, headers), timeout=self.timeout) as response:
                raw = _read(response, self.timeout)
        except HTTPError as error:
            raise self._refused(error) from None
        except (OSError, HTTPException, ValueError) as error:
            raise self._lost(error) from None
        return self._object(raw)

    def _object(self, raw: bytes) -> dict[str, Any]:
        try:
            found = json.loads(self._hidden(raw.decode("utf-8", "replace")))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ModelFailed(
                f"{self.address} answered with something that is no JSON object.", passing=True, unsure=True
            )
        return found

    def _refused(self, error: HTTPError) -> ModelFailed:
        try:
            told = error.read(20_000).decode("utf-8", "replace")
        except (OSError, HTTPException):
            told = ""
        told = self._hidden(" ".join(told.split()))[:500]
        final = any(word in told for word in _FINAL)
        passing = (error.code in PASSING or error.code >= 500) and not final
        cure = " Name the environment variable that holds a key by --key-env." if error.code in (401, 403) else ""
        return ModelFailed(
            f"{self.address} answered {error.code}: {told or error.reason}{cure}",
            status=error.code,
            passing=passing,
            after=_seconds(error.headers.get("Retry-After")),
            everywhere=error.code in EVERYWHERE or 300 <= error.code < 400,
        )

    def _lost(self, error: Exception) -> ModelFailed:
        reason = error.reason if isinstance(error, URLError) else error
        told = self._hidden(str(reason) or type(reason).__name__)
        if isinstance(reason, ConnectionRefusedError | socket.gaierror):
            return ModelFailed(f"No server answers at {self.address} ({told}).", passing=True)
        return ModelFailed(f"{self.address} gave no whole answer ({told}).", passing=True, unsure=True)

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _read(response: HTTPResponse, timeout: float) -> bytes:
    """The body, at most MOST bytes of it, in at most ten times the timeout however slowly it drips."""
    pieces, size, end = [], 0, time.monotonic() + 10 * timeout
    while piece := response.read1(65_536):
        pieces.append(piece)
        size += len(piece)
        if size > MOST or time.monotonic() > end:
            raise OSError("an answer too long")
    if response.length:
        raise OSError("an answer cut short")
    return b"".join(pieces)


def _seconds(after: str | None) -> float | None:
    """What Retry-After says, in seconds or as a date."""
    if after is None:
        return None
    try:
        return max(0.0, float(after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _here(address: str) -> bool:
    """Whether an address is this machine's own: no proxy stands between."""
    host = urlsplit(address).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
