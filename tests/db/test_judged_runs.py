"""What runs say of their judges elsewhere: in files for other programs, and in what was spent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from doubles.judge import ScriptedJudge, listens
from doubles.openai_server import OpenAIServer
from evaluated import BY_WORDS, opened, prepared, results, run
from ragline.core.dsn import Dsn
from ragline.core.remote import Endpoint
from ragline.core.runs import JudgeKind
from ragline.evals import formats, runs
from ragline.models.judge import Judge
from ragline.models.judge_fake import FakeJudge
from ragline.models.judge_lexical import LexicalJudge

LABELS = {"answer2response", "response2answer", "retrieved2response", "retrieved2answer"}
CLAIMS = {"response_claims", "gt_answer_claims"}


async def exported(
    dsn: Dsn, folder: Path, judge: Judge, kind: JudgeKind
) -> tuple[Path, tuple[str, ...]]:
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


async def test_what_judges_took_is_said_beside_other_models(own_dsn: Dsn, tmp_path: Path) -> None:
    with OpenAIServer() as server:
        listens(server, Whole(otherwise="Entailment"))
        endpoint = Endpoint(provider="openai", model="m", url=server.url, variables="RAGLINE_JUDGE")
        async with opened(own_dsn, tmp_path, judging=endpoint) as app:
            await prepared(app)
            assert list(app.spent) == []

            settings = replace(BY_WORDS, answers="extractive", judge="llm")
            first = await run(app, settings)
            again = await run(app, settings, is_fresh=True)

            (spent,) = app.spent
            assert spent.model_id == "m"
            assert spent.requests == first.spent.calls + again.spent.calls == len(server.requests)


class Whole(ScriptedJudge):
    """Takes every text for one claim."""

    def answer(self, framed: str) -> str:
        text = json.loads(framed.split("\n")[1]).get("text")
        if text is not None:
            self.claims[text] = [("the text", "says", text)]
        return super().answer(framed)
