"""Collections that changes are measured on: vectors whose neighbours and metadata are known."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

from conftest import connect
from ragline.config import Config
from ragline.core.budget import Workload
from ragline.core.change import Trial
from ragline.core.dsn import Dsn
from ragline.core.results import SearchResult
from ragline.db import collections
from ragline.evals import gate, gate_pair, gate_searches
from ragline.models.embed import Embedded, Embedder, ModelFacts, Vector
from ragline.rag.app import App
from ragline.rag.query import Query
from ragline.rag.search import search_collections
from ragline.wiring import open_app

COLLECTION = "docs"
CLUSTERS = 50
TRAP_CHUNKS = 10_000
DIMENSION = 64
_NUMBER = re.compile(r"\d+")


class ClusteredEmbedder:
    """A text with a number in it has that row of the made vectors; the same on every machine.

    `noise` is added to what is asked, not to what is stored: a model whose questions lie badly.
    """

    def __init__(
        self, count: int = TRAP_CHUNKS, *, noise: float = 0.0, dimension: int = DIMENSION
    ) -> None:
        self.clusters, self.vectors = clustered(count, dimension)
        self._noise = noise
        self.facts = ModelFacts(
            model_id=f"clustered-{noise:g}",
            weights_hash=blake2b(f"clustered {noise} {dimension}".encode()).hexdigest()[:64],
            dimension=dimension,
            normalised=True,
            languages=(),
            max_tokens=256,
        )

    async def embed_query(self, text: str) -> Vector:
        row = self._row(text)
        drawn = np.random.default_rng(row).normal(size=self.facts.dimension).astype(np.float32)
        vector: Vector = self.vectors[row] + np.float32(self._noise) * drawn
        return vector / np.float32(np.linalg.norm(vector))

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        return Embedded(
            vectors=self.vectors[[self._row(text) for text in texts]],
            truncated=0,
            tokens=len(texts),
        )

    async def close(self) -> None:
        """Nothing is held."""

    def _row(self, text: str) -> int:
        found = _NUMBER.search(text)
        return int(found[0]) % len(self.vectors) if found else 0


def clustered(
    count: int, dimension: int = DIMENSION
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return each vector's cluster, and the vectors, of length 1, shape (count, dimension)."""
    generator = np.random.default_rng(1)
    centers = generator.normal(size=(CLUSTERS, dimension)) * 0.6
    own = generator.integers(CLUSTERS, size=count)
    vectors = (centers[own] + generator.normal(size=(count, dimension))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return own, vectors


async def fill(
    app: App, dsn: Dsn, count: int, name: str = COLLECTION, *, dimension: int = DIMENSION
) -> None:
    """Fill a collection with so many chunks of a document each, and build its index.

    Set by set: through an ingest it takes 4 ms a document. `own` is the cluster, `half` goes along with
    nothing.
    """
    embedder = ClusteredEmbedder(count, dimension=dimension)
    pool = await app.pool("admin")
    async with pool.connection() as connection:
        await collections.add(
            connection, name, language="english", chunk_size=1000, chunk_overlap=0
        )
        made = await collections.one(connection, name)
        assert made is not None
        facts = embedder.facts
        assert await collections.add_space(
            connection,
            made.id,
            model_id=facts.model_id,
            weights_hash=facts.weights_hash,
            dimension=facts.dimension,
            metric="cosine",
            storage="vector",
            normalised=True,
            languages=(),
            indexed=False,
        )
    login = await connect(dsn)
    try:
        space = await login.fetchval(
            "select active_space_id from collection where id = $1", made.id
        )
        bodies = [f"Passage {n} of this collection stands here alone." for n in range(count)]
        owns = [int(own) for own in embedder.clusters]
        await login.execute(_DOCUMENTS, made.id, bodies, owns)
        await login.execute(_TERMS, count)
        await login.execute(_CHUNKS, made.id)
        vectors = ["[" + ",".join(f"{x:.7g}" for x in one) + "]" for one in embedder.vectors]
        await login.execute(_VECTORS.format(space=space), made.id, vectors)
        await login.execute("select fold_postings($1, 0)", made.id)
        await login.execute("vacuum analyze")
    finally:
        await login.close()
    async with pool.connection() as connection:
        assert await collections.build_index(connection, space)


_DOCUMENTS = """
    insert into document (
        collection_id, source, media_type, body, content_hash, recipe, metadata
    )
    select $1, 't' || (place - 1), 'text/plain', body, sha256(body::bytea), 'made',
           jsonb_build_object('own', own, 'half', case place % 2 when 0 then 'odd' else 'even' end)
    from unnest($2::text[], $3::int[]) with ordinality as given (body, own, place)
"""
_TERMS = """
    insert into term (term)
    select 'passag' union select (n - 1)::text from generate_series(1, $1) as n
    on conflict do nothing
"""
_CHUNKS = """
    insert into chunk (
        collection_id, document_id, document_characters, ordinal, start_char, end_char, body, tokens,
        term_ids, frequencies, length
    )
    select d.collection_id, d.id, d.characters, 0, 0, d.characters, d.body, 8,
           array[common.id, own.id], '\\x0101', 2
    from document d
    join term own on own.term = substr(d.source, 2)
    cross join (select id from term where term = 'passag') as common
    where d.collection_id = $1
"""
_VECTORS = """
    insert into embedding_{space} (chunk_id, embedding)
    select c.id, given.embedding::vector
    from unnest($2::text[]) with ordinality as given (embedding, place)
    join document d on d.collection_id = $1 and d.source = 't' || (given.place - 1)
    join chunk c on c.document_id = d.id
"""


async def walk_filters(dsn: Dsn) -> None:
    """Have every filter walk the index: as in a collection where comparing would be dear."""
    level = (
        '{"share": 0.001, "ef_search": 40, "factor": 4, "recall": 1, "index_ms": 1, "exact_ms": 9}'
    )
    connection = await connect(dsn)
    try:
        await connection.execute(
            f"""
            insert into search_calibration (space_id, exact_chunks, levels, chunks)
            select c.active_space_id, 50, '[{level}]',
                   (select sum(chunks) from collection_statistic where collection_id = c.id)
            from collection c where c.active_space_id is not null
            on conflict (space_id) do update
            set exact_chunks = excluded.exact_chunks, levels = excluded.levels
            """  # noqa: S608 -- our own
        )
    finally:
        await connection.close()


@dataclass
class SearchTime:
    """The time of a machine on which a search always takes about 4 ms, and nothing else does.

    What a gate says is then nobody's luck, and how much it asks not a matter of the machine.
    `slower` adds seconds to the searches of an App; `delays` are those that there were.
    """

    now: float = 1000.0
    slower: Callable[[App], float] = field(default=lambda _app: 0.0)
    delays: list[float] = field(default_factory=list)
    _noise: random.Random = field(default_factory=lambda: random.Random(1))

    def __call__(self) -> float:
        self.now += 1e-4
        return self.now

    async def search(self, app: App, query: Query) -> SearchResult:
        """Search, and let the time go on by what that takes."""
        found = await search_collections(app, query)
        self.delays.append(self.slower(app))
        self.now += 0.004 * self._noise.uniform(0.98, 1.02) + self.delays[-1]
        return found


@contextmanager
def steady() -> Iterator[SearchTime]:
    """Have gates measure in such a time."""
    clock = SearchTime()
    told = SimpleNamespace(perf_counter=clock, monotonic=clock)
    with pytest.MonkeyPatch.context() as patch:
        for module in (gate, gate_pair, gate_searches):
            patch.setattr(module, "time", told)
        patch.setattr(gate_searches, "search_collections", clock.search)
        yield clock


OpenApp = Callable[[Workload, Mapping[str, Trial]], AbstractAsyncContextManager[App]]


def opener(dsn: Dsn, data_dir: Path, *embedders: Embedder) -> OpenApp:
    """Return how a gate opens ragline on a test's database, with models of the test's choice."""

    @asynccontextmanager
    async def open_one(workload: Workload, trials: Mapping[str, Trial]) -> AsyncIterator[App]:
        config = Config(dsn=dsn, data_dir=data_dir)
        async with open_app(config, search_workload=workload) as app:
            app.trials = dict(trials)
            yield with_models(app, *embedders)

    return open_one


def with_models(app: App, *embedders: Embedder) -> App:
    """Give an App these models, the first for new collections."""

    def opening(embedder: Embedder | None) -> Callable[[], Awaitable[Embedder | None]]:
        async def opened() -> Embedder | None:
            return embedder

        return opened

    first, *others = embedders or (None,)
    app.open_embedder = opening(first)
    app.other_models = tuple(opening(one) for one in others)
    return app
