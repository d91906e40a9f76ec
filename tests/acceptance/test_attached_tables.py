"""Tables that other programs made: attached, searched and detached, while these go on with them."""

from __future__ import annotations

import asyncio
import re

import asyncpg
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_postgres import PGEngine, PGVector, PGVectorStore
from langchain_postgres.v2.hybrid_search_config import HybridSearchConfig
from langchain_postgres.v2.indexes import HNSWIndex

import foreign_tables
from command import place
from foreign_tables import TEXTS
from ragline.core.attaching import Request
from ragline.core.dsn import Dsn
from ragline.core.results import Hit, Method
from ragline.errors import UsageError
from ragline.models.embed_fake import FakeEmbedder
from ragline.ops import embedded, programs
from ragline.rag import attach, catalog, detach
from ragline.rag.app import App
from ragline.rag.query import query
from ragline.rag.search import search_collections


class _Model(Embeddings):
    """The tests' model as LangChain calls one."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors = asyncio.run(FakeEmbedder().embed_documents(texts)).vectors
        found: list[list[float]] = vectors.tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def _documents() -> list[Document]:
    return [
        Document(page_content=text, metadata={"number": n, "hall": n % 5})
        for n, text in enumerate(TEXTS)
    ]


def _pgvector(dsn: Dsn, name: str) -> PGVector:
    """Return a store of LangChain's older class, with all texts in it."""
    store = PGVector(
        embeddings=_Model(), collection_name=name, connection=dsn.for_sqlalchemy("test")
    )
    store.add_documents(_documents())
    return store


async def _schema(dsn: Dsn) -> str:
    """Return what pg_dump says of everything that is not ragline's."""
    dump = programs.program("pg_dump", 18)
    text = await programs.run(dump, ["--schema-only", "--exclude-schema=ragline"], dsn)
    # Their words are new in each dump.
    return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)


async def _hits(
    app: App, collection: str, question: str, method: Method = "vector", where: str | None = None
) -> tuple[Hit, ...]:
    asked = query(question, collection, k=3, method=method, filter=where)
    return (await search_collections(app, asked)).hits


async def _still_works(store: PGVector | PGVectorStore) -> None:
    """Write and search with the table's own application."""
    await asyncio.to_thread(store.add_documents, [Document(page_content="yesterday a crane came")])
    found = await asyncio.to_thread(store.similarity_search, "crane yesterday", 1)
    assert found[0].page_content == "yesterday a crane came"


async def test_a_collection_of_langchains_pgvector_is_searched_in_place(
    app: App, own_dsn: Dsn
) -> None:
    manuals = await asyncio.to_thread(_pgvector, own_dsn, "manuals")
    await asyncio.to_thread(_pgvector, own_dsn, "letters")
    before = await _schema(own_dsn)

    with pytest.raises(UsageError, match=r"\(letters\).*\(manuals\)"):
        await attach.attach(app, Request(table="langchain_pg_embedding"))
    request = Request(table="langchain_pg_embedding", only=(("collection_id", "manuals"),))
    plan, facts = await attach.attach(app, request)

    assert plan.attached.layout == "LangChain PGVector"
    assert (facts.name, facts.chunks, plan.space.model_id) == ("manuals", len(TEXTS), "fake-64")
    # It declares no dimension.
    assert not plan.attached.is_typed
    assert (await _hits(app, "manuals", TEXTS[4]))[0].body == TEXTS[4]
    in_hall = await _hits(app, "manuals", TEXTS[4], where="hall = 3")
    assert {hit.metadata["hall"] for hit in in_hall} == {3}
    await _still_works(manuals)
    assert (await _hits(app, "manuals", "crane yesterday"))[0].body == "yesterday a crane came"
    assert (await app.collection("manuals", fresh=True)).chunks == len(TEXTS) + 1
    await detach.detach(app, "manuals")

    assert await _schema(own_dsn) == before
    assert await catalog.collections(app) == []
    await _still_works(manuals)


async def test_the_only_collection_of_langchains_pgvector_needs_no_option(
    app: App, own_dsn: Dsn
) -> None:
    await asyncio.to_thread(_pgvector, own_dsn, "Müller & Söhne")

    plan, facts = await attach.attach(app, Request(table="langchain_pg_embedding"))

    assert facts.name == "Müller_Söhne"
    assert plan.attached.only
    assert any("Müller & Söhne" in warning for warning in plan.warnings)


async def test_a_table_of_langchains_pgvectorstore_is_searched_by_vectors_and_words(
    app: App, own_dsn: Dsn
) -> None:
    def made() -> PGVectorStore:
        engine = PGEngine.from_connection_string(own_dsn.for_sqlalchemy("test"))
        hybrid = HybridSearchConfig(tsv_column="content_tsv", tsv_lang="pg_catalog.english")
        engine.init_vectorstore_table("Manuals", 64, hybrid_search_config=hybrid)
        store = PGVectorStore.create_sync(engine, _Model(), "Manuals", hybrid_search_config=hybrid)
        store.add_documents(_documents())
        store.apply_vector_index(HNSWIndex(m=8, ef_construction=32))
        store.apply_hybrid_search_index()
        return store

    store = await asyncio.to_thread(made)
    before = await _schema(own_dsn)

    plan, facts = await attach.attach(app, Request(table="Manuals"))

    assert plan.attached.layout == "LangChain PGVectorStore"
    assert (plan.attached.metadata, plan.attached.metadata_type) == ("langchain_metadata", "json")
    assert plan.attached.words == "content_tsv"
    assert facts.space is not None
    assert (facts.name, facts.space.index_m) == ("Manuals", 8)
    methods: tuple[Method, ...] = ("vector", "lexical", "hybrid")
    for method in methods:
        assert (await _hits(app, "Manuals", TEXTS[4], method))[0].body == TEXTS[4]
    await _still_works(store)
    await detach.detach(app, "Manuals")
    assert await _schema(own_dsn) == before
    await _still_works(store)


def test_on_the_command_line_nothing_is_done_without_yes() -> None:
    with place() as ragline:
        ragline.json("collection", "list")
        dsn = embedded.dsn(embedded.ensure(ragline.data_dir))

        async def make() -> None:
            db = await asyncpg.connect(**dsn.for_asyncpg("admin"))
            await foreign_tables.conversation_messages(db)
            await db.close()

        asyncio.run(make())
        before = asyncio.run(_schema(dsn))

        planned = ragline.run("attach", "conversation_messages")
        assert planned.returncode == 2
        assert "recognised as conversation_messages" in planned.stdout
        assert "nothing was changed" in planned.stderr
        assert asyncio.run(_schema(dsn)) == before
        done = ragline.json("attach", "conversation_messages", "--yes", "-c", "talks")
        # Nobody knows the model here.
        assert done["attached"]["space"]["model_id"] == "unknown"
        assert done["attached"]["chunks"] == len(TEXTS)
        assert ["session_id", "character varying(255)"] in done["plan"]["attached"]["filters"]
        refused = ragline.run("search", "pump", "-c", "talks", "--method", "vector")
        assert refused.returncode != 0
        assert "model" in refused.stderr
        removed = ragline.run("collection", "remove", "talks", "--yes")
        assert (removed.returncode, "ragline detach talks" in removed.stderr) == (2, True)
        unsaid = ragline.run("detach", "talks")
        assert (unsaid.returncode, "would detach" in unsaid.stdout) == (2, True)
        assert ragline.json("detach", "talks", "--yes")["detached"] == "talks"
        assert asyncio.run(_schema(dsn)) == before
