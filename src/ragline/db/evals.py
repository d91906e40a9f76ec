"""Runs, baselines and measured noise as rows.

What PostgreSQL refuses, because a promise would be broken, comes out as a Conflict with its reason.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

import asyncpg

from ragline.core.runs import Baseline, CaseResult, Figure, Noise, Run, Settings, Spent
from ragline.db import eval_rows, queries
from ragline.db.eval_rows import (
    as_json,
    promises,
    result_row,
)
from ragline.db.pool import Connection
from ragline.db.texts import is_text
from ragline.errors import Conflict, NotFound

LEASE_S = 60.0
_LARGEST_ID = 2**31 - 1
_TRIES = 5


def new_owner() -> str:
    """Return a name for whoever works on a run from now on, unlike any other."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


# Runs


async def open_run(
    connection: Connection,
    *,
    name: str | None,
    dataset_id: int,
    settings: Settings,
    judge_id: str | None,
    provenance: Mapping[str, Any],
    cases: int,
    owner: str,
) -> Run:
    """Begin a run, held by `owner` for LEASE_S; without a name it gets the dataset's and its id."""
    with promises():
        async with connection.transaction():
            made = await connection.fetchrow(
                queries.block("evals", "add_run"),
                name,
                dataset_id,
                as_json(settings, "settings"),
                judge_id,
                as_json(provenance, "provenance"),
                owner,
                timedelta(seconds=LEASE_S),
            )
            if made is None or made["cases"] != cases:
                there = 0 if made is None else made["cases"]
                raise Conflict(
                    f"the dataset has {there} cases, not {cases}: it was read another time"
                )
    return await _there(connection, made["id"])


async def claim_run(connection: Connection, run_id: int, *, owner: str) -> Run:
    """Go on with a run that nobody works on; Conflict says who does, and until when."""
    sql = queries.block("evals", "claim_run")
    lease = timedelta(seconds=LEASE_S)
    if await connection.fetchval(sql, run_id, owner, lease) is None:
        raise await _why_not_ours(connection, run_id)
    return await _there(connection, run_id)


async def was_left(connection: Connection, run_id: int) -> bool:
    """Whether the last process that worked on a run never closed it; or it works on it still."""
    row = await connection.fetchrow(queries.block("evals", "run_holder"), run_id)
    return row is not None and row["state"] == "running"


async def renew_run(connection: Connection, run_id: int, *, owner: str) -> None:
    """Say that `owner` still works on a run; Conflict when another has taken it over."""
    sql = queries.block("evals", "renew_run")
    if await connection.fetchval(sql, run_id, owner, timedelta(seconds=LEASE_S)) is None:
        raise await _why_not_ours(connection, run_id)


async def save_cases(
    connection: Connection, run_id: int, results: Sequence[CaseResult], *, owner: str
) -> None:
    """Store cases, at most one of each, in the place of what was there, and keep the run for `owner`.

    A complete run takes none. What PostgreSQL cannot hold in a text (NUL, halves of characters) becomes
    U+FFFD in answers.
    """
    rows = [result_row(result) for result in results]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 15
    with promises():
        saved = await connection.fetch(
            queries.block("evals", "save_cases"),
            run_id,
            owner,
            timedelta(seconds=LEASE_S),
            *columns,
        )
    if len(saved) != len(rows):
        raise await _why_not_ours(connection, run_id)


async def close_run(
    connection: Connection,
    run_id: int,
    *,
    state: Literal["complete", "partial"],
    metrics: Mapping[str, Figure],
    errors: Mapping[str, int],
    phases_ms: Mapping[str, float],
    spent: Spent,
    cache: Mapping[str, int],
    warnings: Sequence[str],
    seconds: float,
    owner: str,
) -> Run:
    """End the work on a run. Only one with every case, each without an error, can be complete."""
    with promises():
        closed = await connection.fetchval(
            queries.block("evals", "close_run"),
            run_id,
            owner,
            state,
            as_json(metrics, "metrics"),
            as_json(errors, "errors"),
            as_json(phases_ms, "phases_ms"),
            as_json(spent, "spent"),
            as_json(cache, "cache"),
            as_json(warnings, "warnings"),
            seconds,
        )
    if closed is None:
        raise await _why_not_ours(connection, run_id)
    return await _there(connection, run_id)


async def run(connection: Connection, name_or_id: str) -> Run | None:
    """Return a run by name or key, or None. One whose process died is `partial`, not running."""
    if not is_text(name_or_id):
        return None
    if not (name_or_id.isascii() and name_or_id.isdigit()):
        found = await _runs(connection, name=name_or_id)
    elif int(name_or_id) <= _LARGEST_ID:
        found = await _runs(connection, id_=int(name_or_id))
    else:
        found = []
    return found[0] if found else None


async def runs(
    connection: Connection, dataset: str | None = None, limit: int | None = None
) -> list[Run]:
    """Return runs, of all datasets or of those of a name, newest first."""
    if dataset is not None and not is_text(dataset):
        return []
    return await _runs(connection, dataset=dataset, limit=limit)


async def results(connection: Connection, run_id: int) -> list[CaseResult]:
    """Return the cases of a run that are there, in the dataset's order."""
    rows = await connection.fetch(queries.block("evals", "case_results"), run_id)
    return [eval_rows.result(row) for row in rows]


async def remove_run(connection: Connection, run_id: int) -> bool:
    """Remove a run with its cases; False when there is none, Conflict while it is needed."""
    with promises():
        async with connection.transaction():
            sql = queries.block("evals", "remove_run")
            dataset_id = await connection.fetchval(sql, run_id)
            if dataset_id is not None:
                sql = queries.block("evals", "remove_unused_dataset")
                await connection.fetchval(sql, dataset_id, False)
    if dataset_id is None and await _runs(connection, id_=run_id):
        raise await _why_not_ours(connection, run_id)
    return dataset_id is not None


async def reusable(connection: Connection, keys: Sequence[str]) -> dict[str, CaseResult]:
    """Return the newest case without errors of each key, of whatever run."""
    rows = await connection.fetch(queries.block("evals", "reusable"), sorted(set(keys)))
    return {row["reuse_key"]: eval_rows.result(row) for row in rows}


async def _runs(
    connection: Connection,
    *,
    id_: int | None = None,
    name: str | None = None,
    dataset: str | None = None,
    limit: int | None = None,
) -> list[Run]:
    rows = await connection.fetch(queries.block("evals", "runs"), id_, name, dataset, limit)
    return [eval_rows.run(row) for row in rows]


async def _there(connection: Connection, run_id: int) -> Run:
    found = await _runs(connection, id_=run_id)
    if not found:
        raise NotFound(f"there is no run {run_id} any more")
    return found[0]


async def _why_not_ours(connection: Connection, run_id: int) -> Conflict | NotFound:
    row = await connection.fetchrow(queries.block("evals", "run_holder"), run_id)
    if row is None:
        return NotFound(f"there is no run {run_id}; `ragline eval runs` lists them")
    if row["state"] == "complete":
        return Conflict(f"run {row['name']} is complete and never changes")
    if row["owner"] is None or row["is_over"]:
        return Conflict(f"run {row['name']} is not held by this process; resume it first")
    until = row["lease_until"].isoformat(timespec="seconds")
    return Conflict(
        f"run {row['name']} is being worked on by {row['owner']} until {until} or longer; "
        "wait for it, or try again after that time"
    )


# Baselines


async def set_baseline(
    connection: Connection, name: str, run_id: int, note: str | None = None
) -> Baseline:
    """Make a complete run the baseline of its dataset by this name; the former one is history."""
    sql = queries.block("evals", "add_baseline")
    for _ in range(_TRIES):
        with promises():
            try:
                async with connection.transaction():
                    id_ = await connection.fetchval(sql, name, run_id, note)
            except asyncpg.UniqueViolationError:
                # Another process set it at the same moment; ours ends that one then.
                continue
            except asyncpg.ForeignKeyViolationError as error:
                raise await _why_no_baseline(connection, run_id) from error
        rows = await connection.fetch(queries.block("evals", "baselines"), None, id_)
        return eval_rows.baseline(rows[0])
    raise Conflict(f"baseline {name!r} is being set by others all the time; try again later")


async def _why_no_baseline(connection: Connection, run_id: int) -> Conflict | NotFound:
    found = await _runs(connection, id_=run_id)
    if not found:
        return NotFound(f"there is no run {run_id}; `ragline eval runs` lists them")
    return Conflict(
        f"run {found[0].name} is {found[0].state}: only a complete run can be a baseline; resume it"
    )


async def baselines(connection: Connection, dataset: str | None = None) -> list[Baseline]:
    """Return all baselines, current ones and history, of a dataset or of all, newest first."""
    if dataset is not None and not is_text(dataset):
        return []
    rows = await connection.fetch(queries.block("evals", "baselines"), dataset, None)
    return [eval_rows.baseline(row) for row in rows]


async def baseline(connection: Connection, name: str, dataset: str) -> Run | None:
    """Return the run that is the current baseline of a dataset by this name, or None."""
    if not (is_text(name) and is_text(dataset)):
        return None
    sql = queries.block("evals", "current_baseline")
    run_id = await connection.fetchval(sql, name, dataset)
    return None if run_id is None else await _there(connection, run_id)


# Noise


async def save_noise(
    connection: Connection,
    dataset_id: int,
    settings_hash: str,
    rows: Mapping[str, tuple[float, int]],
    *,
    runs: int,
) -> None:
    """Store half-width and n by metric, in the place of all that was measured before."""
    with promises():
        async with connection.transaction():
            sql = queries.block("evals", "forget_noise")
            await connection.execute(sql, dataset_id, settings_hash)
            await connection.execute(
                queries.block("evals", "add_noise"),
                dataset_id,
                settings_hash,
                list(rows),
                [half_width for half_width, _ in rows.values()],
                [n for _, n in rows.values()],
                runs,
            )


async def noise(connection: Connection, dataset_id: int, settings_hash: str) -> dict[str, Noise]:
    """Return what was measured, by metric; empty where nothing was."""
    rows = await connection.fetch(queries.block("evals", "noise"), dataset_id, settings_hash)
    return {row["metric"]: eval_rows.noise(row) for row in rows}
