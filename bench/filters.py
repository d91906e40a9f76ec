"""Vector search with a filter: recall, full results, and time against the better hand-written query.

Two kinds of filter: by a number that has nothing to do with what a document is about, another range
for every question; and by a topic that documents near each other share, which most questions are far
from. Written by hand, prepared, on bare connections, on the same tables and indexes: an exact query,
through the index of the attributes, and two iterative index scans (relaxed, sorted again) that look
the filter up with each row; their `ef_search` is the smallest whose recall is at least ours. All fetch
the same columns. Exact results come from numpy.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import asyncpg
import numpy as np
import numpy.typing as npt

import corpus
import measure
from measure import Figure, Way
from ragline.core import filters
from ragline.core.dsn import Dsn
from ragline.core.filters import Filter
from ragline.rag.app import App
from ragline.rag.search import query, search_collections

K = 10
COLLECTION = "corpus-vectors"
TIMES = 1.3
# An iterative scan that takes so many times the exact query's time is not the better of the two.
HOPELESS = 3.0
EF_SEARCH = (10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1000)
RECALL = {0.01: 0.99, 0.1: 0.95, 0.5: 0.95}
# The clusters of the corpus that hold about so much of it; see `corpus.cluster`.
TOPICS = {0.01: (11,), 0.1: (2,), 0.5: (1, 3, 4, 5, 6, 7)}

CONTENT = """
select n.chunk_id, n.distance, c.document_id, c.start_char, c.end_char, c.body, c.headings,
       d.source, d.title, d.metadata
from ({nearest}) as n
join ragline.chunk c on c.id = n.chunk_id
join ragline.document d on d.id = c.document_id
order by n.distance
"""
# "+ 0": so that no index can give the order.
EXACT = """
select e.chunk_id, e.embedding <=> $1 as distance
from ragline.attribute a
join ragline.chunk c on c.document_id = a.document_id
join ragline.embedding_{space} e on e.chunk_id = c.id
where a.collection_id = {collection} and {attribute}
order by (e.embedding <=> $1) + 0 limit 10
"""
WITH_METADATA = """
with relaxed as materialized (
    select e.chunk_id, e.embedding <=> $1 as distance
    from ragline.embedding_{space} e
    join ragline.chunk c on c.id = e.chunk_id
    join ragline.document d on d.id = c.document_id
    where d.collection_id = {collection} and {metadata}
    order by e.embedding <=> $1 limit 10
) select * from relaxed
"""
WITH_DOCUMENTS = """
with relaxed as materialized (
    select e.chunk_id, e.embedding <=> $1 as distance
    from ragline.embedding_{space} e
    join ragline.chunk c on c.id = e.chunk_id
    where c.document_id = any (array(
        select a.document_id from ragline.attribute a
        where a.collection_id = {collection} and {attribute}
    ))
    order by e.embedding <=> $1 limit 10
) select * from relaxed
"""
WRITTEN = {
    "exact": EXACT,
    "iterative, metadata": WITH_METADATA,
    "iterative, documents": WITH_DOCUMENTS,
}
# The planner would rather sort than walk the index; who writes such a query makes it walk.
WALK = (
    "hnsw.iterative_scan = relaxed_order", "hnsw.max_scan_tuples = 200000",
    "hnsw.scan_mem_multiplier = 16", "enable_sort = off", "enable_hashjoin = off",
    "enable_mergejoin = off", "enable_seqscan = off",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of filter: its SQL for the hand-written queries, binding $2 and maybe $3."""

    name: str
    attribute: str
    metadata: str


BUCKET = Kind(
    name="number, any topic",
    attribute="a.field = '=bucket' and a.word is null and a.number >= $2::int and a.number < $3::int",
    metadata="(d.metadata->>'bucket')::int >= $2::int and (d.metadata->>'bucket')::int < $3::int",
)
TOPIC = Kind(
    name="topic of neighbours",
    attribute="a.field = '=topic' and a.word = any ($2::text[])",
    metadata="d.metadata->>'topic' = any ($2::text[])",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """The collection in memory: every chunk's vector and what filters ask of its document."""

    collection_id: int
    space_id: int
    chunk_ids: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    buckets: npt.NDArray[np.int64]
    topics: npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A question's vector, its filter in both forms, and its exact results with the last distance."""

    vector: npt.NDArray[np.float32]
    filter: Filter
    values: tuple[object, ...]
    kept: float
    wanted: int
    similarities: dict[int, float] = field(repr=False)
    least: float

    def recall(self, chunk_ids: Sequence[int]) -> float:
        """Return the share of the exact results; one as near as the last of them counts."""
        near = sum(self.similarities.get(one, -2.0) >= self.least for one in chunk_ids)
        return min(near, self.wanted) / self.wanted


def main() -> int:
    """Print the figures; exit 1 when a limit is broken, 3 when there is no corpus."""
    parser = measure.options(__doc__)
    parser.add_argument("--chunks", type=int, default=25_000)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--block", type=int, default=40)
    options = parser.parse_args()
    try:
        figures = asyncio.run(_run(options))
    except corpus.NotRun as error:
        return corpus.not_run(error)
    return measure.verdict(figures, options.json)


async def _run(options: argparse.Namespace) -> list[Figure]:
    figures: list[Figure] = []
    async with corpus.opened(options.data, COLLECTION, options.chunks, has_vectors=True) as (
        app,
        dsn,
    ):
        connection = await corpus.connect(dsn)
        stored = await _stored(connection)
        questions = await corpus.headings(connection, COLLECTION)
        print(
            f"\n{len(stored.chunk_ids):,} chunks, {corpus.DIMENSION} dimensions, top {K}, 1 client, "
            "vector search"
        )
        for kind in (BUCKET, TOPIC):
            for share in RECALL:
                asked = _asked(stored, kind, share, questions[: options.block * options.blocks])
                figures += await _cell(app, dsn, stored, kind, share, asked, options)
        await connection.close()
    return figures


async def _stored(connection: asyncpg.Connection[asyncpg.Record]) -> Stored:
    row = await connection.fetchrow(
        "select id, active_space_id from ragline.collection where name = $1", COLLECTION
    )
    assert row is not None
    rows = await connection.fetch(
        f"""
        select e.chunk_id, e.embedding, (d.metadata->>'bucket')::int, d.metadata->>'topic'
        from ragline.embedding_{row[1]} e
        join ragline.chunk c on c.id = e.chunk_id join ragline.document d on d.id = c.document_id
        order by e.chunk_id
        """
    )
    return Stored(
        collection_id=row[0],
        space_id=row[1],
        chunk_ids=np.asarray([one[0] for one in rows], dtype=np.int64),
        vectors=np.stack([one[1] for one in rows]),
        buckets=np.asarray([one[2] for one in rows], dtype=np.int64),
        topics=np.asarray([one[3] for one in rows]),
    )


def _asked(stored: Stored, kind: Kind, share: float, questions: Sequence[str]) -> list[Asked]:
    random_ = random.Random(round(share * 100))
    return [_one(stored, kind, share, question, random_) for question in questions]


def _one(stored: Stored, kind: Kind, share: float, question: str, random_: random.Random) -> Asked:
    values: tuple[object, ...]
    if kind is BUCKET:
        width = round(corpus.BUCKETS * share)
        first = random_.randint(0, corpus.BUCKETS - width)
        values = first, first + width
        text = f"bucket >= {first} and bucket < {first + width}"
        allowed = (stored.buckets >= first) & (stored.buckets < first + width)
    else:
        topics = [f"topic-{number}" for number in TOPICS[share]]
        values = (topics,)
        text = f"topic in [{', '.join(repr(one) for one in topics)}]"
        allowed = np.isin(stored.topics, topics)
    vector = corpus.vector(question)
    (places,) = np.nonzero(allowed)
    similarity = stored.vectors[places] @ vector
    wanted = min(K, len(places))
    best = np.argsort(-similarity)[: 2 * K]
    return Asked(
        vector=vector, filter=filters.from_text(text), values=values,
        kept=float(allowed.mean()), wanted=wanted,
        similarities={int(stored.chunk_ids[places[i]]): float(similarity[i]) for i in best},
        # Distances are computed in another order there: equal ones differ in the last digit.
        least=float(similarity[best[wanted - 1]]) - 1e-6,
    )  # fmt: skip


async def _cell(
    app: App,
    dsn: Dsn,
    stored: Stored,
    kind: Kind,
    share: float,
    asked: Sequence[Asked],
    options: argparse.Namespace,
) -> list[Figure]:
    """One kind of filter that keeps one share: recall, full results, and the times."""
    print(f"{kind.name}: keeps {np.mean([one.kept for one in asked]) * 100:.1f} %")
    ours: list[float] = []
    full = 0
    for one in asked:
        hits = await _ours(app, one)
        ours.append(one.recall(hits))
        full += len(hits) == one.wanted
    recall, low, high = measure.mean_of(ours, seed=4)
    figures = measure.said(
        [
            Figure(
                what=f"recall@{K}, {kind.name}, {share * 100:g} %", n=len(ours),
                value=recall, low=low, high=high, at_least=RECALL[share],
            ),
            Figure(
                what=f"full result sets, {kind.name}, {share * 100:g} %", n=len(ours),
                value=full / len(ours), at_least=1.0,
            ),
        ]
    )  # fmt: skip
    connections = [await corpus.connect(dsn) for _ in WRITTEN]
    ways: dict[str, Way] = {"ours": lambda number: _ours(app, asked[number])}
    ways |= await _by_hand(connections, stored, kind, asked, recall)
    times = await measure.timed(
        ways, queries=len(asked), block=options.block, blocks=options.blocks, seed=len(ways)
    )
    for connection in connections:
        await connection.close()
    better = min(times.keys() - {"ours"}, key=lambda name: times[name].quantile(0.5))
    value, low, high = measure.ratio_of(times["ours"], times[better], seed=5)
    p50 = ", ".join(f"{name} {times[name].quantile(0.5):.2f}" for name in times)
    p95 = ", ".join(f"{name} {times[name].quantile(0.95):.2f}" for name in times)
    return [
        *figures,
        *measure.said(
            [
                Figure(
                    what=f"p50 / the better's, {kind.name}, {share * 100:g} %", unit="x",
                    n=times["ours"].n, value=value, low=low, high=high, at_most=TIMES,
                    note=f"better: {better}; p50 ms: {p50}; p95 ms: {p95}",
                )
            ]
        ),
    ]  # fmt: skip


async def _ours(app: App, one: Asked) -> list[int]:
    found = await search_collections(
        app, query("", COLLECTION, k=K, method="vector", vector=one.vector, filter=one.filter)
    )
    return [hit.chunk_id for hit in found.hits]


async def _by_hand(
    connections: Sequence[asyncpg.Connection[asyncpg.Record]],
    stored: Stored,
    kind: Kind,
    asked: Sequence[Asked],
    recall: float,
) -> dict[str, Way]:
    """Return the hand-written queries with at least this recall that may be the better one."""
    ways: dict[str, Way] = {}
    exact_ms = 0.0
    for connection, (name, sql) in zip(connections, WRITTEN.items(), strict=True):
        way = await _written(connection, sql, stored, kind, asked)
        if sql is EXACT:
            exact_ms = await _trial(way)
            ways[name] = way
            said = f"{exact_ms:.2f} ms, exact"
        elif (took := await _trial(way)) > HOPELESS * exact_ms:
            said = f"{took:.2f} ms with ef_search {EF_SEARCH[0]}: not in the running"
        elif ef_search := await _smallest(connection, way, asked, recall):
            ways[name] = way
            said = f"ef_search {ef_search} for recall {recall:.4f}"
        else:
            said = f"does not reach recall {recall:.4f} at any ef_search"
        print(f"  {name:<22} {said}")
    return ways


async def _trial(way: Way) -> float:
    took = []
    for number in range(20):
        started = time.perf_counter()
        await way(number)
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


async def _written(
    connection: asyncpg.Connection[asyncpg.Record],
    sql: str,
    stored: Stored,
    kind: Kind,
    asked: Sequence[Asked],
) -> Callable[[int], Awaitable[list[int]]]:
    is_exact = sql is EXACT
    for setting in () if is_exact else (*WALK, f"hnsw.ef_search = {EF_SEARCH[0]}"):
        await connection.execute(f"set {setting}")
    nearest = sql.format(
        space=stored.space_id, collection=stored.collection_id,
        attribute=kind.attribute, metadata=kind.metadata,
    )  # fmt: skip
    prepared = await connection.prepare(CONTENT.format(nearest=nearest))
    await _check_plan(prepared, asked[0], is_exact)

    async def way(number: int) -> list[int]:
        one = asked[number]
        return [row[0] for row in await prepared.fetch(one.vector, *one.values)]

    return way


async def _check_plan(
    prepared: asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record], one: Asked, is_exact: bool
) -> None:
    plan = str(await prepared.explain(one.vector, *one.values))
    walks = "_hnsw" in plan
    if walks is is_exact:
        raise AssertionError(f"the hand-written query does not go the way it is meant to: {plan}")


async def _smallest(
    connection: asyncpg.Connection[asyncpg.Record],
    way: Callable[[int], Awaitable[list[int]]],
    asked: Sequence[Asked],
    recall: float,
) -> int | None:
    """Return the smallest ef_search with at least this recall, which grows with it; leave it set."""

    async def reaches(ef_search: int) -> bool:
        await connection.execute(f"set hnsw.ef_search = {ef_search}")
        missing = 0.0
        for number, one in enumerate(asked):
            missing += 1 - one.recall(await way(number))
            if missing > (1 - recall) * len(asked) + 1e-9:
                return False
        return True

    low, high = 0, len(EF_SEARCH)
    while low < high:
        middle = (low + high) // 2
        if await reaches(EF_SEARCH[middle]):
            high = middle
        else:
            low = middle + 1
    if low == len(EF_SEARCH):
        return None
    await connection.execute(f"set hnsw.ef_search = {EF_SEARCH[low]}")
    return EF_SEARCH[low]


if __name__ == "__main__":
    sys.exit(main())
