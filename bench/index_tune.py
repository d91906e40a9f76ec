"""Tuning the index of 25,000 real chunks: how long it takes, whether what it proposes holds on questions
that it has not seen, and what production's searches notice of it.

Another process searches all the while, one search after another with 5 ms between two, as it did before
the tuning and does after it. What passes between those two is printed as well: it is the noise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

import corpus
import measure
from corpus import NotRun
from measure import Figure
from ragline.config import Config
from ragline.core.frontier import Trial
from ragline.db import samples
from ragline.evals import frontier_plot, index_tuning
from ragline.evals.index_tuned import Tuned, Wanted
from ragline.evals.recall import midway
from ragline.ops import embedded
from ragline.rag.app import App
from ragline.rag.search import query, search_collections, target_of
from ragline.wiring import open_app

COLLECTION = "real"
RECALL = 0.95
K = 10
THINKING_S = 0.005
QUIET_S = 40.0
BLOCK = 50
QUERIES = 1_000
QUESTIONS = 400


def main() -> int:
    """Print the figures; exit 1 when a limit is broken, 3 when data or model are not there."""
    options = measure.options(__doc__)
    options.add_argument("--chunks", type=int, default=25_000)
    options.add_argument(
        "--headings", action="store_true", help="ask section headings alone, not what tune samples"
    )
    options.add_argument("--plot", type=Path, help="also write the frontier here, as SVG")
    settings = options.parse_args()
    try:
        figures = asyncio.run(_run(settings))
    except NotRun as error:
        return corpus.not_run(error)
    return measure.verdict(figures, settings.json)


async def _run(settings: argparse.Namespace) -> list[Figure]:
    async with corpus.embedded_for_real(settings.data, COLLECTION, settings.chunks) as opened:
        app, dsn, config = opened
        facts = await app.collection(COLLECTION, fresh=True)
        connection = await corpus.connect(dsn)
        headings = tuple((await corpus.headings(connection, COLLECTION))[:QUESTIONS])
        asked = headings if settings.headings else None
        await connection.close()
        which = f"{len(headings)} headings" if asked else "questions that tune samples"
        print(f"{facts.chunks:,} chunks, recall@{K} of {RECALL:g}, full sweep, {which}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "queries.npy"
            np.save(file, await _queries(app))
            ours, theirs = get_context("spawn").Pipe()
            searching = get_context("spawn").Process(
                target=_production, args=(config, file, theirs)
            )
            searching.start()
            try:
                await asyncio.to_thread(ours.recv)
                tuned, spans = await _tuned(app, config, asked)
                ours.send("stop")
                times = np.asarray(await asyncio.to_thread(ours.recv))
            finally:
                searching.join(30)
                searching.kill()
    if settings.plot:
        settings.plot.write_text(frontier_plot.svg(tuned))
    for trial in tuned.trials:
        print(f"  {json.dumps(_row(trial, tuned.target))}")
    print(f"  questions: {tuned.questions}")
    if tuned.production:
        print(f"  production as tune itself saw it: {tuned.production}")
    for rival in tuned.proposal.rivals if tuned.proposal else ():
        print(f"  side by side: {json.dumps(_row(rival, tuned.target))}")
    print(f"  {tuned.reason}")
    print(f"  {tuned.proposal and tuned.proposal.design}, skipped {len(tuned.skipped)} designs")
    return measure.said(_figures(tuned, times, spans))


def _row(trial: Trial, target: float) -> dict[str, object]:
    point = trial.needed(target) or trial.best
    return {
        "index": str(trial.design),
        "breadth": point.breadth,
        "recall": round(point.recall, 4),
        "reached": trial.needed(target) is not None,
        "p50_ms": round(point.p50_ms, 2),
        "mb": round(trial.size_bytes / 2**20, 1),
        "build_s": round(trial.build_s, 1),
    }


async def _queries(app: App) -> npt.NDArray[np.float32]:
    facts = await app.collection(COLLECTION, fresh=True)
    pool = await app.pool(app.search_workload)
    async with pool.connection() as connection:
        _, drawn = await samples.vectors(
            connection, target_of(facts), chunks=facts.chunks, size=QUERIES
        )
    pairs = zip([drawn[-1], *drawn[:-1]], drawn, strict=True)
    return np.stack([midway(one, other, is_unit=True) for one, other in pairs])


async def _tuned(
    app: App, config: Config, asked: tuple[str, ...] | None
) -> tuple[Tuned, list[tuple[float, float]]]:
    """Tune between two quiet times; return the result and when each of the three began and ended."""
    spans = [(time.time(), time.time() + QUIET_S)]
    await asyncio.sleep(QUIET_S)
    began = time.time()
    folder = embedded.data_directory(config.data_dir)
    tuned = await index_tuning.tune(
        app, COLLECTION, Wanted(recall=RECALL, k=K, questions=asked), folder=folder,
        say=lambda line: print(f"  {time.time() - began:5.0f} s  {line}", flush=True),
    )  # fmt: skip
    spans.append((began, time.time()))
    await asyncio.sleep(2)
    spans.append((time.time(), time.time() + QUIET_S))
    await asyncio.sleep(QUIET_S)
    return tuned, spans


def _production(config: Config, file: Path, pipe: Connection) -> None:
    pipe.send(asyncio.run(_searching(config, np.load(file), pipe)))


async def _searching(
    config: Config, vectors: npt.NDArray[np.float32], pipe: Connection
) -> list[tuple[float, float]]:
    """Search until told to stop; return when each search began, and its milliseconds."""
    found = []
    async with open_app(config) as app:
        order = np.random.default_rng(1)
        pipe.send("ready")
        while not pipe.poll():
            for number in order.permutation(len(vectors))[:BLOCK]:
                asked = query("", COLLECTION, k=K, method="vector", vector=vectors[number])
                at, started = time.time(), time.perf_counter()
                await search_collections(app, asked)
                found.append((at, (time.perf_counter() - started) * 1000))
                await asyncio.sleep(THINKING_S)
    return found


def _figures(
    tuned: Tuned, times: npt.NDArray[np.float64], spans: list[tuple[float, float]]
) -> list[Figure]:
    before, meanwhile, after = (
        times[(times[:, 0] >= begin) & (times[:, 0] < end), 1] for begin, end in spans
    )
    quiet = np.concatenate([before, after])
    ratio = _ratio(meanwhile, quiet, seed=1)
    noise = _ratio(after, before, seed=2)
    figures = [
        Figure(what="full sweep", value=tuned.seconds, n=len(tuned.trials), unit="s", at_most=600),
        Figure(
            what="production p95, sweep / quiet", value=ratio[0], low=ratio[1], high=ratio[2],
            n=len(meanwhile), at_most=1.3,
            note=f"{np.quantile(meanwhile, 0.95):.2f} against {np.quantile(quiet, 0.95):.2f} ms",
        ),
        Figure(
            what="production p95, quiet after / before", value=noise[0], low=noise[1],
            high=noise[2], n=len(after),
        ),
    ]  # fmt: skip
    one = tuned.proposal
    if one is None:
        return [*figures, Figure(what="proposals", value=0, n=1, at_least=1, note=tuned.reason)]
    return [
        *figures,
        Figure(
            what="recall on unseen questions", value=one.unseen.recall, low=one.unseen.low,
            high=one.unseen.high, n=one.unseen.n, note=one.verdict,
        ),
        Figure(
            what="upper end of its interval", value=one.unseen.high, n=one.unseen.n, at_least=RECALL
        ),
        Figure(what="size of the proposal", value=one.size_bytes / 2**20, n=1, unit="MB"),
    ]  # fmt: skip


def _ratio(
    ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], *, seed: int
) -> tuple[float, float, float]:
    """Return the ratio of 95th percentiles with its 95 % interval, by bootstrap over blocks."""
    generator = np.random.default_rng(seed)
    blocks = [one[: len(one) // BLOCK * BLOCK].reshape(-1, BLOCK) for one in (ours, theirs)]

    def drawn() -> float:
        a, b = (np.quantile(x[generator.integers(len(x), size=len(x))], 0.95) for x in blocks)
        return float(a / b)

    low, high = np.quantile([drawn() for _ in range(500)], [0.025, 0.975])
    return float(np.quantile(ours, 0.95) / np.quantile(theirs, 0.95)), float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
