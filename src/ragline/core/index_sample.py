"""What a sample of queries says about a vector index."""

from __future__ import annotations

from dataclasses import dataclass

from ragline.core.list_fit import ListFit

MARK = "ragline_sample"
"""A name in every statement of a sample, so that nobody takes them for the work of an application."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """recall@k of an index against an exact search of the same rows, over `n` queries.

    `mean` lies in `low` to `high` in 95 of 100 samples; `worst` is that of the worst query. All are
    None, with `why_not` said, where nothing could be measured. Times are medians of one query;
    `exact_ms` is None where the exact search was done for all queries at once. `width` is how far was
    searched: `ef_search` of HNSW, or the probes of IVFFlat. `path` is what the planner takes where that
    is not this index.

    `rows` are those with a vector that the index could hold, `null_rows` those without, `zero_rows`
    those whose vector is zero. Of IVFFlat: what one probe finds, and what lists made of today's rows
    would find.
    """

    k: int
    n: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    worst: float | None = None
    short: int = 0
    median_ms: float | None = None
    exact_ms: float | None = None
    width: int | None = None
    width_name: str = "ef_search"
    path: str | None = None
    rows: int | None = None
    null_rows: int | None = None
    zero_rows: int | None = None
    one_probe: ListFit | None = None
    fitted: ListFit | None = None
    why_not: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def interval(self) -> str:
        """The interval, for people."""
        if self.low is None or self.high is None:
            return "interval unknown"
        return f"{self.low:.3f} to {self.high:.3f}"
