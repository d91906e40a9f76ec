"""Evaluations when something breaks: errors are counted, nothing is invented, and the run goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import evaluated
from clocks import defaults, put_forward
from conftest import connect
from doubles.judge import ScriptedJudge, listens
from doubles.openai_server import Answer, Fail, OpenAIServer
from evaluated import BY_WORDS, CASES, COLLECTION, prepared, results, run
from ragline.config import Config
from ragline.core.cases import Case
from ragline.core.claims import METRICS
from ragline.core.dsn import Dsn
from ragline.core.remote import Endpoint
from ragline.core.remote import Limits as RemoteLimits
from ragline.core.runs import Limits, Run, Settings
from ragline.db import evals, migrate
from ragline.errors import Conflict, DatabaseUnreachable, UsageError
from ragline.evals.run import ended_by
from ragline.models.embed import Vector
from ragline.models.embed_fake import FakeEmbedder
from ragline.models.limits import Limiter
from ragline.ops import embedded
from ragline.rag.app import App
from ragline.wiring import open_app

JUDGED = replace(BY_WORDS, answers="extractive", judge="llm")
HYBRID = Settings(collections=(COLLECTION,), k=3)
NONSENSE = Answer(pieces=("I think ", "so."))
MANY = 12
PRICES = """
[[price]]
provider = "openai"
model = "m"
input = 2
output = 6.5
as_of = 2026-11-01
"""


class Halting(FakeEmbedder):
    """A model that answers some questions, and the others when it is let: so something can break."""

    def __init__(self, answers: int = 6) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self._left = answers

    async def embed_query(self, text: str) -> Vector:
        if self._left == 0:
            await self.let.wait()
        else:
            self._left -= 1
        return await super().embed_query(text)


def many() -> list[Case]:
    return [
        replace(case, id=f"{case.id}-{n}", question=f"{case.question} ({n})")
        for n in range(MANY // len(CASES))
        for case in CASES
    ]


# -- the judge -------------------------------------------------------------------------------------


@pytest.fixture
def provider() -> Iterator[OpenAIServer]:
    """A provider whose model takes texts apart into themselves, and finds all of them borne out."""
    with OpenAIServer() as server:
        judge = ScriptedJudge(otherwise="Entailment")
        judge.claims = _Whole()
        listens(server, judge)
        yield server


class _Whole(dict[str, Sequence[tuple[str, ...]]]):
    def __missing__(self, text: str) -> Sequence[tuple[str, ...]]:
        return [("the text", "says", text)]


def endpoint(url: str) -> Endpoint:
    return Endpoint(
        provider="openai",
        model="m",
        url=url,
        variables="RAGLINE_JUDGE",
        limits=RemoteLimits(timeout_s=20, deadline_s=30, retries=0, concurrency=4),
    )


@asynccontextmanager
async def with_judge(dsn: Dsn, folder: Path, url: str) -> AsyncIterator[App]:
    async with evaluated.opened(dsn, folder, judging=endpoint(url)) as app:
        yield app


async def test_a_judge_that_is_down_is_counted_and_the_run_goes_on_when_it_is_back(
    own_dsn: Dsn, tmp_path: Path, provider: OpenAIServer
) -> None:
    nobody = "http://127.0.0.1:1/v1"
    async with with_judge(own_dsn, tmp_path, nobody) as app:
        await prepared(app)

        down = await run(app, JUDGED, name="r")

        assert (down.state, down.done, down.failed) == ("partial", 3, 3)
        assert down.errors == {"judge ModelUnavailable": 3}
        assert ended_by(down) == "errors"
        for one in await results(app, down):
            assert not set(METRICS) & set(one.metrics)
            assert {"recall@3", "search_ms", "answered"} <= set(one.metrics)
            assert one.errors[0].exit_code == 3
            assert nobody in one.errors[0].message
        assert "precision" not in down.metrics
    async with with_judge(own_dsn, tmp_path, provider.url) as app:
        up = await run(app, JUDGED, resume="r")

        assert (up.id, up.state, up.errors) == (down.id, "complete", {})
        assert up.metrics["precision"].value == 1.0
        assert (up.metrics["precision"].n, up.metrics["precision"].missing) == (3, 0)
        assert up.spent.calls >= len(provider.requests) > 0


async def test_a_judge_that_sends_garbage_is_counted_and_gives_no_half_marks(
    own_dsn: Dsn, tmp_path: Path, provider: OpenAIServer
) -> None:
    async with with_judge(own_dsn, tmp_path, provider.url) as app:
        await prepared(app)
        provider.script(*[NONSENSE] * 12)

        bad = await run(app, JUDGED, Limits(concurrency=1), name="r")

        assert (bad.state, bad.failed) == ("partial", 3)
        assert bad.errors == {"judge ModelReplyInvalid": 3}
        assert not set(METRICS) & set(bad.metrics)
        assert provider.is_script_over
        good = await run(app, JUDGED, resume="r")
        assert (good.state, good.metrics["f1"].value) == ("complete", 1.0)


async def test_a_judge_that_fails_now_and_then_fails_those_cases_alone(
    own_dsn: Dsn, tmp_path: Path, provider: OpenAIServer
) -> None:
    async with with_judge(own_dsn, tmp_path, provider.url) as app:
        await prepared(app, many())
        provider.script(*[Fail(status=500)] * 6)

        some = await run(app, JUDGED, Limits(concurrency=1))

        assert some.state == "partial"
        assert 0 < some.failed < MANY
        assert set(some.errors) == {"judge ModelUnavailable"}
        assert some.metrics["precision"].n == MANY - some.failed
        assert some.metrics["precision"].missing == some.failed
        # A 500 may be billed, and nobody said for how much: what was spent is not known.
        assert some.spent.cost_micro_usd is None
        assert "eval_cost_micro_usd" not in some.metrics


async def test_verdicts_of_a_broken_run_are_not_asked_for_again(
    own_dsn: Dsn, tmp_path: Path, provider: OpenAIServer
) -> None:
    async with with_judge(own_dsn, tmp_path, provider.url) as app:
        await prepared(app)
        first = await run(app, JUDGED)
        asked = len(provider.requests)
        assert first.cache["misses"] == asked
        assert first.cache["bytes"] > 0

        again = await run(app, JUDGED)
        assert (again.reused, again.spent.calls, len(provider.requests)) == (3, 0, asked)

        # A case that is worded anew is answered again; what it has in common was judged before.
        fresh = await run(app, JUDGED, is_fresh=True)
        assert fresh.spent.calls == len(provider.requests) - asked == asked


async def test_a_cache_without_room_says_how_much_it_let_go(
    own_dsn: Dsn, tmp_path: Path, provider: OpenAIServer
) -> None:
    judging = endpoint(provider.url)
    async with evaluated.opened(own_dsn, tmp_path, judging=judging, eval_cache_mb=0) as app:
        await prepared(app)

        found = await run(app, JUDGED)

        assert found.cache["misses"] == len(provider.requests) > 0
        assert found.cache["evicted"] == found.cache["misses"]
        assert found.cache["bytes"] == 0


def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give limits of ours a clock that only waiting for them moves, and each wait a little time.

    Who is slow otherwise waits for them all the same.
    """
    now_s = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        await asyncio.sleep(0.05)
        now_s += seconds

    monkeypatch.setitem(defaults(Limiter), "clock", lambda: now_s)
    monkeypatch.setitem(defaults(Limiter), "sleep", sleep)


async def test_the_wait_for_the_limiter_is_not_the_judges_time(
    own_dsn: Dsn, tmp_path: Path, provider: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = RemoteLimits(
        timeout_s=20, deadline_s=60, retries=1, concurrency=4, requests_per_minute=48
    )
    judging = replace(endpoint(provider.url), limits=limits)
    hurried(monkeypatch)
    async with evaluated.opened(own_dsn, tmp_path, judging=judging) as app:
        await prepared(app, CASES[:1])
        provider.script(Fail(status=429, headers=(("retry-after", "1"),)))

        done = await run(app, JUDGED, Limits(concurrency=1))

        assert done.state == "complete"
        assert done.phases_ms["retry"] >= 990
        assert done.phases_ms["limiter"] > 50
        assert done.phases_ms["judge"] < sum(done.phases_ms.values()) - 990


async def test_a_rate_limit_of_ours_makes_answers_wait_and_never_fail(
    own_dsn: Dsn, tmp_path: Path, provider: OpenAIServer
) -> None:
    provider.say = lambda messages: "An apple is red [1]."
    # One a minute, by the clock that is put forward; nothing else waits for it to time out.
    limits = RemoteLimits(
        timeout_s=50, deadline_s=50, retries=0, concurrency=1, requests_per_minute=1
    )
    chat = replace(endpoint(provider.url), variables="RAGLINE_CHAT", limits=limits)
    never = 1e6
    config = Config(
        dsn=own_dsn, data_dir=tmp_path, chat=chat, pool_timeout_s=never, query_timeout_s=never
    )
    with put_forward() as clock:
        async with open_app(config, search_workload="eval") as app:
            await prepared(app, many()[:6])
            started = clock.time()

            done = await run(app, replace(BY_WORDS, answers="generated"), Limits(concurrency=6))

            assert (done.state, done.errors) == ("complete", {})
            # Several times as long as somebody who waits for an answer would be made to.
            assert clock.time() - started >= 5 * 60


async def test_a_limit_of_cost_that_nobody_could_keep_is_refused_before_a_run_exists(
    own_dsn: Dsn, tmp_path: Path, provider: OpenAIServer
) -> None:
    async with with_judge(own_dsn, tmp_path, provider.url) as app:
        await prepared(app)

        with pytest.raises(UsageError, match=r"price of model m .* is not known"):
            await run(app, JUDGED, Limits(max_cost_micro_usd=1_000_000), name="r")

        pool = await app.pool("eval")
        async with pool.connection() as connection:
            assert await evals.runs(connection) == []
    assert provider.requests == []


async def test_a_limit_of_cost_is_kept_and_what_was_spent_is_known(
    own_dsn: Dsn, tmp_path: Path, provider: OpenAIServer
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    judging = endpoint(provider.url)
    async with evaluated.opened(own_dsn, tmp_path, judging=judging, prices=prices) as app:
        await prepared(app)
        first = await run(app, JUDGED, Limits(concurrency=1), is_fresh=True)
        dearest = max(one.spent.cost_micro_usd or 0 for one in await results(app, first))
        most = dearest * 5 // 2

        some = await run(
            app, JUDGED, Limits(concurrency=1, max_cost_micro_usd=most), name="r", is_fresh=True
        )

        assert (some.state, ended_by(some)) == ("partial", "limit")
        assert 0 < some.done < len(CASES)
        assert some.spent.cost_micro_usd is not None
        assert 0 < some.spent.cost_micro_usd <= most
        stored_cases = await results(app, some)
        tokens = [one.spent.input_tokens or 0 for one in stored_cases]
        assert sum(tokens) == some.spent.input_tokens
        whole = await run(app, JUDGED, resume="r", is_fresh=True)
        assert whole.state == "complete"
        assert whole.metrics["eval_cost_micro_usd"].value == whole.spent.cost_micro_usd
        assert whole.spent.cost_micro_usd == first.spent.cost_micro_usd


# -- the database ----------------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for a server of a test's own, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ragline-evals-"))
    folder.chmod(0o755)
    try:
        yield folder / "data"
    finally:
        embedded.stop(folder / "data")
        shutil.rmtree(folder)


def own_server(data_dir: Path) -> Dsn:
    """Start the server as a user's own: nobody brings it back but the test."""
    dsn = embedded.dsn(embedded.ensure(data_dir))
    migrate.apply(dsn, lock_timeout_ms=2000, role_secret=None)
    return dsn


async def test_a_database_that_goes_away_ends_the_run_and_what_was_saved_goes_on(
    place: Path, tmp_path: Path
) -> None:
    dsn = await asyncio.to_thread(own_server, place)
    model = Halting()
    async with evaluated.opened(dsn, tmp_path, embedder=model) as app:
        await prepared(app, many())
        task = asyncio.create_task(run(app, HYBRID, Limits(concurrency=1), name="r"))
        await until_saved(app, "r")
        await asyncio.to_thread(embedded.stop, place)
        model.let.set()

        with pytest.raises(DatabaseUnreachable) as caught:
            await task
        assert caught.value.exit_code == 7

    again = await asyncio.to_thread(own_server, place)
    async with evaluated.opened(again, tmp_path, embedder=FakeEmbedder()) as app:
        left = await stored(app, "r")
        assert 0 < left.done < MANY
        await lease_is_over(again)
        assert (await stored(app, "r")).state == "partial"

        done = await run(app, HYBRID, resume="r")

        assert (done.state, done.done, done.errors) == ("complete", MANY, {})
        assert done.metrics["recall@3"].n == MANY


# -- the process -----------------------------------------------------------------------------------

PROGRAM = """
import asyncio, signal, sys
# A shell starts what runs in its background deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = [{tests!r}, {acceptance!r}]
import evaluated
from ragline import config
from ragline.core.runs import Limits
from pathlib import Path
from test_eval_failures import HYBRID, Halting

async def main():
    dsn = config.load(environ={{"DATABASE_URL": {url!r}}}).dsn
    async with evaluated.opened(dsn, Path({folder!r}), embedder=Halting()) as app:
        await evaluated.run(
            app, HYBRID, Limits(concurrency=2), name="r",
            on_progress=lambda progress: print(progress.done, flush=True),
        )

asyncio.run(main())
"""


def begun(dsn: Dsn, folder: Path) -> subprocess.Popen[str]:
    """Begin a run of `small` in a process of its own, which prints how far it is."""
    tests = Path(evaluated.__file__).parent
    url = dsn.for_sqlalchemy("test")
    program = PROGRAM.format(
        tests=str(tests), acceptance=str(tests / "acceptance"), url=url, folder=str(folder)
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )


async def until_saved(app: App, name: str) -> None:
    """Wait until some case of a run is stored."""
    while not await started(app, name):  # noqa: ASYNC110 - nobody sets an event for it
        await asyncio.sleep(0.02)


async def started(app: App, name: str) -> int:
    """Return how many cases of a run are stored, before it exists as well."""
    pool = await app.pool("eval")
    async with pool.connection() as connection:
        return sum(one.done for one in await evals.runs(connection) if one.name == name)


async def until(process: subprocess.Popen[str], done: int) -> None:
    """Wait until a process has so many cases done."""
    assert process.stdout is not None
    while line := await asyncio.to_thread(process.stdout.readline):
        if int(line) >= done:
            return
    raise AssertionError(f"it ended with {process.wait()}")


async def test_a_run_whose_process_is_killed_goes_on_with_each_case_once(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async with evaluated.opened(own_dsn, tmp_path, embedder=FakeEmbedder()) as app:
        await prepared(app, many())
        process = begun(own_dsn, tmp_path)
        try:
            await until(process, 5)
            await until_saved(app, "r")
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.wait()

        left = await stored(app, "r")
        assert 0 < left.done < MANY
        kept = {one.case_id: one for one in await results(app, left)}
        with pytest.raises(Conflict, match="is being worked on by"):
            await run(app, HYBRID, resume="r")
        await lease_is_over(own_dsn)
        assert (await stored(app, "r")).state == "partial"

        done = await run(app, HYBRID, resume="r")

        assert (done.id, done.state, done.done) == (left.id, "complete", MANY)
        cases = await results(app, done)
        assert [one.case_id for one in cases] == [case.id for case in many()]
        assert all(one == kept[one.case_id] for one in cases if one.case_id in kept)
        assert any("a process died" in said for said in done.warnings)


async def test_a_run_that_is_interrupted_from_the_keyboard_is_partial_at_once(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async with evaluated.opened(own_dsn, tmp_path, embedder=FakeEmbedder()) as app:
        await prepared(app, many())
        process = begun(own_dsn, tmp_path)
        try:
            await until(process, 3)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=120) != 0
        finally:
            process.kill()
            process.wait()

        left = await stored(app, "r")
        assert left.state == "partial"
        assert 3 <= left.done < MANY
        assert any("interrupted" in said for said in left.warnings)
        assert (await run(app, HYBRID, resume="r")).state == "complete"


async def stored(app: App, name: str) -> Run:
    pool = await app.pool("eval")
    async with pool.connection() as connection:
        found = await evals.run(connection, name)
    assert found is not None
    return found


async def lease_is_over(dsn: Dsn) -> None:
    """Let the minute pass for which a run is held by whoever began it."""
    connection = await connect(dsn)
    try:
        await connection.execute(
            "update run set lease_until = clock_timestamp() - interval '1 second'"
        )
    finally:
        await connection.close()
