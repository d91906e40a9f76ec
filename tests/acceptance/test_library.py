"""ragline as a library, as its own docstring shows it."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import asyncpg
import pytest

import ragline
import tiny_model
from command import place
from conftest import opened
from ragline import errors
from ragline.core.dsn import Dsn
from ragline.library import Rag
from ragline.models.embed import Embedded
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag.ingest import Text


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory of the test's own, a tiny model, and nothing else in the environment."""
    with place() as command:
        for name in ("DATABASE_URL", "POSTGRES_DSN", "PGHOST", "PGDATABASE", "PGUSER", "PGSERVICE"):
            monkeypatch.delenv(name, raising=False)
        model = tiny_model.make(command.folder / "model")
        monkeypatch.setenv("RAGLINE_MODEL_DIR", str(model))
        monkeypatch.setenv("RAGLINE_DATA_DIR", str(command.data_dir))
        yield command.data_dir


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "one.md").write_text("# Restarting\n\nTo restart w1 w2, stop the server first.\n")
    (folder / "two.md").write_text("# Colours\n\nThe roof is w7 w8 and the door is green.\n")
    return folder


def test_the_example_of_the_docstring_runs(data_dir: Path, docs: Path) -> None:
    example = inspect.getdoc(ragline)
    assert example is not None
    code = example[example.index("async with") :].replace("docs/", str(docs))
    program = (
        "import asyncio, ragline\nasync def main():\n"
        + textwrap.indent(code, "    ")
        + "\n    print(found.hits[0].title, answer.found, answer.citations[0].source)\n"
        + "asyncio.run(main())\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Restarting", "True", str(docs / "one.md")]


async def test_ragline_is_opened_twice_at_once_and_again(data_dir: Path, docs: Path) -> None:
    async with ragline.connect() as one, ragline.connect(data_dir=data_dir) as two:
        report = await one.ingest(docs, collection="kb")
        assert (report.added, report.embedded) == (2, 2)
        assert [c.documents for c in await two.collections()] == [2]
        assert (await two.ingest([str(docs)], collection="kb")).unchanged == 2
    async with ragline.connect() as three:
        found = await three.search("w7 w8", collection=["kb"], k=1)
        assert [hit.title for hit in found.hits] == ["Colours"]
        assert found.warnings == ()


@pytest.fixture
async def rag(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[Rag]:
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        yield Rag(app)


async def test_a_dsn_goes_before_the_environment(
    own_dsn: Dsn,
    db: asyncpg.Connection[asyncpg.Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    dsn = own_dsn.for_sqlalchemy("admin")

    async with ragline.connect(dsn, data_dir=tmp_path) as rag:
        await rag.ingest_texts([Text(source="a", text="words")], collection="kb")

    assert await db.fetchval("select count(*) from document") == 1


async def test_errors_are_of_the_public_tree(rag: Rag, tmp_path: Path) -> None:
    await rag.ingest_texts([Text(source="a", text="words")], collection="kb")

    with pytest.raises(errors.NotFound, match="'nope' does not exist; there are: kb"):
        await rag.search("words", collection="nope")
    with pytest.raises(errors.NotFound, match="no file or folder"):
        await rag.ingest(tmp_path / "none", collection="kb")
    with pytest.raises(errors.UsageError, match="empty"):
        await rag.ask("  ", collection="kb")
    with pytest.raises(errors.UsageError, match="at least one collection"):
        await rag.ask("words", collection=[])
    with pytest.raises(errors.UsageError, match="'sideways' is not one of"):
        await rag.search("words", collection="kb", method="sideways")  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError):
        async with ragline.connect("mysql://localhost/db"):
            pass
    with pytest.raises(errors.DatabaseUnreachable) as unreachable:
        async with ragline.connect("postgresql://me:hemlich@127.0.0.1:1/db"):
            pass
    assert "hemlich" not in str(unreachable.value)


async def test_closing_while_searches_run_ends_each_with_a_result_or_an_error_of_ours(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, Slow()) as app:
        rag = Rag(app)
        await rag.ingest_texts([Text(source="a", text="some words")], collection="kb")
        tasks = [asyncio.create_task(rag.search("words", collection="kb")) for _ in range(20)]
        await asyncio.sleep(0.05)
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)

    for result in results:
        if isinstance(result, BaseException):
            assert isinstance(result, errors.RaglineError), result
        else:
            assert len(result.hits) == 1


class Slow(FakeEmbedder):
    """Takes its time, a little more for each question."""

    count = 0

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        self.count += 1
        await asyncio.sleep(0.01 * self.count)
        return await super().embed_documents(texts)


async def test_what_was_closed_says_so(own_dsn: Dsn, tmp_path: Path) -> None:
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        rag = Rag(app)
    for use in (
        rag.search("words", collection="kb"),
        rag.ingest_texts([Text(source="a", text="words")], collection="kb"),
        rag.collections(),
    ):
        with pytest.raises(errors.UsageError, match="this ragline is closed"):
            await use


async def test_many_searches_at_once_share_the_pool(rag: Rag) -> None:
    texts = [Text(source=f"t{n}", text=f"word{n} and more") for n in range(30)]
    await rag.ingest_texts(texts, collection="kb")

    found = await asyncio.gather(*(rag.search(f"word{n}", collection="kb", k=1) for n in range(30)))

    assert [result.hits[0].source for result in found] == [f"t{n}" for n in range(30)]


def test_importing_ragline_is_light_and_has_the_public_names() -> None:
    program = "import sys, ragline; print(sorted(sys.modules)); print(ragline.__all__)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert not re.search(r"'(asyncpg|numpy|sqlalchemy|psycopg)'", done.stdout)
    assert "connect" in ragline.__all__
    assert callable(ragline.connect)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ragline.nonsense
