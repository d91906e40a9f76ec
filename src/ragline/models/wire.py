"""JSON over HTTP to an OpenAI-compatible endpoint: one request, checked, or RequestFailed."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ragline.core.pacing import retry_after_s
from ragline.core.remote import Endpoint, is_loopback
from ragline.errors import ModelError, UsageError
from ragline.models.calls import (
    CONNECT_TIMEOUT_S,
    MOST_BYTES,
    RequestFailed,
    invalid,
    kind_of_status,
    may_be_billed,
    quoted,
    too_long,
)

if TYPE_CHECKING:
    import httpx2

_MOST_BYTES_OF_AN_ERROR = 64 * 1024
_MOST_BYTES_OF_AN_EVENT = 1024 * 1024
# Above this, reading JSON holds up the event loop for longer than other callers should wait.
_LARGE = 256 * 1024
_END = "[DONE]"


class Wire:
    """A client of one endpoint, made at its first use."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._client: httpx2.AsyncClient | None = None
        self._opening = asyncio.Lock()
        self._is_closed = False
        self._http = _library()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON that the endpoint answers with."""
        async with self._answer(path, body) as response:
            data = await self._read(response)
        if len(data) > _LARGE:
            return await asyncio.to_thread(parsed, data)
        return parsed(data)

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Yield the JSON of each event of a stream, up to the one that says it is over, or its end."""
        async with self._answer(path, body) as response:
            # Always UTF-8 (HTML, 9.2.5), and a byte order mark is no part of the first event.
            response.encoding = "utf-8-sig"
            events = self._http.EventSource(response, max_event_size=_MOST_BYTES_OF_AN_EVENT)
            size = 0
            async for event in events:
                size += len(event.data)
                if size > MOST_BYTES:
                    raise too_long()
                said = event.data.strip()
                if said == _END:
                    return
                # Without data it is none (HTML, 9.2.6): a sign of life, or a time to reconnect.
                if said:
                    yield parsed(said.encode())

    async def close(self) -> None:
        """Close the connections, for good."""
        async with self._opening:
            self._is_closed = True
            if self._client is not None:
                await self._client.aclose()
                self._client = None

    @asynccontextmanager
    async def _answer(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[httpx2.Response]:
        """Send a request; yield the response where its status says that all is well."""
        client = await self._opened()
        try:
            async with client.stream("POST", f"{self._endpoint.url}{path}", json=body) as got:
                if got.status_code != 200:
                    raise await self._failure(got)
                if got.headers.get("content-encoding", "identity") != "identity":
                    raise invalid("it is compressed, which was not asked for")
                yield got
        except (self._http.HTTPError, self._http.InvalidURL) as error:
            raise self._lost(error) from error

    async def _opened(self) -> httpx2.AsyncClient:
        async with self._opening:
            if self._is_closed:
                raise UsageError("this model is closed; open another")
            if self._client is None:
                try:
                    # Not here: certificates are read, and a library for a proxy is looked for.
                    self._client = await asyncio.to_thread(self._open)
                except (self._http.InvalidURL, ImportError, OSError, ValueError) as error:
                    raise RequestFailed(
                        "unusable", f"no client can be made: {quoted(str(error))}"
                    ) from error
            return self._client

    def _open(self) -> httpx2.AsyncClient:
        endpoint = self._endpoint
        headers = {
            # A compressed answer could be of any size.
            "accept-encoding": "identity",
            "user-agent": f"ragline/{version('ragline')}",
        }
        if endpoint.key:
            secret = endpoint.key.reveal()
            named = {"api-key": secret} if endpoint.is_azure else {}
            headers |= named or {"authorization": f"Bearer {secret}"}
        limits = endpoint.limits
        client: httpx2.AsyncClient = self._http.AsyncClient(
            headers=headers,
            params={"api-version": endpoint.api_version} if endpoint.api_version else None,
            timeout=self._http.Timeout(
                limits.timeout_s, connect=min(limits.timeout_s, CONNECT_TIMEOUT_S), pool=None
            ),
            # Questions are not held up by passages, so there may be more than `concurrency`.
            limits=self._http.Limits(max_connections=None, max_keepalive_connections=20),
            # To another place, with the texts and the key: never.
            follow_redirects=False,
            # A proxy of the user's is not the way to this machine.
            trust_env=not is_loopback(urlsplit(endpoint.url or "").hostname or ""),
        )
        return client

    async def _read(self, response: httpx2.Response, most: int = MOST_BYTES) -> bytes:
        data = bytearray()
        async for part in response.aiter_raw():
            data += part
            if len(data) > most:
                raise too_long()
        return bytes(data)

    async def _failure(self, response: httpx2.Response) -> RequestFailed:
        status = response.status_code
        if 300 <= status < 400:
            host = quoted(_host(response.headers.get("location", "")))
            return RequestFailed(
                "unknown", f"status {status} redirects to {host}, which is not followed"
            )
        said, parameter = _said(await self._read_error(response))
        return RequestFailed(
            kind_of_status(status),
            f"status {status}" + (f": {quoted(said)}" if said else ""),
            asked_s=_asked_s(response.headers),
            may_be_billed=may_be_billed(status),
            parameter=parameter,
        )

    async def _read_error(self, response: httpx2.Response) -> bytes:
        try:
            return await self._read(response, _MOST_BYTES_OF_AN_ERROR)
        except (RequestFailed, self._http.HTTPError):
            return b""  # the status says enough

    def _lost(self, error: Exception) -> RequestFailed:
        http = self._http
        if isinstance(error, http.ConnectError | http.ConnectTimeout | http.ProxyError):
            return RequestFailed(
                "unreachable", f"no connection ({quoted(str(error)) or 'timeout'})"
            )
        if isinstance(error, http.TimeoutException):
            silent = f"silent for {self._endpoint.limits.timeout_s:g} s"
            return RequestFailed("unreachable", silent, may_be_billed=True)
        if isinstance(error, http.SSEError):
            return invalid(quoted(str(error)))
        if isinstance(error, http.InvalidURL | http.UnsupportedProtocol):
            return RequestFailed("refused", f"its URL cannot be used: {quoted(str(error))}")
        why = quoted(str(error)) or type(error).__name__
        return RequestFailed("unreachable", f"the connection was lost ({why})", may_be_billed=True)


def parsed(data: bytes) -> Any:
    """Return the value of a JSON text, in which a number is a number."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        what = quoted(str(error)) if isinstance(error, json.JSONDecodeError) else "not readable"
        raise invalid(f"the answer is not JSON ({what})") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _said(data: bytes) -> tuple[str, str | None]:
    """Return the message of an error's body, and the parameter that it complains of."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return "", None
    error = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(error, str):
        return error, None
    if not isinstance(error, dict):
        return "", None
    message, parameter = error.get("message"), error.get("param")
    return (
        message if isinstance(message, str) else "",
        parameter if isinstance(parameter, str) else None,
    )


def _host(location: str) -> str:
    """Return the host that a redirect names."""
    try:
        return urlsplit(location).hostname or "another path"
    except ValueError:
        return "what is no URL"


def _asked_s(headers: Mapping[str, str]) -> float | None:
    milliseconds = retry_after_s(headers.get("retry-after-ms"), datetime.now(UTC))
    if milliseconds is not None:
        return milliseconds / 1000
    return retry_after_s(headers.get("retry-after"), datetime.now(UTC))


def _library() -> Any:
    try:
        return importlib.import_module("httpx2")
    except ImportError as error:
        raise ModelError(
            f"httpx2 is not installed ({error}); run: pip install 'ragline[openai]'"
        ) from error
