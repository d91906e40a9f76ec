"""One call of a remote model: its turn, its repetitions, its deadline, its account, its error."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, TypeVar

from ragline.core.pacing import backoff_s
from ragline.core.remote import Endpoint
from ragline.errors import ModelRefused, ModelReplyInvalid, ModelUnavailable, RemoteModelError
from ragline.models.accounting import Account
from ragline.models.limits import Limiter
from ragline.signals import spans

Kind = Literal[
    "refused", "unknown", "unusable", "invalid", "limited", "crowded", "failing", "unreachable"
]
_Result = TypeVar("_Result")

MOST_BYTES = 64 * 1024 * 1024
"""No reply is read any further."""
CONNECT_TIMEOUT_S = 10.0
_LONGEST_QUOTE = 300
# As much of a key in one piece is a part of it, and not a word that it shares with a message.
_PIECE_OF_A_KEY = 8
_SHORTEST_KEY = 4
_CREDENTIALS = re.compile(r"[^\s\"'<>]*:[^\s\"'<>]*@")
_REPEATABLE = frozenset({"limited", "failing", "unreachable"})
# Told to come back later than this, nobody waits: the caller can.
_LONGEST_WAIT_S = 60.0


class RequestFailed(Exception):
    """One request brought nothing; `Line.call` decides what becomes of it."""

    def __init__(
        self,
        kind: Kind,
        what: str,
        *,
        asked_s: float | None = None,
        may_be_billed: bool = False,
        parameter: str | None = None,
    ) -> None:
        super().__init__(what)
        self.kind = kind
        self.asked_s = asked_s
        """What the provider's Retry-After says."""
        self.may_be_billed = may_be_billed
        self.parameter = parameter
        """The parameter of ours that the provider does not know."""
        self.at: str | None = None
        """Where it was, if not where the endpoint says."""
        self.is_adapted = False
        """The next request will be without what this one was refused for."""

    @property
    def what(self) -> str:
        """What happened."""
        return str(self.args[0])

    def scrub(self, secret: str | None) -> None:
        """Take a key, and whatever else lets somebody in, out of what happened."""
        self.args = (scrubbed(self.what, secret),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """How long a call may take, and the setting that says so."""

    seconds: float
    setting: str

    def __str__(self) -> str:
        return f"{self.seconds:g} s ({self.setting})"


class Line:
    """The way to one model: everything that is the same whoever the provider is."""

    def __init__(
        self,
        endpoint: Endpoint,
        account: Account,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.endpoint = endpoint
        self.account = account
        self._limiter = Limiter(endpoint.limits)
        self._sleep = sleep
        self._secret = endpoint.key.reveal() if endpoint.key else None

    @property
    def most_tokens(self) -> float | None:
        """How many tokens of one request our limit lets pass without holding up others."""
        return self._limiter.most_tokens

    @property
    def deadline(self) -> Deadline:
        """What one call may take, unless its caller knows better."""
        return Deadline(
            seconds=self.endpoint.limits.deadline_s, setting=f"{self.endpoint.variables}_DEADLINE"
        )

    async def call(
        self,
        send: Callable[[], Awaitable[_Result]],
        *,
        tokens: int,
        deadline: Deadline | None = None,
        is_urgent: bool = False,
    ) -> _Result:
        """Return what `send` returns, repeating it while that may help.

        `tokens` is about what the request takes. An urgent call goes before others that wait for
        our own limits, and this wait is part of its deadline; otherwise everything but this wait
        is. Raises a RemoteModelError that says what happened.
        """
        deadline = deadline or self.deadline
        attempt, spent_s, is_first = 1, 0.0, True
        while True:
            with spans.span("limiter"):
                waited_s = await self._turn(tokens, deadline, spent_s, is_urgent=is_urgent)
            spent_s += waited_s if is_urgent else 0.0
            self.account.sent(waited_s=waited_s, is_retry=not is_first)
            started, is_first = time.monotonic(), False
            try:
                with spans.span():
                    return await self._sent(send, deadline, deadline.seconds - spent_s)
            except asyncio.CancelledError:
                self.account.uncounted()
                raise
            except RequestFailed as failure:
                spent_s += time.monotonic() - started
                if failure.may_be_billed:
                    self.account.uncounted()
                if failure.is_adapted:
                    continue
                pause_s = self._pause_s(failure, attempt, deadline.seconds - spent_s)
                if pause_s is None:
                    self.account.failed()
                    raise self.error(failure, attempt, spent_s) from failure
                if failure.kind == "limited":
                    self._limiter.hold(pause_s)
            with spans.span("retry"):
                await self._sleep(pause_s)
            self.account.paused(pause_s)
            spent_s += pause_s
            attempt += 1

    async def stream(
        self,
        start: Callable[[], AsyncGenerator[_Result, None]],
        *,
        tokens: int,
        is_urgent: bool = True,
    ) -> AsyncGenerator[_Result, None]:
        """Return the pieces that `start` yields; it is repeated until the first one came.

        Afterwards nothing is repeated, and the rest has `deadline_s` to come.
        """

        async def started() -> tuple[AsyncGenerator[_Result, None], _Result]:
            source = start()
            try:
                return source, await anext(source)
            except StopAsyncIteration:
                raise invalid("the answer ended before it began") from None
            except BaseException:
                await source.aclose()
                raise

        source, piece = await self.call(started, tokens=tokens, is_urgent=is_urgent)
        ends_at = time.monotonic() + self.deadline.seconds
        async with aclosing(source):
            try:
                while True:
                    yield piece
                    piece = await self._sent(
                        source.__anext__, self.deadline, ends_at - time.monotonic()
                    )
            except StopAsyncIteration:
                return
            except RequestFailed as failure:
                self.account.failed()
                self.account.uncounted()
                raise self.error(failure, 1, 0.0) from failure
            except (GeneratorExit, asyncio.CancelledError):
                # Whoever listens stopped listening; what was written so far is billed.
                self.account.uncounted()
                raise

    def counted(self, estimated: int, tokens: int | None) -> None:
        """Tell the limit what a request really took."""
        self._limiter.correct(estimated, tokens)

    def error(self, failure: RequestFailed, attempts: int, spent_s: float) -> RemoteModelError:
        """Return what to tell the caller: what, where, how often tried, and what to do next."""
        failure.scrub(self._secret)
        tried = f" ({attempts} attempts in {spent_s:.1f} s)" if attempts > 1 else ""
        at = scrubbed(failure.at or "", self._secret) or self.endpoint.url
        at = at or f"Bedrock in {self.endpoint.region or 'its region'}"
        message = f"model {self.endpoint.model} at {at}: {failure.what}{tried}; "
        return _ERRORS.get(failure.kind, ModelUnavailable)(message + self._what_next(failure))

    async def _turn(
        self, tokens: int, deadline: Deadline, spent_s: float, *, is_urgent: bool
    ) -> float:
        """Wait for our own limits; return the seconds waited."""
        if not is_urgent:
            return await self._limiter.turn(tokens)
        try:
            async with asyncio.timeout(max(0.0, deadline.seconds - spent_s)):
                return await self._limiter.turn(tokens, is_urgent=True)
        except TimeoutError:
            self.account.failed()
            raise self.error(
                RequestFailed(
                    "crowded", f"our own limit left no room before the deadline of {deadline}"
                ),
                1,
                0.0,
            ) from None

    async def _sent(
        self, send: Callable[[], Awaitable[_Result]], deadline: Deadline, left_s: float
    ) -> _Result:
        try:
            async with asyncio.timeout(max(0.0, left_s)) as scope:
                return await send()
        except TimeoutError:
            if not scope.expired():
                raise
            raise RequestFailed(
                "unreachable",
                f"no whole answer before the deadline of {deadline}",
                may_be_billed=True,
            ) from None

    def _pause_s(self, failure: RequestFailed, attempt: int, left_s: float) -> float | None:
        """Return how long to wait before the next attempt, or None when there is to be none."""
        is_last = attempt > self.endpoint.limits.retries
        if failure.kind not in _REPEATABLE or is_last:
            return None
        spread = random.random()  # noqa: S311 - spreads callers, hides nothing
        pause_s = backoff_s(attempt, spread, asked_s=failure.asked_s)
        is_too_long = (failure.asked_s or 0.0) > _LONGEST_WAIT_S
        return None if is_too_long or pause_s >= left_s else pause_s

    def _what_next(self, failure: RequestFailed) -> str:
        name = self.endpoint.variables
        is_bedrock = self.endpoint.provider == "bedrock"
        if failure.kind == "limited":
            later = f"come back in {failure.asked_s:.0f} s, " if failure.asked_s else ""
            return f"{later}lower {name}_RPM or {name}_TPM, or ask the provider for more"
        if failure.kind == "unusable" and is_bedrock:
            return "name an address with https there, or none"
        if failure.kind == "refused" and is_bedrock:
            return "check the AWS credentials, the region and the account's access to the model"
        advice: dict[Kind, str] = {
            "refused": f"check {name}_KEY, {name}_MODEL and what is sent to it",
            "unknown": f"check {name}_MODEL and the path of {name}_URL",
            "crowded": (
                f"repeat it later, or raise {name}_RPM, {name}_TPM or {name}_CONCURRENCY as far as "
                "the provider allows"
            ),
            "failing": "the provider fails: repeat it later",
            "unreachable": f"check {name}_URL and the way there, or repeat it later",
            "invalid": f"check that {name}_URL and {name}_PROVIDER are those of this model",
            "unusable": "check HTTPS_PROXY, ALL_PROXY, NO_PROXY and SSL_CERT_FILE",
        }
        return advice[failure.kind]


_ERRORS: dict[Kind, type[RemoteModelError]] = {
    "refused": ModelRefused,
    "unknown": ModelRefused,
    "unusable": ModelRefused,
    "invalid": ModelReplyInvalid,
}


def invalid(what: str) -> RequestFailed:
    """Return what a reply is that nobody can use; it is billed all the same."""
    return RequestFailed("invalid", what, may_be_billed=True)


def too_long() -> RequestFailed:
    """Return what a reply is of more than MOST_BYTES."""
    return invalid(f"the answer is longer than {MOST_BYTES // 1024 // 1024} MiB")


def quoted(text: str) -> str:
    """Return what a provider says for use in a message: one short line."""
    line = " ".join(re.sub(r"[^\x20-\x7e\u00a0-\ud7ff\uf900-\uffef]", " ", text).split())
    return f"{line[:_LONGEST_QUOTE]}…" if len(line) > _LONGEST_QUOTE else line


def scrubbed(text: str, secret: str | None = None) -> str:
    """Return a text without a key, and without the user and password of any URL.

    A key is found in any case, cut short, and with spaces or signs that nobody sees in it.

    >>> scrubbed("no SK-DOUBLE-0123 456", "sk-double-0123456789"), scrubbed("http://ann:pw@proxy")
    ('no ***', '***@proxy')
    """
    # Servers on one's own machine take any key: "x" is no secret, and in every other word.
    if secret and len(secret) >= _SHORTEST_KEY:
        text = _without_pieces(text, secret.lower())
    return _CREDENTIALS.sub("***@", text)


def _without_pieces(text: str, secret: str) -> str:
    places = [at for at, character in enumerate(text) if "\x21" <= character <= "\x7e"]
    seen = "".join(text[at] for at in places).lower()
    size = min(_PIECE_OF_A_KEY, len(secret))
    pieces = {secret[at : at + size] for at in range(len(secret) - size + 1)}
    hidden: list[tuple[int, int]] = []
    for at in range(len(seen) - size + 1):
        if seen[at : at + size] in pieces:
            start, end = places[at], places[at + size - 1] + 1
            if hidden and start <= hidden[-1][1]:
                start = hidden.pop()[0]
            hidden.append((start, end))
    for start, end in reversed(hidden):
        text = f"{text[:start]}***{text[end:]}"
    return text


def may_be_billed(status: int) -> bool:
    """Return whether a provider may bill a request that it answered so: it may have worked on it."""
    return status >= 500 or status == 408 or status < 300


def kind_of_status(status: int) -> Kind:
    """Return what an HTTP status of a provider means for us."""
    if status == 429:
        return "limited"
    if status in (404, 405, 501, 505):
        return "unknown"
    if status in (408, 409, 425):
        return "failing"
    if status < 400:
        return "invalid"
    return "failing" if status >= 500 else "refused"
