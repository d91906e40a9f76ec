"""Datasets as rows: the current ones by name, and those that runs were measured with."""

from __future__ import annotations

import json

import asyncpg

from ragline.core.cases import Dataset, DatasetFacts, case_from_json
from ragline.db import queries
from ragline.db.eval_rows import CASE_COLUMNS, as_json, case_row, dataset_facts, promises
from ragline.db.pool import Connection
from ragline.db.texts import is_text
from ragline.errors import Conflict


async def add(
    connection: Connection, dataset: Dataset, hash_: str, replace: bool = False
) -> DatasetFacts:
    """Store a dataset; what is there with the same hash stays, unless it is to be replaced.

    The one that it replaces is kept for the runs that it was measured with.
    """
    with promises():
        async with connection.transaction():
            await _make_room(connection, dataset.name, hash_, replace)
            if (there := await _dataset_row(connection, "datasets", dataset.name)) is not None:
                return dataset_facts(there)
            id_ = await connection.fetchval(
                queries.block("evals", "add_dataset"),
                dataset.name,
                hash_,
                dataset.format,
                as_json(dataset.extra, "extra"),
            )
            await connection.copy_records_to_table(
                "dataset_case",
                schema_name="ragline",
                columns=CASE_COLUMNS,
                records=[(id_, *case_row(*case)) for case in enumerate(dataset.cases)],
            )
            row = await _dataset_row(connection, "datasets", dataset.name)
    if row is None:
        raise Conflict(f"dataset {dataset.name!r} was not written")
    return dataset_facts(row)


async def _make_room(connection: Connection, name: str, hash_: str, replace: bool) -> None:
    there = await connection.fetchrow(queries.block("evals", "current_dataset"), name)
    if there is None or (there["hash"] == hash_ and not replace):
        return
    if not replace:
        raise Conflict(
            f"dataset {name!r} exists with other cases (hash {there['hash'][:12]}, not {hash_[:12]}); "
            "choose another name, or replace it: its runs keep what they were measured with"
        )
    sql = queries.block("evals", "remove_unused_dataset")
    if await connection.fetchval(sql, there["id"], True) is None:
        await connection.execute(queries.block("evals", "supersede_dataset"), there["id"])


async def every(connection: Connection) -> list[DatasetFacts]:
    """Return the current datasets by name."""
    return [
        dataset_facts(row)
        for row in await connection.fetch(queries.block("evals", "datasets"), None)
    ]


async def one(connection: Connection, name: str) -> tuple[DatasetFacts, Dataset] | None:
    """Return a dataset as it is now, or None where there is none of that name."""
    row = await _dataset_row(connection, "datasets", name)
    return None if row is None else await _with_cases(connection, row)


async def of_run(connection: Connection, run_id: int) -> tuple[DatasetFacts, Dataset] | None:
    """Return the dataset that a run was measured with, which another one may have replaced since."""
    row = await _dataset_row(connection, "dataset_of_run", run_id)
    return None if row is None else await _with_cases(connection, row)


async def remove(connection: Connection, name: str) -> bool:
    """Remove a dataset; False when there is none of that name, Conflict while runs need it."""
    if not is_text(name):
        return False
    async with connection.transaction():
        runs_of = await connection.fetch(queries.block("evals", "runs_of_dataset"), name)
        if runs_of:
            names = ", ".join(row["name"] for row in runs_of[:5])
            more = f" and {len(runs_of) - 5} more" if len(runs_of) > 5 else ""
            raise Conflict(f"dataset {name!r} has runs: {names}{more}; remove them first")
        with promises():
            gone = await connection.fetchval(queries.block("evals", "remove_dataset"), name)
    return gone is not None


async def _dataset_row(
    connection: Connection, block: str, which: str | int
) -> asyncpg.Record | None:
    if isinstance(which, str) and not is_text(which):
        return None
    return await connection.fetchrow(queries.block("evals", block), which)


async def _with_cases(connection: Connection, row: asyncpg.Record) -> tuple[DatasetFacts, Dataset]:
    rows = await connection.fetch(queries.block("evals", "dataset_cases"), row["id"])
    cases = tuple(case_from_json(json.loads(one["body"])) for one in rows)
    extra = json.loads(row["extra"])
    return dataset_facts(row), Dataset(
        name=row["name"], cases=cases, format=row["format"], extra=extra
    )
