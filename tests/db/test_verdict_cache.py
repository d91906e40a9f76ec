"""The memory of judges in the database: nothing is asked twice, nothing damaged is believed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from conftest import opened
from doubles.judge import ScriptedJudge
from ragline.core.claims import Claim, Label
from ragline.core.dsn import Dsn
from ragline.core.judging import PROMPT_VERSION
from ragline.errors import RaglineError
from ragline.evals import cache
from ragline.evals.cache import DatabaseMemory
from ragline.models.judge import Tally, labels
from ragline.models.judge_llm import LlmJudge
from ragline.models.llm_fake import FakeChat
from ragline.rag.app import App

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

NILE: Claim = ("The Nile", "is", "long")
RIVER: Claim = ("The river", "is", "long")
CLAIMS: dict[str, list[Claim]] = {"It is long.": [NILE], "Long it is.": [RIVER]}
LABELS: dict[tuple[Claim, str], Label] = {(NILE, "The Nile is long."): "Entailment"}
CALLS = 2 + 2 + 2 * 2
JUDGE_ID = f"llm:fake/fake-chat@{PROMPT_VERSION}"


def chat() -> FakeChat:
    script = ScriptedJudge(CLAIMS, LABELS, otherwise="Neutral")
    return FakeChat(lambda messages: script.answer(messages[-1].content))


async def judged(app: App, *, more: str = "") -> Tally:
    """Judge one case; return what was asked."""
    judge = LlmJudge(chat(), await cache.memory(app), 4)
    contexts = ["The Nile is long.", f"It is wide.{more}"]
    found = await labels(judge, "?", "It is long.", "Long it is.", contexts, tally := Tally())
    assert found.answer_by_context == (("Entailment", "Neutral"),)
    return tally


def rows(count: int, *, first: int = 0, size: int = 100) -> list[tuple[bytes, str]]:
    return [(n.to_bytes(32), "x" * size) for n in range(first, first + count)]


@pytest.fixture
async def memory(app: App) -> AsyncIterator[DatabaseMemory]:
    memory = await cache.memory(app)
    yield memory
    await memory.close()


async def test_what_was_judged_once_is_not_asked_again(app: App) -> None:
    assert await judged(app) == Tally(calls=CALLS, misses=CALLS)
    assert await judged(app) == Tally(hits=CALLS)

    known = await cache.facts(app)
    assert (known.entries, known.hits) == (CALLS, CALLS)
    assert known.bytes > 0


async def test_another_process_knows_it_too(app: App, own_dsn: Dsn, tmp_path: Path) -> None:
    await judged(app)

    async with opened(own_dsn, tmp_path, None) as another:
        assert await judged(another) == Tally(hits=CALLS)


async def test_only_what_a_new_passage_changes_is_asked(app: App) -> None:
    await judged(app)

    assert await judged(app, more=" And deep.") == Tally(calls=2, hits=CALLS - 2, misses=2)


async def test_a_damaged_answer_is_found_and_asked_again(app: App, db: Database) -> None:
    await judged(app)
    # A disk does not ask the constraint.
    await db.execute("alter table verdict drop constraint verdict_checksum_fits")
    spoilt = await db.fetchval(
        "update verdict set reply = replace(reply, 'Neutral', 'Entailment') where key = ("
        "select key from verdict where reply like '%Neutral%' order by key limit 1) returning key"
    )

    found = await cache.verify(app)

    assert found == cache.Verification(entries=CALLS, damaged=(spoilt.hex(),))
    assert await judged(app) == Tally(calls=1, hits=CALLS - 1, misses=1)
    assert await cache.verify(app) == cache.Verification(entries=CALLS, damaged=())


async def test_answers_of_one_judge_are_forgotten_alone(app: App, memory: DatabaseMemory) -> None:
    await judged(app)
    await memory.put("llm:another", rows(3))

    assert await cache.clear(app, JUDGE_ID) == CALLS
    assert (await cache.facts(app)).entries == 3
    assert await cache.clear(app) == 3
    assert (await cache.facts(app)).entries == 0
    assert await judged(app) == Tally(calls=CALLS, misses=CALLS)


async def test_more_keys_than_one_statement_takes_are_found(memory: DatabaseMemory) -> None:
    many = rows(1203, size=10)
    await memory.put("a", many)

    assert await memory.get([key for key, _ in many]) == dict(many)
    assert await memory.get([]) == {}
    assert await memory.get([b"\xff" * 32]) == {}


async def test_what_was_not_used_for_longest_makes_room(app: App) -> None:
    memory = DatabaseMemory(await app.pool("eval"), max_bytes=40_000, rows_between=100)
    old, used, new = rows(100), rows(100, first=100), rows(100, first=200)
    await memory.put("a", old)
    await memory.put("a", used)
    await memory.get([key for key, _ in old])  # used later than the others

    for at in range(0, 100, 10):
        await memory.put("a", new[at : at + 10])

    left = await cache.facts(app)
    assert left.bytes <= 40_000
    assert memory.evicted == 300 - left.entries > 0
    assert await memory.get([key for key, _ in new]) == dict(new)
    gone = 100 - len(await memory.get([key for key, _ in used]))
    assert gone == min(100, memory.evicted)


async def test_room_is_made_at_the_end_too(app: App) -> None:
    memory = DatabaseMemory(await app.pool("eval"), max_bytes=2_000)
    await memory.put("a", rows(50))
    assert (await cache.facts(app)).entries == 50

    await memory.close()

    assert (await cache.facts(app)).bytes <= 2_000


async def test_the_limit_is_the_configured_one(app: App) -> None:
    app.config = type(app.config)(data_dir=app.config.data_dir, eval_cache_mb=1)
    memory = await cache.memory(app)
    await memory.put("a", [(key, os.urandom(3000).hex()) for key, _ in rows(250)])

    await memory.close()

    left = await cache.facts(app)
    assert 900_000 < left.bytes <= 1_000_000


async def test_cases_side_by_side_keep_the_same_answers(memory: DatabaseMemory) -> None:
    many = rows(400)

    await asyncio.gather(
        *(memory.put("a", many if turn % 2 else many[::-1]) for turn in range(8)),
        *(memory.get([key for key, _ in many]) for _ in range(8)),
    )

    assert await memory.get([key for key, _ in many]) == dict(many)


async def test_without_its_memory_nothing_is_judged(app: App, db: Database) -> None:
    judge = LlmJudge(model := chat(), await cache.memory(app), 4)
    await db.execute("alter table verdict rename to verdict_elsewhere")

    with pytest.raises(RaglineError, match="verdict"):
        await labels(judge, "?", "It is long.", "Long it is.", ["The Nile is long."])

    assert model.asked == []
