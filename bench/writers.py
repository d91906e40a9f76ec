"""Searches while documents are changed: exact all the while, and how much slower.

Eight clients search without a pause (hybrid, through the library, in this process); on two cores that
alone keeps the machine busy. Four writers, each a process of its own, replace, remove and bring back
documents of up to 20,000 characters, through the library as its HTTP service does it. In the phase that
is judged each writer makes one change a second, as a corpus that people edit sees at most: without a
pace they would measure how the processor is shared out. That is the last row, for information.

Phases without writers come twice a round: their ratio is what the machine's noise amounts to. Exactness
is checked while everybody runs at full speed, in snapshots: what the search says against BM25 worked
out from the texts (exact.py); and once more after the last change.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import asyncpg
import numpy as np

import corpus
import exact
import measure
from measure import Figure
from ragline.config import Config
from ragline.core import lexical
from ragline.core.dsn import Dsn
from ragline.core.results import CollectionFacts, Hit
from ragline.db import search
from ragline.db.pool import Connection
from ragline.db.targets import Target
from ragline.errors import NotFound, RaglineError
from ragline.rag.app import App
from ragline.rag.catalog import remove_document
from ragline.rag.ingest import Text, ingest_texts
from ragline.rag.search import query, search_collections
from ragline.wiring import open_app

K = 10
COLLECTION = "corpus-vectors"
CLIENTS = 8
WRITERS = 4
PACE = 1.0
LIMIT = 1.3
LARGEST = 20_000
SNAPSHOTS = 4
QUESTIONS_A_SNAPSHOT = 25
UNPACED = 1e9
END = -1.0


def main() -> int:
    """Print the figures; exit 1 when a limit is broken, 3 when there is no corpus."""
    parser = measure.options(__doc__)
    parser.add_argument("--chunks", type=int, default=25_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a phase")
    parser.add_argument("--pace", type=float, default=PACE, help="changes a second, of each writer")
    parser.add_argument("--writer", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer is not None:
        return asyncio.run(_write(options.data, options.writer))
    try:
        figures = asyncio.run(_run(options))
    except corpus.NotRun as error:
        return corpus.not_run(error)
    return measure.verdict(figures, options.json)


async def _run(options: argparse.Namespace) -> list[Figure]:
    async with corpus.opened(options.data, COLLECTION, options.chunks, has_vectors=True) as (
        app,
        dsn,
    ):
        connection = await corpus.connect(dsn)
        questions = await corpus.headings(connection, COLLECTION)
        deadlocks = await _deadlocks(connection)
        async with _writers(app.config.data_dir.parent) as writers:
            clients = Clients(app=app, questions=itertools.cycle(questions))
            print(
                f"\n{options.chunks:,} chunks, {CLIENTS} clients, hybrid, top {K}; {WRITERS} writers, "
                f"{options.pace:g} changes a second each; phases of {options.seconds:g} s"
            )
            rounds = [
                await _round(clients, writers, options, number) for number in range(options.rounds)
            ]
            figures = measure.said(_slower(rounds, options.seconds))
            figures += measure.said(await _exact_meanwhile(dsn, clients, writers, questions))
        figures += measure.said(await _exact_after(app, connection, questions))
        faults = Counter(clients.faults) + sum((one.faults for one in writers), Counter[str]())
        faults["deadlocks"] += await _deadlocks(connection) - deadlocks
        changes = sum((one.changes for one in writers), Counter[str]())
        figures += measure.said(
            [
                Figure(
                    what="deadlocks and errors of any kind", value=faults.total(), at_most=0,
                    n=clients.answered + changes.total(),
                    note=", ".join(f"{name} {count}" for name, count in (changes + faults).items()),
                )
            ]
        )  # fmt: skip
        await connection.close()
    return figures


async def _deadlocks(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    await connection.execute("select pg_stat_clear_snapshot()")
    found: int = await connection.fetchval(
        "select deadlocks from pg_stat_database where datname = current_database()"
    )
    return found


# -- clients -------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Clients:
    """The clients; while they run, each asks the next question as soon as it has its answer."""

    app: App
    questions: itertools.cycle[str]
    answered: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    async def run(self, seconds: float) -> list[float]:
        """Search for so long; return the milliseconds of every search."""
        took: list[float] = []
        until = time.perf_counter() + seconds
        await self.run_while(lambda: time.perf_counter() < until, took)
        return took

    async def run_while(self, goes_on: Callable[[], bool], took: list[float]) -> None:
        """Search as long as `goes_on` says; add the milliseconds of every search to `took`."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client(goes_on, took))

    async def _client(self, goes_on: Callable[[], bool], took: list[float]) -> None:
        while goes_on():
            question = next(self.questions)
            asked = query(question, COLLECTION, k=K, vector=corpus.vector(question))
            started = time.perf_counter()
            try:
                found = await search_collections(self.app, asked)
            except RaglineError as error:
                self.faults[f"search: {type(error).__name__}"] += 1
                continue
            took.append((time.perf_counter() - started) * 1000)
            self.answered += 1
            if len(found.hits) < K:
                self.faults["search: short result"] += 1


# -- writers, from outside -----------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Writer:
    """A process that changes documents at the pace it is told, and says so."""

    process: asyncio.subprocess.Process
    changes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        """Count what it says until it ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            if said.get("idle"):
                self.idle.set()
            elif fault := said.get("fault"):
                self.faults[f"writer: {fault}"] += 1
            else:
                self.changes[said["done"]] += 1
        if await self.process.wait():
            self.faults["writer: ended early"] += 1
            self.idle.set()

    async def pace(self, changes_a_second: float) -> None:
        """Tell it how often to change something; 0 stops it, and waits until it has stopped."""
        assert self.process.stdin is not None
        self.idle.clear()
        self.process.stdin.write(f"{changes_a_second}\n".encode())
        await self.process.stdin.drain()
        if not changes_a_second:
            await self.idle.wait()


@asynccontextmanager
async def _writers(place: Path) -> AsyncIterator[list[Writer]]:
    async with asyncio.TaskGroup() as group:
        writers = []
        for number in range(WRITERS):
            process = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--writer", str(number), "--data", str(place),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            writers.append(Writer(process=process))
            group.create_task(writers[-1].listen())
        try:
            # Ready when it has read the corpus.
            await asyncio.gather(*(one.idle.wait() for one in writers))
            yield writers
        finally:
            for one in writers:
                assert one.process.stdin is not None
                with contextlib.suppress(ConnectionError):
                    one.process.stdin.close()


async def _all(writers: Sequence[Writer], changes_a_second: float) -> None:
    await asyncio.gather(*(one.pace(changes_a_second) for one in writers))


# -- phases --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Phase:
    """The times of all searches of a phase, and how many documents were changed meanwhile."""

    ms: list[float]
    changes: int

    @property
    def p95(self) -> float:
        """Return the time that 95 of 100 searches stay below."""
        return float(np.quantile(self.ms, 0.95))


async def _round(
    clients: Clients, writers: Sequence[Writer], options: argparse.Namespace, number: int
) -> dict[str, Phase]:
    paces = {"alone": 0.0, "alone again": 0.0, "paced": options.pace, "unpaced": UNPACED}
    random_ = random.Random(number)
    phases: dict[str, Phase] = {}
    for name in random_.sample(list(paces), len(paces)):
        await clients.run(0.3)
        before = sum(one.changes.total() for one in writers)
        if paces[name]:
            await _all(writers, paces[name])
        took = await clients.run(options.seconds)
        if paces[name]:
            await _all(writers, 0)
        phases[name] = Phase(took, sum(one.changes.total() for one in writers) - before)
    return phases


def _slower(rounds: Sequence[dict[str, Phase]], seconds: float) -> list[Figure]:
    figures = []
    for name, other, what, limit in (
        ("paced", "alone", "search p95 with 4 writers / without", LIMIT),
        ("alone again", "alone", "the same without writers on either side", None),
        ("unpaced", "alone", "with writers that never pause / without", None),
    ):
        ratios = [one[name].p95 / one[other].p95 for one in rounds]
        middle, low, high = measure.median_of(ratios, seed=6)
        ours = statistics.median(one[name].p95 for one in rounds)
        theirs = statistics.median(one[other].p95 for one in rounds)
        changes = sum(one[name].changes for one in rounds) / len(rounds) / seconds
        figures.append(
            Figure(
                what=what, unit="x", value=middle, low=low, high=high, at_most=limit,
                n=sum(len(one[name].ms) + len(one[other].ms) for one in rounds),
                note=f"p95 {ours:.1f} against {theirs:.1f} ms, {len(rounds)} rounds, "
                f"{changes:.1f} changes a second",
            )
        )  # fmt: skip
    return figures


# -- exactness -----------------------------------------------------------------------------------


async def _exact_meanwhile(
    dsn: Dsn, clients: Clients, writers: Sequence[Writer], questions: Sequence[str]
) -> list[Figure]:
    """Compare searches with the oracle in snapshots, while everybody runs at full speed."""
    connection = await corpus.connect(dsn)
    is_over = False
    await _all(writers, UNPACED)
    before = sum(one.changes.total() for one in writers)
    wrong: list[bool] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(clients.run_while(lambda: not is_over, []))
        try:
            for number in range(SNAPSHOTS):
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    wrong += await _wrong_in_snapshot(
                        connection, questions[number * QUESTIONS_A_SNAPSHOT :]
                    )
        finally:
            is_over = True
    await _all(writers, 0)
    await connection.close()
    changes = sum(one.changes.total() for one in writers) - before
    return [
        Figure(
            what="searches that were not exact BM25, meanwhile", value=sum(wrong), n=len(wrong),
            at_most=0, note=f"{SNAPSHOTS} snapshots during {changes} changes",
        )
    ]  # fmt: skip


async def _wrong_in_snapshot(
    connection: asyncpg.Connection[asyncpg.Record], questions: Sequence[str]
) -> list[bool]:
    oracle = await exact.read(connection, COLLECTION)
    target = Target(collection=COLLECTION, collection_id=await _collection_id(connection))
    wrong = []
    for question in questions[:QUESTIONS_A_SNAPSHOT]:
        terms = tuple(lexical.question_terms(question, exact.LANGUAGE))
        ask = search.Ask(k=K, candidates=4 * K, ef_search=100, is_exact=True, terms=terms)
        found = await search.run(cast("Connection", connection), target, "lexical", ask)
        wrong.append(_is_wrong(oracle, question, found.hits))
    return wrong


async def _collection_id(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    found: int = await connection.fetchval(
        "select id from ragline.collection where name = $1", COLLECTION
    )
    return found


async def _exact_after(
    app: App, connection: asyncpg.Connection[asyncpg.Record], questions: Sequence[str]
) -> list[Figure]:
    oracle = await exact.read(connection, COLLECTION)
    wrong = []
    for question in questions[:500]:
        asked = query(question, COLLECTION, k=K, method="lexical", exact=True)
        hits = (await search_collections(app, asked)).hits
        wrong.append(_is_wrong(oracle, question, hits))
    return [
        Figure(
            what="searches that were not exact BM25, afterwards",
            value=sum(wrong), n=len(wrong), at_most=0,
        )
    ]  # fmt: skip


def _is_wrong(oracle: exact.Bm25, question: str, hits: Sequence[Hit]) -> bool:
    share = oracle.share(question, hits, K)
    if share is None:
        return bool(hits)
    return share < 1 or oracle.error(question, hits) > exact.SAME


# -- a writer, from inside -----------------------------------------------------------------------


async def _write(place: Path, number: int) -> int:
    """Change documents at the pace that standard input says, one line a change on standard output."""

    async def open_model() -> corpus.Clustered:
        return corpus.Clustered()

    orders: asyncio.Queue[float] = asyncio.Queue()
    async with open_app(Config(data_dir=place / "data"), ingest_workload="serve") as app:
        app.open_embedder = open_model
        facts = await app.collection(COLLECTION)
        texts = [
            text
            for text in itertools.islice(corpus.documents(), facts.documents)
            if len(text.text) <= LARGEST
        ]
        listening = asyncio.create_task(_listen(orders))
        await _obey(app, facts, texts, orders, random.Random(number))
        await listening
    return 0


async def _listen(orders: asyncio.Queue[float]) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async for line in reader:
        await orders.put(float(line))
    await orders.put(END)


async def _obey(
    app: App,
    facts: CollectionFacts,
    texts: Sequence[Text],
    orders: asyncio.Queue[float],
    random_: random.Random,
) -> None:
    removed: list[Text] = []
    pace = due = 0.0
    while pace != END:
        if not pace:
            _say("idle", True)
        order = await _order(orders, max(0.0, due - time.monotonic()) if pace else None)
        if order is not None:
            pace = order
            # Not all at the same moment.
            due = time.monotonic() + (random_.random() / pace if pace > 0 else 0)
            continue
        due = max(due + 1 / pace, time.monotonic())
        try:
            _say("done", await _change(app, facts, texts, removed, random_))
        except RaglineError as error:
            _say("fault", f"{type(error).__name__}: {error}")


async def _order(orders: asyncio.Queue[float], wait_s: float | None) -> float | None:
    """Return the next order; None when there is none for so long."""
    if wait_s is None or not orders.empty():
        return await orders.get()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            return await orders.get()
    return None


def _say(what: str, value: object) -> None:
    print(json.dumps({what: value}), flush=True)


async def _change(
    app: App,
    facts: CollectionFacts,
    texts: Sequence[Text],
    removed: list[Text],
    random_: random.Random,
) -> str:
    """Make one change; return what was done: half are replacements, the others go and come back."""
    if random_.random() < 0.5:
        text = random_.choice(texts)
        await ingest_texts(app, [_revised(text, random_)], COLLECTION)
        return "replaced"
    if removed and random_.random() < 0.5:
        await ingest_texts(app, [removed.pop(random_.randrange(len(removed)))], COLLECTION)
        return "brought back"
    text = random_.choice(texts)
    pool = await app.pool(app.search_workload)
    async with pool.connection() as connection:
        found = await connection.fetchval(
            "select id from document where collection_id = $1 and source = $2",
            facts.id,
            text.source,
        )
    if found is None:
        return "found gone"
    try:
        await remove_document(app, found)
    except NotFound:
        return "found gone"
    removed.append(text)
    return "removed"


def _revised(text: Text, random_: random.Random) -> Text:
    """Return a text with a tenth of its lines gone and a new one, so that every term may count anew."""
    lines = [line for line in text.text.split("\n") if random_.random() > 0.1]
    lines.append(f"<p>Revision {random_.randrange(1_000_000)} of this page.</p>")
    return Text(
        source=text.source, text="\n".join(lines), media_type=text.media_type,
        title=text.title, metadata=text.metadata,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
