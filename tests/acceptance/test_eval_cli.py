"""`ragline eval` as people and programs meet it: streams, files, exit codes."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

import servers
import tiny_model
from command import PROGRAM, Command, one_object
from conftest import TEMPLATE
from doubles.judge import ScriptedJudge, listens
from doubles.openai_server import OpenAIServer, Stall
from ragline.core.dsn import Dsn

COMMANDS = (
    "eval, eval run, eval runs, eval show, eval export, eval remove, eval compare, eval check, "
    "eval recall, eval noise, eval policy, eval dataset, eval dataset import, eval dataset list, "
    "eval dataset show, eval dataset export, eval dataset remove, eval baseline, eval baseline set, "
    "eval baseline list, eval baseline show, eval cache, eval cache show, eval cache verify, "
    "eval cache clear"
).split(", ")
SECRET = "hemlich-0815"  # not a real one
UNREACHABLE = f"postgresql://me:{SECRET}@127.0.0.1:1/nowhere"

# So many that a scan of the index is cheaper than one of all.
DOCUMENTS = 1000
CASES = 40
FEW = 5
GOLD, SAID, PASSAGE = "The pump runs at night.", "It runs at night.", "At night the pump runs."
BY_VECTORS = ("-c", "kb", "--method", "vector", "-k", "5", "--against-exact", "--quiet")
FIXED = ("--contexts", "fixed", "--judge", "llm")


@dataclass(frozen=True)
class World:
    """A database with a collection `kb`, the datasets `words` and `few`, and three runs of `words`.

    `normal` and `again` have the same settings; `narrow` looks at one neighbour at a time.
    """

    command: Command
    dsn: Dsn

    def rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.dsn.for_psycopg("test"), autocommit=True) as db:
            return [row[0] for row in db.execute(query.encode()).fetchall()]


@pytest.fixture(scope="module")
def world(template: Dsn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("eval-cli")
    name = "ragline_eval_cli"
    servers.ask(template.on("postgres"), f"create database {name} template {TEMPLATE}")
    dsn = template.on(name)
    model = tiny_model.make(folder / "model")
    command = Command(
        folder=folder,
        more={"DATABASE_URL": dsn.for_sqlalchemy("test"), "RAGLINE_MODEL_DIR": str(model)},
    )
    world = World(command, dsn)
    _fill(command, folder)
    yield world
    servers.ask(template.on("postgres"), f"drop database {name} with (force)")


@pytest.fixture
def ragline(world: World) -> Command:
    return world.command


def _fill(command: Command, folder: Path) -> None:
    drawn = random.Random(4)
    texts = [drawn.sample(tiny_model.WORDS, 12) for _ in range(DOCUMENTS)]
    _write(
        folder / "docs.jsonl",
        [{"id": f"d{at}", "text": " ".join(words) + "."} for at, words in enumerate(texts)],
    )
    questions = [
        {"id": f"c{at}", "question": " ".join(drawn.sample(words, 5)), "relevant": [f"d{at}"]}
        for at, words in enumerate(texts[:CASES])
    ]
    _write(folder / "words.jsonl", questions)
    _write(folder / "few.jsonl", questions[:FEW])
    _write(folder / "judged.jsonl", [_judged(number) for number in range(6)])
    command.json("ingest", folder / "docs.jsonl", "-c", "kb")
    for name in ("words", "few", "judged"):
        command.json("eval", "dataset", "import", folder / f"{name}.jsonl", "--name", name)
    for name, more in (("normal", ()), ("again", ()), ("narrow", ("--ef-search", "1"))):
        command.json("eval", "run", "words", *BY_VECTORS, "--name", name, *more)


def _judged(number: int) -> dict[str, Any]:
    """A case with an answer that is to be judged; no two make the same prompt."""
    return {
        "id": f"j{number}",
        "question": f"When does pump {number} run?",
        "answer": GOLD,
        "response": SAID,
        "contexts": [f"{PASSAGE} Pump {number}."],
    }


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def judge() -> Iterator[OpenAIServer]:
    """A provider whose model finds one claim in each text, and bears each of them out."""
    with OpenAIServer() as server:
        claims = {text: [("the pump", "does", text)] for text in (GOLD, SAID)}
        listens(server, ScriptedJudge(claims, otherwise="Entailment"))
        yield server


def judging(command: Command, server: OpenAIServer) -> Command:
    """Return the command with a judge at the server."""
    return command.with_(
        RAGLINE_JUDGE_PROVIDER="openai",
        RAGLINE_JUDGE_MODEL="m",
        RAGLINE_JUDGE_URL=server.url,
    )


def names_of(verdict: dict[str, Any], status: str) -> set[str]:
    return {row["metric"] for row in verdict["rows"] if row["status"] == status}


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    done = Command(folder=tmp_path).run(*command.split(), "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[:3] == ["Usage:", "ragline", "eval"]
    assert not (tmp_path / "data").exists()


# Datasets


def test_a_dataset_goes_in_and_comes_out_as_it_was(ragline: Command, tmp_path: Path) -> None:
    facts = ragline.json("eval", "dataset", "show", "words")
    assert (facts["facts"]["cases"], facts["facts"]["with_relevant"]) == (CASES, CASES)
    assert facts["cases"][0]["relevant"][0]["document"] == "d0"

    written = tmp_path / "out.jsonl"
    ragline.json("eval", "dataset", "export", "words", written, "--format", "jsonl")
    again = ragline.json("eval", "dataset", "import", written, "--name", "copied")

    assert again["dataset"]["hash"] == facts["facts"]["hash"]
    listed = ragline.json("eval", "dataset", "list")["datasets"]
    assert {"words", "few", "judged", "copied"} <= {one["name"] for one in listed}
    shown = ragline.run("eval", "dataset", "show", "words")
    assert f"words: {CASES} cases (jsonl)" in shown.stdout
    assert f"and {CASES - 10} more" in shown.stdout


def test_what_a_format_cannot_hold_is_said(ragline: Command, tmp_path: Path) -> None:
    done = ragline.run("eval", "dataset", "export", "judged", tmp_path / "r", "--format", "ragas")
    assert done.returncode == 0, done.stderr
    done = ragline.run("eval", "dataset", "export", "words", tmp_path / "b", "--format", "beir")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "qrels" / "test.tsv").is_file()

    over = ragline.run("eval", "dataset", "export", "judged", tmp_path / "r", "--format", "ragas")
    assert over.returncode == 2
    assert "exists already" in over.stderr


def test_cases_that_measure_nothing_are_refused_or_left_out_by_name(
    ragline: Command, tmp_path: Path
) -> None:
    path = tmp_path / "mixed.jsonl"
    _write(path, [{"id": "a", "question": "q", "answer": "x"}, {"id": "b", "question": "q"}])

    refused = ragline.run("eval", "dataset", "import", path, "--name", "mixed")
    assert refused.returncode == 2
    assert "'b'" in refused.stderr
    assert "no gold" in refused.stderr

    taken = ragline.run("eval", "dataset", "import", path, "--name", "mixed", "--skip-degenerate")
    assert taken.returncode == 0
    assert "left out  " in taken.stderr
    assert "mixed: 1 cases" in taken.stdout
    assert "1 left out" in taken.stdout


def test_a_name_is_kept_until_replace_says_otherwise(ragline: Command, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    _write(path, [{"id": "a", "question": "q", "answer": "x"}])
    ragline.json("eval", "dataset", "import", path, "--name", "kept")
    _write(path, [{"id": "a", "question": "q", "answer": "y"}])

    refused = ragline.run("eval", "dataset", "import", path, "--name", "kept")

    assert refused.returncode == 2
    assert "exists with other cases" in refused.stderr
    replaced = ragline.json("eval", "dataset", "import", path, "--name", "kept", "--replace")
    assert replaced["dataset"]["cases"] == 1


def test_tags_that_are_not_taken_are_said(ragline: Command, tmp_path: Path) -> None:
    path, case = tmp_path / "a.jsonl", {"id": "a", "question": "q", "answer": "x"}
    _write(path, [case])
    command = ("eval", "dataset", "import", path, "--name", "tagged")
    assert [ragline.json(*command)["warnings"] for _ in range(2)] == [[], []]
    _write(path, [case | {"tags": ["new"]}])

    again = ragline.run(*command)

    assert again.returncode == 0
    assert "keeps its tags, other keys and order; --replace takes these" in again.stderr
    assert ragline.json(*command, "--replace")["warnings"] == []
    assert ragline.json("eval", "dataset", "show", "tagged")["cases"][0]["tags"] == ["new"]


def test_a_ranking_says_that_it_has_no_passages(ragline: Command, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    found = ragline.json("search", "w1 w2", "-c", "kb")["hits"][0]
    passage = {"document": found["source"], "passage": found["body"]}
    _write(path, [{"id": "a", "question": "w1 w2", "relevant": [passage]}])
    ragline.json("eval", "dataset", "import", path, "--name", "passages")
    ragline.json("eval", "run", "passages", "-c", "kb", "--name", "by-passages")

    done = ragline.run("eval", "export", "by-passages", tmp_path / "r", "--format", "trec")

    assert done.returncode == 0
    assert "1 cases were measured by passages" in done.stderr


def test_removing_says_what_it_would_do_and_acts_on_yes(ragline: Command, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    _write(path, [{"id": "a", "question": "w1 w2", "relevant": ["d1"]}])
    ragline.json("eval", "dataset", "import", path, "--name", "gone")
    ragline.json("eval", "run", "gone", "-c", "kb", "--name", "gone-1")

    planned = ragline.run("eval", "remove", "gone-1", "--json")
    assert planned.returncode == 2
    assert one_object(planned.stdout)["would_remove"]["name"] == "gone-1"
    assert "ragline eval remove gone-1 --yes" in planned.stderr
    needed = ragline.run("eval", "dataset", "remove", "gone", "--yes")
    assert needed.returncode == 2
    assert "gone-1" in needed.stderr

    assert ragline.json("eval", "remove", "gone-1", "--yes") == {"removed": "gone-1"}
    planned = ragline.run("eval", "dataset", "remove", "gone", "--json")
    assert planned.returncode == 2
    assert one_object(planned.stdout)["would_remove"]["cases"] == 1
    assert ragline.json("eval", "dataset", "remove", "gone", "--yes") == {"removed": "gone"}
    assert ragline.run("eval", "dataset", "show", "gone").returncode == 2


# Runs


def test_a_run_prints_its_figures_and_is_kept(ragline: Command) -> None:
    done = ragline.run("eval", "run", "few", "-c", "kb", "-k", "5", "--name", "printed")

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "COMPLETE: 5 of 5 cases" in done.stdout
    assert re.search(r"^recall@5 +\| +1\.0000 \| +5 \| +0 \|", done.stdout, re.MULTILINE)
    listed = ragline.json("eval", "runs", "few")["runs"]
    kept = next(one for one in listed if one["name"] == "printed")
    assert (kept["state"], kept["settings"]["k"]) == ("complete", 5)
    assert "printed  complete  5 cases of few" in ragline.run("eval", "runs", "few").stdout


def test_json_has_the_run_and_its_cases_where_they_are_asked_for(ragline: Command) -> None:
    found = ragline.json("eval", "show", "normal")
    whole = ragline.json("eval", "show", "normal", "--cases")

    assert found["run"]["metrics"]["recall@5"]["n"] == CASES
    assert "cases" not in found
    assert [case["case_id"] for case in whole["cases"]] == [f"c{n}" for n in range(CASES)]
    assert whole["cases"][0]["metrics"]["recall@5"] in (0.0, 1.0)
    text = ragline.run("eval", "show", "normal", "--cases").stdout
    assert re.search(r"^  c39  .*recall@5 \d\.\d{3}", text, re.MULTILINE)


def test_a_run_goes_to_other_programs(ragline: Command, tmp_path: Path) -> None:
    ranking = tmp_path / "run.trec"
    done = ragline.json("eval", "export", "normal", ranking, "--format", "trec")
    lines = [line.split() for line in ranking.read_text().splitlines()]
    assert done["run"] == "normal"
    assert {line[0] for line in lines} == {f"c{n}" for n in range(CASES)}
    # As the dataset calls them: d7, not /…/docs/d7.txt.
    assert all(re.fullmatch(r"d\d+", line[2]) for line in lines)

    path = tmp_path / "run.json"
    empty = ragline.run("eval", "export", "normal", path, "--format", "ragchecker")
    assert empty.returncode == 2
    assert "no case" in empty.stderr
    ragline.json(
        *("eval", "run", "judged", "--contexts", "fixed", "--judge", "lexical"),
        *("--name", "exported"),
    )
    ragline.json("eval", "export", "exported", path, "--format", "ragchecker")
    results = json.loads(path.read_text())["results"]
    assert [one["response"] for one in results] == [SAID] * 6


@pytest.mark.parametrize("suffix", ["html", "md", "json"])
def test_a_report_takes_the_form_that_its_name_asks_for(
    ragline: Command, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"report.{suffix}"

    done = ragline.run("eval", "show", "normal", "--report", path)

    assert done.returncode == 0, done.stderr
    assert done.stderr == f"report: {path}\n"
    begins = {"html": "<!doctype html>", "md": "# ", "json": "{"}[suffix]
    assert path.read_text().lower().startswith(begins)
    # Markdown escapes it.
    assert "recall@5" in path.read_text().replace("\\", "")


@pytest.mark.parametrize("name", ["report.pdf", "report", "no/such/folder/report.md"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_runs(
    world: World, tmp_path: Path, name: str
) -> None:
    before = world.rows("select count(*) from ragline.run")

    done = world.command.run("eval", "run", "few", "-c", "kb", "--report", tmp_path / name)

    assert (done.returncode, done.stdout) == (2, "")
    assert "report" in done.stderr
    assert world.rows("select count(*) from ragline.run") == before


def test_on_a_terminal_a_bar_shows_cases_time_and_cost_and_stdout_stays_clean(
    ragline: Command,
) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, "eval", "run", "words", "-c", "kb"],
        env={**ragline.environment, "TERM": "xterm-256color", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the other end is closed
            pass
        assert process.stdout is not None
        out = process.stdout.read().decode()
    os.close(ours)

    assert process.returncode == 0, shown
    assert "\x1b" not in out
    assert "evaluating" in shown.decode()
    assert re.search(rf"{CASES}/{CASES}", shown.decode())
    assert "0.0000 USD" in shown.decode()


def test_a_run_that_a_limit_ended_is_partial_and_goes_on(ragline: Command) -> None:
    ended = ragline.run(
        *("eval", "run", "few", "-c", "kb", "-k", "3", "--name", "limited"),
        *("--max-time", "0.001", "--json"),
    )
    assert ended.returncode == 5
    found = one_object(ended.stdout)["run"]
    assert (found["state"], found["done"]) == ("partial", 0)
    assert "ragline eval run few --resume limited" in ended.stderr
    refused = ragline.run("eval", "compare", "normal", "limited")
    assert refused.returncode == 2
    assert "limited) is partial" in refused.stderr
    other = ragline.run("eval", "run", "few", "--resume", "limited", "-k", "4")
    assert other.returncode == 2
    assert "k 3, not 4" in other.stderr

    whole = ragline.json("eval", "run", "few", "--resume", "limited")["run"]

    assert (whole["state"], whole["done"], whole["settings"]["k"]) == ("complete", FEW, 3)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_ends_with_130_and_goes_on(
    ragline: Command, judge: OpenAIServer, how: signal.Signals
) -> None:
    name = f"broken-off-{how.name}"
    with OpenAIServer() as slow:
        slow.script(*[Stall()] * 50)
        process = judging(ragline, slow).start(
            "eval", "run", "judged", *FIXED, "--name", name, "--fresh"
        )
        while not slow.requests:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(how)
        stdout, stderr = process.communicate(timeout=240)

    assert (process.returncode, stdout) == (130, "")
    assert "what was measured is kept: `ragline eval runs judged` names the run" in stderr
    assert stderr.endswith("\ninterrupted\n")
    assert ragline.json("eval", "show", name)["run"]["state"] == "partial"
    # The same judge at another address.
    whole = judging(ragline, judge).json("eval", "run", "judged", "--resume", name)["run"]
    assert (whole["state"], whole["metrics"]["faithfulness"]["value"]) == ("complete", 1.0)


# Judges


def test_a_judge_that_is_down_makes_a_partial_run_that_goes_on(
    ragline: Command, judge: OpenAIServer
) -> None:
    gone = judging(ragline, judge).with_(
        RAGLINE_JUDGE_URL="http://127.0.0.1:1/v1", RAGLINE_JUDGE_RETRIES="0"
    )

    failed = gone.run("eval", "run", "judged", *FIXED, "--name", "unjudged", "--fresh", "--json")

    assert failed.returncode == 3
    found = one_object(failed.stdout)["run"]
    assert found["state"] == "partial"
    assert found["errors"] == {"judge ModelUnavailable": found["failed"]}
    assert found["failed"] > 0
    assert not {"faithfulness", "f1"} & found["metrics"].keys()
    assert "--resume unjudged" in failed.stderr
    text = ragline.run("eval", "show", "unjudged").stdout
    assert "ModelUnavailable" in text
    kept = ragline.run("eval", "baseline", "set", "unjudged", "--name", "bad")
    assert kept.returncode == 2
    # The same judge at another address.
    whole = judging(ragline, judge).json("eval", "run", "judged", "--resume", "unjudged")
    assert (whole["run"]["state"], whole["run"]["failed"]) == ("complete", 0)


def test_a_judge_that_talks_nonsense_measures_nothing(
    ragline: Command, judge: OpenAIServer
) -> None:
    judge.say = lambda _messages: "I would say so."

    failed = judging(ragline, judge).run(
        "eval", "run", "judged", *FIXED, "--name", "nonsense", "--fresh", "--json"
    )

    assert failed.returncode == 3
    found = one_object(failed.stdout)["run"]
    assert (found["state"], found["errors"]) == (
        "partial",
        {"judge ModelReplyInvalid": found["failed"]},
    )
    assert found["metrics"].keys() <= {"eval_seconds", "eval_cost_micro_usd"}


def test_a_second_run_asks_nobody_and_says_so(ragline: Command, judge: OpenAIServer) -> None:
    judged = judging(ragline, judge)
    first = judged.json("eval", "run", "judged", *FIXED, "--name", "asked", "--fresh")["run"]
    calls = len(judge.requests)
    assert first["metrics"]["f1"] == {"value": 1.0, "n": 6, "missing": 0}
    assert first["judge_id"].startswith("llm:openai/m@")

    again = judged.run("eval", "run", "judged", *FIXED, "--name", "unasked")

    assert again.returncode == 0, again.stderr
    assert len(judge.requests) == calls > 0
    assert "No model was called" in " ".join(again.stdout.split())
    shown = ragline.json("eval", "compare", "asked", "unasked")
    assert (shown["status"], shown["is_identical"]) == ("pass", True)


def test_the_cache_is_shown_verified_and_cleared_by_yes(
    world: World, ragline: Command, judge: OpenAIServer
) -> None:
    judged = judging(ragline, judge)
    judged.json("eval", "run", "judged", *FIXED, "--name", "filling")
    facts = ragline.json("eval", "cache", "show")
    assert facts["entries"] > 0
    assert facts["bytes"] > 0
    assert ragline.json("eval", "cache", "verify") == {"entries": facts["entries"], "damaged": []}

    # As a broken disk would; the constraint lets nobody do it by mistake.
    for statement in (
        "alter table ragline.verdict drop constraint verdict_checksum_fits",
        "update ragline.verdict set reply = 'x' where key = (select min(key) from ragline.verdict)",
    ):
        servers.ask(world.dsn, statement)
    damaged = ragline.run("eval", "cache", "verify", "--json")
    assert damaged.returncode == 3
    assert len(one_object(damaged.stdout)["damaged"]) == 1

    planned = ragline.run("eval", "cache", "clear")
    assert planned.returncode == 2
    assert "ragline eval cache clear --yes" in planned.stderr
    of_one = ragline.run("eval", "cache", "clear", "--judge", "llm:a b@1")
    assert "ragline eval cache clear --judge 'llm:a b@1' --yes" in of_one.stderr
    assert ragline.json("eval", "cache", "clear", "--yes")["cleared"] == facts["entries"]
    assert ragline.json("eval", "cache", "show")["entries"] == 0


# Baselines, comparisons, red lines


def test_a_baseline_is_set_listed_and_shown(ragline: Command) -> None:
    first = ragline.json("eval", "baseline", "set", "again", "--name", "main")
    ragline.json("eval", "baseline", "set", "normal", "--name", "main", "--note", "before the move")

    listed = ragline.json("eval", "baseline", "list", "words")["baselines"]
    shown = ragline.json("eval", "baseline", "show", "main")

    assert (first["run"], first["ended_at"]) == ("again", None)
    assert [(one["run"], one["ended_at"] is None) for one in listed] == [
        ("normal", True),
        ("again", False),
    ]
    assert shown["run"]["name"] == "normal"
    assert "before the move" in ragline.run("eval", "baseline", "list").stdout
    kept = ragline.run("eval", "remove", "normal", "--yes")
    assert kept.returncode == 2
    assert ragline.run("eval", "compare", "main", "again").returncode == 0


def test_the_same_again_passes(ragline: Command) -> None:
    done = ragline.run("eval", "compare", "normal", "again")

    assert (done.returncode, done.stderr) == (0, "")
    assert "PASS" in done.stdout
    assert "Unchanged by construction" in done.stdout


def test_a_search_that_finds_less_fails_and_the_metric_is_named(
    ragline: Command, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"

    done = ragline.run("eval", "compare", "normal", "narrow", "--json", "--report", report)

    assert done.returncode == 4, done.stderr
    found = one_object(done.stdout)
    assert found["status"] == "fail"
    assert "ann_recall@5" in names_of(found["verdict"], "fail")
    assert re.search(r"^error: verdict fail: .*ann_recall@5 1 -> 0\.\d+", done.stderr, re.MULTILINE)
    assert "ann_recall@5" in report.read_text()
    people = ragline.run("eval", "compare", "normal", "narrow")
    assert people.returncode == 4
    assert "FAIL" in people.stdout


def test_few_cases_decide_nothing(ragline: Command) -> None:
    few = ("eval", "run", "few", "-c", "kb", "-k", "5")
    ragline.json(*few, "--method", "vector", "--name", "few-1")
    ragline.json(*few, "--method", "lexical", "--name", "few-2")

    done = ragline.run("eval", "compare", "few-1", "few-2", "--json")

    assert done.returncode == 5
    found = one_object(done.stdout)
    assert found["status"] == "inconclusive"
    assert all(row["n"] == FEW for row in found["verdict"]["rows"])
    assert "at least 30 are needed" in done.stderr


def test_what_cannot_be_compared_is_refused(ragline: Command) -> None:
    few = ("eval", "run", "few", "-c", "kb", "-k", "5", "--method", "vector")
    ragline.json(*few, "--name", "plain")
    answers = ("--answers", "extractive")
    ragline.json(*few, *answers, "--name", "answered")

    for one, other, said in (
        ("normal", "plain", "datasets"),
        ("plain", "answered", "--answers"),
        ("normal", "nope", "'nope' does not exist"),
    ):
        done = ragline.run("eval", "compare", one, other)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert said in done.stderr


def test_two_judges_are_never_compared(ragline: Command, judge: OpenAIServer) -> None:
    fixed = ("eval", "run", "judged", "--contexts", "fixed")
    ragline.json(*fixed, "--judge", "lexical", "--name", "by-words")
    judging(ragline, judge).json(*fixed, "--judge", "llm", "--name", "by-model")

    done = ragline.run("eval", "compare", "by-words", "by-model", "--json")

    assert (done.returncode, done.stdout) == (2, "")
    assert "lexical-v1" in done.stderr
    assert "llm:openai/m@" in done.stderr


@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        ('metric = "recall@5"\nat_least = 0.1', 0, ""),
        ('metric = "recall@5"\nat_most = 0.1', 4, "recall@5: "),
        ('metric = "faithfulness"\nat_least = 0.1', 4, "faithfulness: not measured"),
        ('metric = "recall@5"\nmargin = 0.01', 4, "no baseline"),
        ('metric = "recall@5"\nat_lest = 0.1', 2, "at_lest"),
    ],
)
def test_a_run_is_held_against_the_lines_of_a_policy(
    ragline: Command, tmp_path: Path, lines: str, code: int, said: str
) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text(f"[[line]]\n{lines}\n")

    done = ragline.run("eval", "check", "normal", "--policy", policy, "--json")

    assert done.returncode == code, done.stderr
    assert said in done.stderr
    if code != 2:
        status = {0: "pass", 4: "fail"}[code]
        assert one_object(done.stdout)["verdict"]["status"] == status


def test_a_check_against_a_baseline_holds_the_lines_with_a_margin(
    ragline: Command, tmp_path: Path
) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text('[[line]]\nmetric = "ann_recall@k"\nmargin = 0.01\n')
    check = ("eval", "check", "--policy", policy, "--against", "normal")

    assert ragline.run(*check, "again").returncode == 0
    worse = ragline.run(*check, "narrow")
    assert worse.returncode == 4
    assert "ann_recall@5 1 -> 0." in worse.stderr


def test_a_run_may_bring_its_own_policy(ragline: Command) -> None:
    run = ("eval", "run", "words", *BY_VECTORS, "--policy", "default", "--against", "normal")

    passed = ragline.run(*run, "--json")
    failed = ragline.run(*run, "--ef-search", "1", "--json")

    assert passed.returncode == 0, passed.stderr
    assert one_object(passed.stdout)["verdict"]["status"] == "pass"
    assert failed.returncode == 4, failed.stderr
    assert "recall@5" in names_of(one_object(failed.stdout)["verdict"], "fail")


def test_a_policy_is_printed_to_start_from(ragline: Command, tmp_path: Path) -> None:
    printed = ragline.run("eval", "policy")
    assert printed.returncode == 0
    mine = tmp_path / "mine.toml"
    mine.write_text(printed.stdout)

    assert (
        ragline.run("eval", "check", "again", "--policy", mine, "--against", "normal").stderr == ""
    )
    assert "faithfulness" in ragline.json("eval", "policy", "faithful")["text"]


# Without labels, and noise


def test_recall_needs_no_labels(ragline: Command) -> None:
    wide = ragline.json("eval", "recall", "-c", "kb", "--n", "50", "-k", "5")
    narrow = ragline.json("eval", "recall", "-c", "kb", "--n", "50", "-k", "5", "--ef-search", "1")

    assert (wide["n"], wide["k"], len(wide["values"])) == (50, 5, 50)
    assert wide["mean"] > 0.9 > narrow["mean"]
    assert "recall@5" in ragline.run("eval", "recall", "-c", "kb", "--n", "20", "-k", "5").stdout


def test_noise_is_measured_and_kept(world: World, ragline: Command) -> None:
    found = ragline.json("eval", "noise", "words", *BY_VECTORS, "--runs", "3")

    assert found["runs"] == 3
    assert found["metrics"]["recall@5"]["half_width"] == pytest.approx(0)
    assert found["metrics"]["p95_ms"]["half_width"] > 0
    kept = world.rows("select metric from ragline.noise")
    assert set(kept) == found["metrics"].keys()


# Exit codes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("run", "Missing"),
        ("run words", "--collection"),
        ("run nope -c kb", "dataset 'nope' does not exist; there are: "),
        ("run words -c nope", "collection 'nope' does not exist"),
        ("run words -c kb -k 0", "k is 0"),
        ("run words -c kb --method sideways", "sideways"),
        ("run words -c kb --judge lexical", "--answers"),
        ("run words -c kb --max-cost much", "--max-cost is 'much'"),
        ("run words -c kb --max-cost nan", "--max-cost is 'nan'"),
        ("run words -c kb --max-time 0", "max_time_s is 0"),
        ("run words -c kb --concurrency 0", "concurrency"),
        ("run words -c kb --against normal", "--policy"),
        ("run words -c kb --policy nope", "nope is no file and no policy"),
        ("run words --resume nope", "'nope' does not exist"),
        ("run words --resume normal", "complete"),
        ("run words -c kb --name normal", "normal"),
        ("show nope", "'nope' does not exist"),
        ("compare normal", "Missing"),
        ("check normal", "Missing"),
        ("policy nope", "default, ragchecker-floor, faithful"),
        ("dataset import /no/such/file --name x", "/no/such/file"),
        ("dataset import {folder}/words.jsonl --name 'a b'", "'a b' cannot name a dataset"),
        ("dataset show nope", "'nope' does not exist"),
        ("baseline show nope", "'nope' does not exist"),
        ("noise words -c kb --runs 1", "runs is 1"),
        ("recall -c nope", "'nope' does not exist"),
        ("export normal /tmp --format trec", "exists already"),
    ],
)
def test_what_cannot_be_asked_ends_with_2_and_a_sentence(
    ragline: Command, arguments: str, said: str
) -> None:
    done = ragline.run("eval", *shlex.split(arguments.format(folder=ragline.folder)))

    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert (done.stdout, "Traceback" in done.stderr) == ("", False)


def test_a_judge_that_is_not_there_ends_with_3_before_anything_runs(world: World) -> None:
    before = world.rows("select count(*) from ragline.run")

    done = world.command.run("eval", "run", "judged", *FIXED)

    assert (done.returncode, done.stdout) == (3, "")
    assert "RAGLINE_JUDGE_PROVIDER" in done.stderr
    assert world.rows("select count(*) from ragline.run") == before


EVERY = {
    "eval run": "words -c kb",
    "eval show": "normal",
    "eval export": "normal {tmp}/x --format trec",
    "eval remove": "normal --yes",
    "eval compare": "normal again",
    "eval check": "normal --policy default",
    "eval recall": "-c kb",
    "eval noise": "words -c kb",
    "eval dataset import": "{folder}/words.jsonl --name words",
    "eval dataset show": "words",
    "eval dataset export": "words {tmp}/x --format jsonl",
    "eval dataset remove": "words --yes",
    "eval baseline set": "normal --name main",
    "eval baseline show": "main",
    "eval cache clear": "--yes",
}
AT_THE_DATABASE = [
    command
    for command in COMMANDS
    if command not in ("eval", "eval policy", "eval dataset", "eval baseline", "eval cache")
]


@pytest.mark.parametrize("command", AT_THE_DATABASE)
def test_a_database_that_does_not_answer_ends_with_7_and_without_the_password(
    ragline: Command, tmp_path: Path, command: str
) -> None:
    more = EVERY.get(command, "").format(folder=ragline.folder, tmp=tmp_path)
    nowhere = ragline.with_(DATABASE_URL=UNREACHABLE)

    done = nowhere.run(*command.split(), *shlex.split(more))

    assert (done.returncode, done.stdout) == (7, ""), done.stderr
    assert done.stderr.startswith(
        "error: no PostgreSQL answers at postgresql://me:***@127.0.0.1:1/"
    )
    assert SECRET not in done.stderr
