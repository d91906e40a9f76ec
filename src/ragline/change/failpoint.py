"""Points at which tests break a change off: RAGLINE_FAIL_POINT="apply:1:before=die"."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from ragline.errors import ConfigError, RaglineError

_WAYS = ("die", "stop", "fail")


class FailPoint(RaglineError):
    """What a test asked for."""


def stopping_at(wanted: str | None) -> Callable[[str], None]:
    """Return what is called with the name of each point that a change passes.

    die: killed at once, as by kill -9. stop: held, so that the test can kill the server meanwhile.
    fail: an error like any other.
    """
    if wanted is None:
        return lambda _point: None
    name, _, way = wanted.rpartition("=")
    if not name or way not in _WAYS:
        raise ConfigError(
            f"RAGLINE_FAIL_POINT is {wanted!r}; write POINT=die, =stop or =fail, or unset it"
        )

    def reached(point: str) -> None:
        if point != name:
            return
        if way == "fail":
            raise FailPoint(f"stopped at {point}, as RAGLINE_FAIL_POINT says")
        os.kill(os.getpid(), signal.SIGKILL if way == "die" else signal.SIGSTOP)

    return reached
