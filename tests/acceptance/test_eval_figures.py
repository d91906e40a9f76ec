"""What a run says, held against what others say of the same: trec_eval, and RAGChecker's example."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import pytrec_eval

import evaluated
import judged_sets
from evaluated import COLLECTION, prepared, results, run
from judged_sets import NotThere
from ragline.core.cases import Case
from ragline.core.claims import METRICS
from ragline.core.dsn import Dsn
from ragline.core.runs import CaseResult, Settings
from ragline.evals import formats
from ragline.models.embed_fake import FakeEmbedder

DOCUMENTS, QUESTIONS, K = 400, 60, 10
NAMES = {
    "recall@10": "recall_10",
    "hit@10": "success_10",
    "precision@10": "P_10",
    "map@10": "map_cut_10",
    "ndcg@10": "ndcg_cut_10",
}


async def test_retrieval_metrics_are_those_of_trec_eval(own_dsn: Dsn, tmp_path: Path) -> None:
    try:
        data = judged_sets.cranfield(is_graded=True)
    except NotThere as error:
        pytest.skip(f"not run: {error}")
    texts = data.texts[:DOCUMENTS]
    there = {text.source for text in texts}
    cases = [c for c in data.dataset.cases if any(r.document in there for r in c.relevant)]
    cases = cases[:QUESTIONS]
    async with evaluated.opened(own_dsn, tmp_path, embedder=FakeEmbedder()) as app:
        await prepared(app, cases, texts)

        done = await run(app, Settings(collections=(COLLECTION,), k=K))

        found = _trec(cases, await results(app, done))
    assert (done.state, done.done) == ("complete", QUESTIONS)
    for ours, theirs in NAMES.items():
        mean = sum(found[case.id][theirs] for case in cases) / len(cases)
        assert done.metrics[ours].value == pytest.approx(mean, abs=1e-9), ours
        assert 0 < mean < 1
    assert done.metrics["ndcg@10"].n == QUESTIONS


def _trec(cases: Sequence[Case], stored: Sequence[CaseResult]) -> dict[str, dict[str, float]]:
    """Return trec_eval's metrics of the documents, each where its best chunk stands."""
    judged = {case.id: {r.document: r.grade for r in case.relevant} for case in cases}
    ranked = {one.case_id: list(dict.fromkeys(hit.source for hit in one.hits)) for one in stored}
    scores = {
        case_id: {document: 1.0 / place for place, document in enumerate(documents, start=1)}
        for case_id, documents in ranked.items()
    }
    measures = {"recall.10", "success.10", "P.10", "map_cut.10", "ndcg_cut.10"}
    found: dict[str, dict[str, float]]
    found = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(scores)
    return found


async def test_the_example_of_ragchecker_gives_exactly_its_stored_metrics(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    path = judged_sets.RAGCHECKER / "checking_outputs.json"
    if not path.is_file():
        pytest.skip(f"not run: there is no {path.parent.name}/{path.name}")
    stored = json.loads(path.read_text())
    dataset = formats.read(path, name="small")
    async with evaluated.opened(own_dsn, tmp_path) as app:
        await prepared(app, dataset.cases)

        done = await run(app, Settings(collections=(), contexts="fixed", judge="imported"))

        cases = {one.case_id: one for one in await results(app, done)}
    assert done.state == "complete"
    assert done.spent.calls == 0
    for case in stored["results"]:
        measured = cases[case["query_id"]].metrics
        assert {name: measured[name] for name in METRICS} == pytest.approx(
            case["metrics"], abs=1e-12
        )
    overall = {name: value for group in stored["metrics"].values() for name, value in group.items()}
    assert {name: round(100 * done.metrics[name].value, 1) for name in METRICS} == overall
