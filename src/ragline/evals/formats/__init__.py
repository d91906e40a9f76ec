"""Datasets as files: read, checked as a whole, and written again.

A dataset is taken in as a whole or not at all: what is wrong is listed by file and line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ragline.core import case_faults, json_fields
from ragline.core.case_faults import Refusal
from ragline.core.cases import Dataset
from ragline.errors import UsageError
from ragline.evals.formats import beir, entries, jsonl, ragas, ragchecker, trec
from ragline.evals.formats.entries import DatasetRefused, Entries

__all__ = [
    "FORMATS",
    "DatasetRefused",
    "Format",
    "Reading",
    "load",
    "read",
    "write",
    "write_run_ragchecker",
    "write_trec_run",
]

Format = Literal["ragchecker", "beir", "trec", "ragas", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)
_TEXTS = {"ragchecker": ragchecker.read, "ragas": ragas.read, "jsonl": jsonl.read}

_WRITERS = {
    "trec": trec.write,
    "ragchecker": ragchecker.write,
    "ragas": ragas.write,
    "jsonl": jsonl.write,
}

write_trec_run = trec.write_run
write_run_ragchecker = ragchecker.run


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A dataset as a file has it, and the cases that were left out because they measure nothing."""

    dataset: Dataset
    left_out: tuple[Refusal, ...] = ()


def read(
    path: Path,
    format: str = "auto",  # noqa: A002 -- the word that the command line has as well
    *,
    name: str,
    split: str | None = None,
    qrels: Path | None = None,
) -> Dataset:
    """Return the dataset in a file or folder, named `name`; DatasetRefused says what is wrong.

    `split` is one of a BEIR folder's (test, unless there is only another), `qrels` a file of judgements
    for queries without any: TREC's, or a BEIR folder's in the place of a split.
    """
    return load(path, format, name=name, split=split, qrels=qrels).dataset


def load(
    path: Path,
    format: str = "auto",  # noqa: A002
    *,
    name: str,
    split: str | None = None,
    qrels: Path | None = None,
    skip_degenerate: bool = False,
) -> Reading:
    """Return the dataset in a file or folder as `read` does, and what `skip_degenerate` left out."""
    found = _entries(path, format, split, qrels)
    refusals = (*found.refusals, *case_faults.refusals(found.cases))
    left_out = tuple(one for one in refusals if one.is_degenerate and skip_degenerate)
    if len(left_out) < len(refusals):
        refused = [one for one in refusals if not (one.is_degenerate and skip_degenerate)]
        raise DatasetRefused(str(path), refused, len(found.cases) + len(found.refusals))
    out = {one.where for one in left_out}
    cases = tuple(case for where, case in found.cases if where not in out)
    if not cases:
        why = f": all {len(left_out)} would measure nothing" if left_out else ""
        raise UsageError(f"{path} has no case{why}")
    dataset = Dataset(name=name, cases=cases, format=found.format, extra=found.extra)
    return Reading(dataset=dataset, left_out=left_out)


def _entries(path: Path, name: str, split: str | None, judgements: Path | None) -> Entries:
    if name not in ("auto", *FORMATS):
        raise UsageError(f"there is no format {name!r}; there are auto, {', '.join(FORMATS)}")
    if not path.exists():
        raise UsageError(f"there is no file or folder {path}")
    wanted = _recognised(path, judgements) if name == "auto" else name
    if split is not None and wanted != "beir":
        raise UsageError(f"only a BEIR folder has splits, and {path} is read as {wanted}")
    if wanted == "beir":
        return beir.read(path, split, judgements)
    if wanted == "trec":
        return trec.read(path, judgements)
    if judgements is not None:
        raise UsageError(
            f"{path} is read as {wanted}, which has its judgements in itself: no qrels"
        )
    content = entries.text(path)
    try:
        return _TEXTS[wanted](content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _recognised(path: Path, judgements: Path | None) -> Format:
    if path.is_dir():
        return _folder(path)
    if judgements is not None:
        return "trec"
    content = entries.text(path)
    if not content.strip():
        raise UsageError(f"{path} is empty")
    if not content.lstrip().startswith(("{", "[")):
        raise _unknown(path, "it is no JSON")
    try:
        first = _first(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return _by_keys(path, first)


def _folder(path: Path) -> Format:
    if (path / beir.QUERIES).is_file():
        return "beir"
    if (path / trec.TOPICS).is_file():
        return "trec"
    raise UsageError(
        f"{path} is no dataset: a BEIR folder has {beir.QUERIES}, one of TREC {trec.TOPICS}"
    )


def _first(content: str) -> Mapping[str, Any]:
    """Return the first object of a list, of JSON Lines, or of the text, which is one."""
    if content.lstrip().startswith("["):
        several = json_fields.loads(content)
        return entries.mapping(several[0]) if several else {"question": ""}
    _, line = next(entries.numbered(content))
    try:
        return entries.mapping(json_fields.loads(line))
    except UsageError as error:
        if line.rstrip().endswith("}"):
            raise UsageError(f"line 1: {error}") from error
        return entries.mapping(json_fields.loads(content))


def _by_keys(path: Path, first: Mapping[str, Any]) -> Format:
    known: tuple[tuple[str, Format], ...] = (
        ("results", "ragchecker"), ("user_input", "ragas"), ("question", "jsonl")
    )  # fmt: skip
    for key, name in known:
        if key in first:
            return name
    shown = ", ".join(map(repr, [*first][:10])) or "none"
    raise _unknown(path, f"the keys of its first object are {shown}")


def _unknown(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} is of no format that is recognised ({why}): known are 'results' of RAGChecker, "
        "'user_input' of ragas, 'question' of our own JSON Lines, a BEIR folder, and queries of TREC "
        "with --qrels; name another with --format"
    )


def write(
    dataset: Dataset,
    format: str,  # noqa: A002
    path: Path,
    *,
    split: str | None = None,
) -> tuple[str, ...]:
    """Write a dataset to a new file, or a folder for beir and trec; return what has no place there.

    `split` names the judgements of a BEIR folder; unless given, what it was read from, else test.
    """
    if format == "beir":
        return beir.write(dataset, path, split)
    if format not in _WRITERS:
        raise UsageError(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
    return _WRITERS[format](dataset, path)
