"""Hostile strings in every place of a search change nothing but the result of that search."""

# ruff: noqa: S608 -- the statements are made of the conditions that are tested

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import asyncpg
import httpx
import pytest

import injections
from conftest import connect, opened
from ragline.config import Config
from ragline.core.dsn import Dsn
from ragline.core.filters import (
    And,
    Compare,
    Contains,
    Exists,
    Filter,
    In,
    Not,
    Or,
    from_json,
    from_text,
    matches,
    to_text,
)
from ragline.core.results import Method
from ragline.db.filters import where
from ragline.errors import NotFound, UsageError
from ragline.http.app import create_app
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import catalog, ingest
from ragline.rag.app import App
from ragline.rag.search import query, search_collections
from servers import own_database

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
# Words of the JSON form, and numbers: hostile elsewhere, ordinary there.
_OURS = {"and", "or", "not", "in", "contains", "exists", "key", "op", "value", "-1", "1e309"}
_NOT_OURS = tuple(text for text in injections.ALL if text not in _OURS)


@dataclass(frozen=True, slots=True)
class Place:
    """A database of documents named after, and described by, every string that it can hold."""

    app: App
    db: Db
    dsn: Dsn
    collection_id: int
    metadata: dict[str, dict[str, Any]]
    digest: str

    def expected(self, filter_: Filter) -> set[str]:
        return {source for source, item in self.metadata.items() if matches(filter_, item)}


@pytest.fixture(scope="module")
async def place(template: Dsn, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    metadata = {
        f"{number} {text}": {text: text, "v": text, "tags": [text, "all"], "n": number}
        for number, text in enumerate(injections.STORABLE)
        if len(text.encode()) < 1990
    }
    async with (
        own_database(template) as dsn,
        opened(dsn, tmp_path_factory.mktemp("data"), FakeEmbedder()) as app,
    ):
        texts = [
            ingest.Text(source=source, text="an ant", metadata=item)
            for source, item in metadata.items()
        ]
        report = await ingest.ingest_texts(app, texts, "kb")
        assert (report.added, report.rejections) == (len(texts), ())
        # What a search remembers of a collection may be stored by the first one.
        await search_collections(app, query("ant", "kb", filter="n >= 0"))
        db = await connect(dsn)
        id_ = await db.fetchval("select id from collection")
        yield Place(app, db, dsn, id_, metadata, await digest(db))
        await db.close()


@pytest.fixture(autouse=True)
async def unchanged(place: Place) -> AsyncIterator[None]:
    """Whatever a test did, every table and every role is as it was."""
    yield
    assert await digest(place.db) == place.digest


async def digest(db: Db) -> str:
    """Return what all tables hold and which tables and roles there are, as one text."""
    tables = await db.fetch(
        "select c.oid::regclass::text from pg_class c "
        "where relnamespace = 'ragline'::regnamespace and relkind = 'r' order by 1"
    )
    found = [
        await db.fetchrow(
            f"select '{name}', count(*), md5(string_agg(t::text, '|' order by t::text)) "
            f"from {name} as t"
        )
        for (name,) in tables
    ]
    roles = await db.fetch(
        "select rolname, rolsuper, rolcreaterole, rolconfig from pg_roles order by 1"
    )
    settings = await db.fetchval("select current_setting('search_path')")
    return repr([*map(tuple, filter(None, found)), *map(tuple, roles), settings])


def conditions(text: str) -> list[Filter]:
    """Filters with a string as key, as value, and as both."""
    return [
        Compare(text, "eq", text),
        Compare(text, "ne", "x"),
        Compare("v", "eq", text),
        Compare("v", "le", text),
        Compare("v", "gt", text),
        In("v", (text, 1, True, "x")),
        Contains("v", text),
        Contains("tags", text),
        Exists(text),
        And((Exists(text), Not(Compare("v", "eq", text)))),
        Or((Compare(text, "ge", text), Contains(text, text), Compare("n", "eq", 1))),
    ]


def test_there_are_more_than_two_hundred() -> None:
    assert len(injections.ALL) == len(set(injections.ALL)) > 250


async def test_strings_as_keys_and_values_find_what_the_oracle_finds(place: Place) -> None:
    for text in injections.STORABLE:
        for filter_ in conditions(text):
            assert await _found(place, filter_) == place.expected(filter_), ascii(filter_)


@pytest.mark.parametrize("method", ["hybrid", "vector", "lexical"])
async def test_strings_in_filters_of_searches_find_what_the_oracle_finds(
    place: Place, method: Method
) -> None:
    for text in injections.STORABLE:
        for filter_ in (Compare(text, "eq", text), And((Exists(text), Contains("tags", text)))):
            result = await search_collections(
                place.app, query("ant", "kb", k=20, method=method, filter=filter_)
            )
            found = {hit.source for hit in result.hits}
            expected = place.expected(filter_)
            assert found == expected or len(expected) > 20, ascii(filter_)
            assert found <= expected


async def test_strings_in_the_text_of_a_filter_mean_themselves_or_are_refused(
    place: Place,
) -> None:
    refused = 0
    for text in injections.ALL:
        for line in (text, f'v = "{text}"', f"v = '{text}'", f"`{text}` exists", f"n {text} 1"):
            try:
                filter_ = from_text(line)
            except UsageError:
                refused += 1
                continue
            assert from_text(to_text(filter_)) == filter_
            assert await _found(place, filter_) == place.expected(filter_), ascii(line)
    assert refused > len(injections.ALL)


async def test_strings_in_the_json_of_a_filter_mean_themselves_or_are_refused(
    place: Place,
) -> None:
    for text in _NOT_OURS:
        for refused in (
            {"key": "v", "op": text, "value": 1},
            {"key": "v", "op": "eq", "value": 1, text: 1},
            {text: [{"key": "v", "op": "exists"}], "x": 1},
            {"key": "v", "op": "eq", "value": {text: 1}},
            {"key": "v", "op": "eq", "value": {"decimal": text}},
            {"key": "v", "op": "lt", "value": [text]},
        ):
            with pytest.raises(UsageError) as refusal:
                from_json(refused)
            assert str(refusal.value).isprintable(), ascii(text)


@pytest.mark.parametrize("text", injections.REFUSED, ids=lambda text: ascii(text[:12]))
def test_what_no_text_can_hold_is_refused_as_key_and_as_value(text: str) -> None:
    for make in (
        lambda: Exists(text),
        lambda: Compare("v", "eq", text),
        lambda: In("v", (text,)),
        lambda: Contains("v", text),
    ):
        with pytest.raises(UsageError):
            make()


async def test_strings_as_collection_names_are_of_no_collection(place: Place) -> None:
    for text in injections.ALL:
        with pytest.raises(UsageError):
            await search_collections(place.app, query("ant", text, filter="n >= 0"))
        with pytest.raises(UsageError):
            await search_collections(place.app, query("ant", ("kb", text), method="lexical"))
        with pytest.raises(NotFound):
            await catalog.remove_collection(place.app, text)


async def test_strings_as_questions_find_what_they_say_or_nothing(place: Place) -> None:
    for text in injections.ALL:
        with contextlib.suppress(UsageError):
            await search_collections(place.app, query(text, "kb", k=1, filter="n < 5"))


async def test_strings_over_http_are_refused_by_name(place: Place, tmp_path: Path) -> None:
    service = create_app(Config(dsn=place.dsn, data_dir=tmp_path))
    async with service.router.lifespan_context(service):
        transport = httpx.ASGITransport(service)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost:8000"
        ) as client:
            for text in _NOT_OURS:
                for answer in await _asked(client, text):
                    assert answer.status_code in (400, 404, 405, 422), (ascii(text), answer.text)


async def _asked(client: httpx.AsyncClient, text: str) -> Sequence[httpx.Response]:
    filter_ = {"key": "v", "op": text, "value": 1}
    of_filter = {"question": "ant", "collection": "kb", "filter": filter_}
    of_collection = {"question": "ant", "collection": text}
    headers = {"content-type": "application/json"}
    answers = [
        await client.post("/search", content=json.dumps(body), headers=headers)
        for body in (of_filter, of_collection)
    ]
    if len(text) < 500 and text.isprintable() and text.strip("./"):
        path = quote(text, safe="")
        answers += [
            await client.get(f"/documents/{path}"),
            await client.delete(f"/documents/{path}"),
            await client.delete(f"/collections/{path}"),
            await client.get("/documents", params={"collection": text}),
        ]
    return answers


async def _found(place: Place, filter_: Filter) -> set[str]:
    condition = where(filter_, collection_id=place.collection_id, first=2)
    lookup = f"and ({condition.lookup})" if condition.lookup else ""
    rows = await place.db.fetch(
        f"select d.source from document d where d.collection_id = $1 and ({condition.sql}) {lookup}",
        place.collection_id,
        *condition.values,
    )
    return {row[0] for row in rows}
