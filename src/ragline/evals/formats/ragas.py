"""The fields of ragas' `SingleTurnSample`, as JSON Lines or a JSON list.

Ids of reference contexts are relevant documents. Reference contexts without ids are kept and not
measured: no document is known, and a chunk of ours seldom holds a whole one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ragline.core.cases import Case, Dataset, case_from_json, case_to_json, gathered, spread
from ragline.core.json_fields import list_of, named, texts_of
from ragline.errors import UsageError
from ragline.evals.formats import as_read, entries, jsonl
from ragline.evals.formats.entries import Entries

_AS_READ = "ragas"
_SAME = {"user_input": "question", "reference": "answer", "response": "response"}
_CONTEXTS = "retrieved_contexts"
_CONTEXT_IDS = "retrieved_context_ids"
_RELEVANT_IDS = "reference_context_ids"
# Our own keys stand beside theirs, which ragas leaves alone.
_OURS = ("id", "answers", "relevant", "answerable", "tags", "contexts", "labels")
_NAMES = (*_SAME, _CONTEXTS, _CONTEXT_IDS, _RELEVANT_IDS, *_OURS)


def read(content: str) -> Entries:
    """Return the cases of a text. A sample without our own `id` has its number."""
    made, refused = entries.cases(content, _case)
    return Entries(format="ragas", cases=made, refusals=refused)


def write(dataset: Dataset, path: Path) -> tuple[str, ...]:
    """Write the cases, as a list unless the file's name ends in .jsonl; return what is lost."""
    samples = [sample(case) for case in dataset.cases]
    if path.suffix == ".jsonl":
        lines = (json.dumps(one, ensure_ascii=False) for one in samples)
        entries.save({path: "".join(f"{line}\n" for line in lines)})
    else:
        entries.save({path: json.dumps(samples, ensure_ascii=False, indent=2) + "\n"})
    return jsonl.lost(dataset)


def sample(case: Case) -> dict[str, Any]:
    """Return a case as a sample; what their fields cannot say stands in our own."""
    ours = case_to_json(replace(case, extra={}))
    theirs: dict[str, Any] = {
        key: ours[own] for key, own in _SAME.items() if ours.get(own) is not None
    }
    documents = list(dict.fromkeys(one.document for one in case.relevant))
    if documents:
        theirs[_RELEVANT_IDS] = documents
    if all(one.grade == 1 and one.passage is None for one in case.relevant):
        ours.pop("relevant", None)
    if case.contexts:
        theirs[_CONTEXTS] = [one.text for one in case.contexts]
        ids = [one.document for one in case.contexts if one.document is not None]
        if len(ids) == len(case.contexts):
            theirs[_CONTEXT_IDS] = ids
        if len(ids) in (0, len(case.contexts)):
            ours.pop("contexts")
    extra = {key: value for key, value in case.extra.items() if key != _AS_READ}
    made = theirs | {key: ours[key] for key in _OURS if key in ours} | spread(extra, _NAMES)
    return as_read.restored(made, case.extra.get(_AS_READ))


def _case(value: Mapping[str, Any], number: int) -> Case:
    fields: dict[str, Any] = {key: value[key] for key in _OURS if key in value}
    fields |= {own: value.get(key) for key, own in _SAME.items()}
    if not isinstance(value.get("user_input"), str | None):
        raise UsageError("its 'user_input' is no text: conversations of several turns are not read")
    fields.setdefault("relevant", _documents(value, _RELEVANT_IDS))
    fields.setdefault("contexts", _contexts(value))
    extra = gathered(value, _NAMES)
    if _AS_READ in extra:
        raise UsageError(f"its key {_AS_READ!r} is one that ragline writes for itself")
    case = case_from_json(fields | {"extra": extra}, else_id=str(number))
    if kept := as_read.difference(value, sample(case)):
        case = replace(case, extra={**case.extra, _AS_READ: kept})
    return case


def _documents(value: Mapping[str, Any], key: str) -> list[str]:
    ids = [named({key: one}, key, None) for one in list_of(value, key)]
    return list(dict.fromkeys(ids))


def _contexts(value: Mapping[str, Any]) -> list[dict[str, str]]:
    texts = texts_of(value, _CONTEXTS)
    ids = [named({_CONTEXT_IDS: one}, _CONTEXT_IDS, None) for one in list_of(value, _CONTEXT_IDS)]
    if not ids:
        return [{"text": one} for one in texts]
    if texts and len(ids) != len(texts):
        raise UsageError(f"it has {len(texts)} {_CONTEXTS!r} and {len(ids)} {_CONTEXT_IDS!r}")
    return [{"text": one, "document": id_} for one, id_ in zip(texts, ids, strict=False)]
