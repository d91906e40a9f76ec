"""Changes that must not stay and changes that harm nobody, each through the real loop and its gate.

One server, two collections. `docs` has vectors in clusters, so that what a filter allows lies where a
walk of the index does not come by itself; `words` has texts whose own words are asked for. The
verdicts on quality do not depend on the machine. Those on time do: harmless changes may take several
times as long, so that a busy machine is not taken for a bad change.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import breaking
import gated
import tiny_model
from breaking import Ground
from command import Command, place
from migrations import folder, outside, revision
from ragline.change import loop
from ragline.core.change import Entry, Part, Value
from ragline.core.gate import Asked
from ragline.errors import PreconditionFailed, RaglineError, UsageError
from ragline.ops import embedded
from ragline.rag import ingest
from ragline.wiring import open_app

WORDS = "words"
_CHUNKS_OF_WORDS = 800
# Of a machine that others use as well; what is really slower here is slower twenty times.
_ANY_TIME = 8.0
_ASKED = Asked(questions=30, quality_margin=0.01, latency_margin=_ANY_TIME, budget_s=60.0)
DOCS_ASKED = replace(_ASKED, collections=(gated.COLLECTION,))
# Where a walk ends with fewer rows than are asked for, they are completed by comparing: not with these.
MEMORY_ASKED = replace(DOCS_ASKED, filters=("own = 7", "own = 24"))
WORDS_ASKED = replace(_ASKED, collections=(WORDS,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A change of the catalogue. `says` is found in what refuses it, or in the metric that fails.

    `by_time`: quality is the same, so that a busy machine may leave it undecided. `compares`: what the
    filters allow is few enough to be compared, by way of their own index.
    """

    kind: str
    target: str
    want: Value
    says: str = ""
    asked: Asked = WORDS_ASKED
    by_time: bool = False
    compares: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind} {self.target} = {self.want}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How it went, as a line of the table."""

    line: Line
    expected: str
    state: str
    rung: str = "-"
    metric: str = "-"
    is_too_noisy: bool = False
    seconds: float
    reason: str = ""


RESULTS: list[Result] = []
_ON_THEIR_OWN = 3

REFUSED = (
    Line(kind="setting", target="shared_buffers", want="900GB", says="could not start"),
    Line(kind="setting", target="hnsw.ef_serch", want="100", says="hnsw.ef_search"),
    Line(kind="setting", target="hnsw.ef_search", want="100000", says="1000"),
    Line(kind="setting", target="max_connections", want="2", says="at least 10"),
    Line(kind="setting", target="work_mem", want="1kB", says="64"),
    Line(
        kind="setting",
        target="shared_preload_libraries",
        want=["vector", "pg_stat_statments"],
        says="pg_stat_statments",
    ),
    Line(
        kind="setting",
        target="shared_preload_libraries",
        want='"vector, pg_stat_statements"',
        says="vector, pg_stat_statements",
    ),
    Line(kind="role", target="ragline_serve.connection_limit", want=0, says="could not log in"),
    Line(
        kind="index",
        target="attribute.attribute_by_value",
        want={
            "definition": "create index attribute_by_value on ragline.attribute "
            "(word vector_cosine_ops)"
        },
        says="vector_cosine_ops",
    ),
    Line(kind="index", target=gated.COLLECTION, want={"m": 16, "ef_construction": 8}, says="32"),
    Line(kind="index", target=gated.COLLECTION, want={"storage": "bit"}, says="bit"),
    Line(kind="search", target=gated.COLLECTION, want={"ef_search": 0}, says="ef_search is 0"),
    Line(
        kind="migration",
        target="lossy",
        want={"revision": "head"},
        says=r"ragline backup create --table public\.receipt --verify",
    ),
    Line(kind="migration", target="heads", want={"revision": "head"}, says="alembic merge"),
)

WORSE = (
    Line(
        kind="search",
        target=gated.COLLECTION,
        want={"ef_search": 1},
        says=r"ann_recall@10 \[docs\]",
        asked=DOCS_ASKED,
    ),
    Line(
        kind="search",
        target=gated.COLLECTION,
        want={"k": 3},
        says=r"rows \[docs",
        asked=DOCS_ASKED,
    ),
    Line(
        kind="search",
        target=WORDS,
        want={"vector_weight": 1},
        says=r"known_mrr@10 \[words of words\]",
    ),
    Line(
        kind="index",
        target=gated.COLLECTION,
        want={"m": 2, "ef_construction": 4},
        says=r"ann_recall@10 \[docs\]",
        asked=DOCS_ASKED,
    ),
    Line(
        kind="index",
        target=gated.COLLECTION,
        want=None,
        says="p50_ms",
        asked=replace(DOCS_ASKED, questions=30, latency_margin=1.0),
        by_time=True,
    ),
    Line(
        kind="setting",
        target="enable_indexscan",
        want="off",
        says="p50_ms",
        asked=replace(DOCS_ASKED, questions=30, latency_margin=1.0),
        by_time=True,
    ),
    Line(
        kind="setting",
        target="work_mem",
        want="64kB",
        says=r"ann_recall@10 \[docs where own",
        asked=MEMORY_ASKED,
    ),
    Line(
        kind="role",
        target="eval_app.work_mem",
        want="64kB",
        says=r"ann_recall@10 \[docs where own",
        asked=MEMORY_ASKED,
    ),
    Line(
        kind="index",
        target="attribute.attribute_by_value",
        want=None,
        says="p50_ms",
        asked=replace(DOCS_ASKED, latency_margin=0.3),
        by_time=True,
        compares=True,
    ),
    Line(
        kind="migration",
        target="slow",
        want={"revision": "head"},
        says="p50_ms",
        asked=replace(DOCS_ASKED, latency_margin=0.3),
        by_time=True,
        compares=True,
    ),
    Line(
        kind="space",
        target=WORDS,
        want={"model": "NARROW"},
        says=r"known_mrr@10 \[words of words by vectors\]",
    ),
)

HARMLESS = (
    Line(kind="setting", target="log_min_duration_statement", want="10s"),
    Line(kind="setting", target="log_checkpoints", want="off"),
    Line(kind="setting", target="checkpoint_completion_target", want="0.8"),
    Line(kind="setting", target="work_mem", want="16MB"),
    Line(kind="setting", target="effective_cache_size", want="2GB"),
    Line(kind="setting", target="maintenance_work_mem", want="96MB"),
    Line(kind="setting", target="wal_compression", want="pglz"),
    Line(kind="setting", target="max_worker_processes", want="9"),
    Line(kind="role", target="ragline_serve.statement_timeout", want="60s"),
    Line(kind="role", target="ragline_serve.work_mem", want="24MB"),
    Line(
        kind="index",
        target="document.document_by_media_type",
        want={"definition": "create index document_by_media_type on ragline.document (media_type)"},
    ),
    Line(kind="index", target=WORDS, want={"m": 24}),
    Line(kind="index", target=WORDS, want={"ef_construction": 128}),
    Line(kind="search", target=WORDS, want={"ef_search": 200}),
    Line(kind="search", target=gated.COLLECTION, want={"ef_search": 200}, asked=DOCS_ASKED),
    Line(kind="space", target=WORDS, want={"storage": "halfvec"}),
    Line(kind="space", target=WORDS, want={"model": "WIDE"}),
)


@dataclass(frozen=True, kw_only=True)
class Shelf(Ground):
    """A ground with a third model. The first has 12 numbers, the second 2, the third 96."""

    third: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process is told."""
        folders = ":".join(map(str, (self.first, self.second, self.third)))
        return {"RAGLINE_DATA_DIR": str(self.command.data_dir), "RAGLINE_MODEL_DIR": folders}


@pytest.fixture(scope="module")
async def ground() -> AsyncIterator[Shelf]:
    """A server with both collections, of this module alone."""
    with place() as command:
        yield await _made(command)


async def _made(command: Command) -> Shelf:
    made = Shelf(
        command=command,
        first=tiny_model.make(command.folder / "first", dimension=12),
        second=tiny_model.make(command.folder / "narrow", dimension=2),
        third=tiny_model.make(command.folder / "wide", dimension=96),
    )
    async with open_app(made.config) as app:
        dsn = embedded.dsn(embedded.ensure(command.data_dir))
        await gated.fill(app, dsn, gated.TRAP_CHUNKS)
        await gated.walk_filters(dsn)
        report = await ingest.ingest_texts(
            app, _texts(), WORDS, policy=ingest.Policy(chunk_size=64, chunk_overlap=0)
        )
        assert not report.rejections
        assert report.embedded == report.chunks >= _CHUNKS_OF_WORDS, report
    await _migrations(made)
    return made


async def _migrations(made: Shelf) -> None:
    """Folders of a user's own migrations, each bad in its way, and the table that they are about."""
    ini = {name: folder(made.command.folder / name) for name in ("lossy", "heads", "slow", "half")}
    revision(
        ini["lossy"],
        "aaa1",
        None,
        "drop table public.receipt",
        "create table public.receipt (id int primary key, total int)",
    )
    revision(ini["heads"], "aaa1", None, "create table public.one (id int)")
    revision(ini["heads"], "bbb2", None, "create table public.two (id int)")
    revision(
        ini["slow"],
        "aaa1",
        None,
        outside("drop index concurrently ragline.attribute_by_value"),
        outside(
            "create index concurrently attribute_by_value on ragline.attribute "
            "(collection_id, field, word, number, document_id)"
        ),
    )
    revision(
        ini["half"],
        "aaa1",
        None,
        "alter table public.receipt add column paid date; create table public.half (id int);"
        "alter table public.receipt add constraint more check (total > 100)",
        "drop table public.half; alter table public.receipt drop column paid",
    )
    async with made.looking() as db:
        await db.execute(
            # It stays when all goes down again, and so it is there from the start.
            "create table public.alembic_version (version_num varchar(32) not null "
            "constraint alembic_version_pkc primary key);"
            "create table public.receipt (id int primary key, total int);"
            "insert into public.receipt select n, n from generate_series(1, 200) n"
        )


def _texts() -> list[ingest.Text]:
    """Documents of paragraphs that become a chunk each, of three sentences with words drawn by lot."""
    drawn = random.Random(3)

    def sentence() -> str:
        return " ".join(drawn.choices(tiny_model.WORDS, k=8)).capitalize() + "."

    return [
        ingest.Text(
            source=f"page {number}",
            text="\n\n".join(" ".join(sentence() for _ in range(3)) for _ in range(40)),
        )
        for number in range(_CHUNKS_OF_WORDS // 40)
    ]


async def _went(ground: Shelf, line: Line, expected: str) -> Entry:
    """Take a change through the loop as a command would, and note how it went."""
    started = time.monotonic()
    async with ground.site(None) as site:
        entry = await loop.plan(site, [_part(ground, line)], line.asked)
        assert entry is not None, "there is nothing to do"
        ended = await loop.apply(site, entry.id)
        passed = [step.state for step in (await loop.whole(site, entry.id)).history]
    assert "applied" in passed, passed
    verdict = ended.verdict
    assert verdict is not None
    failed = [row["metric"] for row in verdict["rows"] if row["status"] == "fail"]
    RESULTS.append(
        Result(
            line=line,
            expected=expected,
            state=ended.state,
            rung=verdict["rung"],
            metric=next(iter(failed), "-"),
            is_too_noisy=bool(verdict.get("is_too_noisy")),
            seconds=time.monotonic() - started,
            reason=ended.reason,
        )
    )
    return ended


def _part(ground: Shelf, line: Line) -> Part:
    want = line.want
    if isinstance(want, dict) and "model" in want:
        want = {"model": str({"NARROW": ground.second, "WIDE": ground.third}[want["model"]])}
    target = line.target
    if line.kind == "migration":
        target = str(ground.command.folder / target / "alembic.ini")
    return Part(kind=line.kind, target=target, want=want)


def _failed(entry: Entry) -> dict[str, str]:
    """Return the reasons of what failed, by metric."""
    assert entry.verdict is not None
    return {
        row["metric"]: row["reason"] for row in entry.verdict["rows"] if row["status"] == "fail"
    }


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: line.name)
async def test_what_cannot_be_is_refused_beforehand(ground: Shelf, line: Line) -> None:
    before = await breaking.fingerprint(ground)
    started = time.monotonic()
    async with ground.site(None) as site:
        with pytest.raises((UsageError, PreconditionFailed)) as refused:
            await loop.plan(site, [_part(ground, line)], line.asked)
    assert re.search(line.says, str(refused.value)), refused.value
    assert await breaking.fingerprint(ground) == before
    RESULTS.append(
        Result(
            line=line,
            expected="refused",
            state="refused",
            seconds=time.monotonic() - started,
            reason=str(refused.value),
        )
    )


@pytest.mark.parametrize("line", WORSE, ids=lambda line: line.name)
async def test_what_is_worse_is_undone_and_the_metric_named(ground: Shelf, line: Line) -> None:
    before = await breaking.fingerprint(ground)
    if line.compares:
        async with ground.looking() as db:
            await db.execute("delete from search_calibration")
    ended = await _went(ground, line, "undone")
    if line.compares:
        await gated.walk_filters(embedded.dsn(embedded.ensure(ground.command.data_dir)))
    if line.by_time and ended.state == "inconclusive":
        # Not kept, and the machine was too busy to say why: the table counts it as such.
        assert ended.verdict is not None
        assert ended.verdict["is_too_noisy"]
    else:
        assert ended.state == "undone", ended.reason
        assert any(re.search(line.says, metric) for metric in _failed(ended)), _failed(ended)
        assert re.search(line.says, ended.reason), ended.reason
    assert await breaking.fingerprint(ground) == before
    assert await breaking.leftovers(ground) == []


async def test_little_memory_is_quicker_loses_what_a_filter_allows_and_is_undone(
    ground: Shelf,
) -> None:
    """The walk of an index that goes on for a filter ends where its memory ends, without a word."""
    line = Line(kind="role", target="ragline_serve.work_mem", want="64kB", asked=MEMORY_ASKED)
    before, worked_with = await breaking.fingerprint(ground), await _memory_of_searches(ground)
    ended = await _went(ground, line, "undone")
    assert ended.state == "undone", ended.reason
    lost = next(iter(_failed(ended)))
    assert all(re.fullmatch(r"ann_recall@10 \[docs where own = \d+\]", m) for m in _failed(ended))
    assert lost in ended.reason
    assert ended.verdict is not None
    rows = {row["metric"]: row for row in ended.verdict["rows"]}
    assert rows[lost]["value"] < rows[lost]["baseline"] - 0.1
    # All that is not filtered finds what it found, no row is missing, and nothing takes longer: a gate
    # that looks at times, or at unfiltered recall, keeps it.
    assert rows["ann_recall@10 [docs]"]["value"] == rows["ann_recall@10 [docs]"]["baseline"]
    assert all(row["value"] == 1 for name, row in rows.items() if name.startswith("rows"))
    assert not [name for name in _failed(ended) if name.startswith("p50_ms")]
    assert await _memory_of_searches(ground) == worked_with != "64kB"
    assert await breaking.fingerprint(ground) == before


async def _memory_of_searches(ground: Shelf) -> str:
    """Ask a new connection of the role itself."""
    async with open_app(ground.config) as app, (await app.pool("serve")).connection() as serve:
        return str(await serve.fetchval("show work_mem"))


async def test_one_bad_part_takes_all_of_a_change_with_it(ground: Shelf) -> None:
    before = await breaking.fingerprint(ground)
    parts = [
        Part(kind="setting", target="log_lock_waits", want="on"),
        Part(kind="search", target=gated.COLLECTION, want={"ef_search": 1}),
    ]
    async with ground.site(None) as site:
        entry = await loop.plan(site, parts, DOCS_ASKED)
        assert entry is not None
        ended = await loop.apply(site, entry.id)
    assert ended.state == "undone"
    assert "ann_recall@10 [docs]" in _failed(ended)
    assert await breaking.fingerprint(ground) == before


async def test_what_takes_no_effect_that_can_be_measured_is_put_back_and_said(
    ground: Shelf,
) -> None:
    """With 1 ms nobody of that role can so much as log in: there is nothing to measure."""
    line = Line(kind="role", target="ragline_serve.statement_timeout", want="1ms")
    before = await breaking.fingerprint(ground)
    started = time.monotonic()
    async with ground.site(None) as site:
        entry = await loop.plan(site, [_part(ground, line)], line.asked)
        assert entry is not None
        with pytest.raises(RaglineError, match=r"statement timeout.*was put back"):
            await loop.apply(site, entry.id)
        ended = (await loop.whole(site, entry.id)).entry
    assert ended.state == "undone"
    assert await breaking.fingerprint(ground) == before
    RESULTS.append(
        Result(
            line=line,
            expected="undone",
            state=ended.state,
            seconds=time.monotonic() - started,
            reason=ended.reason,
        )
    )


async def test_a_migration_that_fails_half_way_leaves_nothing(ground: Shelf) -> None:
    line = Line(kind="migration", target="half", want={"revision": "head"})
    started = time.monotonic()
    async with ground.site(None) as site:
        entry = await loop.plan(site, [_part(ground, line)], None)
        assert entry is not None
        with pytest.raises(PreconditionFailed, match=r"check constraint.*was put back"):
            await loop.apply(site, entry.id)
        ended = (await loop.whole(site, entry.id)).entry
    assert ended.state == "undone"
    async with ground.looking() as db:
        assert await db.fetchval("select to_regclass('public.half')") is None
        names = "select count(*) from pg_attribute where attrelid = 'public.receipt'::regclass"
        assert await db.fetchval(f"{names} and attnum > 0") == 2
    assert await breaking.leftovers(ground) == []
    RESULTS.append(
        Result(
            line=line,
            expected="undone",
            state=ended.state,
            seconds=time.monotonic() - started,
            reason=ended.reason,
        )
    )


@pytest.mark.parametrize("line", HARMLESS, ids=lambda line: line.name)
async def test_what_is_harmless_is_never_undone_for_its_quality(ground: Shelf, line: Line) -> None:
    ended = await _went(ground, line, "kept")
    assert ended.state in ("kept", "inconclusive"), ended.reason
    assert not _failed(ended)
    assert await breaking.leftovers(ground) == []


def test_the_table(ground: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all changes together: so many undone by what was measured, so many kept."""
    with capsys.disabled():
        print(_table())  # noqa: T201 - what the test is for
    if len(RESULTS) < len(REFUSED) + len(WORSE) + len(HARMLESS) + _ON_THEIR_OWN:
        pytest.skip("not every change of the catalogue was made in this run")
    states = [(result.expected, result.state) for result in RESULTS]
    assert states.count(("refused", "refused")) == len(REFUSED)
    assert len([one for one in RESULTS if one.state == "undone" and one.metric != "-"]) >= 8
    assert not [
        result for result in RESULTS if result.expected != "kept" and result.state == "kept"
    ]
    # What a busy machine left undecided was harmless as far as anybody could see.
    unseen = [one for one in RESULTS if one.state == "inconclusive" and one.is_too_noisy]
    kept = states.count(("kept", "kept"))
    assert kept + len([one for one in unseen if one.expected == "kept"]) >= 13


def _table() -> str:
    lines = [f"\n{'change':<64} {'expected':<9} {'state':<13} {'rung':<10} {'seconds':>7}  metric"]
    lines += [
        f"{one.line.name[:64]:<64} {one.expected:<9} {one.state:<13} {one.rung:<10} "
        f"{one.seconds:>7.1f}  {one.metric}"
        for one in RESULTS
    ]
    lines += [
        f"  {one.line.name[:60]}: {one.reason}" for one in RESULTS if one.expected != one.state
    ]
    return "\n".join(lines)
