"""What evaluations are tested on: a small collection whose metrics anybody can work out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ragline.config import Config
from ragline.core.cases import Case, Dataset, DatasetFacts, Relevant, content_hash
from ragline.core.dsn import Dsn
from ragline.core.remote import Endpoint
from ragline.core.runs import CaseResult, JudgeKind, Limits, Run, Settings
from ragline.db import datasets, evals
from ragline.evals.run import evaluate
from ragline.models.embed import Embedder
from ragline.models.judge import Judge, Memory
from ragline.models.llm import ChatModel
from ragline.rag.app import App
from ragline.rag.ingest import Text, ingest_texts
from ragline.wiring import open_app

COLLECTION = "garden"
TEXTS = (
    Text(source="fruit/apple.md", text="An apple is red. It grows on a tree in Kent."),
    Text(source="fruit/pear.md", text="A pear is green. It grows on a tree in Essex."),
    Text(source="fruit/plum.md", text="A plum is blue. It grows on a tree in Sussex."),
    Text(source="metal/iron.md", text="Iron is grey. Smiths heat iron in a forge."),
    Text(source="metal/gold.md", text="Gold is yellow. Miners wash gold out of rivers."),
)
APPLE = Case(
    id="apple",
    question="Which colour has an apple?",
    answer="An apple is red.",
    relevant=(Relevant(document="fruit/apple.md"),),
)
PEAR = Case(
    id="pear",
    question="Where does a pear grow?",
    answer="It grows on a tree in Essex.",
    relevant=(Relevant(document="fruit/pear.md"), Relevant(document="metal/iron.md")),
)
IRON = Case(
    id="iron",
    question="What do smiths heat?",
    answer="Smiths heat iron.",
    relevant=(Relevant(document="fruit/plum.md"),),
)
CASES = (APPLE, PEAR, IRON)
BY_WORDS = Settings(collections=(COLLECTION,), k=3, method="lexical")


@asynccontextmanager
async def opened(
    dsn: Dsn,
    data_dir: Path,
    *,
    embedder: Embedder | None = None,
    chat: ChatModel | None = None,
    judge: Judge | None = None,
    judging: Endpoint | None = None,
    **config: Any,
) -> AsyncIterator[App]:
    """Open ragline for evaluations, with models of the test's choice; `judging` is a remote judge."""

    async def open_embedder() -> Embedder | None:
        return embedder

    async def open_chat_model() -> ChatModel | None:
        return chat

    async def open_judge(kind: JudgeKind, memory: Memory | None, language: str) -> Judge | None:
        return judge

    async with open_app(
        Config(dsn=dsn, data_dir=data_dir, judge=judging, **config), search_workload="eval"
    ) as app:
        app.open_embedder = open_embedder
        if chat is not None:
            app.open_chat_model = open_chat_model
        if judge is not None:
            app.open_judge = open_judge
        yield app


async def prepared(
    app: App, cases: Sequence[Case] = CASES, texts: Sequence[Text] = TEXTS, name: str = "small"
) -> DatasetFacts:
    """Ingest the texts and store the cases."""
    report = await ingest_texts(app, texts, COLLECTION)
    assert not report.rejections
    dataset = Dataset(name=name, cases=tuple(cases), format="jsonl")
    pool = await app.pool("eval")
    async with pool.connection() as connection:
        return await datasets.add(connection, dataset, content_hash(dataset))


async def run(
    app: App, settings: Settings = BY_WORDS, limits: Limits | None = None, **given: Any
) -> Run:
    """Evaluate the dataset `small`."""
    return await evaluate(app, "small", settings, limits or Limits(), **given)


async def results(app: App, run: Run) -> list[CaseResult]:
    """Return a run's cases as they are stored."""
    pool = await app.pool("eval")
    async with pool.connection() as connection:
        return await evals.results(connection, run.id)
