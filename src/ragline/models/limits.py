"""Our own rate limits for a provider: requests and tokens a minute, first come, first served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ragline.core.pacing import Bucket
from ragline.core.remote import Limits


class Limiter:
    """Callers wait here for their turn."""

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
        self._not_before_s = 0.0
        self._turn = asyncio.Lock()
        self._clock = clock
        self._sleep = sleep

    async def turn(self, tokens: int) -> float:
        """Wait until a request of about this many tokens may be sent; return the seconds waited."""
        started = self._clock()
        async with self._turn:
            while (wait_s := self._wait_s(tokens)) > 0:
                await self._sleep(wait_s)
            now = self._clock()
            self._requests = self._requests and self._requests.taken(now, 1)
            self._tokens = self._tokens and self._tokens.taken(now, tokens)
        return now - started

    def hold(self, seconds: float) -> None:
        """Let nobody pass for a while: what a provider asks one request, it asks of all."""
        self._not_before_s = max(self._not_before_s, self._clock() + seconds)

    def correct(self, estimated: int, counted: int | None) -> None:
        """Replace the estimate of a request's tokens by what the provider counted."""
        if self._tokens and counted is not None:
            self._tokens = self._tokens.taken(self._clock(), counted - estimated)

    def _wait_s(self, tokens: int) -> float:
        now = self._clock()
        waits = [self._not_before_s - now]
        if self._requests:
            waits.append(self._requests.wait_s(now, 1))
        if self._tokens:
            waits.append(self._tokens.wait_s(now, tokens))
        # A clock may be a hair short of what was slept for.
        longest = max(waits)
        return longest if longest > 1e-6 else 0.0
