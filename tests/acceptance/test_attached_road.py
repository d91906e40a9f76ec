"""The whole road of tables that others made: attached, searched, evaluated, tuned, given back."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_postgres import PGEngine, PGVectorStore
from langchain_postgres.v2.indexes import HNSWIndex

import foreign_tables
import tiny_model
from command import Command, one_object, place
from conftest import connect
from ragline import config as configuration
from ragline.core.dsn import Dsn
from ragline.models import embed
from ragline.models.embed import Embedder
from ragline.ops import embedded, programs

ROWS = 1_000
QUESTIONS = 80
DIMENSION = 840
"""So long that a vector lies outside of its row: comparing them all takes many times what an index does,
on a busy machine too. And so long that of all indexes two are small enough."""
SMALL, RECALL = "2.2MB", 0.8
# By the key. A column that no two rows share is nothing that the gate would filter by.
_TABLES = {
    "Letters": ("langchain_id", ()),
    "document_chunks": ("id", ("--filter", "chunk_index")),
    "conversation_messages": ("message_id", ("--filter", "message_index")),
}
_COPIES = """
insert into document_chunks (document_id, chunk_index, content, embedding)
select 1 + n % 2, n, content, embedding
from (select row_number() over () as n, * from "Letters") l;
insert into conversation_messages (session_id, role, content, message_index, embedding)
select 's' || n % 3, 'human', content, n, embedding
from (select row_number() over () as n, * from "Letters") l;
alter database ragline set ivfflat.probes = 4;
analyze;
"""


def _texts() -> list[str]:
    words = random.Random(7)
    return [" ".join(words.choices(tiny_model.WORDS, k=12)) for _ in range(ROWS)]


TEXTS = _texts()


@dataclass(frozen=True, kw_only=True)
class Town:
    """A server with tables of three applications in it, and the schema that they left."""

    ragline: Command
    dsn: Dsn
    store: PGVectorStore

    def ask(self, sql: str, *values: object) -> list[Any]:
        async def asked() -> list[Any]:
            db = await connect(self.dsn)
            try:
                return [tuple(row) for row in await db.fetch(sql, *values)]
            finally:
                await db.close()

        return asyncio.run(asked())

    def schema(self) -> list[str]:
        """Return what pg_dump says of everything that is not ragline's, a statement each."""
        dump = programs.program("pg_dump", 18)
        arguments = ["--schema-only", "--exclude-schema=ragline"]
        text = asyncio.run(programs.run(dump, arguments, self.dsn))
        plain = re.sub(r"^\\(un)?restrict .*$|^--.*$", "", text, flags=re.MULTILINE)
        return [one.strip() for one in plain.split(";\n") if one.strip()]


class _Model(Embeddings):
    """The model of the test as LangChain calls one."""

    def __init__(self, ragline: Command) -> None:
        self._config = configuration.load(environ=ragline.environment)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        async def made(model: Embedder) -> list[list[float]]:
            found: list[list[float]] = (await model.embed_documents(texts)).vectors.tolist()
            return found

        return asyncio.run(self.with_model(made))

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    async def with_model(self, use: Callable[[Embedder], Awaitable[Any]]) -> Any:
        model = await embed.open_configured_embedder(self._config)
        assert model is not None
        try:
            return await use(model)
        finally:
            await model.close()


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with place() as command:
        folder = tiny_model.make(command.folder / "model", dimension=DIMENSION)
        ragline = command.with_(RAGLINE_MODEL_DIR=str(folder))
        ragline.json("collection", "list")
        dsn = embedded.dsn(embedded.ensure(ragline.data_dir))
        model = _Model(ragline)

        engine = PGEngine.from_connection_string(dsn.for_sqlalchemy("test"))
        engine.init_vectorstore_table("Letters", DIMENSION)
        store = PGVectorStore.create_sync(engine, model, "Letters")
        store.add_documents([Document(page_content=text, metadata={}) for text in TEXTS])
        store.apply_vector_index(HNSWIndex(m=48, ef_construction=96))

        async def others(embedder: Embedder) -> None:
            db = await connect(dsn)
            await foreign_tables.document_chunks(db, (), embedder)
            await foreign_tables.conversation_messages(db, (), embedder)
            await db.execute(_COPIES)
            await db.close()

        asyncio.run(model.with_model(others))
        yield Town(ragline=ragline, dsn=dsn, store=store)


def _dataset(town: Town, table: str, key: str) -> tuple[str, Path]:
    """Import questions of which the rows that they were made of are the answers, by their keys.

    Return the dataset's name, and a file of the questions alone.
    """
    sql = f'select {key}::text, content from public."{table}" order by content limit {QUESTIONS}'  # noqa: S608
    rows = town.ask(sql)
    folder = town.ragline.folder
    queries, qrels, alone = (folder / f"{table}.{end}" for end in ("tsv", "qrels", "txt"))
    questions = [" ".join(text.split()[:9]) for _, text in rows]
    alone.write_text("\n".join(questions))
    queries.write_text("".join(f"{n}\t{text}\n" for n, text in enumerate(questions)))
    qrels.write_text("".join(f"{n} 0 {key} 1\n" for n, (key, _) in enumerate(rows)))
    name = table.lower()
    town.ragline.json("eval", "dataset", "import", queries, "--qrels", qrels, "--name", name)
    return name, alone


@pytest.mark.parametrize("table", _TABLES)
def test_a_table_goes_the_whole_road_and_comes_back(town: Town, table: str) -> None:
    ragline, before = town.ragline, town.schema()
    key, options = _TABLES[table]

    attached = ragline.json("attach", table, *options, "--yes")
    assert (attached["attached"]["name"], attached["attached"]["chunks"]) == (table, ROWS)
    assert attached["plan"]["similarity"] > 0.99
    dataset, questions = _dataset(town, table, key)
    found = ragline.json("search", "-c", table, "-k", "3", "--method", "vector", TEXTS[5])
    assert found["hits"][0]["body"] == TEXTS[5]
    run = ragline.json("eval", "run", dataset, "-c", table, "--method", "vector")
    assert run["run"]["metrics"]["recall@10"]["value"] > 0.5, run["run"]["metrics"]
    _tune_its_index(ragline, table, questions)
    detached = ragline.json("detach", table, "--yes")["plan"]
    assert detached["kept_indexes"]
    assert detached["dropped_indexes"] == []

    after = town.schema()
    changed = [one for one in {*before} ^ {*after} if one]
    assert changed
    kept = (*detached["kept_indexes"], *detached["gone_indexes"])
    assert [one for one in changed if not _defines(one, kept)] == []
    _its_application_works(town, table)


def _tune_its_index(ragline: Command, table: str, questions: Path) -> None:
    """Have the cheapest index found that holds the recall, measured by the gate, and kept."""
    tune = ("index", "tune", table, "--quick", "--recall", str(RECALL), "--max-size", SMALL)
    asked = ("--queries", questions, "--apply", "--json", "--quiet")
    done = ragline.run(*tune, *asked, timeout_s=300)
    assert done.returncode in (0, 5), (done.stdout[-3000:], done.stderr)
    tuned = one_object(done.stdout)
    change, proposal = tuned["change"], tuned["proposal"]
    assert len(tuned["trials"]) > 1
    assert proposal["unseen"]["high"] >= RECALL
    verdict = change["verdict"]
    (recall,) = [row for row in verdict["rows"] if row["metric"].startswith("ann_recall@10")]
    assert recall["status"] == "pass"
    assert recall["value"] >= RECALL - 0.05
    if done.returncode == 0:
        assert (change["state"], verdict["rung"]) == ("kept", "recall")
        return
    # A machine that others use can be too noisy for the gate to tell times. Quality it told: a person
    # who trusts that takes it on their own word.
    assert change["state"] == "inconclusive"
    assert {row["status"] for row in verdict["rows"] if "p50_ms" not in row["metric"]} == {"pass"}
    design = [f"{name}={proposal['design'][name]}" for name in ("m", "ef_construction", "storage")]
    ragline.json("change", "plan", "index", table, *design, "--no-measure", "--apply")


def _defines(statement: str, indexes: tuple[str, ...]) -> bool:
    found = re.fullmatch(r'CREATE INDEX ("[^"]+"|\S+) ON .*', statement, re.DOTALL)
    return found is not None and found[1].strip('"') in indexes


def _its_application_works(town: Town, table: str) -> None:
    """Write and search as the table's own application does."""
    if table == "Letters":
        town.store.add_documents([Document(page_content="w1 w2 w3", metadata={})])
        assert town.store.similarity_search("w1 w2 w3", 1)[0].page_content == "w1 w2 w3"
        return
    inserts = {
        "document_chunks": "insert into document_chunks (document_id, content, embedding) "
        "select 1, 'new', embedding from document_chunks order by id limit 1",
        "conversation_messages": "insert into conversation_messages "
        "(session_id, role, content, message_index, embedding) select 'new', 'ai', 'new', 0, "
        "embedding from conversation_messages order by message_id limit 1",
    }
    town.ask(inserts[table])
    operator = "<=>" if table == "document_chunks" else "<->"
    found = town.ask(
        f"select content from {table} order by embedding {operator} "  # noqa: S608
        f"(select embedding from {table} where content = 'new') limit 2"
    )
    assert ("new",) in found
