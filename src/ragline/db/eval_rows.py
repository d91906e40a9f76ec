"""What evaluations keep, from rows and into rows; and what PostgreSQL refuses, as our errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from ragline.core import run_json
from ragline.core.cases import Case, DatasetFacts, case_to_json
from ragline.core.runs import Baseline, CaseResult, Noise, Run
from ragline.db.texts import storable
from ragline.errors import Conflict, UsageError

CASE_COLUMNS = (
    "dataset_id",
    "ordinal",
    "case_id",
    "has_answer",
    "has_relevant",
    "is_answerable",
    "body",
)
_RESULT_JSON = ("hits", "contexts", "labels", "metrics", "errors", "warnings", "phases_ms", "spent")
_RUN_JSON = (
    *("settings", "provenance", "metrics", "errors", "phases_ms", "spent", "cache", "warnings"),
)
_PLAIN = "letters, digits, dot, dash and underscore, a letter or digit first, 100 at most"


def as_json(value: object, where: str) -> str:
    """Return a value as JSON text; characters that UTF-8 cannot hold stay escaped."""
    return json.dumps(run_json.plain(value, where), allow_nan=False)


@contextmanager
def promises() -> Iterator[None]:
    """Turn what a constraint or a trigger refuses into our errors."""
    try:
        yield
    except asyncpg.IntegrityConstraintViolationError as error:
        constraint = error.constraint_name or ""
        if constraint.endswith("name_is_plain"):
            raise UsageError(f"this name of a {error.table_name} is not plain: {_PLAIN}") from error
        if isinstance(error, asyncpg.UniqueViolationError):
            raise Conflict(f"{error.table_name}: {error.detail or error}") from error
        if isinstance(error, asyncpg.CheckViolationError) and constraint:
            raise UsageError(f"{error.table_name} refuses it: {constraint}") from error
        raise Conflict("; ".join(filter(None, (str(error).split("\n")[0], error.hint)))) from error
    except (asyncpg.DataError, UnicodeEncodeError) as error:
        if not _is_about_characters(error):
            raise
        raise UsageError(
            "a name or an id holds a character that PostgreSQL cannot hold: NUL or half of one"
        ) from error


def _is_about_characters(error: Exception) -> bool:
    kinds = (asyncpg.CharacterNotInRepertoireError, UnicodeEncodeError)
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds)


def case_row(ordinal: int, case: Case) -> tuple[Any, ...]:
    """Return CASE_COLUMNS of a case, but for the dataset's."""
    return (
        ordinal,
        case.id,
        case.answer is not None or bool(case.answers),
        bool(case.relevant),
        case.is_answerable,
        as_json(case_to_json(case), f"case {case.id}"),
    )


def dataset_facts(row: asyncpg.Record) -> DatasetFacts:
    return DatasetFacts(
        id=row["id"],
        name=row["name"],
        hash=row["hash"],
        format=row["format"],
        cases=row["cases"],
        with_answer=row["with_answer"],
        with_relevant=row["with_relevant"],
        unanswerable=row["unanswerable"],
        imported_at=row["imported_at"].isoformat(),
    )


def result_row(result: CaseResult) -> tuple[Any, ...]:
    """Return the parameters of `save_cases` for one case, from the fourth on."""
    value = run_json.result_to_json(result)
    packed = {name: json.dumps(value[name], allow_nan=False) for name in _RESULT_JSON}
    return (
        result.ordinal,
        result.case_id,
        packed["hits"],
        packed["contexts"],
        None if result.answer is None else storable(result.answer),
        result.found,
        None if result.labels is None else packed["labels"],
        packed["metrics"],
        packed["errors"],
        packed["warnings"],
        packed["phases_ms"],
        result.total_ms,
        packed["spent"],
        result.reuse_key,
        result.is_reused,
    )


def result(row: asyncpg.Record) -> CaseResult:
    return run_json.from_json(CaseResult, _unpacked(row, _RESULT_JSON), "case")


def run(row: asyncpg.Record) -> Run:
    value = _unpacked(row, _RUN_JSON)
    value["started_at"] = row["started_at"].isoformat()
    return run_json.from_json(Run, value, "run")


def _unpacked(row: asyncpg.Record, packed: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: json.loads(value) if name in packed and value is not None else value
        for name, value in row.items()
    }


def baseline(row: asyncpg.Record) -> Baseline:
    ended_at = row["ended_at"]
    return Baseline(
        name=row["name"],
        dataset=row["dataset"],
        run_id=row["run_id"],
        run=row["run"],
        note=row["note"],
        set_at=row["set_at"].isoformat(),
        ended_at=None if ended_at is None else ended_at.isoformat(),
    )


def noise(row: asyncpg.Record) -> Noise:
    return Noise(
        half_width=row["half_width"],
        n=row["n"],
        runs=row["runs"],
        measured_at=row["measured_at"].isoformat(),
    )
