"""One case of a run: searched, answered and judged as in production, and what that measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ragline.core import measuring, phases
from ragline.core.cases import Case
from ragline.core.claims import ClaimLabels
from ragline.core.measuring import Way
from ragline.core.results import Answer, Hit, SearchResult
from ragline.core.runs import CaseError, CaseResult, RunHit, Settings, text_hash
from ragline.db import evals
from ragline.db.pool import Pool
from ragline.errors import ModelError, RaglineError, UsageError
from ragline.evals import summary
from ragline.evals.provenance import digest
from ragline.models import judge as judges
from ragline.models.judge import Judge
from ragline.rag.answer import answer_from
from ragline.rag.app import App
from ragline.rag.generate import Limits, generated_from
from ragline.rag.query import Query
from ragline.rag.questions import Asked
from ragline.rag.search import search_with_vector
from ragline.signals import spans, usage

IMPORTED = ""
"""The prefix of metrics from labels that came with the dataset: they are as they were called there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all cases of a run are done with.

    `query` is asked with each case's question; None with fixed contexts. `made_with` is all that an
    answer depends on but its question and contexts.
    """

    app: App
    pool: Pool
    settings: Settings
    query: Query | None
    way: Way | None
    language: str
    limits: Limits
    judge: Judge | None
    judge_id: str | None
    made_with: Mapping[str, Any]
    is_fresh: bool

    @property
    def prefix(self) -> str | None:
        """How the names of the judge's metrics begin; None without a judge."""
        if self.settings.judge == "imported":
            return IMPORTED
        return self.judge.prefix if self.judge else None


async def one(job: Job, ordinal: int, case: Case) -> CaseResult:
    """Return what became of a case; what went wrong stands in it, by phase and class."""
    work = _Work(job=job, case=case)
    with usage.counting() as taken, spans.recording() as record:
        if job.query is None:
            await _with_given_contexts(work)
        else:
            await _with_search(work, replace(job.query, question=case.question))
    attributed = phases.attributed(record.spans, record.start, record.end)
    phases_ms = {phase: seconds * 1000 for phase, seconds in attributed.items()}
    return CaseResult(
        case_id=case.id,
        ordinal=ordinal,
        hits=work.hits,
        contexts=work.contexts,
        answer=work.answer,
        found=work.found,
        labels=work.labels,
        metrics=work.metrics,
        errors=tuple(work.errors),
        warnings=tuple(dict.fromkeys(work.warnings)),
        phases_ms=phases_ms,
        total_ms=sum(phases_ms.values()),
        spent=summary.taken(taken),
        reuse_key=work.reuse_key,
        is_reused=work.is_reused,
    )


def expected(job: Job, case: Case) -> tuple[str, ...]:
    """Return the metrics that a case has when nothing goes wrong."""
    settings = job.settings
    names: list[str] = []
    if settings.contexts == "live":
        names += ["rows", "search_ms"]
        names += measuring.retrieval_names(settings.k) if case.relevant else ()
        names += [f"ann_recall@{settings.k}"] if settings.against_exact else []
        names += measuring.answering_names(case) if settings.answers != "none" else ()
    if job.prefix is not None and measuring.gold_answers(case):
        names += measuring.judged_names(job.prefix)
    return tuple(names)


class _Phase:
    __slots__ = ("_name", "_of_models", "_work")

    def __init__(self, work: _Work, name: str, of_models: str) -> None:
        self._work = work
        self._name = name
        self._of_models = of_models

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        if not isinstance(error, RaglineError):
            return False
        is_of_model = isinstance(error, ModelError)
        self._work.failed(self._of_models if is_of_model else self._name, error)
        return True


@dataclass(slots=True, kw_only=True)
class _Work:
    """A case while it is done."""

    job: Job
    case: Case
    hits: tuple[RunHit, ...] = ()
    contexts: tuple[str, ...] = ()
    answer: str | None = None
    found: bool | None = None
    labels: ClaimLabels | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    errors: list[CaseError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reuse_key: str | None = None
    is_reused: bool = False

    def phase(self, name: str, *, of_models: str | None = None) -> _Phase:
        """Do a part of the case; where it fails, the case goes on without it, and says so.

        What a model did to it counts as another phase's, if `of_models` names one.
        """
        return _Phase(self, name, of_models or name)

    def failed(self, phase: str, error: RaglineError) -> None:
        """Say that a part of the case was not measured."""
        self.errors.append(
            CaseError(
                phase=phase,
                kind=type(error).__name__,
                message=str(error),
                exit_code=error.exit_code,
            )
        )


async def _with_search(work: _Work, query: Query) -> None:
    found: SearchResult | None = None
    asked: Asked | None = None
    with work.phase("database.exact" if query.exact else "database.search", of_models="embed"):
        found, asked = await search_with_vector(work.job.app, query)
    if found is None:
        return
    with work.phase("database.search"):
        _check_scores(found)
        _searched(work, found)
    if work.errors:
        return
    if work.job.settings.against_exact:
        await _held_against_exact(work, query, found.hits, asked)
    if work.job.settings.answers != "none":
        work.contexts = tuple(hit.body for hit in found.hits)
        await _answered(work, query, found, asked)


def _check_scores(found: SearchResult) -> None:
    """Refuse an order by what is no number: it is none, and cannot be stored."""
    for hit in found.hits:
        if not math.isfinite(hit.score):
            raise RaglineError(
                f"the search gave {hit.source!r} the score {hit.score}, which is no number: see what "
                "vector the model makes of this question"
            )


def _searched(work: _Work, found: SearchResult) -> None:
    job = work.job
    work.warnings += found.warnings
    work.hits = tuple(_run_hit(hit) for hit in found.hits)
    work.metrics["search_ms"] = found.timings_ms["total"]
    work.metrics["rows"] = len(found.hits) / job.settings.k
    if job.way is not None:
        work.metrics |= measuring.retrieval(
            work.case, measuring.chunks(found.hits), job.settings.k, job.way
        )


async def _held_against_exact(
    work: _Work, query: Query, hits: Sequence[Hit], asked: Asked | None
) -> None:
    exact = replace(query, exact=True)
    if len(query.collections) == 1 and asked is not None:
        # Read once: of several collections, one may be searched by words alone.
        exact = replace(exact, vector=asked.vector)
    k = work.job.settings.k
    with work.phase("database.exact", of_models="embed"):
        best, _ = await search_with_vector(work.job.app, exact)
        recall = measuring.ann_recall(k, measuring.chunks(hits), measuring.chunks(best.hits))
        if recall is not None:
            work.metrics[f"ann_recall@{k}"] = recall


async def _answered(work: _Work, query: Query, found: SearchResult, asked: Asked | None) -> None:
    if await _taken_from_before(work, [(h.title or h.source, h.body) for h in found.hits]):
        return
    job = work.job
    answer: Answer | None = None
    is_generated = job.settings.answers == "generated"
    with work.phase("generate" if is_generated else "extract"):
        if is_generated:
            answer = await generated_from(job.app, query, found, job.limits)
        else:
            answer = await answer_from(job.app, query, found, asked)
    if answer is None:
        return
    work.warnings += answer.warnings
    work.answer, work.found = answer.text, answer.found
    work.metrics |= measuring.answering(work.case, answer, job.way)
    # "Not found" makes no claim about anything.
    await _judged(work, answer.text if answer.found else "")


async def _with_given_contexts(work: _Work) -> None:
    case = work.case
    work.contexts = tuple(context.text for context in case.contexts)
    work.answer = case.response
    if not measuring.gold_answers(case) or work.job.prefix is None:
        return
    if case.response is None or not case.contexts:
        lacking = "contexts" if case.response is not None else "response"
        work.failed(
            "judge",
            UsageError(
                f"case {case.id!r} has no {lacking} of its own, which --contexts fixed measures"
            ),
        )
        return
    if work.job.settings.judge == "imported":
        _labelled(work)
        return
    if not await _taken_from_before(work, [("", text) for text in work.contexts]):
        await _judged(work, case.response)


def _labelled(work: _Work) -> None:
    case = work.case
    if case.labels is None:
        work.failed(
            "judge", UsageError(f"case {case.id!r} has no labels, which --judge imported measures")
        )
        return
    work.labels = case.labels
    with work.phase("judge"):
        _measure_claims(work, case.labels, case.response or "")


async def _judged(work: _Work, answer: str) -> None:
    judge, golds = work.job.judge, measuring.gold_answers(work.case)
    if judge is None or not golds:
        return
    with work.phase("judge"), spans.span("judge"):
        labels = await judges.labels(judge, work.case.question, answer, golds[0], work.contexts)
        work.labels = labels
        _measure_claims(work, labels, answer)


def _measure_claims(work: _Work, labels: ClaimLabels, answer: str) -> None:
    job, gold = work.job, measuring.gold_answers(work.case)[0]
    work.metrics |= measuring.judged(
        labels, job.prefix or "", answer, gold, work.contexts, job.language
    )


# -- what an earlier run did already ---------------------------------------------------------------


async def _taken_from_before(work: _Work, contexts: Sequence[tuple[str, str]]) -> bool:
    """Take answer, labels and metrics from an earlier case with the same contexts, if there is one.

    `contexts` are titles, as a model is shown them, and texts.
    """
    work.reuse_key = _reuse_key(work, contexts)
    if work.job.is_fresh:
        return False
    before: CaseResult | None = None
    with work.phase("cache"), spans.span("cache"):
        async with work.job.pool.connection() as connection:
            found = await evals.reusable(connection, [work.reuse_key])
        before = found.get(work.reuse_key)
    if before is None:
        return False
    names = {*measuring.answering_names(work.case), *measuring.judged_names(work.job.prefix or "")}
    work.answer, work.found, work.labels = before.answer, before.found, before.labels
    work.metrics |= {name: value for name, value in before.metrics.items() if name in names}
    work.warnings += before.warnings
    work.is_reused = True
    return True


def _reuse_key(work: _Work, contexts: Sequence[tuple[str, str]]) -> str:
    case = work.case
    return digest(
        {
            "question": case.question,
            "golds": measuring.gold_answers(case),
            "is_answerable": case.is_answerable,
            "cited": _cited_by(work),
            "response": case.response if work.job.query is None else None,
            "contexts": [[title, text_hash(text)] for title, text in contexts],
            **work.job.made_with,
        }
    )


def _cited_by(work: _Work) -> list[Any] | None:
    """Return what `cited` depends on beside the answer; None for a case without that metric."""
    if not any(relevant.passage for relevant in work.case.relevant):
        return None
    relevant = sorted({one.document for one in work.case.relevant})
    return [work.job.way, relevant, [hit.source for hit in work.hits]]


# -- hits ------------------------------------------------------------------------------------------


def _run_hit(hit: Hit) -> RunHit:
    return RunHit(
        collection=hit.collection,
        chunk_id=hit.chunk_id,
        source=hit.source,
        hash=text_hash(hit.body),
        score=hit.score,
    )
