"""TREC: queries as lines of `id<TAB>text`, judgements, and runs.

A folder has `topics.tsv` and `qrels.txt`; or the queries are one file (of such lines, or BEIR's
`queries.jsonl`) and the judgements another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ragline.core.case_faults import Refusal
from ragline.core.cases import Case, Dataset
from ragline.core.json_fields import named, text_of
from ragline.core.runs import CaseResult
from ragline.errors import UsageError
from ragline.evals.formats import entries, jsonl, qrels
from ragline.evals.formats.entries import Entries

TOPICS = "topics.tsv"
_QRELS = "qrels.txt"
_MARK = "\ufeff"


def read(path: Path, judgements: Path | None = None) -> Entries:
    """Return the queries with their relevant documents; one without judgements is without gold."""
    queries = path / TOPICS if path.is_dir() else path
    if judgements is None and not path.is_dir():
        raise UsageError(f"{path} are queries; name the file of their judgements with --qrels")
    file = judgements or path / _QRELS
    made, refused = _queries(queries)
    rows = qrels.read(file, file.name)
    unknown = rows.unknown((case.id for _, case in made), queries.name)
    return Entries(
        format="trec",
        cases=tuple(
            (where, qrels.judged(case, rows.by_query.get(case.id, ()))) for where, case in made
        ),
        refusals=(*refused, *rows.refusals, *unknown),
    )


def _queries(path: Path) -> tuple[tuple[tuple[str, Case], ...], tuple[Refusal, ...]]:
    content = entries.text(path)
    if path.suffix == ".jsonl":
        return entries.cases(content, _from_json, f"{path.name}, ")
    first = content.lstrip().partition("\n")[0]
    if first.startswith("<") and "\t" not in first:
        raise UsageError(
            f"{path} has topics in markup, of which each track has its own: write one topic a line, "
            "its id, a tab, and what is asked"
        )
    made: list[tuple[str, Case]] = []
    refused: list[Refusal] = []
    for number, line in entries.numbered(content):
        where = f"{path.name}, line {number}"
        id_, tab, question = line.partition("\t")
        if tab:
            made.append((where, Case(id=id_.strip(), question=question.strip())))
        else:
            refused.append(
                Refusal(where=where, reason="it has no tab between an id and a question")
            )
    return tuple(made), tuple(refused)


def _from_json(value: Mapping[str, Any], _number: int) -> Case:
    return Case(id=named(value, "_id", None), question=text_of(value, "text") or "")


def write(dataset: Dataset, folder: Path) -> tuple[str, ...]:
    """Write queries and judgements into a folder; return what is lost."""
    cases = [case for case in dataset.cases if case.relevant]
    if not cases:
        raise UsageError(f"no case of {dataset.name!r} has a relevant document: nothing to write")
    topics, lines = [], []
    for case in cases:
        topics.append(f"{_column(case.id, 'a case')}\t{' '.join(case.question.split())}\n")
        lines += [
            f"{case.id} 0 {_column(document, 'a document')} {grade}\n"
            for document, grade in qrels.of(case)
        ]
    entries.save({folder / TOPICS: "".join(topics), folder / _QRELS: "".join(lines)})
    return (*_lost(dataset, cases), *qrels.lost(cases), *jsonl.lost(dataset))


def _column(name: str, of: str) -> str:
    if not name or name[0] == _MARK or any(map(str.isspace, name)):
        raise UsageError(
            f"{name!r} names {of} and has white space, is empty, or begins with a mark of byte "
            "order: TREC has white space between its columns"
        )
    return name


def _lost(dataset: Dataset, written: Sequence[Case]) -> tuple[str, ...]:
    left = len(dataset.cases) - len(written)
    more = sum(
        bool(one.answer or one.answers or one.response or one.contexts or one.tags)
        for one in written
    )
    said = (
        (left, f"{left} cases without a relevant document are not written"),
        (more, f"answers, contexts and tags of {more} cases are not written"),
    )
    return tuple(text for count, text in said if count)


# -- runs ------------------------------------------------------------------------------------------


def write_run(
    results: Sequence[CaseResult],
    path: Path,
    tag: str,
    document: Callable[[str], str] = str,
) -> tuple[str, ...]:
    """Write the documents that each case found, each where its best chunk stands; return what is lost.

    `document` makes the name in the judgements of a hit's source. trec_eval orders by score alone and
    reads it in single precision: where scores do not fall, they are lowered by as little as it sees.
    """
    _column(tag, "a run")
    lines = []
    for result in results:
        last = math.inf
        seen: set[str] = set()
        for hit in result.hits:
            name = _column(document(hit.source), "a document")
            if name in seen:
                continue
            seen.add(name)
            last = min(float(np.float32(hit.score)), float(np.nextafter(np.float32(last), -np.inf)))
            place = f"{_column(result.case_id, 'a case')} Q0 {name} {len(seen)}"
            lines.append(f"{place} {last:.9g} {tag}\n")
    entries.save({path: "".join(lines)})
    none = sum(not result.hits for result in results)
    return (f"{none} cases found nothing and have no line: call trec_eval with -c",) * (none > 0)
