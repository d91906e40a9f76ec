"""A folder as BEIR has it: `queries.jsonl`, `qrels/<split>.tsv`, and the corpus, which is not read.

The corpus is documents to ingest, not a dataset of questions; `corpus` gives its texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ragline.core.cases import (
    NOT_RELEVANT,
    Case,
    Dataset,
    case_from_json,
    case_to_json,
    gathered,
    spread,
)
from ragline.core.json_fields import loads, named, text_of
from ragline.errors import UsageError
from ragline.evals.formats import entries, jsonl, qrels
from ragline.evals.formats.entries import Entries
from ragline.rag.ingest import Text

QUERIES = "queries.jsonl"
CORPUS = "corpus.jsonl"
_QRELS = "qrels"
_HEADER = "query-id\tcorpus-id\tscore\n"
_SPLIT = "split"
# Our own keys stand beside `_id` and `text`, which is all that BEIR looks at.
_OURS = ("answer", "answers", "answerable", "tags", "response", "contexts", "labels")
_NAMES = ("_id", "text", *_OURS)


def read(folder: Path, split: str | None = None, judgements: Path | None = None) -> Entries:
    """Return the queries of a split, or of the file `judgements`, with their relevant documents.

    A query without judgements there is another split's and left out, unless it brings a gold answer
    of its own or is marked as unanswerable.
    """
    name, path = (judgements.name, judgements) if judgements else _split(folder, split)
    made, refused = entries.cases(entries.text(folder / QUERIES), _case, f"{QUERIES}, ")
    rows = qrels.read(path, name)
    cases = tuple(
        (where, qrels.judged(case, rows.by_query.get(case.id, ())))
        for where, case in made
        if case.id in rows.by_query or not case.is_answerable or case.answer or case.answers
    )
    unknown = rows.unknown((case.id for _, case in made), QUERIES)
    return Entries(
        format="beir",
        cases=cases,
        refusals=(*refused, *rows.refusals, *unknown),
        extra={} if judgements else {_SPLIT: path.stem},
    )


def _split(folder: Path, split: str | None) -> tuple[str, Path]:
    names = sorted(path.stem for path in (folder / _QRELS).glob("*.tsv"))
    wanted = split or ("test" if "test" in names or len(names) != 1 else names[0])
    if wanted not in names:
        there = f"there are {', '.join(names)}" if names else f"{folder / _QRELS} has no .tsv file"
        raise UsageError(f"{folder} has no split {wanted!r}: {there}; name one with --split")
    return f"{_QRELS}/{wanted}.tsv", folder / _QRELS / f"{wanted}.tsv"


def _case(value: Mapping[str, Any], _number: int) -> Case:
    fields: dict[str, Any] = {key: value[key] for key in _OURS if key in value}
    fields |= {"id": named(value, "_id", None), "question": value.get("text")}
    return case_from_json(fields | {"extra": gathered(value, _NAMES)})


def write(dataset: Dataset, folder: Path, split: str | None = None) -> tuple[str, ...]:
    """Write a folder without a corpus; return what is lost."""
    wanted = split or _split_of(dataset)
    if not wanted.strip(".") or {*wanted} & {*"/\\\0"}:
        raise UsageError(f"{wanted!r} cannot name a split: it is to be the name of a file")
    queries = (json.dumps(_query(case), ensure_ascii=False) for case in dataset.cases)
    rows = [
        f"{_quoted(case.id)}\t{_quoted(document)}\t{grade}\n"
        for case in dataset.cases
        for document, grade in qrels.of(case)
    ]
    entries.save(
        {
            folder / QUERIES: "".join(f"{line}\n" for line in queries),
            folder / _QRELS / f"{wanted}.tsv": "".join([_HEADER, *rows]),
        }
    )
    is_ours = dataset.format == "beir"
    other = {key: one for key, one in dataset.extra.items() if not (is_ours and key == _SPLIT)}
    return (*qrels.lost(dataset.cases), *jsonl.lost(replace(dataset, extra=other)))


def _split_of(dataset: Dataset) -> str:
    """Return the split that it was read from; another tool's key of this name is none."""
    split = dataset.extra.get(_SPLIT) if dataset.format == "beir" else None
    return split if isinstance(split, str) else "test"


def _quoted(name: str) -> str:
    # csv.writer leaves a carriage return as it is, and reading takes it for the end of a line.
    return '"' + name.replace('"', '""') + '"' if {*name} & {*'\t\r\n"'} else name


def _query(case: Case) -> dict[str, Any]:
    ours = case_to_json(replace(case, extra={}))
    extra = {key: value for key, value in case.extra.items() if key != NOT_RELEVANT}
    theirs = {"_id": case.id, "text": case.question}
    return theirs | {key: ours[key] for key in _OURS if key in ours} | spread(extra, _NAMES)


def corpus(path: Path) -> Iterator[Text]:
    """Yield the documents of a corpus to be ingested; the source of each is its `_id`.

    `path` is the folder, or its `corpus.jsonl`. UsageError names the line that is none.
    """
    file = path / CORPUS if path.is_dir() else path
    for number, line in entries.numbered(entries.text(file)):
        try:
            value = entries.mapping(loads(line))
            source, body = named(value, "_id", None), text_of(value, "text", keep_empty=True)
            yield Text(source=source, title=text_of(value, "title"), text=body or "")
        except UsageError as error:
            raise UsageError(f"{file}, line {number}: {error}") from error
