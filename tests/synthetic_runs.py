"""Runs made up for tests: what an evaluation would leave, without a database or a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ragline.core.cases import Case, Relevant
from ragline.core.runs import CaseResult, Figure, Run, RunHit, Settings, Spent

SETTINGS = Settings(collections=("docs",), answers="extractive", judge="lexical")


def result(
    number: int,
    metrics: Mapping[str, float],
    *,
    chunks: Sequence[int] = (1, 2, 3),
    answer: str | None = "an answer [1]",
    ms: float = 20.0,
    **more: Any,
) -> CaseResult:
    """Return case `number` of a run; chunk n has the hash of n."""
    return CaseResult(
        case_id=f"c{number}",
        ordinal=number,
        hits=tuple(
            RunHit(
                collection="docs",
                chunk_id=chunk,
                source=f"guide/{chunk}.md",
                hash=f"{chunk:016x}",
                score=1 / place,
            )
            for place, chunk in enumerate(chunks, start=1)
        ),
        contexts=tuple(f"passage {chunk}" for chunk in chunks),
        answer=answer,
        found=answer is not None,
        metrics={**metrics, "search_ms": ms},
        phases_ms={"database.search": ms * 0.75, "generate": ms * 0.25},
        total_ms=ms,
        **more,
    )


def run(number: int, results: Sequence[CaseResult], **more: Any) -> Run:
    """Return a run with the means of its cases; what is in `more` stands in the place of the usual."""
    values: dict[str, list[float]] = {}
    for one in results:
        for metric, value in one.metrics.items():
            values.setdefault(metric, []).append(value)
    usual = Run(
        id=number,
        name=f"night-{number}",
        dataset="faq",
        dataset_hash="a" * 64,
        state="complete",
        settings=SETTINGS,
        judge_id="lexical-v1",
        provenance={
            "epochs": {"docs": 7},
            "spaces": {"docs": "minilm 384 cosine"},
            "code": "0.1.0",
            "settings_hash": "b" * 16,
        },
        cases=len(results),
        done=len(results),
        failed=sum(bool(one.errors) for one in results),
        reused=0,
        metrics={
            metric: Figure(value=sum(some) / len(some), n=len(some))
            for metric, some in values.items()
        },
        errors={},
        phases_ms={"database.search": 900.0, "generate": 300.0, "rest": 12.5},
        spent=Spent(calls=4, input_tokens=1_200, output_tokens=80, cost_micro_usd=None),
        cache={"hits": 3, "misses": 1, "bytes": 512},
        warnings=(),
        started_at="2026-03-01T02:00:00+00:00",
        seconds=1.5,
    )
    return replace(usual, **more)


def cases(results: Sequence[CaseResult]) -> dict[str, Case]:
    """Return a case for each result."""
    return {
        one.case_id: Case(
            id=one.case_id,
            question=f"What does {one.case_id} say?",
            answer="the gold answer",
            relevant=(Relevant(document="1.md"),),
        )
        for one in results
    }
