"""Amazon Bedrock's runtime through boto3, which blocks: each call in a thread of our own."""

from __future__ import annotations

import asyncio
import importlib
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ragline.core.pacing import retry_after_s
from ragline.core.remote import Endpoint, is_loopback, is_readable_on_the_way
from ragline.errors import ModelError, UsageError
from ragline.models.calls import (
    CONNECT_TIMEOUT_S,
    MOST_BYTES,
    Kind,
    RequestFailed,
    invalid,
    kind_of_status,
    may_be_billed,
    quoted,
    too_long,
)

_Result = TypeVar("_Result")

_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".amazonaws.eu")
# Spare connections, so that a question does not wait for passages.
_SPARE = 4
# Which geography an inference profile may use is no part of what the model is.
_PROFILE = re.compile(r"^(us|us-gov|eu|apac|jp|au|ca|sa|global)\.(?=[a-z0-9-]+\.)")
_KINDS: dict[str, Kind] = {
    "ThrottlingException": "limited",
    "TooManyRequestsException": "limited",
    "ServiceQuotaExceededException": "limited",
    "ModelNotReadyException": "failing",
    "ModelTimeoutException": "failing",
    "ModelErrorException": "failing",
    "ModelStreamErrorException": "failing",
    "InternalServerException": "failing",
    "ServiceUnavailableException": "failing",
    "ResourceNotFoundException": "unknown",
}


class Runtime:
    """A client of Bedrock's runtime, made at its first use."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._boto3 = _library("boto3")
        self._client: Any = None
        self._closed = threading.Event()
        self._url: str | None = None
        self._opening = threading.Lock()

    async def run(self, call: Callable[[Any], _Result]) -> _Result:
        """Return what `call` makes of the client, in a thread."""
        answer: asyncio.Queue[_Result | BaseException] = asyncio.Queue()
        self._start(lambda tell: tell(call(self._opened())), answer)
        result = await answer.get()
        if isinstance(result, BaseException):
            raise result
        return result

    async def events(self, start: Callable[[Any], Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events of a stream that `start` begins."""
        heard: asyncio.Queue[dict[str, Any] | BaseException | None] = asyncio.Queue()
        is_left = threading.Event()

        def listen(tell: Callable[[dict[str, Any] | None], None]) -> None:
            # Closed where it is read: from another thread that would wait for the read to end.
            with closing(start(self._opened())) as stream:
                for event in stream:
                    if is_left.is_set():
                        return
                    tell(event)
            tell(None)

        self._start(listen, heard)
        try:
            while (event := await heard.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            is_left.set()

    async def close(self) -> None:
        """Close the connections, for good; threads that still wait end with their time-out."""
        self._closed.set()
        if self._client is not None:
            self._client.close()

    def _start(
        self, work: Callable[[Callable[[Any], None]], None], told: asyncio.Queue[Any]
    ) -> None:
        """Work in a thread that tells what it finds, and at last what went wrong.

        A daemon thread, which no end of the process waits for: it may sit in a read until its
        time-out, although nobody listens any more.
        """
        loop = asyncio.get_running_loop()

        def tell(something: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits for it
                loop.call_soon_threadsafe(told.put_nowait, something)

        def working() -> None:
            try:
                with _named(self._endpoint.limits.timeout_s):
                    work(tell)
            except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                if isinstance(error, RequestFailed):
                    error.at = self._url
                tell(error)

        threading.Thread(target=working, name="bedrock", daemon=True).start()

    def _opened(self) -> Any:
        with self._opening:
            if self._client is None and not self._closed.is_set():
                self._client = self._checked()
                if self._closed.is_set():  # meanwhile, when there was nothing to close yet
                    self._client.close()
            if self._closed.is_set():
                raise UsageError("this model is closed; open another")
        return self._client

    def _checked(self) -> Any:
        """Return a client that sends nothing in the clear, and nothing for this machine elsewhere.

        AWS's own settings may name another address than Bedrock's, which only the client knows.
        """
        client = self._made(self._endpoint.url)
        url = client.meta.endpoint_url
        if self._endpoint.url is None and not (urlsplit(url).hostname or "").endswith(_AWS):
            self._url = url
        if is_readable_on_the_way(url):
            client.close()
            raise RequestFailed(
                "unusable",
                "the credentials would be readable on the way to this address, which "
                "AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_BEDROCK_RUNTIME or AWS's own files name",
            )
        if self._endpoint.url is None and is_loopback(urlsplit(url).hostname or ""):
            client.close()
            client = self._made(url)
        return client

    def _made(self, url: str | None) -> Any:
        config = importlib.import_module("botocore.config")
        limits = self._endpoint.limits
        return self._boto3.session.Session().client(
            "bedrock-runtime",
            region_name=self._endpoint.region,
            endpoint_url=url,
            config=config.Config(
                connect_timeout=min(limits.timeout_s, CONNECT_TIMEOUT_S),
                read_timeout=limits.timeout_s,
                # Repeating is ours, so that it is counted, and bounded by one deadline.
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=limits.concurrency + _SPARE,
                # A proxy of the user's is not the way to this machine; None asks the environment.
                proxies={} if url and is_loopback(urlsplit(url).hostname or "") else None,
            ),
        )


def base_model(model: str) -> str:
    """Return a model's name without the geography of its inference profile.

    >>> base_model("eu.cohere.embed-v4:0"), base_model("amazon.titan-embed-text-v2:0")
    ('cohere.embed-v4:0', 'amazon.titan-embed-text-v2:0')
    """
    return _PROFILE.sub("", model)


def body_of(answer: Any) -> bytes:
    """Return the bytes of an answer of `invoke_model`."""
    data: bytes = answer["body"].read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise too_long()
    return data


@contextmanager
def _named(timeout_s: float) -> Iterator[None]:
    """Turn every error of boto3's and of the libraries under it into RequestFailed."""
    boto, urllib3 = _library("botocore.exceptions"), _library("urllib3.exceptions")
    frames, parsers = _library("botocore.eventstream"), _library("botocore.parsers")
    try:
        yield
    except boto.ClientError as error:
        raise _refusal(error.response) from error
    except (boto.ReadTimeoutError, urllib3.ReadTimeoutError) as error:
        silent = f"silent for {timeout_s:g} s"
        raise RequestFailed("unreachable", silent, may_be_billed=True) from error
    except (
        boto.EndpointConnectionError,
        boto.ConnectTimeoutError,
        boto.ProxyConnectionError,
    ) as error:
        raise RequestFailed("unreachable", f"no connection ({quoted(str(error))})") from error
    except (boto.HTTPClientError, boto.IncompleteReadError, urllib3.HTTPError, OSError) as error:
        raise RequestFailed(
            "unreachable", f"the connection was lost ({quoted(str(error))})", may_be_billed=True
        ) from error
    except boto.BotoCoreError as error:
        # Credentials, regions, profiles, parameters: nothing was sent. Some are ValueErrors, too.
        raise RequestFailed("refused", quoted(str(error))) from error
    except (frames.ParserError, parsers.ResponseParserError, ValueError) as error:
        raise invalid(f"an answer that cannot be read ({quoted(str(error))})") from error


def _refusal(response: Any) -> RequestFailed:
    error, about = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, status = str(error.get("Code", "")), about.get("HTTPStatusCode")
    # An exception inside a stream has no status, and its name begins with a small letter.
    named = code[:1].upper() + code[1:]
    kind = _KINDS.get(named) or (kind_of_status(status) if status else "failing")
    said = f"{code or 'an error'}: {quoted(str(error.get('Message', '')))}"
    headers = about.get("HTTPHeaders", {})
    return RequestFailed(
        kind,
        f"status {status}, {said}" if status else said,
        asked_s=retry_after_s(headers.get("retry-after"), datetime.now(UTC)),
        # 424: the model was at work when it failed.
        may_be_billed=status is None or status == 424 or may_be_billed(status),
    )


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(
            f"boto3 is not installed ({error}); run: pip install 'ragline[bedrock]'"
        ) from error
