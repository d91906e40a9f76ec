"""Rows of files and pages of the web as documents: each comes, changes and goes by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contents import Db, check
from ragline.core.results import IngestReport
from ragline.errors import UsageError
from ragline.rag import files, ingest, records
from ragline.rag.app import App
from ragline.rag.search import query, search_collections


def jsonl(path: Path, *lines: dict[str, Any] | str) -> Path:
    path.parent.mkdir(exist_ok=True)
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


async def bring(app: App, *paths: Path, prune: bool = False, **more: Any) -> IngestReport:
    return await ingest.ingest_paths(app, paths, "kb", prune=prune, **more)


async def stored(db: Db) -> dict[str, tuple[int, str]]:
    """Id and text by what stands after the file's folder."""
    rows = await db.fetch("select source, id, body from document")
    return {Path(row["source"]).name: (row["id"], row["body"]) for row in rows}


def counts(report: IngestReport) -> tuple[int, int, int, int, int]:
    return (report.found, report.added, report.replaced, report.unchanged, report.pruned)


async def test_each_row_is_a_document_with_its_fields_as_metadata(
    app: App, db: Db, tmp_path: Path
) -> None:
    path = jsonl(
        tmp_path / "docs/faq.jsonl",
        {"id": 1, "title": "Pumps", "text": "The pump is loud.", "year": 2026, "tags": ["a"]},
        {"id": "b/2", "text": "The roof is green."},
    )
    (tmp_path / "docs/more.csv").write_text("id,text,year\nx,The door is shut.,2025\n")
    report = await bring(app, tmp_path / "docs")

    assert counts(report) == (3, 3, 0, 0, 0)
    rows = await db.fetch("select source, title, media_type, metadata from document order by id")
    assert [
        (r["source"], r["title"], r["media_type"], json.loads(r["metadata"])) for r in rows
    ] == [
        (f"{path.resolve()}#1", "Pumps", "text/plain", {"year": 2026, "tags": ["a"]}),
        (f"{path.resolve()}#b/2", None, "text/plain", {}),
        (f"{path.resolve().parent}/more.csv#x", None, "text/plain", {"year": "2025"}),
    ]
    found = await search_collections(app, query("green roof", ["kb"], k=1))
    assert found.hits[0].source.endswith("faq.jsonl#b/2")
    await check(db)


async def test_only_rows_that_changed_are_written(app: App, db: Db, tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"number {n}", "year": 2000} for n in range(700)]
    path = jsonl(tmp_path / "docs/rows.jsonl", *rows)
    await bring(app, path)
    before = await stored(db)
    rows[3]["text"], rows[600]["year"] = "another text", 2001
    jsonl(path, {"id": 1000, "text": "in front"}, *rows)
    report = await bring(app, path)

    assert counts(report) == (701, 1, 2, 698, 0)
    after = await stored(db)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"rows.jsonl#1000", "rows.jsonl#3", "rows.jsonl#600"}
    assert counts(await bring(app, path)) == (701, 0, 0, 701, 0)


async def test_other_fields_make_another_document_of_a_row(
    app: App, db: Db, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "docs/rows.jsonl", {"id": 1, "key": "k", "text": "a", "summary": "b"})
    await bring(app, path)
    report = await bring(app, path, fields=ingest.Fields(text=("summary", "text")))

    assert counts(report) == (1, 0, 1, 0, 0)
    report = await bring(app, path, fields=ingest.Fields(id="key"), prune=True)
    assert counts(report) == (1, 1, 0, 0, 1)
    assert {name: text for name, (_, text) in (await stored(db)).items()} == {"rows.jsonl#k": "a"}


@pytest.mark.parametrize("is_named", [True, False])
async def test_prune_removes_rows_that_are_gone(
    app: App, db: Db, tmp_path: Path, is_named: bool
) -> None:
    path = jsonl(tmp_path / "docs/rows.jsonl", *({"id": n, "text": f"n {n}"} for n in range(5)))
    other = jsonl(tmp_path / "docs/rows.jsonl.jsonl", {"id": 1, "text": "other"})
    await bring(app, path.parent)
    jsonl(path, {"id": 2, "text": "n 2"})

    assert (await bring(app, path.parent)).pruned == 0
    report = await bring(app, path if is_named else path.parent, prune=True)

    assert report.pruned == 4
    assert set(await stored(db)) == {"rows.jsonl#2", "rows.jsonl.jsonl#1"}
    assert other.exists()
    await check(db)


async def test_prune_removes_the_rows_of_a_file_that_is_gone_or_ignored(
    app: App, db: Db, tmp_path: Path
) -> None:
    for name in ("gone", "ignored", "stays"):
        jsonl(tmp_path / f"docs/{name}.jsonl", {"id": 1, "text": name}, {"id": 2, "text": name})
    await bring(app, tmp_path / "docs")
    (tmp_path / "docs/gone.jsonl").unlink()
    report = await bring(app, tmp_path / "docs", prune=True, ignore=["ignored.*"])

    assert report.pruned == 4
    assert set(await stored(db)) == {"stays.jsonl#1", "stays.jsonl#2"}


@pytest.mark.parametrize("bad", ["{", '{"text": "whose?"}', '{"id": 2, "text": 5}', "[" * 100_000])
async def test_prune_keeps_what_a_bad_line_may_have_been(
    app: App, db: Db, tmp_path: Path, bad: str
) -> None:
    path = jsonl(tmp_path / "docs/rows.jsonl", {"id": 1, "text": "a"}, {"id": 2, "text": "b"})
    await bring(app, path)
    before = await stored(db)
    jsonl(path, {"id": 1, "text": "a"}, bad)
    report = await bring(app, path, prune=True)

    assert (report.pruned, len(report.rejections)) == (0, 1)
    assert await stored(db) == before


async def test_a_file_whose_name_looks_like_a_row_is_none(app: App, db: Db, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "docs/rows.jsonl", {"id": 1, "text": "a"}, {"id": 2, "text": "b"})
    (tmp_path / "docs/rows.jsonl#notes.md").write_text("A file of its own.")
    await bring(app, tmp_path / "docs")
    jsonl(path, {"id": 1, "text": "a"})
    report = await bring(app, path, prune=True)

    assert report.pruned == 1
    assert set(await stored(db)) == {"rows.jsonl#1", "rows.jsonl#notes.md"}


async def test_prune_keeps_rows_that_another_ingest_brought_in_meanwhile(
    app: App, db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    jsonl(docs / "a.jsonl", {"id": 1, "text": "a"})
    await bring(app, docs)
    found = list(files.find([docs]))
    jsonl(docs / "b.jsonl", {"id": 1, "text": "b"})
    await bring(app, docs)
    looks = iter([found])
    look = files.find

    monkeypatch.setattr(files, "find", lambda *a: next(looks, None) or look(*a))
    assert (await bring(app, docs, prune=True)).pruned == 0
    assert set(await stored(db)) == {"a.jsonl#1", "b.jsonl#1"}


async def test_rejected_rows_are_named_and_the_rest_goes_on(
    app: App, db: Db, tmp_path: Path
) -> None:
    path = jsonl(
        tmp_path / "docs/rows.jsonl",
        {"id": 1, "text": "good"},
        {"id": 1, "text": "again"},
        {"id": "n" * 2000, "text": "long name"},
        {"id": 3, "text": "metadata", "x": "\0"},
        "no json",
        {"id": 4, "text": "good"},
    )
    report = await bring(app, path)

    source = str(path.resolve())
    assert sorted((r.source.removeprefix(source)[:3], r.reason) for r in report.rejections) == [
        ("", "BAD_LINE"),
        ("", "NAME_TOO_LONG"),
        ("#1", "DUPLICATE_ID"),
        ("#3", "REFUSED"),
    ]
    assert set(await stored(db)) == {"rows.jsonl#1", "rows.jsonl#4"}
    assert report.found == 6


async def test_texts_that_no_document_can_be_made_of_are_rejected_and_the_rest_comes_in(
    app: App, db: Db, tmp_path: Path
) -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    report = await ingest.ingest_texts(
        app,
        [
            ingest.Text(source="title", text="a", title="\ud800x"),
            ingest.Text(source="deep", text="a", metadata={"m": deep}),
            ingest.Text(source="good", text="Words."),
        ],
        "kb",
    )

    assert {r.source: r.reason for r in report.rejections} == {
        "title": "NOT_TEXT",
        "deep": "TOO_DEEP",
    }
    assert set(await stored(db)) == {"good"}
    rows = jsonl(
        tmp_path / "r.jsonl", {"id": 1, "title": "\ud800", "text": "a"}, {"id": 2, "text": "b"}
    )
    assert [r.reason for r in (await bring(app, rows)).rejections] == ["NOT_TEXT"]
    assert set(await stored(db)) == {"good", "r.jsonl#2"}


async def test_prune_keeps_what_is_in_a_folder_with_a_bad_ignore_file(
    app: App, db: Db, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    for name in ("a.md", "sub/b.md"):
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text("Words.")
    await bring(app, docs)
    (docs / "sub/.raglineignore").write_text("[z-a]\n")
    report = await bring(app, docs, prune=True)

    assert [r.reason for r in report.rejections] == ["BAD_IGNORE_FILE"]
    assert (report.pruned, set(await stored(db))) == (0, {"a.md", "b.md"})


async def test_a_row_with_the_name_of_a_file_is_rejected_and_the_file_stays(
    app: App, db: Db, tmp_path: Path
) -> None:
    jsonl(tmp_path / "docs/r.jsonl", {"id": "x/y.txt", "text": "row"}, {"id": 2, "text": "b"})
    (tmp_path / "docs/r.jsonl#x").mkdir()
    (tmp_path / "docs/r.jsonl#x/y.txt").write_text("file")
    first = await bring(app, tmp_path / "docs", prune=True)

    assert [r.reason for r in first.rejections] == ["DUPLICATE_ID"]
    assert {name: body for name, (_, body) in (await stored(db)).items()} == {
        "r.jsonl#2": "b",
        "y.txt": "file",
    }
    assert counts(await bring(app, tmp_path / "docs", prune=True)) == (3, 0, 0, 2, 0)


async def test_rejections_beyond_a_number_are_counted(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_REJECTIONS", 3)
    good = {"id": 1, "text": "good"}
    path = jsonl(tmp_path / "docs/rows.jsonl", good, *["bad"] * 10, good, {"id": 2, "text": "good"})
    report = await bring(app, path)

    assert [r.reason for r in report.rejections] == ["BAD_LINE"] * 3 + ["AND_MORE"]
    assert report.rejections[-1].message == "8 more rows were rejected: BAD_LINE 7, DUPLICATE_ID 1"
    assert report.added == 2


async def test_messages_of_an_mbox_are_documents(app: App, db: Db, tmp_path: Path) -> None:
    one = "From a\nMessage-ID: <1@x>\nSubject: Pumps\nFrom: ann@example.com\n\nThey are loud.\n\n"
    path = tmp_path / "all.mbox"
    path.write_text(one + one.replace("<1@x>", "<2@x>").replace("loud", "quiet"))
    report = await bring(app, path)

    assert counts(report) == (2, 2, 0, 0, 0)
    (row,) = await db.fetch("select * from document where source like '%#1@x'")
    assert (row["title"], row["body"], row["media_type"]) == (
        "Pumps", "They are loud.", "message/rfc822",
    )  # fmt: skip
    assert json.loads(row["metadata"])["from"] == "ann@example.com"
    assert counts(await bring(app, path)) == (2, 0, 0, 2, 0)


async def test_progress_grows_with_the_rows_and_ends_at_its_total(app: App, tmp_path: Path) -> None:
    jsonl(
        tmp_path / "docs/rows.jsonl", *({"id": n, "text": f"number {n}"} for n in range(30)), "bad"
    )
    (tmp_path / "docs/a.txt").write_text("plain")
    seen: list[ingest.Progress] = []
    await bring(app, tmp_path / "docs", on_progress=seen.append)

    assert [p.done for p in seen] == list(range(1, len(seen) + 1))
    assert all(p.done <= p.total for p in seen)
    assert seen[-1].done == seen[-1].total == 33


# -- pages -----------------------------------------------------------------------------------------

LOOPBACK = ingest.UrlPolicy(permits=lambda address: address.is_loopback)


@asynccontextmanager
async def pages(answer: Callable[[str], tuple[str, bytes]]) -> AsyncIterator[str]:
    """A web server on loopback; `answer` gives status line and body for a path."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        status, body = answer(path)
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


async def fetch(app: App, urls: Sequence[str], policy: ingest.UrlPolicy | None) -> IngestReport:
    return await ingest.ingest_paths(app, [], "kb", urls=urls, url_policy=policy)


async def test_a_page_is_a_document_known_by_its_url(app: App, db: Db) -> None:
    body = {"/a": b"<title>Pumps</title><p>They are loud.", "/b": b"<p>Roofs."}
    async with pages(lambda path: ("200 OK", body[path])) as base:
        report = await fetch(app, [f"{base}/a#top", f"{base}/b"], LOOPBACK)
        assert counts(report) == (2, 2, 0, 0, 0)
        assert counts(await fetch(app, [f"{base}/a"], LOOPBACK)) == (1, 0, 0, 1, 0)
        body["/a"] = b"<title>Pumps</title><p>They are quiet."
        assert counts(await fetch(app, [f"{base}/a"], LOOPBACK)) == (1, 0, 1, 0, 0)

    rows = await db.fetch("select source, title, body, media_type from document order by source")
    assert [tuple(row) for row in rows] == [
        (f"{base}/a", "Pumps", "They are quiet.", "text/html"),
        (f"{base}/b", "b", "Roofs.", "text/html"),
    ]


async def test_pages_that_do_not_come_are_rejected_and_the_rest_goes_on(app: App, db: Db) -> None:
    async with pages(
        lambda path: ("200 OK" if path == "/a" else "404 Not Found", b"Words.")
    ) as base:
        secret = base.replace("//", "//ann:secret@")
        report = await fetch(app, [f"{base}/gone", secret, f"{base}/a"], LOOPBACK)
        inner = await fetch(app, [f"{base}/a"], ingest.UrlPolicy())

    assert [r.reason for r in report.rejections] == ["HTTP_STATUS", "BAD_URL"]
    assert "secret" not in str(report)
    assert report.added == 1
    assert [r.reason for r in inner.rejections] == ["INNER_ADDRESS"]


async def test_urls_are_off_unless_allowed(app: App, db: Db) -> None:
    with pytest.raises(UsageError, match="--allow-urls"):
        await fetch(app, ["http://example.com/"], None)

    assert await db.fetchval("select count(*) from collection") == 0


def test_urls_are_told_from_paths() -> None:
    assert ingest.named(["a", "https://x/y", "HTTP://x", "http:/x", Path("b")]) == (
        [Path("a"), Path("http:/x"), Path("b")],
        ["https://x/y", "HTTP://x"],
    )
