"""Who may speak to the control API: programs of this user that can read the token, and never a web page.

The Unix socket and its folder belong to this user alone. Should the socket be passed on to a port (``socat``,
``ssh -L``), a browser could reach it: so each request must also carry the token, which lies in the home (0600) and
which no page can read, name the host ``meshlore``, and have no ``Origin``, which browsers send.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..security.files import read_private, write_atomic

HOST = "meshlore"
TOKEN_FILE = "control.token"  # noqa: S105  the name of a file
_MAX_TOKEN_BYTES = 256


def make_token(home: Path) -> str:
    """The token of this home; a new one if there is none. Raises StateError."""
    try:
        return read_token(home)
    except FileNotFoundError:
        write_atomic(home / TOKEN_FILE, secrets.token_urlsafe(32).encode())
        return read_token(home)


def read_token(home: Path) -> str:
    """Raises FileNotFoundError, or StateError when others may read it."""
    return read_private(home / TOKEN_FILE, max_bytes=_MAX_TOKEN_BYTES).decode("ascii", "replace")


class ControlGate:
    """ASGI middleware: 403 for all that does not pass; the body of such a request is not read."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no websockets here
        if problem := self._problem(Headers(scope=scope)):
            await PlainTextResponse(problem, status_code=403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _problem(self, headers: Headers) -> str:
        if "origin" in headers or "sec-fetch-site" in headers:
            return "web pages do not speak to this API"
        if headers.get("host") != HOST:
            return f"the host is not {HOST}"
        if not hmac.compare_digest(headers.get("authorization", "").encode(), self._expected):
            return "the token is missing or wrong"
        return ""
