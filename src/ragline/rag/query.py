"""What a caller asks of a search, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ragline.core import filters
from ragline.core.filters import Filter
from ragline.core.results import Method
from ragline.errors import UsageError

HITS = 10
MOST_HITS = 1000
LONGEST_QUESTION = 10_000
_METHODS: tuple[Method, ...] = ("hybrid", "vector", "lexical")
# hnsw.ef_search accepts no more than this.
LARGEST_EF_SEARCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to search for. `k` None means what the collection's policy says (the largest of several),
    else 10. `ef_search` None means the policy's; else, with a filter, what was measured for the
    collection; else max(100, 2k), at most 1,000.

    A `vector` given by the caller stands for the question's embedding, shape (dimension,). Only
    chunks of documents whose metadata fits `filter` are found. `exact` compares every vector and
    weighs every chunk with a word: slower, and what a search without it can be measured against.
    """

    question: str
    collections: tuple[str, ...]
    k: int | None = None
    method: Method = "hybrid"
    ef_search: int | None = None
    explain: bool = False
    vector: npt.NDArray[np.float32] | None = None
    filter: Filter | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        _check(self)


def query(
    question: str,
    collection: str | Sequence[str],
    *,
    k: int | None = None,
    method: Method = "hybrid",
    ef_search: int | None = None,
    explain: bool = False,
    vector: npt.ArrayLike | None = None,
    filter: Filter | Mapping[str, Any] | str | None = None,  # noqa: A002 - what it is called everywhere
    exact: bool = False,
) -> Query:
    """Return a checked query; raises UsageError. Each collection is searched once.

    A `filter` may be given as an expression, as JSON, or as text such as `lang = "en"`.
    """
    names = (collection,) if isinstance(collection, str) else tuple(dict.fromkeys(collection))
    return Query(
        question=question,
        collections=names,
        k=k,
        method=method,
        ef_search=ef_search,
        explain=explain,
        vector=None if vector is None else np.asarray(vector, dtype=np.float32),
        filter=_filter(filter),
        exact=exact,
    )


def _filter(given: Filter | Mapping[str, Any] | str | None) -> Filter | None:
    if isinstance(given, str):
        return filters.from_text(given)
    return filters.from_json(given) if isinstance(given, Mapping) else given


def _check(query: Query) -> None:
    if query.method not in _METHODS:
        raise UsageError(f"method {query.method!r} is not one of {', '.join(_METHODS)}")
    if query.k is not None and not 1 <= query.k <= MOST_HITS:
        raise UsageError(f"k is {query.k}; it must lie between 1 and {MOST_HITS}")
    if query.ef_search is not None and not 1 <= query.ef_search <= LARGEST_EF_SEARCH:
        raise UsageError(
            f"ef_search is {query.ef_search}; it must lie between 1 and {LARGEST_EF_SEARCH}"
        )
    if not query.collections:
        raise UsageError("name at least one collection to search")
    if query.vector is None and not query.question.strip():
        raise UsageError("the question is empty")
    if query.vector is not None and not (np.isfinite(query.vector).all() and query.vector.any()):
        raise UsageError(
            "the vector is zero, or holds a number that is not finite: it has no direction"
        )
    if len(query.question) > LONGEST_QUESTION:
        raise UsageError(
            f"the question has {len(query.question):,} characters; at most {LONGEST_QUESTION:,} are "
            "searched for"
        )
    if "\x00" in query.question or not _is_encodable(query.question):
        raise UsageError(
            "the question holds a character that no text has (NUL or a lone surrogate)"
        )


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
