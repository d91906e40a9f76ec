"""How a server's connections are shared out among workloads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

from ragline.errors import PreconditionFailed

Workload = Literal["serve", "eval", "memory", "read", "admin"]
WORKLOADS: tuple[Workload, ...] = get_args(Workload)

ROLES: Mapping[Workload, str] = {
    "serve": "ragline_serve",
    "eval": "eval_app",
    "memory": "ltst_app",
    "read": "ragline_read",
    "admin": "ragline_admin",
}

# Parts of what may be used; serving is what people wait for.
_PARTS: Mapping[Workload, int] = {"serve": 40, "eval": 20, "memory": 15, "read": 13, "admin": 12}
_FEWEST = 2


def connection_budget(max_connections: int, reserved: int) -> int:
    """Return how many connections all workloads of all processes may hold together.

    `reserved` is what the server keeps back itself (superusers and `reserved_connections`). A tenth
    of the rest, and at least 5, is left for other programs and for a person with psql.
    """
    usable = max_connections - reserved
    return usable - max(5, math.ceil(usable / 10))


def connection_limits(max_connections: int, reserved: int) -> dict[Workload, int]:
    """Return the connection limit of each workload's role; their sum stays within the budget."""
    budget = connection_budget(max_connections, reserved)
    if budget < _FEWEST * len(WORKLOADS):
        raise PreconditionFailed(
            f"max_connections is {max_connections}, of which {reserved} are reserved; ragline needs "
            f"at least {_FEWEST * len(WORKLOADS)} for its workloads: raise max_connections"
        )
    spare = budget - _FEWEST * len(WORKLOADS)
    return {w: _FEWEST + spare * part // 100 for w, part in _PARTS.items()}


def pool_size(limit: int, cores: int) -> int:
    """Return how many connections one process opens at most: more than 4 a core only queue.

    Never more than half of the limit that all processes share: open connections are kept for a
    while, and a second process must find some left.
    """
    return max(1, min(limit // 2, 4 * cores))
