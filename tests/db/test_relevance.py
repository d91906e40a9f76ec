"""The database calls documents what the core calls them: one finds them, the other counts them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from evaluated import COLLECTION, opened
from ragline.core.dsn import Dsn
from ragline.core.measuring import WAYS, Way, named
from ragline.db import queries, relevance
from ragline.rag.app import App
from ragline.rag.ingest import Text, ingest_texts

SOURCES = (
    "guide", "docs/guide.md", "old/guide.md", "docs/guide.", "docs/.hidden", "..x", "a/b.tar.gz",
    "https://example.com/x/", "https://example.com/x#part", "c.jsonl#184", "a/c.jsonl#doc#2",
    "a/c.JSONL#d/e", "c#/rows.csv#a.csv#2", "rows.tsv#", "rows.mbox#<id@host>", "x.jsonl.gz#1",
    "two\nlines.md", "row.jsonl#two\nlines", "ä/Ö.md", "#", "\u017f.c\u017fv#1",
)  # fmt: skip


@pytest.fixture
async def app(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[App]:
    async with opened(own_dsn, tmp_path) as app:
        texts = [Text(source=source, text=f"Text {n}.") for n, source in enumerate(SOURCES)]
        report = await ingest_texts(app, texts, COLLECTION)
        assert not report.rejections
        yield app


@pytest.mark.parametrize("way", WAYS)
async def test_a_document_has_the_same_name_in_the_database(app: App, way: Way) -> None:
    names = [named(source, way) for source in SOURCES]
    pool, facts = await app.pool("eval"), await app.collection(COLLECTION)

    async with pool.connection() as connection:
        counted = await relevance.present(connection, [facts], {*names, "a\0b"}, way)
        bodies = [one async for one in relevance.bodies(connection, [facts], names, way)]

    assert counted == {name: names.count(name) for name in names}
    assert sorted(bodies) == sorted((name, f"Text {n}.") for n, name in enumerate(names))


async def test_documents_of_other_names_and_collections_are_not_counted(app: App) -> None:
    pool, facts = await app.pool("eval"), await app.collection(COLLECTION)

    async with pool.connection() as connection:
        assert await relevance.present(connection, [facts], ["guide"], "source") == {"guide": 1}
        assert (
            await relevance.present(
                connection, [replace(facts, id=facts.id + 1)], ["guide"], "source"
            )
            == {}
        )
        assert [one async for one in relevance.bodies(connection, [facts], [], "stem")] == []


@pytest.mark.parametrize("block", [*(f"by_{way}" for way in WAYS), "bodies"])
def test_names_are_joined_and_not_held_against_each_document(own_dsn: Dsn, block: str) -> None:
    sql = f"set search_path = ragline; explain (generic_plan) {queries.block('relevance', block)}"
    with psycopg.connect(own_dsn.for_psycopg("test")) as server:
        # The plan for all values, which the pool asks for.
        explained = server.execute(sql.encode())
        assert explained.nextset()
        plan = [row[0] for row in explained]

    assert any(" on document" in line for line in plan)
    assert not [line for line in plan if "ANY ($2" in line]
