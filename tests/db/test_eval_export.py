"""Runs written for other programs say nothing that was not measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from evaluated import BY_WORDS, opened, prepared, results, run
from ragline.core.dsn import Dsn
from ragline.evals import formats, runs
from ragline.models.judge import Judge
from ragline.models.judge_fake import FakeJudge
from ragline.models.judge_lexical import LexicalJudge

LABELS = {"answer2response", "response2answer", "retrieved2response", "retrieved2answer"}
CLAIMS = {"response_claims", "gt_answer_claims"}


async def exported(dsn: Dsn, folder: Path, judge: Judge, kind: str) -> tuple[Path, tuple[str, ...]]:
    """Measure, and write the run for RAGChecker; return the file, and what has no place there."""
    path = folder / f"{kind}.json"
    async with opened(dsn, folder, judge=judge) as app:
        await prepared(app)
        settings = replace(BY_WORDS, answers="extractive", judge=kind)
        measured = await run(app, settings)
        assert all(one.labels for one in await results(app, measured))
        _, notes = await runs.export(app, str(measured.id), "ragchecker", path)
    return path, notes


async def test_words_in_common_are_not_written_as_entailment(own_dsn: Dsn, tmp_path: Path) -> None:
    path, notes = await exported(own_dsn, tmp_path, LexicalJudge(), "lexical")

    written = path.read_text()
    assert "Entailment" not in written
    assert not any((LABELS | CLAIMS) & set(one) for one in json.loads(written)["results"])
    assert any("lexical-v1 compares words" in note for note in notes)
    # Nor can they come back as labels that somebody gave.
    assert not any(case.labels for case in formats.read(path, name="back").cases)


async def test_labels_of_a_model_are_written(own_dsn: Dsn, tmp_path: Path) -> None:
    path, notes = await exported(own_dsn, tmp_path, FakeJudge(), "llm")

    assert all(set(one) >= (LABELS | CLAIMS) for one in json.loads(path.read_text())["results"])
    assert notes == ()
