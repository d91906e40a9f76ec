"""Who may ask: everybody on this machine, or whoever has the key."""

import hmac
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from fastapi import Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ragline.core.dsn import Secret
from ragline.http import problems

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[0-9A-Za-z.-]+)(:[0-9]*)?")


class Guard:
    """Lets a request through, or answers it with a problem before its body is read.

    Without a key the server listens on loopback only (`serve` sees to that). Then the danger is a
    page in the user's browser: one whose name was made to point to 127.0.0.1, or one that posts
    across origins. Both say so in a header that a page cannot change.
    """

    def __init__(self, app: ASGIApp, *, key: Secret | None) -> None:
        self.app = app
        self.key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope) if scope["type"] == "http" else None
        await (refused or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self.key is None:
            return _stranger(scope, headers)
        if scope["path"] in OPEN_PATHS or has_key(headers, self.key):
            return None
        return problems.response(
            scope,
            401,
            "this server wants its API key: send the header `Authorization: Bearer <key>`",
            headers={"WWW-Authenticate": 'Bearer realm="ragline"'},
        )


def has_key(headers: Mapping[str, str], key: Secret) -> bool:
    """Return whether a request carries the key, in the same time whatever it carries."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    is_same = hmac.compare_digest(given.strip().encode(), key.reveal().encode())
    return is_same and scheme.lower() == "bearer"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine to itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _stranger(scope: Mapping[str, Any], headers: Mapping[str, str]) -> Response | None:
    host = headers.get("host", "")
    if not _is_here(host):
        return problems.response(
            scope,
            421,
            f"this server answers to localhost only, and the request is for {host!r}; to be "
            "reached by another name it needs RAGLINE_API_KEY",
        )
    origin = headers.get("origin")
    if origin is not None and not _is_here(re.sub(r"^https?://", "", origin)):
        return problems.response(
            scope, 403, f"pages of {origin!r} may not use this server; only those of localhost may"
        )
    return None


def _is_here(authority: str) -> bool:
    found = _AUTHORITY.fullmatch(authority)
    return found is not None and is_loopback(found["host"])
