"""Sharing out a server's connections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.budget import (
    ROLES,
    WORKLOADS,
    connection_budget,
    connection_limits,
    pool_size,
)
from ragline.errors import PreconditionFailed


def test_every_workload_has_a_role_of_its_own() -> None:
    assert set(ROLES) == set(WORKLOADS)
    assert len(set(ROLES.values())) == len(WORKLOADS)


@given(st.integers(1, 20_000), st.integers(0, 50))
def test_limits_stay_within_the_budget_and_leave_room_for_a_person(
    max_connections: int, reserved: int
) -> None:
    try:
        limits = connection_limits(max_connections, reserved)
    except PreconditionFailed:
        assert connection_budget(max_connections, reserved) < 10
        return
    budget = connection_budget(max_connections, reserved)
    assert set(limits) == set(WORKLOADS)
    assert min(limits.values()) >= 2
    assert budget - 5 < sum(limits.values()) <= budget
    assert sum(limits.values()) + 5 + reserved <= max_connections
    assert limits["serve"] == max(limits.values())


def test_limits_of_a_server_with_default_settings() -> None:
    limits = connection_limits(100, 3)
    assert limits == {"serve": 32, "eval": 17, "memory": 13, "read": 12, "admin": 11}


def test_server_with_too_few_connections_is_refused_with_both_numbers() -> None:
    with pytest.raises(PreconditionFailed, match=r"is 17, of which 3 are reserved.*at least 10"):
        connection_limits(17, 3)
    assert sum(connection_limits(18, 3).values()) == 10


@given(st.integers(-5, 20_000), st.integers(1, 512))
def test_two_processes_fit_into_a_limit(limit: int, cores: int) -> None:
    size = pool_size(limit, cores)
    assert 1 <= size <= 4 * cores
    assert 2 * size <= limit or size == 1
