"""What a search is of: the tables of a collection, and a filter's part in its statement."""

from __future__ import annotations

from dataclasses import dataclass

from ragline.core.attached import Attached

# Robertson and Zaragoza (2009): the usual middle of the range that works for most collections.
BM25_K1 = 1.2
BM25_B = 0.75
# How many of the candidates by words are weighed exactly.
LEXICAL_WEIGHED = 250
OPERATORS = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}
# A filter that keeps little makes the scan go far: further than its defaults of 20,000 rows and once
# work_mem, which is not the same for every role, so that results would differ.
FAR = """|| pg_catalog.set_config('hnsw.max_scan_tuples', '200000', true)
                || pg_catalog.set_config('hnsw.scan_mem_multiplier', '16', true)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The tables that a collection is searched in. `space_id` is None without vectors.

    `slot` is the vector index that is walked, `index_storage` what it holds where that is not what the
    table holds.
    """

    collection: str
    collection_id: int
    space_id: int | None = None
    dimension: int = 0
    metric: str = "cosine"
    storage: str = "vector"
    slot: int = 1
    index_storage: str | None = None
    attached: Attached | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A filter's part in a statement. `condition` and `lookup` are SQL over a row `d` of document.

    They bind $1 to $`parameters`; what else a statement binds comes after these. `ids` selects just
    the allowed documents, as `document_id`, where an index alone can tell.
    `is_small`: the allowed chunks are collected first and all compared. Else indexes are walked in
    their order, and each chunk is looked at until there are enough; the vector index hands over `rows`
    (at least the limit), which are sorted once more.
    """

    condition: str
    lookup: str | None
    parameters: int
    is_small: bool
    ids: str | None = None
    rows: int = 0


def after_filter(scope: Scope | None) -> int:
    """Return the number of the first parameter after those that a filter binds."""
    return 1 + (scope.parameters if scope else 0)
