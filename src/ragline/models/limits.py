"""Our own rate limits for a provider: requests and tokens a minute, questions before passages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ragline.core.pacing import Bucket
from ragline.core.remote import Limits


class Limiter:
    """Callers wait here for their turn: urgent ones first, and each kind in the order it came."""

    def __init__(
        self,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
        self._requests = Bucket.of_requests(requests) if requests else None
        self._tokens = Bucket.of_tokens(tokens) if tokens else None
        self._most_surplus = tokens or 0
        self._not_before_s = 0.0
        self._urgent_turn, self._turn = asyncio.Lock(), asyncio.Lock()
        # What urgent callers wait for: others wait as if it were taken already.
        self._wanted_requests = self._wanted_tokens = 0
        self._clock = clock
        self._sleep = sleep

    @property
    def most_tokens(self) -> float | None:
        """How many tokens may go at once; more in one request holds up every other."""
        return self._tokens.burst if self._tokens else None

    async def turn(self, tokens: int, *, is_urgent: bool = False) -> float:
        """Wait until a request of about this many tokens may be sent; return the seconds waited."""
        started = self._clock()
        if is_urgent:
            self._want(1, tokens)
        try:
            async with self._urgent_turn if is_urgent else self._turn:
                while (wait_s := self._wait_s(tokens, is_urgent)) > 0:
                    await self._sleep(wait_s)
                now = self._clock()
                self._requests = self._requests and self._requests.taken(now, 1)
                self._tokens = self._tokens and self._tokens.taken(now, tokens)
        finally:
            if is_urgent:
                self._want(-1, -tokens)
        return now - started

    def hold(self, seconds: float) -> None:
        """Let nobody pass for a while: what a provider asks one request, it asks of all."""
        self._not_before_s = max(self._not_before_s, self._clock() + seconds)

    def correct(self, estimated: int, counted: int | None) -> None:
        """Replace the estimate of a request's tokens by what the provider counted.

        By at most a minute's allowance more: whatever a provider says, the next minute is ours.
        """
        if self._tokens and counted is not None:
            surplus = min(counted - estimated, self._most_surplus)
            self._tokens = self._tokens.taken(self._clock(), surplus)

    def _want(self, requests: int, tokens: int) -> None:
        self._wanted_requests += requests
        self._wanted_tokens += tokens

    def _wait_s(self, tokens: int, is_urgent: bool) -> float:
        now = self._clock()
        waits = [self._not_before_s - now]
        before, before_tokens = (
            (0, 0) if is_urgent else (self._wanted_requests, self._wanted_tokens)
        )
        if self._requests:
            waits.append(self._requests.taken(now, before).wait_s(now, 1))
        if self._tokens:
            waits.append(self._tokens.taken(now, before_tokens).wait_s(now, tokens))
        # A clock may be a hair short of what was slept for.
        longest = max(waits)
        return longest if longest > 1e-6 else 0.0
