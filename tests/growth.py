"""How the work of a function grows with what it is given, on any machine."""

from __future__ import annotations

import time
from collections.abc import Callable

_TIMES = 100


def is_linear(work: Callable[[int], object], size: int) -> bool:
    """Return whether a hundred times the size takes about a hundred times as long, as it should.

    Squared it takes ten thousand times as long. What lies between may be the machine's doing: in
    the time of this process alone nothing else comes near to ten. All that is read must grow with
    the size: what stays long costs as much in the small work, and hides what is squared in the large.
    """
    work(1)  # what is loaded or compiled once
    return _seconds(work, size) < 10 * _TIMES * _seconds(work, size // _TIMES)


def _seconds(work: Callable[[int], object], size: int) -> float:
    began = time.process_time()
    work(size)
    return time.process_time() - began
