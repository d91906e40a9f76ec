"""How long to wait before a request: for a rate limit, and before a request is repeated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Of a minute's allowance this much may go at once, after a pause: five seconds' worth.
_BURST = 12
# Nobody waits for as long as this; it keeps what a header says a number that can be told.
_LONGEST_S = 365 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A rate limit: what was taken is a debt that is paid off at a steady rate.

    Never more than the limit is taken within any minute, apart from a single amount that is larger
    than the burst itself. This is the generic cell rate algorithm (ITU-T I.371), in amounts.
    """

    per_second: float
    burst: float
    debt: float = 0.0
    at_s: float = 0.0

    @classmethod
    def of_requests(cls, per_minute: int) -> Bucket:
        """Return a limit of whole requests."""
        burst = max(1, per_minute // _BURST)
        return cls(per_second=(per_minute - burst + 1) / 60, burst=burst)

    @classmethod
    def of_tokens(cls, per_minute: int) -> Bucket:
        """Return a limit of tokens."""
        burst = per_minute / _BURST
        return cls(per_second=(per_minute - burst) / 60, burst=burst)

    def wait_s(self, now_s: float, amount: float) -> float:
        """Return how long to wait until this amount may be taken."""
        room = max(0.0, self.burst - amount)
        return max(0.0, (self._debt(now_s) - room) / self.per_second)

    def taken(self, now_s: float, amount: float) -> Bucket:
        """Return the limit after an amount was taken; a negative one gives some back."""
        return replace(self, debt=max(0.0, self._debt(now_s) + amount), at_s=now_s)

    def _debt(self, now_s: float) -> float:
        return max(0.0, self.debt - (now_s - self.at_s) * self.per_second)


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` asks for (RFC 9110, 10.2.3); None when it says none.

    A year at most, whatever it says.

    >>> retry_after_s("7", datetime(2026, 1, 1, tzinfo=UTC))
    7.0
    >>> retry_after_s("Thu, 01 Jan 2026 00:00:09 GMT", datetime(2026, 1, 1, tzinfo=UTC))
    9.0
    """
    if header is None:
        return None
    said = header.strip()
    # Whole seconds by the standard; some providers send fractions.
    if said.replace(".", "", 1).isdecimal() and said.isascii():
        return min(_LONGEST_S, float(said))
    try:
        then = parsedate_to_datetime(said)
        if then.tzinfo is None:
            then = then.replace(tzinfo=UTC)
        seconds = (then - now).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(_LONGEST_S, max(0.0, seconds))


def backoff_s(attempt: int, spread: float, *, asked_s: float | None = None) -> float:
    """Return how long to wait after the `attempt`-th failure, counted from 1.

    Doubling from half a second to 20 s, and anything from half of that to all of it, as `spread`
    from 0 to 1 says: callers that failed together should not come back together. Never sooner than
    the provider asked for.
    """
    longest = min(20.0, 0.5 * 2.0 ** min(attempt - 1, 10))
    drawn = longest * (0.5 + spread / 2)
    if asked_s is None:
        return drawn
    return asked_s + drawn * 0.25
