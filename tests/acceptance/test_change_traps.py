"""Changes with a trap: a library more, a server that does not start, another space under load."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import breaking
import tiny_model
from breaking import COLLECTION, Ground
from command import Command, place
from ragline.change import loop
from ragline.core.change import Part
from ragline.core.gate import Asked
from ragline.errors import PreconditionFailed

LIBRARIES = "shared_preload_libraries"
# Searches go on meanwhile, and whoever else uses the machine: time decides nothing here.
_ASKED = Asked(questions=30, latency_margin=10.0, budget_s=400.0)


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    """A place with a server that these tests restart."""
    with place() as command:
        yield command


@pytest.fixture(scope="module")
async def ground(command: Command) -> Ground:
    """A collection by a model of 16 numbers; one of 48 is there as well."""
    made = Ground(
        command=command,
        first=tiny_model.make(command.folder / "first", dimension=16),
        second=tiny_model.make(command.folder / "second", dimension=48),
    )
    await breaking._filled(made)
    return made


async def show(ground: Ground, name: str) -> str:
    async with ground.looking() as db:
        return str(await db.fetchval("select current_setting($1)", name))


# Libraries


@pytest.mark.parametrize("more", ["auto_explain", "pg_prewarm"])
async def test_a_library_more_is_loaded_beside_those_that_were(ground: Ground, more: str) -> None:
    was = await show(ground, LIBRARIES)
    before = await breaking.fingerprint(ground)
    names = [name for name in was.replace(" ", "").split(",") if name]
    assert names, "there is no library beside which to load one"
    part = Part(kind="setting", target=LIBRARIES, want=[*names, more])
    async with ground.site() as site:
        entry = await loop.plan(site, [part], None)
        assert entry is not None
        assert [step["action"] for step in entry.plan["steps"]] == ["sql", "restart"]
        assert (await loop.apply(site, entry.id)).state == "kept"
        assert (await show(ground, LIBRARIES)).replace(" ", "").split(",") == [*names, more]
        async with ground.looking() as db:
            # Loaded, not only listed.
            assert await db.fetchval(
                "select count(*) from pg_settings where name like $1", f"{more}.%"
            )
        assert (await loop.undo(site, entry.id)).state == "kept"
    assert await show(ground, LIBRARIES) == was
    assert await breaking.fingerprint(ground) == before


async def test_a_start_that_fails_is_put_right_without_help(ground: Ground) -> None:
    """As if the rehearsal had known no better: the server is down with what it cannot start with."""
    before = await breaking.fingerprint(ground)

    async def knows_nothing(settings: Mapping[str, str]) -> str | None:
        return None

    async with ground.site() as site:
        assert site.restart is not None
        site.restart.preflight = knows_nothing  # type: ignore[method-assign]
        part = Part(kind="setting", target="shared_buffers", want="900GB")
        entry = await loop.plan(site, [part], None)
        assert entry is not None
        with pytest.raises(PreconditionFailed, match=r"was put back") as failed:
            await loop.apply(site, entry.id)
        assert "memory" in str(failed.value), failed.value
        assert failed.value.exit_code == 3
        ended = (await loop.whole(site, entry.id)).entry
    assert ended.state == "undone"
    assert ended.undo_ms is not None
    assert ended.undo_ms > 0
    assert await breaking.fingerprint(ground) == before
    assert await breaking.leftovers(ground) == []


# Another space under load

_SEARCHES = """
import asyncio, json, random, sys, threading
from ragline import config, wiring
from ragline.rag.search import query, search_collections

words = [f"w{n}" for n in range(400)]
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()

async def main():
    drawn, count, failed, dimensions = random.Random(1), 0, [], []
    async with wiring.open_app(config.load()) as app:
        while not over.is_set():
            try:
                text = " ".join(drawn.choices(words, k=6))
                found = await search_collections(app, query(text, sys.argv[1]))
                if len(found.hits) != 10 or found.warnings:
                    failed.append(f"{len(found.hits)} hits, {found.warnings}")
                facts = await app.collection(sys.argv[1])
                if facts.space.dimension not in dimensions[-1:]:
                    dimensions.append(facts.space.dimension)
                    print(json.dumps(dimensions), flush=True)
            except Exception as error:
                failed.append(repr(error))
            count += 1
            await asyncio.sleep(0.005)
    print(json.dumps({"searches": count, "failed": failed, "dimensions": dimensions}))

asyncio.run(main())
"""


@dataclass
class Searches:
    """Searches of another process, and what they told in the end."""

    lines: asyncio.StreamReader
    told: dict[str, Any] = field(default_factory=dict)

    async def saw(self, dimensions: list[int]) -> None:
        """Wait until they were answered from spaces of these dimensions, one after the other."""
        line = await asyncio.wait_for(self.lines.readline(), 120)
        assert json.loads(line) == dimensions


@asynccontextmanager
async def searching(ground: Ground) -> AsyncIterator[Searches]:
    """Search in a process of its own until the end; what came of it is there afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SEARCHES, COLLECTION,
        env={**ground.command.environment, **ground.environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdin
        assert process.stdout
        searches = Searches(process.stdout)
        await searches.saw([16])
        yield searches
        process.stdin.close()
        lines = (await asyncio.wait_for(process.stdout.read(), 120)).decode().splitlines()
        searches.told = json.loads(lines[-1])
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def dimension(ground: Ground) -> int:
    async with ground.looking() as db:
        return int(
            await db.fetchval(
                "select dimension from embedding_space s join collection c on c.active_space_id = s.id"
            )
        )


async def test_another_dimension_under_load_fails_no_search(ground: Ground, tmp_path: Path) -> None:
    part = Part(kind="space", target=COLLECTION, want={"model": str(ground.second)})
    assert await dimension(ground) == 16
    async with searching(ground) as one, searching(ground) as other:
        async with ground.site(None) as site:
            entry = await loop.plan(site, [part], _ASKED)
            assert entry is not None
            kept = await loop.apply(site, entry.id)
            assert kept.state == "kept", kept.reason
            assert kept.verdict is not None
            assert kept.verdict["rung"] == "recall"
            assert await dimension(ground) == 48
            for searches in (one, other):
                await searches.saw([16, 48])
            await loop.undo(site, entry.id)
            assert await dimension(ground) == 16
        for searches in (one, other):
            await searches.saw([16, 48, 16])
    for searches in (one, other):
        assert searches.told["failed"] == []
        assert searches.told["dimensions"] == [16, 48, 16]
