"""Judgements, as TREC writes them (`query 0 document grade`) and as BEIR does (tabs, a header).

TREC's second column says nothing to anybody, and is written as 0.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ragline.core.case_faults import Refusal
from ragline.core.cases import NOT_RELEVANT, Case, Relevant, relevant_to_json
from ragline.errors import UsageError
from ragline.evals.formats import entries

_HEADER = ("query-id", "corpus-id", "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How relevant a document is to a query, and the line that says so."""

    line: int
    query: str
    document: str
    grade: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgements:
    """The judgements of a file in their order, by query, and the lines that are none."""

    name: str
    by_query: Mapping[str, tuple[Judgement, ...]]
    refusals: tuple[Refusal, ...]

    def unknown(self, queries: Iterable[str], of: str) -> tuple[Refusal, ...]:
        """Return why the judgements of queries that are not among these mean nothing."""
        known = set(queries)
        return tuple(
            Refusal(
                where=f"{self.name}, line {rows[0].line}",
                case_id=query[:80],
                reason=f"no query of {of} has this id, and {len(rows)} judgements are of it",
            )
            for query, rows in self.by_query.items()
            if query not in known
        )


def read(path: Path, name: str) -> Judgements:
    """Return the judgements of a file; `name` is what messages call it."""
    by_query: dict[str, dict[str, Judgement]] = {}
    refused: list[Refusal] = []
    for line, row in _rows(path):
        try:
            judged = _judgement(line, row)
            of_query = by_query.setdefault(judged.query, {})
            if former := of_query.get(judged.document):
                raise UsageError(
                    f"{judged.document!r} is judged for query {judged.query!r} on line "
                    f"{former.line} already"
                )
            of_query[judged.document] = judged
        except UsageError as error:
            refused.append(Refusal(where=f"{name}, line {line}", reason=str(error)))
    return Judgements(
        name=name,
        by_query={query: tuple(rows.values()) for query, rows in by_query.items()},
        refusals=tuple(refused),
    )


def _rows(path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    content = entries.text(path)
    first = next((line for _, line in entries.numbered(content)), "")
    if first.count("\t") != len(_HEADER) - 1:
        yield from ((number, line.split()) for number, line in entries.numbered(content))
        return
    # As BEIR's own loader does: a quoted id may hold a tab.
    table = csv.reader(io.StringIO(content, newline=""), delimiter="\t")
    try:
        for row in table:
            if row and row != [*_HEADER]:
                yield table.line_num, row
    except csv.Error as error:
        raise UsageError(f"{path}, line {table.line_num}: {error}") from error


def _judgement(line: int, row: Sequence[str]) -> Judgement:
    if len(row) not in (3, 4):
        raise UsageError(
            f"it has {len(row)} columns; TREC has 4 (query 0 document grade), BEIR 3, with tabs "
            "(query, document, grade)"
        )
    query, document, grade = row[0], row[-2], row[-1]
    if not query.strip() or not document.strip():
        raise UsageError("its query or its document is empty")
    try:
        return Judgement(line=line, query=query, document=document, grade=int(grade))
    except ValueError as error:
        raise UsageError(f"its grade {grade[:40]!r} is no whole number") from error


def judged(case: Case, rows: Sequence[Judgement]) -> Case:
    """Return a case with its judgements; grades of 0 and below are kept in `extra`."""
    every = [Relevant(document=one.document, grade=one.grade) for one in rows]
    below = [relevant_to_json(one) for one in every if one.grade < 1]
    return replace(
        case,
        relevant=tuple(one for one in every if one.grade >= 1),
        extra={**case.extra, NOT_RELEVANT: below} if below else case.extra,
    )


def of(case: Case) -> Iterator[tuple[str, int]]:
    """Yield the judgements of a case, each document with its best grade, relevant ones first."""
    best: dict[str, int] = {}
    for one in case.relevant:
        best[one.document] = max(one.grade, best.get(one.document, one.grade))
    for other in case.extra.get(NOT_RELEVANT, ()):
        best.setdefault(other["document"], other["grade"])
    yield from best.items()


def lost(cases: Sequence[Case]) -> tuple[str, ...]:
    """Return what judgements of whole documents lose."""
    passages = sum(any(one.passage is not None for one in case.relevant) for case in cases)
    return (f"passages of {passages} cases are not written: whole documents are judged",) * (
        passages > 0
    )
