"""What an evaluation adds to its searches, and how long one takes whose answers a model judges.

First the 225 questions of Cranfield: the searches alone, through the library and as many at once as an
evaluation does, against an evaluation with retrieval metrics, checks before it and all that it stores
included. Round by round, in random order.

Then 15 cases with 12 passages each and 20 claims in answer and gold answer, judged by a model on
loopback that takes 300 ms a call and allows 10 calls a second: `ragline eval run`, the whole command,
cold and once more. The second time every search runs again, which the server's own count of statements
shows, its hits are compared with those of the first, and the judge is not called.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psycopg

import judged
import measure
from corpus import NotRun, not_run
from doubles.http_server import Answer, Fail
from doubles.openai_server import OpenAIServer
from judged_sets import JudgedSet
from measure import Figure
from ragline import config
from ragline.config import Config
from ragline.core.cases import Dataset
from ragline.core.runs import CaseResult, Limits, Settings
from ragline.evals import dataset as datasets
from ragline.evals import loading
from ragline.evals.run import evaluate
from ragline.models import embed
from ragline.ops import embedded
from ragline.rag.app import App
from ragline.rag.ingest import ingest_texts
from ragline.rag.search import query, search_collections
from ragline.wiring import open_app

ROUNDS = 12
CLIENTS = 2
MOST_OVERHEAD = 1.15
CASES, K, CLAIMS = 15, 12, 20
CALL_S, CALLS_A_SECOND = 0.3, 10
COLD_S, AGAIN_S = 300.0, 5.0
COMMAND = Path(sys.executable).with_name("ragline")
SEEN = """
    select coalesce(sum(s.calls), 0)
    from pg_stat_statements s join pg_catalog.pg_roles r on r.oid = s.userid
    where r.rolname = 'eval_app' and s.query ~ 'embedding_[0-9]+' and s.query ~ '<=>'
"""
LABELS = ("Entailment", "Neutral", "Contradiction")


def main() -> int:
    """Print the figures; exit 1 when a limit is broken, 3 when data or model are not there."""
    parser = measure.options(__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the first part")
    options = parser.parse_args()
    try:
        figures = asyncio.run(_run(options))
    except NotRun as error:
        return not_run(error)
    return measure.verdict(figures, options.json)


async def _run(options: argparse.Namespace) -> list[Figure]:
    data = judged.whole_cranfield()
    model = embed.model_folder(config.load())
    if model is None:
        raise NotRun("there is no model: run `ragline model fetch`")
    place = options.data or Path(tempfile.mkdtemp(prefix="ragline-bench-"))
    place.mkdir(parents=True, exist_ok=True)
    # As root the server runs as another user, who must be able to reach its data below.
    place.chmod(0o755)
    settings = Config(data_dir=place / "data", model_dir=model)
    try:
        async with open_app(settings) as app:
            report = await ingest_texts(app, data.texts, "cranfield")
            if report.rejections:
                raise AssertionError(f"ingest rejected {report.rejections[0]}")
        async with open_app(settings, search_workload="eval") as app:
            await datasets.add(app, data.dataset, replace=True)
            figures = await _overhead(app, data.dataset, options.rounds)
            figures += await _claims(app, model, _with_golds(data))
        return figures
    finally:
        embedded.stop(place / "data")
        if options.data is None:
            shutil.rmtree(place)


# -- retrieval metrics -----------------------------------------------------------------------------


async def _overhead(app: App, dataset: Dataset, rounds: int) -> list[Figure]:
    questions = [case.question for case in dataset.cases]
    print(f"{len(questions)} questions of Cranfield, {CLIENTS} at once, hybrid, k = 10", flush=True)
    await _searched(app, questions)
    await _evaluated(app)
    order = random.Random(1)
    ratios, took = [], {"searches": 0.0, "evaluation": 0.0}
    for _ in range(rounds):
        once = {}
        for what in order.sample(sorted(took), 2):
            started = time.perf_counter()
            if what == "searches":
                await _searched(app, order.sample(questions, len(questions)))
            else:
                await _evaluated(app)
            once[what] = time.perf_counter() - started
            took[what] += once[what] / rounds
        ratios.append(once["evaluation"] / once["searches"])
    middle, low, high = measure.median_of(ratios, seed=1)
    note = f"{took['evaluation']:.2f} against {took['searches']:.2f} s, {rounds} rounds"
    return measure.said(
        [
            Figure(
                what="an evaluation / its searches alone",
                value=middle,
                low=low,
                high=high,
                n=rounds * len(questions),
                unit="x",
                at_most=MOST_OVERHEAD,
                note=note,
            )
        ]
    )


async def _searched(app: App, questions: Sequence[str]) -> None:
    left = iter(questions)

    async def client() -> None:
        for question in left:
            await search_collections(app, query(question, "cranfield", k=10))

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())


async def _evaluated(app: App) -> None:
    run = await evaluate(
        app, "cranfield", Settings(collections=("cranfield",), k=10), Limits(concurrency=CLIENTS)
    )
    assert run.state == "complete", run.errors
    assert run.metrics["ndcg@10"].n == run.cases


# -- a judge ---------------------------------------------------------------------------------------


class SlowJudge:
    """Answers in 300 ms, makes 20 claims of any text, and labels them by a hash; 10 calls a second."""

    def __init__(self) -> None:
        self.refused = 0
        self._taken: list[float] = []

    def behaviour(self) -> Answer | Fail:
        """Return what becomes of a call that comes now."""
        now = time.monotonic()
        self._taken = [at for at in self._taken if at > now - 1]
        if len(self._taken) >= CALLS_A_SECOND:
            self.refused += 1
            return Fail(status=429, headers=(("retry-after", "1"),), message="too many requests")
        self._taken.append(now)
        return Answer(delay_s=CALL_S)

    def say(self, messages: list[dict[str, str]]) -> str:
        """Answer a prompt as it asks to be answered."""
        lines: list[Any] = [json.loads(line) for line in messages[-1]["content"].split("\n")]
        if "question" in lines[0]:
            words = re.findall(r"\w+", lines[1]["text"])
            claims = [
                ["claim", str(at), word] for at, word in islice(enumerate(cycle(words)), CLAIMS)
            ]
            return json.dumps({"claims": claims})
        passage = lines[0]["passage"]
        said = [_drawn(f"{passage} {claim['says']}") for claim in lines[1:-1]]
        return json.dumps({"labels": said})


def _drawn(text: str) -> str:
    return LABELS[sha256(text.encode()).digest()[0] % len(LABELS)]


def _with_golds(data: JudgedSet) -> Dataset:
    """Return 15 questions whose gold answer is the first relevant abstract."""
    texts = {text.source: text.text for text in data.texts}
    cases = [
        replace(case, answer=texts[case.relevant[0].document], extra={})
        for case in data.dataset.cases
        if case.relevant and case.relevant[0].document in texts
    ]
    return Dataset(name="claims", cases=tuple(cases[:CASES]), format="jsonl")


async def _claims(app: App, model: Path, dataset: Dataset) -> list[Figure]:
    await datasets.add(app, dataset, replace=True)
    judge = SlowJudge()
    with OpenAIServer() as server:
        server.say, server.by_default = judge.say, judge.behaviour
        data_dir = app.config.data_dir
        environment = _environment(data_dir, model, server.url)
        before = _searches_seen(data_dir)
        cold_s, cold = await asyncio.to_thread(_command, environment)
        between, called = _searches_seen(data_dir), len(server.requests)
        again_s, again = await asyncio.to_thread(_command, environment)
        called_again, after = len(server.requests) - called, _searches_seen(data_dir)
    for run in (cold, again):
        assert run["state"] == "complete", run["errors"]
    expected = 2 + (1 + K) * 2 * math.ceil(CLAIMS / 5)
    print(
        f"\n{CASES} cases, k = {K}, {CLAIMS} claims in answer and gold answer: {expected} calls a case "
        f"by the formula; {called:,} requests, of which {judge.refused} were told to come back, "
        f"{cold['cache']['hits']:,} verdicts known already"
    )
    one, other = [await _results(app, run["name"]) for run in (cold, again)]
    return measure.said(
        [
            Figure(what="cold, the whole command", value=cold_s, unit="s", n=1, at_most=COLD_S),
            Figure(
                what="calls a case that the judge answered",
                value=(called - judge.refused) / CASES,
                n=CASES,
                at_least=expected * 0.5,
                at_most=expected,
                note="an answer that found nothing makes no claims; no prompt is asked twice",
            ),
            Figure(
                what="once more, the whole command", value=again_s, unit="s", n=1, at_most=AGAIN_S
            ),
            Figure(what="calls of the judge, once more", value=called_again, n=CASES, at_most=0),
            Figure(
                what="searches that the server counted, once more",
                value=after - between,
                n=CASES,
                at_least=CASES,
                note=f"cold: {between - before}",
            ),
            Figure(
                what="cases whose hits or texts differ, once more",
                value=sum(_found(a) != _found(b) for a, b in zip(one, other, strict=True)),
                n=CASES,
                at_most=0,
            ),
            Figure(
                what="metrics that differ, once more",
                value=sum(_measured(a) != _measured(b) for a, b in zip(one, other, strict=True)),
                n=CASES,
                at_most=0,
            ),
        ]
    )


def _environment(data_dir: Path, model: Path, url: str) -> dict[str, str]:
    return {
        **config.child_environment(),
        "RAGLINE_DATA_DIR": str(data_dir),
        "RAGLINE_MODEL_DIR": str(model),
        "RAGLINE_JUDGE_PROVIDER": "openai",
        "RAGLINE_JUDGE_MODEL": "slow-judge",
        "RAGLINE_JUDGE_URL": url,
        "RAGLINE_JUDGE_RPM": str(CALLS_A_SECOND * 60),
        "NO_COLOR": "1",
    }


def _command(environment: dict[str, str]) -> tuple[float, dict[str, Any]]:
    asked = ["eval", "run", "claims", "-c", "cranfield", "-k", str(K), "--answers", "extractive"]
    started = time.perf_counter()
    done = subprocess.run(
        [str(COMMAND), *asked, "--judge", "llm", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    took_s = time.perf_counter() - started
    if done.returncode:
        raise AssertionError(f"`ragline {' '.join(asked)}` ended with {done.returncode}")
    run: dict[str, Any] = json.loads(done.stdout)
    return took_s, run.get("run", run)


async def _results(app: App, name: str) -> Sequence[CaseResult]:
    return await loading.results(app, await loading.one(app, name))


def _found(result: CaseResult) -> list[tuple[int, str]]:
    return [(hit.chunk_id, hit.hash) for hit in result.hits]


def _measured(result: CaseResult) -> dict[str, float]:
    return {name: value for name, value in result.metrics.items() if name != "search_ms"}


def _searches_seen(data_dir: Path) -> int:
    """Return how many statements on vectors the server ran for evaluations."""
    server = embedded.dsn(embedded.ensure(data_dir))
    with psycopg.connect(server.for_psycopg("bench")) as connection:
        row = connection.execute(SEEN).fetchone()
    return int(row[0]) if row else 0


if __name__ == "__main__":
    sys.exit(main())
