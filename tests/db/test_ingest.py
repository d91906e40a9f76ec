"""Ingest on a real database: what is written, what is left alone, and what others see meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pypdf
import pytest

from conftest import connect, opened
from contents import Db, check, content, indexes
from ragline.core import lexical
from ragline.core.dsn import Dsn
from ragline.core.results import IngestReport
from ragline.db import locks
from ragline.errors import Conflict, ModelError, NotFound, UsageError
from ragline.models.embed import Embedded
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import catalog, files, ingest
from ragline.rag.app import App
from ragline.rag.compose import Composed, Cut
from ragline.rag.search import query, search_collections

FORMATS = {
    "plain.txt": "First paragraph, über naïve cafés.\n\nSecond paragraph. " + "It goes on. " * 200,
    "page.md": "---\nauthor: me\n---\n# Top\n\nText 🙂.\n\n## Below\n\n```python\nx = 1\n```\n\n- a\n",
    "page.html": "<html><title>T</title><body><h1>Head &amp; tail</h1><p>One&nbsp;two.<pre>a\n b</pre>"
    + "<p>日本語の文章です。次の文。" * 40,
}
TABLES = (
    *("document", "chunk", "fresh_chunk", "dead_chunk", "posting_block", "term", "term_statistic"),
    "collection_statistic",
)


def write(folder: Path, texts: Mapping[str, str | bytes]) -> Path:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


async def bring(app: App, *paths: Path, prune: bool = False, **more: Any) -> IngestReport:
    return await ingest.ingest_paths(app, paths, "kb", prune=prune, **more)


async def rows(db: Db, *, tables: Sequence[str] = (*TABLES, "collection")) -> dict[str, list[Any]]:
    """Every row with what would betray a rewrite: its place and the transaction that wrote it."""
    found = {}
    for table in tables:
        found[table] = [
            tuple(row)
            for row in await db.fetch(f"select ctid, xmin, xmax, * from {table} order by ctid")  # noqa: S608
        ]
    return found


async def until_documents(db: Db) -> None:
    while not await db.fetchval("select count(*) from document"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def ids(db: Db) -> dict[str, int]:
    found = await db.fetch("select source, id from document")
    return {Path(row["source"]).name: row["id"] for row in found}


async def test_offsets_of_every_chunk_of_every_format_point_at_its_text(
    app: App, db: Db, tmp_path: Path
) -> None:
    report = await bring(app, write(tmp_path / "docs", FORMATS))

    assert (report.found, report.added, report.rejections) == (3, 3, ())
    assert report.chunks >= 10
    await check(db)


async def test_report_counts_what_the_database_holds(app: App, db: Db, tmp_path: Path) -> None:
    report = await bring(app, write(tmp_path / "docs", FORMATS))

    facts = await app.collection("kb", fresh=True)
    assert await db.fetchval("select count(*) from chunk") == report.chunks == facts.chunks
    assert await db.fetchval("select count(*) from document") == report.added == facts.documents
    assert facts.space is not None
    space = facts.space.id
    assert await db.fetchval(f"select count(*) from embedding_{space}") == report.embedded  # noqa: S608
    assert report.epoch == facts.epoch == report.added


async def test_a_second_run_writes_nothing_and_starts_no_parser(
    app: App, own_dsn: Dsn, db: Db, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", FORMATS)
    await bring(app, docs)
    before = await rows(db)

    async with opened(own_dsn, tmp_path, CountingEmbedder()) as second:
        parsed = Parsing(second)
        report = await bring(second, docs, prune=True)
        assert isinstance(await second.embedder(), CountingEmbedder)

    assert (report.unchanged, report.added, report.replaced, report.pruned) == (3, 0, 0, 0)
    assert (report.chunks, report.embedded) == (0, 0)
    assert parsed.count == 0
    assert await rows(db) == before


class Parsing:
    """Counts what an app has parsed."""

    def __init__(self, app: App) -> None:
        self.count = 0
        self._compose = app.parsers.compose
        app.parsers.compose = self._counted  # type: ignore[method-assign]

    async def _counted(self, source: Path | bytes, media_type: str, cut: Cut) -> Composed:
        self.count += 1
        return await self._compose(source, media_type, cut)


class CountingEmbedder(FakeEmbedder):
    """Counts what it embeds, and takes `pause_s` for each batch."""

    def __init__(self, *, pause_s: float = 0) -> None:
        super().__init__()
        self.count = 0
        self.pause_s = pause_s

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        self.count += len(texts)
        await asyncio.sleep(self.pause_s)
        return await super().embed_documents(texts)


class HeldEmbedder(FakeEmbedder):
    """Embeds one batch, and the others only when it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0
        self.goes_on = asyncio.Event()

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        self.batches += 1
        if self.batches > 1:
            await self.goes_on.wait()
        return await super().embed_documents(texts)


async def test_only_a_changed_file_is_replaced(app: App, db: Db, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {f"{n}.txt": f"number {n}" for n in range(5)})
    await bring(app, docs)
    before = await ids(db)

    write(docs, {"3.txt": "number three"})
    report = await bring(app, docs)

    after = await ids(db)
    assert (report.replaced, report.unchanged, report.chunks) == (1, 4, 1)
    assert {name for name in after if after[name] != before[name]} == {"3.txt"}
    await check(db)


async def test_touching_a_file_changes_nothing(app: App, db: Db, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "words"})
    await bring(app, docs)
    os.utime(docs / "a.txt", (1, 1))

    assert (await bring(app, docs)).unchanged == 1


async def test_a_reader_never_sees_a_document_half(app: App, own_dsn: Dsn, tmp_path: Path) -> None:
    def version(number: int) -> str:
        parts = [f"Version v{number} says this in part {part}. " * 8 for part in range(40)]
        return "\n\n".join(parts).strip()

    docs = write(tmp_path / "docs", {"a.txt": version(0)})
    await bring(app, docs)
    reader = await connect(own_dsn)
    seen: list[tuple[int, int, int]] = []
    done = False

    async def look() -> None:
        while not done:
            row = await reader.fetchrow(
                """
                select (select count(*) from document),
                       count(*) filter (where c.body not like '%' || substr(d.body, 9, 2) || '%'),
                       max(c.end_char) - max(d.characters)
                from document d left join chunk c on c.document_id = d.id
                """
            )
            assert row is not None
            seen.append(tuple(row))

    async def replace() -> None:
        nonlocal done
        for number in range(1, 6):
            write(docs, {"a.txt": version(number)})
            assert (await bring(app, docs)).replaced == 1
        done = True

    await asyncio.gather(look(), replace())
    await reader.close()
    assert len(seen) > 20
    assert set(seen) == {(1, 0, 0)}


async def test_prune_removes_what_is_gone_below_the_paths_and_nothing_else(
    app: App, db: Db, tmp_path: Path
) -> None:
    a = write(tmp_path / "a", {"1.txt": "one", "2.txt": "two", "deep/3.txt": "three"})
    b = write(tmp_path / "b", {"4.txt": "four"})
    twin = write(tmp_path / "a-twin", {"5.txt": "five"})
    await bring(app, a, b, twin)
    await ingest.ingest_texts(app, [ingest.Text(source="a/1.txt", text="given as text")], "kb")
    for gone in (a / "1.txt", a / "deep/3.txt", b / "4.txt", twin / "5.txt"):
        gone.unlink()

    report = await bring(app, a, prune=True)

    assert report.pruned == 2
    assert set(await ids(db)) == {"2.txt", "4.txt", "5.txt", "1.txt"}
    await check(db)


async def test_without_prune_nothing_is_removed(app: App, db: Db, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"1.txt": "one", "2.txt": "two"})
    await bring(app, docs)
    (docs / "1.txt").unlink()

    assert (await bring(app, docs)).pruned == 0
    assert set(await ids(db)) == {"1.txt", "2.txt"}


async def test_prune_keeps_the_old_version_of_a_file_that_became_unparsable(
    app: App, db: Db, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "readable", "b.md": "# fine", "noted": "plain words"})
    await bring(app, docs)
    before = await ids(db)
    write(docs, {"a.txt": b"now\0binary", "b.md": b"", "noted": b"\x89PNG\0\0"})

    report = await bring(app, docs, prune=True)

    assert await ids(db) == before
    reasons = {Path(r.source).name: r.reason for r in report.rejections}
    assert reasons == {"a.txt": "NUL_BYTE", "b.md": "EMPTY", "noted": "UNSUPPORTED"}
    assert report.pruned == 0


async def test_prune_keeps_what_lies_below_a_folder_that_cannot_be_read(
    app: App, db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = write(
        tmp_path / "docs", {"open/1.txt": "one", "shut/2.txt": "two", "shut-not/3.txt": "3"}
    )
    await bring(app, docs)
    (docs / "open/1.txt").unlink()
    (docs / "shut-not/3.txt").unlink()
    listed = Path.iterdir

    def iterdir(path: Path) -> Any:
        if path.name == "shut":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    # Not by mode: root may read every folder.
    monkeypatch.setattr(Path, "iterdir", iterdir)
    report = await bring(app, docs, prune=True)

    assert [r.reason for r in report.rejections] == ["UNREADABLE"]
    assert set(await ids(db)) == {"2.txt"}


async def test_prune_removes_what_is_ignored_now(app: App, db: Db, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"1.txt": "one", "2.log.txt": "two"})
    await bring(app, docs)

    report = await bring(app, docs, prune=True, ignore=["*.log.txt"])

    assert report.pruned == 1
    assert set(await ids(db)) == {"1.txt"}


async def test_prune_refuses_a_path_below_which_nothing_is_left_unless_told(
    app: App, db: Db, tmp_path: Path
) -> None:
    full = write(tmp_path / "full", {"1.txt": "one"})
    mount = write(tmp_path / "mount", {"2.txt": "two", "in/3.txt": "three"})
    await bring(app, full, mount)
    (mount / "2.txt").unlink()
    (mount / "in/3.txt").unlink()
    write(full, {"4.txt": "four"})
    before = await rows(db)

    with pytest.raises(UsageError, match=r"mount'.* knows 2 document\(s\) .*is it mounted\?"):
        await bring(app, full, mount, prune=True)

    assert await rows(db) == before
    assert (await bring(app, full, mount, prune=True, may_empty=True)).pruned == 2
    assert set(await ids(db)) == {"1.txt", "4.txt"}


async def test_prune_of_an_empty_path_that_nothing_is_known_of_is_no_matter(
    app: App, db: Db, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", {"1.txt": "one", "2.txt": "two"})
    (tmp_path / "new").mkdir()
    await bring(app, docs)
    (docs / "1.txt").unlink()

    assert (await bring(app, docs, tmp_path / "new", prune=True)).pruned == 1


async def test_prune_goes_on_where_only_files_of_other_kinds_are_left(
    app: App, db: Db, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", {"1.txt": "one", "picture.png": b"\x89PNG"})
    await bring(app, docs)
    (docs / "1.txt").unlink()

    assert (await bring(app, docs, prune=True)).pruned == 1


def test_an_empty_path_is_refused_rather_than_taken_for_the_current_folder() -> None:
    with pytest.raises(UsageError, match="a path is empty"):
        ingest.named(["docs", ""])
    assert ingest.named(["docs", Path(), "."]) == ([Path("docs"), Path(), Path()], [])


async def test_prune_keeps_what_another_ingest_brought_in_meanwhile(
    app: App, db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = write(tmp_path / "docs", {"1.txt": "one"})
    await bring(app, docs)
    found = list(files.find([docs]))
    write(docs, {"2.txt": "two"})
    await bring(app, docs)
    looks = iter([found])
    look = files.find

    monkeypatch.setattr(files, "find", lambda *a: next(looks, None) or look(*a))
    report = await bring(app, docs, prune=True)

    assert report.pruned == 0
    assert set(await ids(db)) == {"1.txt", "2.txt"}


async def test_a_path_that_does_not_exist_changes_nothing(app: App, db: Db, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"1.txt": "one"})

    with pytest.raises(NotFound, match="no-such-folder"):
        await bring(app, docs, tmp_path / "no-such-folder", prune=True)

    assert await db.fetchval("select count(*) from collection") == 0


async def test_paths_that_overlap_bring_each_file_once(app: App, db: Db, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"1.txt": "one", "in/2.txt": "two"})
    (tmp_path / "link").symlink_to(docs)

    report = await bring(
        app, docs, docs, docs / "in", docs / "in/2.txt", tmp_path / "link", docs / "in/.."
    )

    assert (report.found, report.added) == (2, 2)
    assert await db.fetchval("select count(*) from document") == 2


def encrypted_pdf() -> bytes:
    from io import BytesIO

    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret")
    buffer = BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


async def test_what_cannot_be_read_is_reported_by_reason_and_the_rest_goes_on(
    app: App, db: Db, tmp_path: Path
) -> None:
    bad: dict[str, str | bytes] = {
        "nul.txt": b"a\0b",
        "latin.txt": b"caf\xe9",
        "empty.txt": b"",
        "spaces.txt": b" \n\t\n",
        "locked.pdf": encrypted_pdf(),
        "torn.pdf": b"%PDF-1.7\nnothing follows",
        "blank.html": b"<html><body></body></html>",
    }
    good = {f"{n}.txt": f"good {n}" for n in range(3)}
    write(tmp_path / "docs", {**bad, **good})
    (tmp_path / "docs" / "link.txt").symlink_to(tmp_path / "nowhere")

    report = await bring(app, tmp_path / "docs")

    reasons = {Path(r.source).name: r.reason for r in report.rejections}
    assert reasons.keys() == {*bad, "link.txt"}
    assert reasons["nul.txt"] == "NUL_BYTE"
    assert reasons["locked.pdf"] == "ENCRYPTED"
    assert reasons["empty.txt"] == reasons["spaces.txt"] == "EMPTY"
    assert all(r.message for r in report.rejections)
    assert report.added == 3
    assert set(await ids(db)) == set(good)


UNSTORABLE = (
    (ingest.Text(source="x" * 2001, text="long name"), "NAME_TOO_LONG"),
    (ingest.Text(source="ü" * 1001, text="long name"), "NAME_TOO_LONG"),
    (ingest.Text(source="", text="no name"), "NO_NAME"),
    (ingest.Text(source="a\0b", text="NUL in its name"), "NUL_BYTE"),
    (ingest.Text(source="half\ud800", text="half a character in its name"), "NOT_TEXT"),
    (ingest.Text(source="bad1", text="half a character \udcff"), "NOT_TEXT"),
    (ingest.Text(source="bad2", text="NUL\0"), "NUL_BYTE"),
    (ingest.Text(source="bad3", text="words", title="a\0b"), "REFUSED"),
    (ingest.Text(source="bad4", text="words", metadata={"a": "\0"}), "REFUSED"),
    (ingest.Text(source="bad5", text="words", metadata={"a": {1, 2}}), "BAD_METADATA"),
    (ingest.Text(source="bad6", text="words", metadata={"a": float("nan")}), "BAD_METADATA"),
    (ingest.Text(source="bad7", text="words", media_type="image/png"), "UNSUPPORTED"),
)


async def test_texts_that_cannot_be_stored_are_refused_by_reason_and_the_rest_goes_on(
    app: App, db: Db
) -> None:
    texts = [ingest.Text(source=f"good{n}", text="good words") for n in range(len(UNSTORABLE))]
    mixed = [text for pair in zip(texts, UNSTORABLE, strict=True) for text in (pair[0], pair[1][0])]

    report = await ingest.ingest_texts(app, mixed, "kb")

    sources = {bad.source: reason for bad, reason in UNSTORABLE}
    assert len(sources) == len(UNSTORABLE)
    assert sorted(r.reason for r in report.rejections) == sorted(sources.values())
    for rejection in report.rejections:
        assert sources.get(rejection.source, "NOT_TEXT") == rejection.reason
        rejection.source.encode()
    assert (report.found, report.added) == (len(mixed), len(texts))
    assert set(await ids(db)) == {text.source for text in texts}
    await check(db)


async def test_a_page_of_text_marked_as_heading_harms_neither_chunks_nor_statistics(
    app: App, db: Db, tmp_path: Path
) -> None:
    heading = "a " * 40_000
    docs = write(
        tmp_path / "docs",
        {"h.html": f"<title>{heading}</title><h1>{heading}</h1>" + "<p>Some words here.</p>" * 300},
    )

    report = await bring(app, docs)

    assert report.rejections == ()
    assert await db.fetchval("select max(char_length(h)) from chunk, unnest(headings) as h") <= 300
    assert await db.fetchval("select char_length(title) from document") <= 1000
    await check(db)


async def test_a_source_given_twice_is_one_document(app: App, db: Db) -> None:
    texts = [ingest.Text(source="a", text=text) for text in ("first", "second")]

    report = await ingest.ingest_texts(app, texts, "kb")

    assert (report.added, report.replaced) == (1, 1)
    assert await db.fetchval("select body from document") == "second"
    await check(db)


@pytest.mark.parametrize(
    "change",
    [
        {"text": "other words"},
        {"title": "Another"},
        {"metadata": {"a": 2}},
        {"metadata": {"a": [1, {"b": None}]}},
        {"media_type": "text/markdown"},
    ],
)
async def test_a_text_is_replaced_when_anything_about_it_changes(
    app: App, change: dict[str, Any]
) -> None:
    values: dict[str, Any] = {"source": "a", "text": "# words", "metadata": {"a": 1, "b": 2}}
    await ingest.ingest_texts(app, [ingest.Text(**values)], "kb")
    swapped = {**values, "metadata": {"b": 2, "a": 1}}
    assert (await ingest.ingest_texts(app, [ingest.Text(**swapped)], "kb")).unchanged == 1

    report = await ingest.ingest_texts(app, [ingest.Text(**{**values, **change})], "kb")

    assert report.replaced == 1


async def test_two_ingests_of_the_same_folder_at_once_converge(
    own_dsn: Dsn, db: Db, tmp_path: Path
) -> None:
    docs = write(
        tmp_path / "docs",
        {f"{n}.md": f"# Title {n}\n\n" + f"Word{n} and shared words. " * 90 for n in range(150)},
    )
    async with (
        opened(own_dsn, tmp_path, CountingEmbedder(pause_s=0.01)) as one,
        opened(own_dsn, tmp_path, CountingEmbedder(pause_s=0.01)) as two,
    ):
        reports = await asyncio.gather(bring(one, docs), bring(two, docs))
        again = await bring(one, docs)

    assert all(r.rejections == () and r.warnings == () for r in (*reports, again))
    assert again.unchanged == 150
    assert await db.fetchval("select count(*) from document") == 150
    assert await db.fetchval("select count(*) from collection") == 1
    assert await db.fetchval("select count(*) from embedding_space") == 1
    assert await db.fetchval("select count(*) from chunk") >= 500
    assert await indexes(db) == [True]
    await check(db)
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as third:
        await ingest.ingest_paths(third, [docs], "undisturbed")
    assert await content(db, "kb") == await content(db, "undisturbed")


async def test_indexes_are_built_by_one_ingest_at_a_time(app: App, own_dsn: Dsn, db: Db) -> None:
    await many_texts(app, 520)
    await db.execute("drop index embedding_1_hnsw")

    async with opened(own_dsn, app.config.data_dir, FakeEmbedder()) as second:
        await asyncio.gather(*(many_texts(one, 520) for one in (app, second, app, second)))

    assert await indexes(db) == [True]


async def many_texts(app: App, count: int, prefix: str = "t") -> IngestReport:
    texts = [
        ingest.Text(source=f"{prefix}{n}", text=f"shared words and {prefix}{n} number {n}")
        for n in range(count)
    ]
    return await ingest.ingest_texts(app, texts, "kb")


async def test_an_invalid_index_is_built_anew(app: App, db: Db) -> None:
    await many_texts(app, 520)
    await db.execute(
        "update pg_index set indisvalid = false where indexrelid = 'embedding_1_hnsw'::regclass"
    )

    report = await many_texts(app, 520)

    assert (report.unchanged, report.warnings) == (520, ())
    assert await indexes(db) == [True]


async def test_a_lock_is_held_by_one_and_comes_back_with_its_connection(app: App, db: Db) -> None:
    pool = await app.pool("admin")
    order: list[str] = []

    async def hold(name: str, seconds: float) -> None:
        async with pool.connection() as connection, locks.held(connection, "index", 7):
            order.append(f"{name} in")
            await asyncio.sleep(seconds)
            order.append(f"{name} out")

    await asyncio.gather(hold("a", 0.2), hold("b", 0))
    async with pool.connection() as connection, locks.held(connection, "index", 7):
        pid = await connection.fetchval("select pg_backend_pid()")
        await db.fetchval("select pg_terminate_backend($1, 5000)", pid)
        order.append("cut")
    await asyncio.wait_for(hold("c", 0), 60)

    assert order in (
        ["a in", "a out", "b in", "b out", "cut", "c in", "c out"],
        ["b in", "b out", "a in", "a out", "cut", "c in", "c out"],
    )


async def test_statistics_are_exact_after_many_writers_at_once(
    app: App, own_dsn: Dsn, db: Db, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as second:
        await asyncio.gather(
            many_texts(app, 60, "a"),
            many_texts(app, 60, "b"),
            many_texts(second, 60, "c"),
            many_texts(second, 60, "d"),
        )

    assert await db.fetchval("select count(*) from document") == 240
    assert await db.fetchval("select epoch from collection") == 240
    await check(db)


async def test_vectors_missing_from_a_run_without_a_model_are_filled_in_by_the_next(
    own_dsn: Dsn, db: Db, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", {f"{n}.txt": f"number {n}" for n in range(30)})
    async with opened(own_dsn, tmp_path, None) as without:
        report = await bring(without, docs)
        assert report.embedded == 0
        assert any("no vectors" in warning for warning in report.warnings)
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as one:
        async with opened(own_dsn, tmp_path, FakeEmbedder()) as two:
            reports = await asyncio.gather(bring(one, docs), bring(two, docs))
        assert all(r.unchanged == 30 for r in reports)
    await check(db)

    write(docs, {"1.txt": "number one"})
    async with opened(own_dsn, tmp_path, None) as without:
        report = await bring(without, docs)
        assert any("1 chunks have no vectors" in warning for warning in report.warnings)
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as again:
        assert (await bring(again, docs)).embedded == 1
    await check(db)


async def test_vectors_that_another_ingest_filled_in_meanwhile_are_no_error(
    own_dsn: Dsn, db: Db, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", {f"{n}.txt": f"number {n}" for n in range(10)})
    async with opened(own_dsn, tmp_path, None) as without:
        await bring(without, docs)
    both = asyncio.Barrier(2)

    class Meeting(FakeEmbedder):
        met = False

        async def embed_documents(self, texts: Sequence[str]) -> Embedded:
            if not self.met:
                self.met = True
                await both.wait()
            return await super().embed_documents(texts)

    async with (
        opened(own_dsn, tmp_path, Meeting()) as one,
        opened(own_dsn, tmp_path, Meeting()) as two,
    ):
        await asyncio.gather(bring(one, docs), bring(two, docs))

    await check(db)


async def test_vectors_of_two_models_never_mix(app: App, own_dsn: Dsn, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "words"})
    await bring(app, docs)

    async with opened(own_dsn, tmp_path, FakeEmbedder(32)) as other:
        with pytest.raises(ModelError, match=r"fake-64.*fake-32.*never mix"):
            await bring(other, docs)


@dataclass
class BrokenEmbedder:
    """Returns vectors of zeros for texts that hold a word."""

    word: str
    real: FakeEmbedder = field(default_factory=FakeEmbedder)

    @property
    def facts(self) -> Any:
        return self.real.facts

    async def embed_query(self, text: str) -> npt.NDArray[np.float32]:
        return await self.real.embed_query(text)

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        found = await self.real.embed_documents(texts)
        for place, text in enumerate(texts):
            if self.word in text:
                found.vectors[place] = 0
        return found

    async def close(self) -> None:
        await self.real.close()


async def test_a_document_whose_vector_the_database_refuses_is_left_out_whole(
    own_dsn: Dsn, db: Db, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", {"bad.txt": "poison here", "good.txt": "wholesome"})
    async with opened(own_dsn, tmp_path, BrokenEmbedder("poison")) as app:
        report = await bring(app, docs)

    assert [r.reason for r in report.rejections] == ["REFUSED"]
    assert set(await ids(db)) == {"good.txt"}
    await check(db)


async def test_a_collection_removed_while_it_is_filled_is_said(
    own_dsn: Dsn, db: Db, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", {f"{n}.txt": f"number {n}" for n in range(400)})
    model = HeldEmbedder()
    async with opened(own_dsn, tmp_path, model) as app:
        task = asyncio.create_task(bring(app, docs))
        await until_documents(db)
        await catalog.remove_collection(app, "kb")
        model.goes_on.set()
        with pytest.raises(UsageError, match="'kb' was removed"):
            await task

    for table in ("document", "chunk", "fresh_chunk", "dead_chunk", "posting_block"):
        assert await db.fetch(f"select * from {table}") == [], table  # noqa: S608


async def test_another_policy_for_a_collection_that_exists_is_refused(
    app: App, db: Db, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "words"})
    await bring(app, docs)
    before = await rows(db)

    for policy, reason in (
        (ingest.Policy(chunk_size=100), "chunk size 200, not 100"),
        (ingest.Policy(chunk_overlap=10), "chunk overlap 40, not 10"),
        (ingest.Policy(language="german"), "language english, not german"),
    ):
        with pytest.raises(UsageError, match=reason):
            await bring(app, docs, policy=policy)

    assert await rows(db) == before


async def test_a_policy_that_cannot_be_makes_no_collection(
    app: App, db: Db, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "words"})
    for policy, reason in (
        (ingest.Policy(language="klingon"), "'klingon' is not known; use one of simple, arabic"),
        (ingest.Policy(chunk_size=3), "size"),
        (ingest.Policy(chunk_size=1_000_000), "size"),
        (ingest.Policy(chunk_size=0), "size"),
        (ingest.Policy(chunk_overlap=190), "overlap"),
        (ingest.Policy(chunk_overlap=-1), "overlap"),
    ):
        with pytest.raises(UsageError, match=reason):
            await bring(app, docs, policy=policy)

    assert await db.fetchval("select count(*) from collection") == 0


@pytest.mark.parametrize("policy", [ingest.Policy(chunk_size=16), ingest.Policy(chunk_overlap=0)])
async def test_the_smallest_policies_work(
    app: App, db: Db, tmp_path: Path, policy: ingest.Policy
) -> None:
    report = await bring(app, write(tmp_path / "docs", FORMATS), policy=policy)

    assert report.rejections == ()
    await check(db)


async def test_names_that_a_collection_may_have(app: App) -> None:
    for name in ("a", "A.b-c_1", "2kb", "x" * 100, "tài-liệu", "文档", "collection.é"):
        await ingest.ingest_texts(app, [ingest.Text(source="a", text="words")], name)

        found = await search_collections(app, query("words", name))
        assert [hit.collection for hit in found.hits] == [name]


async def test_names_that_no_collection_may_have_are_refused(app: App, db: Db) -> None:
    bad = (
        "",
        " ",
        ".a",
        "-a",
        "_a",
        "a b",
        "a/b",
        "a\n",
        "a;drop",
        "x" * 101,
        "a\0",
        "'",
        "²",
        "½x",
    )
    for name in bad:
        with pytest.raises(UsageError, match="cannot name a collection"):
            await ingest.ingest_texts(app, [ingest.Text(source="a", text="words")], name)
    assert await db.fetchval("select count(*) from collection") == 0


async def test_a_collection_that_must_be_new_is_a_conflict_when_it_is_not(app: App) -> None:
    await catalog.open_collection(app, "kb", ingest.Policy(), None, must_be_new=True)

    with pytest.raises(Conflict, match="'kb' exists already"):
        await catalog.open_collection(app, "kb", ingest.Policy(), None, must_be_new=True)


async def test_a_new_way_to_cut_words_means_ingesting_again(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "words"})
    await bring(app, docs)
    monkeypatch.setattr(lexical, "VERSION", lexical.VERSION + 1)

    assert (await bring(app, docs)).replaced == 1


async def test_progress_counts_up_to_the_total_and_never_ahead_of_the_database(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", {f"{n}.txt": f"number {n}" for n in range(20)} | {"x.txt": b""})
    seen: list[ingest.Progress] = []
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        await bring(app, docs, on_progress=seen.append)

    assert [p.done for p in seen] == list(range(1, 22))
    assert {p.total for p in seen} == {21}
    assert seen[-1].chunks == 20


async def test_a_cancelled_ingest_leaves_whole_documents_and_is_continued(
    own_dsn: Dsn, db: Db, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", {f"{n}.txt": f"number {n}. " * 30 for n in range(600)})
    model = HeldEmbedder()
    async with opened(own_dsn, tmp_path, model) as app:
        task = asyncio.create_task(bring(app, docs))
        await until_documents(db)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        model.goes_on.set()
        written = await db.fetchval("select count(*) from document")
        assert 0 < written < 600
        await check(db)

        report = await bring(app, docs)

    assert (report.unchanged, report.added) == (written, 600 - written)
    await check(db)
