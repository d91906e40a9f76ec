"""Tables that other programs made: attached, searched, changed and detached, while these go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_postgres import PGEngine, PGVector, PGVectorStore
from langchain_postgres.v2.hybrid_search_config import HybridSearchConfig
from langchain_postgres.v2.indexes import HNSWIndex

import foreign_tables
import tiny_model
from command import Command, place
from ragline.models.embed_local import LocalEmbedder
from ragline.ops import embedded, programs

# Words that the tiny model tells apart.
TEXTS = tuple(f"The part w{n} stands beside w{n + 7} in hall w{n % 5 + 40}" for n in range(30))


class _Model(Embeddings):
    """The tests' model as LangChain calls one."""

    def __init__(self, model: LocalEmbedder) -> None:
        self._model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._run(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._run([text])[0]

    def _run(self, texts: Sequence[str]) -> list[list[float]]:
        vectors = asyncio.run(self._model.embed_documents(texts)).vectors
        found: list[list[float]] = vectors.tolist()
        return found


@pytest.fixture(scope="module")
def ragline() -> Iterator[Command]:
    """A server with the schema, and a tiny model."""
    with place() as command:
        model = tiny_model.make(command.folder / "model")
        ragline = command.with_(RAGLINE_MODEL_DIR=str(model))
        ragline.json("collection", "list")
        yield ragline


@pytest.fixture(scope="module")
def model(ragline: Command) -> Iterator[_Model]:
    opened = LocalEmbedder.open(ragline.folder / "model", threads=1)
    yield _Model(opened)
    asyncio.run(opened.close())


def _dsn(ragline: Command) -> Any:
    return embedded.dsn(embedded.ensure(ragline.data_dir))


def _url(ragline: Command) -> str:
    found: str = ragline.run("db", "url").stdout.strip()
    return found.replace("postgresql://", "postgresql+psycopg://", 1)


def _schema(ragline: Command) -> str:
    dump = programs.program("pg_dump", 18)
    text = asyncio.run(
        programs.run(dump, ["--schema-only", "--exclude-schema=ragline"], _dsn(ragline))
    )
    return "\n".join(line for line in text.splitlines() if "restrict" not in line)


def _documents() -> list[Document]:
    return [
        Document(page_content=text, metadata={"number": n, "hall": n % 5})
        for n, text in enumerate(TEXTS)
    ]


def _found(ragline: Command, collection: str, *more: str) -> list[str]:
    result = ragline.json("search", TEXTS[4], "-c", collection, "-k", "3", *more)
    return [hit["body"] for hit in result["hits"]]


def test_a_collection_of_langchains_pgvector_is_searched_in_place(
    ragline: Command, model: _Model
) -> None:
    stores = {
        name: PGVector(
            embeddings=model, collection_name=name, connection=_url(ragline), use_jsonb=True
        )
        for name in ("manuals", "letters")
    }
    stores["manuals"].add_documents(_documents())
    stores["letters"].add_documents([Document(page_content="Dear Sir, w91 leaks")])
    before = _schema(ragline)

    without = ragline.run("attach", "langchain_pg_embedding", "--yes")
    assert without.returncode == 2
    assert "(letters)" in without.stderr
    assert "(manuals)" in without.stderr
    only = ("--only", "collection_id=manuals")
    planned = ragline.run("attach", "langchain_pg_embedding", *only)
    assert (planned.returncode, _schema(ragline)) == (2, before)
    assert "recognised as LangChain PGVector" in planned.stdout
    done = ragline.json("attach", "langchain_pg_embedding", *only, "--yes")
    attached = done["attached"]
    assert (attached["name"], attached["chunks"]) == ("manuals", len(TEXTS))
    assert attached["space"]["model_id"] != "unknown"
    # It declares no dimension, and other collections may have others.
    assert not attached["attached"]["is_typed"]

    assert _found(ragline, "manuals", "--method", "vector")[0] == TEXTS[4]
    allowed = ragline.json(
        *("search", TEXTS[4], "-c", "manuals", "--method", "vector"), "--filter", "hall = 4"
    )
    assert {hit["metadata"]["hall"] for hit in allowed["hits"]} == {4}
    stores["manuals"].add_documents([Document(page_content="New is w95 of w96")])
    assert (
        stores["manuals"].similarity_search("w95 w96", k=1)[0].page_content == "New is w95 of w96"
    )
    new = ragline.json("search", "New is w95 of w96", "-c", "manuals", "-k", "1")
    assert new["hits"][0]["body"] == "New is w95 of w96"

    ragline.json("detach", "manuals", "--yes")
    assert _schema(ragline) == before
    assert ragline.json("collection", "list")["collections"] == []
    assert stores["letters"].similarity_search("w91", k=1)[0].page_content.startswith("Dear Sir")
    stores["manuals"].add_documents([Document(page_content="w98 afterwards")])
    assert stores["manuals"].similarity_search("w98", k=1)[0].page_content == "w98 afterwards"


def test_a_table_of_langchains_pgvectorstore_is_searched_by_vectors_and_words(
    ragline: Command, model: _Model
) -> None:
    engine = PGEngine.from_connection_string(_url(ragline))
    hybrid = HybridSearchConfig(tsv_column="content_tsv", tsv_lang="pg_catalog.english")
    size = len(model.embed_query("x"))
    engine.init_vectorstore_table("Manuals", size, hybrid_search_config=hybrid)
    store = PGVectorStore.create_sync(engine, model, "Manuals", hybrid_search_config=hybrid)
    store.add_documents(_documents())
    store.apply_vector_index(HNSWIndex(m=8, ef_construction=32))
    store.apply_hybrid_search_index()
    before = _schema(ragline)

    done = ragline.json("attach", "Manuals", "--yes")

    described = done["attached"]["attached"]
    assert described["layout"] == "LangChain PGVectorStore"
    assert described["metadata"] == "langchain_metadata"
    assert (described["words"], described["metadata_type"]) == ("content_tsv", "json")
    assert (done["attached"]["space"]["index_m"], done["attached"]["name"]) == (8, "Manuals")
    for method in ("vector", "lexical", "hybrid"):
        assert _found(ragline, "Manuals", "--method", method)[0] == TEXTS[4]
    assert store.similarity_search(TEXTS[4], k=1)[0].page_content == TEXTS[4]
    ragline.json("detach", "Manuals", "--yes")
    assert _schema(ragline) == before
    store.add_documents([Document(page_content="w98 afterwards")])
    assert store.similarity_search("w98", k=1)[0].page_content == "w98 afterwards"


def test_tables_of_other_programs_are_attached_over_the_command_line(ragline: Command) -> None:
    async def make() -> None:
        db = await asyncpg.connect(**_dsn(ragline).for_asyncpg("admin"))
        await foreign_tables.document_chunks(db)
        await foreign_tables.conversation_messages(db)
        await db.close()

    asyncio.run(make())
    before = _schema(ragline)

    for table in ("document_chunks", "conversation_messages"):
        done = ragline.json("attach", table, "--yes")
        # Their model is not configured here.
        assert done["attached"]["space"]["model_id"] == "unknown"
        assert done["attached"]["chunks"] == len(foreign_tables.TEXTS)
    refused = ragline.run("search", "pump", "-c", "document_chunks", "--method", "vector")
    assert refused.returncode != 0
    assert "model" in refused.stderr
    removed = ragline.run("collection", "remove", "document_chunks", "--yes")
    assert removed.returncode == 2
    assert "ragline detach document_chunks" in removed.stderr
    unsaid = ragline.run("detach", "document_chunks")
    assert (unsaid.returncode, "would detach" in unsaid.stdout) == (2, True)
    for table in ("document_chunks", "conversation_messages"):
        ragline.json("detach", table, "--yes")

    assert _schema(ragline) == before
