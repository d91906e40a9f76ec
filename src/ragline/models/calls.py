"""One call of a remote model: its turn, its repetitions, its deadline, its account, its error."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Literal, TypeVar

from ragline.core.pacing import backoff_s
from ragline.core.remote import Endpoint
from ragline.errors import ModelRefused, ModelReplyInvalid, ModelUnavailable, RemoteModelError
from ragline.models.accounting import Account
from ragline.models.limits import Limiter

Kind = Literal["refused", "unknown", "limited", "failing", "unreachable", "invalid"]
_Result = TypeVar("_Result")

_LONGEST_QUOTE = 300
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
        self.what = what
        self.asked_s = asked_s
        """What the provider's Retry-After says."""
        self.may_be_billed = may_be_billed
        self.parameter = parameter
        """The parameter of ours that the provider does not know."""


class Line:
    """The way to one model: everything that is the same whoever the provider is."""

    def __init__(
        self,
        endpoint: Endpoint,
        account: Account,
        *,
        limiter: Limiter | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.endpoint = endpoint
        self.account = account
        self._limiter = limiter or Limiter(endpoint.limits)
        self._sleep = sleep

    async def call(
        self,
        send: Callable[[], Awaitable[_Result]],
        *,
        tokens: int,
        deadline_s: float | None = None,
    ) -> _Result:
        """Return what `send` returns, repeating it while that may help.

        `tokens` is about what the request takes. Waiting for our own limits is not part of
        `deadline_s`; everything else is. Raises a RemoteModelError that says what happened.
        """
        patience_s = deadline_s or self.endpoint.limits.deadline_s
        attempt, spent_s = 0, 0.0
        while True:
            attempt += 1
            waited_s = await self._limiter.turn(tokens)
            self.account.sent(waited_s=waited_s, is_retry=attempt > 1)
            started = time.monotonic()
            try:
                return await self._sent(send, patience_s - spent_s)
            except asyncio.CancelledError:
                self.account.uncounted()
                raise
            except RequestFailed as failure:
                spent_s += time.monotonic() - started
                if failure.may_be_billed:
                    self.account.uncounted()
                pause_s = self._pause_s(failure, attempt, patience_s - spent_s)
                if pause_s is None:
                    self.account.failed()
                    raise self.error(failure, attempt, spent_s) from failure
                if failure.kind == "limited":
                    self._limiter.hold(pause_s)
            await self._sleep(pause_s)
            self.account.paused(pause_s)
            spent_s += pause_s

    async def stream(
        self, start: Callable[[], AsyncGenerator[_Result, None]], *, tokens: int
    ) -> AsyncGenerator[_Result, None]:
        """Return the pieces that `start` yields; it is repeated until the first one came.

        Afterwards nothing is repeated, and the rest has `deadline_s` to come.
        """

        async def started() -> tuple[AsyncGenerator[_Result, None], _Result]:
            source = start()
            try:
                return source, await anext(source)
            except StopAsyncIteration:
                raise RequestFailed(
                    "invalid", "the answer ended before it began", may_be_billed=True
                ) from None
            except BaseException:
                await source.aclose()
                raise

        source, piece = await self.call(started, tokens=tokens)
        ends_at = time.monotonic() + self.endpoint.limits.deadline_s
        async with aclosing(source):
            try:
                while True:
                    yield piece
                    piece = await self._sent(source.__anext__, ends_at - time.monotonic())
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
        tried = f" ({attempts} attempts in {spent_s:.1f} s)" if attempts > 1 else ""
        at = self.endpoint.url or f"Bedrock in {self.endpoint.region or 'its region'}"
        message = f"model {self.endpoint.model} at {at}: {failure.what}{tried}; "
        kinds = {"refused": ModelRefused, "unknown": ModelRefused, "invalid": ModelReplyInvalid}
        return kinds.get(failure.kind, ModelUnavailable)(message + self._what_next(failure))

    async def _sent(self, send: Callable[[], Awaitable[_Result]], left_s: float) -> _Result:
        try:
            async with asyncio.timeout(max(0.0, left_s)) as scope:
                return await send()
        except TimeoutError:
            if not scope.expired():
                raise
            raise RequestFailed(
                "unreachable",
                f"no whole answer before the deadline of {self._deadline()}",
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

    def _deadline(self) -> str:
        return f"{self.endpoint.limits.deadline_s:g} s ({self.endpoint.variables}_DEADLINE)"

    def _what_next(self, failure: RequestFailed) -> str:
        name = self.endpoint.variables
        is_bedrock = self.endpoint.provider == "bedrock"
        if failure.kind == "limited":
            later = f"come back in {failure.asked_s:.0f} s, " if failure.asked_s else ""
            return f"{later}lower {name}_RPM or {name}_TPM, or ask the provider for more"
        if failure.kind == "refused" and is_bedrock:
            return "check the AWS credentials, the region and the account's access to the model"
        advice: dict[Kind, str] = {
            "refused": f"check {name}_KEY, {name}_MODEL and what is sent to it",
            "unknown": f"check {name}_MODEL and the path of {name}_URL",
            "failing": "the provider fails: repeat it later",
            "unreachable": f"check {name}_URL and the way there, or repeat it later",
            "invalid": f"check that {name}_URL and {name}_PROVIDER are those of this model",
        }
        return advice[failure.kind]


def quoted(text: str, *, secret: str | None = None) -> str:
    """Return what a provider says for use in a message: one short line, without the key."""
    line = " ".join(re.sub(r"[^\x20-\x7e\u00a0-\ud7ff\uf900-\uffef]", " ", text).split())
    if secret:
        line = line.replace(secret, "***")
    return f"{line[:_LONGEST_QUOTE]}…" if len(line) > _LONGEST_QUOTE else line


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
