"""What the command line measures and writes is what trec_eval and RAGChecker make of the same files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import pytest
import pytrec_eval

import judged_sets
import servers
import tiny_model
from command import Command
from conftest import TEMPLATE
from judged_sets import NotThere
from ragline.core.claims import METRICS
from ragline.core.dsn import Dsn
from ragline.evals import formats

# What trec_eval calls each of them; its MRR looks at the whole ranking, which is as long as k here.
NAMES = {
    "recall@10": "recall_10",
    "hit@10": "success_10",
    "precision@10": "P_10",
    "mrr@10": "recip_rank",
    "map@10": "map_cut_10",
    "ndcg@10": "ndcg_cut_10",
}
MEASURES = {"recall.10", "success.10", "P.10", "recip_rank", "map_cut.10", "ndcg_cut.10"}

Thing = TypeVar("Thing")


@pytest.fixture(scope="module")
def ragline(template: Dsn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = tmp_path_factory.mktemp("eval-others")
    name = "ragline_eval_others"
    servers.ask(template.on("postgres"), f"create database {name} template {TEMPLATE}")
    more = {
        "DATABASE_URL": template.on(name).for_sqlalchemy("test"),
        "RAGLINE_MODEL_DIR": str(tiny_model.make(folder / "model")),
    }
    yield Command(folder=folder, more=more)
    servers.ask(template.on("postgres"), f"drop database {name} with (force)")


def there(load: Callable[[], Thing]) -> Thing:
    try:
        return load()
    except NotThere as error:
        pytest.skip(f"not run: {error}")


def test_trec_eval_finds_the_same_in_the_files_that_are_written_for_it(
    ragline: Command, tmp_path: Path
) -> None:
    data = there(lambda: judged_sets.cranfield(is_graded=True))
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"_id": text.source, "title": text.title, "text": text.text} for text in data.texts]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    formats.write(data.dataset, "trec", tmp_path / "cranfield")
    ragline.json("ingest", corpus, "-c", "cranfield")
    ragline.json("eval", "dataset", "import", tmp_path / "cranfield", "--name", "cranfield")

    said = ragline.json("eval", "run", "cranfield", "-c", "cranfield", "-k", "10", "--name", "r")

    shown = ragline.json("eval", "show", "r", "--cases")
    ragline.json("eval", "export", "r", tmp_path / "run.trec", "--format", "trec")
    ragline.json("eval", "dataset", "export", "cranfield", tmp_path / "out", "--format", "trec")
    found = trec_eval(tmp_path / "out/qrels.txt", tmp_path / "run.trec")
    assert said["run"]["state"] == "complete"
    assert len(shown["cases"]) == len(found) == 225
    for ours, theirs in NAMES.items():
        values = {one["case_id"]: one["metrics"][ours] for one in shown["cases"]}
        assert values == pytest.approx({id_: one[theirs] for id_, one in found.items()}, abs=1e-9)
        figure = said["run"]["metrics"][ours]
        assert (figure["n"], figure["missing"]) == (225, 0)
        assert figure["value"] == pytest.approx(fmean(one[theirs] for one in found.values()))
        assert 0 < figure["value"] < 1


def trec_eval(qrels: Path, run: Path) -> dict[str, dict[str, float]]:
    """Return what it measures of two files, as it reads them."""
    judged: dict[str, dict[str, int]] = {}
    for line in qrels.read_text().splitlines():
        query, _, document, grade = line.split()
        judged.setdefault(query, {})[document] = int(grade)
    scores: dict[str, dict[str, float]] = {}
    for line in run.read_text().splitlines():
        query, _, document, _, score, _ = line.split()
        scores.setdefault(query, {})[document] = float(score)
    found: dict[str, dict[str, float]]
    found = pytrec_eval.RelevanceEvaluator(judged, MEASURES).evaluate(scores)
    return found


def test_ragcheckers_example_gives_its_stored_metrics_and_goes_back_unchanged(
    ragline: Command, tmp_path: Path
) -> None:
    path = there(lambda: judged_sets.file(judged_sets.RAGCHECKER / "checking_outputs.json"))
    stored = json.loads(path.read_text())
    ragline.json("eval", "dataset", "import", path, "--name", "example")

    said = ragline.json(
        *("eval", "run", "example", "--contexts", "fixed", "--judge", "imported", "--name", "e")
    )

    ragline.json("eval", "export", "e", tmp_path / "run.json", "--format", "ragchecker")
    ragline.json(
        *("eval", "dataset", "export", "example", tmp_path / "set.json"),
        *("--format", "ragchecker"),
    )
    measured = json.loads((tmp_path / "run.json").read_text())
    assert json.loads((tmp_path / "set.json").read_text()) == stored
    assert by_case(measured) == by_case(stored)
    assert set(by_case(stored)) == {one["query_id"] for one in stored["results"]}
    assert of_all(measured) == of_all(stored)
    assert {name: round(100 * said["run"]["metrics"][name]["value"], 1) for name in METRICS} == (
        of_all(stored)
    )


def by_case(whole: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {one["query_id"]: one["metrics"] for one in whole["results"]}


def of_all(whole: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of the whole, whose groups have had two names each."""
    return {name: value for group in whole["metrics"].values() for name, value in group.items()}
