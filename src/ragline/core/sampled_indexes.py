"""What samples show to be wrong with vector indexes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ragline.core.checkup import Finding
from ragline.core.index_facts import IndexFacts, ServerFacts
from ragline.core.index_sample import Sample

RECALL = 0.95
"""What is asked of an index where nobody said."""
SMALL = 10_000
"""A table with fewer rows is searched well whatever its lists are."""
MOST_OF_ROWS = 0.1
"""One probe that compares more of the rows than this may be that of lists which do not part them."""

_TIMES_AS_MANY = 4
_SO_MUCH_LESS = 0.6
_TELLING = 0.1
_DEFAULT_EF_SEARCH = 40
_TURN = 1_000_000


def built_on_nothing(
    indexes: Iterable[IndexFacts], samples: Mapping[int, Sample]
) -> Iterator[Finding]:
    """Yield IVFFlat indexes whose lists were made of no rows, or of others than those of today.

    pgvector does not keep how many rows there were at the build. What tells is a sample: lists made of
    today's rows would find far more by one probe, or compare far less. Without one, only that nothing
    was counted since the build.
    """
    for index in indexes:
        if index.method != "ivfflat" or not index.serves or index.is_partitioned:
            continue
        sample = samples.get(index.oid)
        evidence = None if sample is None else _unfit_centres(index, sample)
        if sample is None and index.index_rows == 0 and (index.table_rows or 0) > index.lists:
            evidence = (
                f"0 rows were counted when it was built, and there are about "
                f"{index.table_rows or 0:,} now: its {index.lists:,} lists were made of none"
            )
        if evidence is not None:
            yield Finding(
                id="index.ivfflat_empty",
                status="fail",
                subject=index.qualified,
                evidence=evidence,
                fix=f"reindex index concurrently {index.sql_name};",
            )


def _unfit_centres(index: IndexFacts, sample: Sample) -> str | None:
    has, could = sample.one_probe, sample.fitted
    if has is None or could is None:
        return None
    why = "it was built of no rows, or of others than those of today"
    if has.share > MOST_OF_ROWS and has.share > _TIMES_AS_MANY * could.share:
        return (
            f"one probe of its {index.lists:,} lists compares {has.share:.0%} of all rows; of lists "
            f"made of today's rows it would be {could.share:.1%}: {why}"
        )
    if could.recall >= _TELLING and has.recall < _SO_MUCH_LESS * could.recall:
        return (
            f"one probe of its {index.lists:,} lists finds {has.recall:.2f} of the {sample.k} "
            f"nearest; of lists made of today's rows it would find {could.recall:.2f} or more: {why}"
        )
    return None


def unfit_lists(indexes: Iterable[IndexFacts], samples: Mapping[int, Sample]) -> Iterator[Finding]:
    """Yield IVFFlat indexes with far too many or too few lists for the rows."""
    for index in indexes:
        rows = index.table_rows
        sample = samples.get(index.oid)
        if sample is not None and sample.rows is not None:
            rows = sample.rows
        if index.method != "ivfflat" or not index.serves or not rows or rows < SMALL:
            continue
        count, right = index.lists, fitting_lists(rows)
        if right / 10 < count < right * 10:
            continue
        yield Finding(
            id="index.ivfflat_lists",
            status="warn",
            subject=index.qualified,
            evidence=f"{count:,} lists for about {rows:,} rows: {rows / count:,.0f} a list",
            fix=f"alter index {index.sql_name} set (lists = {right}); then reindex index "
            f"concurrently {index.sql_name};",
        )


def fitting_lists(rows: int) -> int:
    """Return how many lists pgvector's authors advise for so many rows."""
    return max(1, round(rows / 1000) if rows <= _TURN else round(rows**0.5))


def low_recall(indexes: Iterable[IndexFacts], samples: Mapping[int, Sample]) -> Iterator[Finding]:
    """Yield indexes that surely find less than they should."""
    for index in indexes:
        sample = samples.get(index.oid)
        if sample is None or sample.mean is None or _most(sample) >= RECALL:
            continue
        width = f", {sample.width_name} {sample.width}" if sample.width is not None else ""
        yield Finding(
            id="index.recall",
            status="warn",
            subject=index.qualified,
            evidence=f"recall@{sample.k} is {sample.mean:.3f} ({sample.interval}) of {sample.n} "
            f"sampled queries{width}; {RECALL} was asked",
            fix=_better(index),
        )


def _better(index: IndexFacts) -> str:
    if index.collection is not None:
        return f"ragline index tune {index.collection} --recall {RECALL}"
    knob = "hnsw.ef_search" if index.method == "hnsw" else "ivfflat.probes"
    return f"raise {knob}; `ragline attach {index.on}`, then `ragline index tune` finds how far"


def _most(sample: Sample) -> float:
    if sample.high is None:
        return sample.mean or 0.0
    return sample.high


def short_results(
    indexes: Iterable[IndexFacts], server: ServerFacts, samples: Mapping[int, Sample]
) -> Iterator[Finding]:
    """Yield HNSW indexes that cannot return as many rows as were asked for."""
    for index in indexes:
        sample = samples.get(index.oid)
        if sample is None or index.method != "hnsw" or index.collections:
            continue  # ragline's own searches set ef_search by what they ask for
        ef_search = sample.width or server.ef_search or _DEFAULT_EF_SEARCH
        if ef_search >= sample.k:
            continue
        yield Finding(
            id="index.ef_search",
            status="warn",
            subject=index.qualified,
            evidence=f"hnsw.ef_search is {ef_search}: no query gets more rows than that, and "
            f"{sample.k} were asked for",
            fix=f"set hnsw.ef_search to {2 * sample.k} or more for the role that asks, or "
            "hnsw.iterative_scan = strict_order",
        )


def not_held(indexes: Iterable[IndexFacts], samples: Mapping[int, Sample]) -> Iterator[Finding]:
    """Yield tables with rows that no vector index holds, so that searches never find them."""
    told: set[int] = set()
    for index in indexes:
        sample = samples.get(index.oid)
        if sample is None or index.table_oid in told:
            continue
        zero = sample.zero_rows if index.metric == "cosine" else 0
        if not sample.null_rows and not zero:
            continue
        told.add(index.table_oid)
        said = [
            f"{n:,} rows {what}"
            for n, what in ((sample.null_rows, "without a vector"), (zero, "with a zero vector"))
            if n
        ]
        yield Finding(
            id="index.rows_not_held",
            status="warn",
            subject=index.on,
            evidence=f"{' and '.join(said)}: {index.name} holds none of them, and searches "
            "through it never find them",
            fix="embed these rows again, or remove them",
        )
