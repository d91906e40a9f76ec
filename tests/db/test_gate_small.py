"""The gate where there is little to ask, and what measuring takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import gated
from gated import COLLECTION, ClusteredEmbedder
from ragline.core.change import Trial
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked
from ragline.core.search_policy import SearchPolicy, to_json
from ragline.evals.gate import Gate


def policy(**values: object) -> dict[str, Trial]:
    return {COLLECTION: Trial(policy=to_json(SearchPolicy(**values)))}  # type: ignore[arg-type]


@pytest.mark.parametrize("chunks", [1, 5, 29, 450, 3000])
async def test_time(own_dsn: Dsn, tmp_path: Path, chunks: int) -> None:
    embedder = ClusteredEmbedder(chunks)
    open_app = gated.opener(own_dsn, tmp_path, embedder)
    async with open_app("serve", {}) as app:
        await gated.fill(app, own_dsn, chunks)
    lines: list[str] = []
    gate = Gate(open_app, lines.append)
    t = time.time()
    found = await gate.pair(Asked(), policy(), policy(ef_search=200))
    print("\npair", chunks, round(time.time() - t, 1), found.status, found.reason[:150], found.n, found.noise)
    t = time.time()
    b = await gate.before(Asked())
    print("before", round(time.time() - t, 1))
    t = time.time()
    found = await gate.after(Asked(), b)
    print("after", round(time.time() - t, 1), found.status, found.reason[:150], found.n, found.noise)
    print(lines)
