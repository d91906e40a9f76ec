"""Datasets in the database: adding, listing, showing, removing. Files are `evals.formats`'."""

from __future__ import annotations

import re

from ragline.core import case_faults, json_fields
from ragline.core.cases import Dataset, DatasetFacts, content_hash
from ragline.db import datasets as dataset_rows
from ragline.errors import NotFound, UsageError
from ragline.evals.formats.entries import DatasetRefused
from ragline.rag.app import App

_NAME = re.compile(r"[^\W_][\w.-]{0,99}")
_MOST_NAMED = 10


async def add(app: App, dataset: Dataset, *, replace: bool = False) -> DatasetFacts:
    """Keep a dataset. The same again changes nothing; another of its name only with `replace`.

    Raises UsageError for a name that cannot be and a dataset without cases, DatasetRefused for cases
    that cannot be kept or would measure nothing, Conflict when the name has other cases.
    """
    _check(dataset)
    async with app.connection("eval") as connection:
        return await dataset_rows.add(connection, dataset, content_hash(dataset), replace)


async def differs(app: App, dataset: Dataset) -> bool:
    """Return whether what is kept under its name has other tags, other keys or another order.

    None of these changes the hash, so `add` leaves what is there as it is.
    """
    _, kept = await one(app, dataset.name)
    return (kept.cases, kept.extra) != (dataset.cases, dataset.extra)


async def every(app: App) -> tuple[DatasetFacts, ...]:
    """Return every dataset by name."""
    async with app.connection("eval") as connection:
        return tuple(await dataset_rows.every(connection))


async def one(app: App, name: str) -> tuple[DatasetFacts, Dataset]:
    """Return a dataset with its cases in order; NotFound says which there are."""
    async with app.connection("eval") as connection:
        found = await dataset_rows.one(connection, name)
        if found is None:
            raise NotFound(_not_there(name, await dataset_rows.every(connection)))
    return found


async def remove(app: App, name: str) -> None:
    """Remove a dataset; NotFound says which there are, Conflict which runs need it."""
    async with app.connection("eval") as connection:
        if not await dataset_rows.remove(connection, name):
            raise NotFound(_not_there(name, await dataset_rows.every(connection)))


def _check(dataset: Dataset) -> None:
    if not _NAME.fullmatch(dataset.name):
        raise UsageError(
            f"{dataset.name!r} cannot name a dataset: use letters, digits, dot, dash and underscore, "
            "beginning with a letter or digit, at most 100"
        )
    if not dataset.cases:
        raise UsageError(f"dataset {dataset.name!r} has no case")
    placed = ((f"case {number}", case) for number, case in enumerate(dataset.cases, start=1))
    if refused := case_faults.refusals(placed):
        raise DatasetRefused(f"dataset {dataset.name!r}", refused, len(dataset.cases))
    if reason := json_fields.fault(dataset.extra):
        raise UsageError(f"what came with dataset {dataset.name!r} cannot be kept: {reason}")


def _not_there(name: str, there: list[DatasetFacts]) -> str:
    if not there:
        return (
            f"dataset {name!r} does not exist, and no other: "
            "bring one in with `ragline eval dataset import`"
        )
    listed = ", ".join(one.name for one in there[:_MOST_NAMED])
    more = ", …" if len(there) > _MOST_NAMED else ""
    return f"dataset {name!r} does not exist; there are: {listed}{more}"
