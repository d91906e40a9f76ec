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
from ragline.errors import ModelError
from ragline.models.calls import RequestFailed, kind_of_status, quoted

if TYPE_CHECKING:
    import httpx2

_MOST_BYTES = 64 * 1024 * 1024
_MOST_BYTES_OF_AN_ERROR = 64 * 1024
_MOST_BYTES_OF_AN_EVENT = 1024 * 1024
# Above this, reading JSON holds up the event loop for longer than other callers should wait.
_LARGE = 256 * 1024
_CONNECT_TIMEOUT_S = 10.0
_END = "[DONE]"


class Wire:
    """A client of one endpoint, made at its first use."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._client: httpx2.AsyncClient | None = None
        self._http = _library()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON that the endpoint answers with."""
        async with self._answer(path, body) as response:
            data = await self._read(response)
        if len(data) > _LARGE:
            return await asyncio.to_thread(parsed, data)
        return parsed(data)

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Yield the JSON of each event of a stream; None once, where its protocol says it is over.

        A stream that ends without it ends here without None.
        """
        async with self._answer(path, body) as response:
            events = self._http.EventSource(response, max_event_size=_MOST_BYTES_OF_AN_EVENT)
            size = 0
            async for event in events:
                size += len(event.data)
                if size > _MOST_BYTES:
                    raise _too_long()
                if event.data.strip() == _END:
                    yield None
                    return
                yield parsed(event.data.encode())

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    @asynccontextmanager
    async def _answer(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[httpx2.Response]:
        """Send a request; yield the response where its status says that all is well."""
        if self._client is None:
            self._client = self._open()
        try:
            async with self._client.stream("POST", f"{self._endpoint.url}{path}", json=body) as got:
                if got.status_code != 200:
                    raise await self._failure(got)
                if got.headers.get("content-encoding", "identity") != "identity":
                    raise RequestFailed(
                        "invalid", "it is compressed, which was not asked for", may_be_billed=True
                    )
                yield got
        except (self._http.HTTPError, self._http.InvalidURL) as error:
            raise self._lost(error) from error

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
                limits.timeout_s, connect=min(limits.timeout_s, _CONNECT_TIMEOUT_S), pool=None
            ),
            # Questions are not held up by passages, so there may be more than `concurrency`.
            limits=self._http.Limits(max_connections=None, max_keepalive_connections=20),
            # To another place, with the texts and the key: never.
            follow_redirects=False,
            # A proxy of the user's is not the way to this machine.
            trust_env=not is_loopback(urlsplit(endpoint.url or "").hostname or ""),
        )
        return client

    async def _read(self, response: httpx2.Response, most: int = _MOST_BYTES) -> bytes:
        data = bytearray()
        async for part in response.aiter_raw():
            data += part
            if len(data) > most:
                raise _too_long()
        return bytes(data)

    async def _failure(self, response: httpx2.Response) -> RequestFailed:
        status = response.status_code
        if 300 <= status < 400:
            host = urlsplit(response.headers.get("location", "")).hostname or "another path"
            return RequestFailed(
                "unknown", f"status {status} redirects to {quoted(host)}, which is not followed"
            )
        said, parameter = _said(await self._read_error(response))
        secret = self._endpoint.key.reveal() if self._endpoint.key else None
        what = f"status {status}" + (f": {quoted(said, secret=secret)}" if said else "")
        return RequestFailed(
            kind_of_status(status), what, asked_s=_asked_s(response.headers), parameter=parameter
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
            return RequestFailed("invalid", quoted(str(error)), may_be_billed=True)
        if isinstance(error, http.InvalidURL | http.UnsupportedProtocol):
            return RequestFailed("refused", f"its URL cannot be used: {quoted(str(error))}")
        return RequestFailed(
            "unreachable", f"the connection was lost ({quoted(str(error))})", may_be_billed=True
        )


def parsed(data: bytes) -> Any:
    """Return the value of a JSON text, in which a number is a number."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        what = quoted(str(error)) if isinstance(error, json.JSONDecodeError) else "not readable"
        raise RequestFailed(
            "invalid", f"the answer is not JSON ({what})", may_be_billed=True
        ) from error


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


def _asked_s(headers: Mapping[str, str]) -> float | None:
    milliseconds = retry_after_s(headers.get("retry-after-ms"), datetime.now(UTC))
    if milliseconds is not None:
        return milliseconds / 1000
    return retry_after_s(headers.get("retry-after"), datetime.now(UTC))


def _too_long() -> RequestFailed:
    return RequestFailed(
        "invalid",
        f"the answer is longer than {_MOST_BYTES // 1024 // 1024} MiB",
        may_be_billed=True,
    )


def _library() -> Any:
    try:
        return importlib.import_module("httpx2")
    except ImportError as error:
        raise ModelError(
            f"httpx2 is not installed ({error}); run: pip install 'ragline[openai]'"
        ) from error
