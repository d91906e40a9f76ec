"""How long it takes to put a change back, for each kind, and what the loop itself costs.

Undo: `loop.undo` of a kept change, from the call to the entry in the ledger: planned, locked, stepped,
read back from a new connection, closed. Index, space and search policy are those of a collection of
`--chunks` chunks with vectors of 384 dimensions; "kept" is while what was replaced is still there,
"dropped" after it is gone, so that it is filled and built again (by an embedding model that is a table:
a true model takes its own time beside it).

Killed: `ragline change apply` is ended by kill -9 at a point, and the next command (`ragline change
resume`) is timed as a whole, from the shell: it starts Python, connects, settles and prints.

The loop: a change whose one step does nothing, unmeasured, planned and applied.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import corpus  # for its path to the tests' own data
import measure
from command import PROGRAM, Command
from gated import ClusteredEmbedder, fill
from measure import Figure
from ragline.change import loop
from ragline.change.kind import Site
from ragline.config import Config
from ragline.core.change import Arm, Part, Step, Value
from ragline.models.embed import Embedder
from ragline.ops import embedded
from ragline.wiring import open_app, open_site

COLLECTION = "bench"
MINUTES_15 = 900.0
# Which point of which change the process is killed at.
KILLED: Mapping[str, tuple[Sequence[str], str]] = {
    "setting, reload": (["setting", "work_mem=6MB"], "apply:2:before"),
    "setting, restart": (["setting", "max_connections=90"], "apply:2:before"),
    "role": (["role", "eval_app", "work_mem=20MB"], "apply:1:after"),
    "search": (["search", COLLECTION, "ef_search=60"], "keeping"),
    "index": (["index", COLLECTION, "m=18"], "adopt:1:after"),
}


def main() -> int:
    """Measure, print, and return 1 when a limit is broken."""
    parser = measure.options(__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    return measure.verdict(asyncio.run(_run(options)), options.json)


async def _run(options: Namespace) -> list[Figure]:
    place = options.data or Path(tempfile.mkdtemp(prefix="ragline-bench-"))
    place.chmod(0o755)
    config = Config(data_dir=place / "data")
    figures: list[Figure] = []
    try:
        first = ClusteredEmbedder(options.chunks, dimension=corpus.DIMENSION)
        async with open_app(config) as app:
            dsn = embedded.dsn(embedded.ensure(config.data_dir))
            if not await _is_there(app):
                await fill(app, dsn, options.chunks, COLLECTION, dimension=corpus.DIMENSION)
        async with open_site(config) as site:
            _with_models(site, first, ClusteredEmbedder(options.chunks, noise=0.01, dimension=256))
            figures += measure.said(await _loop_alone(site))
            figures += measure.said(await _settings(site, options.times))
            figures += measure.said(await _search_policy(site, options.times))
            figures += measure.said(await _index(site, options.times))
            figures += measure.said(await _space(site))
        figures += measure.said(_killed(config))
    finally:
        embedded.stop(config.data_dir)
        if options.data is None:
            shutil.rmtree(place)
    return figures


async def _is_there(app: Any) -> bool:
    from ragline.rag import catalog

    return any(facts.name == COLLECTION for facts in await catalog.collections(app))


def _with_models(site: Site, first: Embedder, second: Embedder) -> None:
    async def one() -> Embedder | None:
        return first

    async def other() -> Embedder | None:
        return second

    site.app.open_embedder = one
    site.app.other_models = (other,)


async def _loop_alone(site: Site) -> list[Figure]:
    site.kinds = {**site.kinds, "nothing": Nothing()}
    took = []
    for number in range(60):
        started = time.perf_counter()
        await _kept(site, Part(kind="nothing", target="it", want=number))
        took.append((time.perf_counter() - started) * 1000)
    return _figures("the loop itself, plan and apply", took[10:], "ms", at_most=50)


async def _settings(site: Site, times: int) -> list[Figure]:
    figures = []
    reload_ = [Part(kind="setting", target="work_mem", want="8MB")]
    figures += _figures(
        "undo: setting, reload", await _undone(site, reload_, times), "s", at_most=1
    )
    role = [Part(kind="role", target="eval_app.work_mem", want="16MB")]
    figures += _figures("undo: role", await _undone(site, role, times), "s", at_most=1)
    restart = [Part(kind="setting", target="max_connections", want="110")]
    took = await _undone(site, restart, max(5, times // 2))
    return [*figures, *_figures("undo: setting, restart", took, "s", at_most=10)]


async def _search_policy(site: Site, times: int) -> list[Figure]:
    parts = [Part(kind="search", target=COLLECTION, want={"ef_search": 80})]
    return _figures("undo: search policy", await _undone(site, parts, times), "s", at_most=1)


async def _index(site: Site, times: int) -> list[Figure]:
    started = time.perf_counter()
    entry = await _kept(site, Part(kind="index", target=COLLECTION, want={"m": 20}))
    build_s = time.perf_counter() - started
    took = []
    # To and fro between the two that are there.
    for _ in range(times):
        began = time.perf_counter()
        entry = (await loop.undo(site, entry)).id
        took.append(time.perf_counter() - began)
    kept = _figures("undo: index, kept", took, "s", at_most=1)
    return [Figure(what="build: index, m 20", value=build_s, n=1, unit="s"), *kept]


async def _space(site: Site) -> list[Figure]:
    started = time.perf_counter()
    parts = [Part(kind="space", target=COLLECTION, want={"model": "clustered-0.01"})]
    id_ = await _kept(site, *parts)
    fill_s = time.perf_counter() - started
    took = []
    for _ in range(6):
        began = time.perf_counter()
        id_ = (await loop.undo(site, id_)).id
        took.append(time.perf_counter() - began)
    # What it replaced is dropped, as after its time: undo fills and builds it again.
    for part in parts:
        kind = site.kinds[part.kind]
        await kind.tidy(site, part.target, await kind.read(site, part.target))
    began = time.perf_counter()
    await loop.undo(site, id_)
    dropped_s = time.perf_counter() - began
    return [
        Figure(what="fill and build: space", value=fill_s, n=1, unit="s"),
        *_figures("undo: space, kept", took, "s", at_most=MINUTES_15),
        Figure(what="undo: space, dropped", value=dropped_s, n=1, unit="s", at_most=MINUTES_15),
    ]


def _killed(config: Config) -> list[Figure]:
    ragline = Command(folder=config.data_dir.parent)
    took = []
    for words, point in KILLED.values():
        for _ in range(3):
            planned = ragline.json("change", "plan", *words, "--no-measure")
            breaking = ragline.with_(RAGLINE_FAIL_POINT=f"{point}=die")
            done = breaking.run("change", "apply", str(planned["id"]), timeout_s=600)
            if done.returncode != -9:
                raise SystemExit(f"not killed at {point}: {done.stderr}")
            began = time.perf_counter()
            settled = subprocess.run(
                [PROGRAM, "change", "resume", "--json"],
                env=ragline.environment, capture_output=True, text=True, timeout=600,
            )  # fmt: skip
            took.append(time.perf_counter() - began)
            if settled.returncode:
                raise SystemExit(settled.stderr)
            _back(ragline, planned["id"])
    return _figures("killed with -9: settled by the next command", took, "s", at_most=10)


def _back(ragline: Command, id_: int) -> None:
    """Take back what was kept after all, so that the next time finds the same."""
    entry = ragline.json("change", "show", str(id_))["entry"]
    if entry["state"] == "kept":
        ragline.json("change", "undo", str(id_))
    elif entry["state"] != "undone":
        raise SystemExit(f"change {id_} is {entry['state']}")


async def _kept(site: Site, *parts: Part) -> int:
    planned = await loop.plan(site, parts, None)
    if planned is None:
        raise SystemExit(f"nothing to do for {parts}")
    ended = await loop.apply(site, planned.id)
    if ended.state != "kept":
        raise SystemExit(f"{ended.title} is {ended.state}: {ended.reason}")
    return ended.id


async def _undone(site: Site, parts: Sequence[Part], times: int) -> list[float]:
    took = []
    for _ in range(times):
        id_ = await _kept(site, *parts)
        began = time.perf_counter()
        await loop.undo(site, id_)
        took.append(time.perf_counter() - began)
    return took


def _figures(what: str, took: Sequence[float], unit: str, *, at_most: float) -> list[Figure]:
    """Return p50, p95 and the maximum; the limit is for the maximum."""
    p95 = float(np.quantile(took, 0.95))
    note = f"p50 {statistics.median(took):.3g}, p95 {p95:.3g} {unit}"
    return [Figure(what=what, value=max(took), n=len(took), unit=unit, at_most=at_most, note=note)]


class Nothing:
    """A kind whose step does nothing: what is left is the loop."""

    name = "nothing"
    is_cluster_wide = False

    def __init__(self) -> None:
        self._value: Value = None

    async def wanted(self, site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
        return want, ()

    async def read(self, site: Site, target: str) -> Value:
        return self._value

    def steps(self, target: str, now: Value, want: Value) -> list[Step]:
        if now == want:
            return []
        arguments = {"want": want}
        return [
            Step(
                kind=self.name, target=target, phase="apply", action="sql", text="nothing",
                arguments=arguments,
            )
        ]  # fmt: skip

    async def run(self, site: Site, step: Step) -> None:
        self._value = step.arguments["want"]

    async def confirm(self, site: Site, target: str, want: Value) -> None:
        if self._value != want:
            raise SystemExit("nothing has no effect")

    async def arms(
        self, site: Site, target: str, now: Value, want: Value
    ) -> tuple[Arm, Arm] | None:
        return None

    async def tidy(self, site: Site, target: str, keep: Value) -> None:
        return None

    def measured(self, target: str) -> Mapping[str, Any]:
        return {}


if __name__ == "__main__":
    sys.exit(main())
