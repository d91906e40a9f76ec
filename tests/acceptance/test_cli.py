"""The command line as people and programs meet it: streams, exit codes, manners."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import tiny_model
from command import PROGRAM, Command, one_object, place
from holding import held_up
from ragline.ops import embedded

COMMANDS = (
    "ingest, search, ask, attach, detach, serve, health, doctor, collection, collection calibrate, "
    "collection list, collection show, collection remove, migrate, migrate plan, migrate apply, "
    "migrate status, db, db start, db stop, "
    "db status, db url, db psql, dsn, dsn audit, dsn show, model, model check, "
    "model fetch, model show, snapshot, snapshot take, snapshot list, snapshot show, snapshot diff, "
    "snapshot restore-plan, backup, backup create, backup verify, backup restore, backup list, "
    "backup show, backup remove, migrate lint, migrate new, migrate rehearse, "
    "change, change plan, change apply, change list, change show, change undo, "
    "change resume, change watch, index list, "
    "index tune, index advise, tune, tune plan, tune apply, tune conf"
).split(", ")
HEAVY = {
    *("asyncpg", "numpy", "sqlalchemy", "alembic", "onnxruntime", "fastapi", "uvicorn", "psycopg"),
    *("pydantic", "tokenizers", "onnx", "starlette", "pypdf", "selectolax", "snowballstemmer"),
    *("httpx2", "boto3"),
}
SECRET = "hemlich-0815"  # not a real one
# Serving would go on for ever; fetching downloads; these start the embedded server whatever the DSN.
SKIPPED = ("serve", "model fetch", "db start", "db url", "db psql")
UNREACHABLE = f"postgresql://me:{SECRET}@127.0.0.1:1/nowhere"


@pytest.fixture(scope="module")
def ragline() -> Iterator[Command]:
    """A server with a tiny model and a collection `kb` of three documents."""
    with place() as command:
        model = tiny_model.make(command.folder / "model")
        ragline = command.with_(RAGLINE_MODEL_DIR=str(model))
        docs = command.folder / "docs"
        docs.mkdir()
        (docs / "pump.md").write_text("# The pump\n\nThe pump w1 w2 runs at night. It is loud.\n")
        (docs / "roof.txt").write_text("The roof w7 w8 is green.\n")
        (docs / "escape.txt").write_text("Escapes \x1b[31mred w9\x1b[0m are harmless.\n" * 3)
        ragline.json("ingest", docs, "-c", "kb")
        yield ragline


@pytest.fixture
def docs(ragline: Command) -> Path:
    return ragline.folder / "docs"


@pytest.fixture
def nowhere(tmp_path: Path) -> Command:
    """An environment whose database cannot be reached."""
    return Command(folder=tmp_path, more={"DATABASE_URL": UNREACHABLE})


# Help


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    done = Command(folder=tmp_path).run(*command.split(), "--help")

    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.split()[:2] == ["Usage:", "ragline"]
    assert "\x1b" not in done.stdout
    assert not (tmp_path / "data").exists()


def test_help_names_every_command(tmp_path: Path) -> None:
    done = Command(folder=tmp_path).run("--help")

    for command in {name.split()[0] for name in COMMANDS}:
        assert re.search(rf"^\W*{command} ", done.stdout, re.MULTILINE), command


def test_help_waits_for_no_heavy_library(tmp_path: Path) -> None:
    program = (
        "import sys\nsys.argv = ['ragline', '--help']\nfrom ragline.cli import main\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    sys.stdout.write(f"ragline --help took {(time.perf_counter() - started) * 1000:.0f} ms\n")

    assert done.returncode == 0
    assert {name.split(".")[0] for name in done.stderr.split()} & HEAVY == set()


def test_without_arguments_it_shows_its_help(tmp_path: Path) -> None:
    done = Command(folder=tmp_path).run()

    assert "Usage: ragline" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# --json


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ("search w1 -c kb", {"hits", "warnings", "used", "timings_ms"}),
        ("search w1 -c kb --explain", {"hits", "used", "timings_ms"}),
        ("search zzz -c kb --method lexical", {"hits"}),
        ("ask w1 -c kb", {"found", "text", "citations", "confidence"}),
        ("collection list", {"collections"}),
        ("doctor", {"status", "exit_code", "counts", "findings"}),
        ("collection show kb", {"name", "documents", "chunks", "epoch", "space"}),
        ("migrate plan", {"applied", "head", "pending"}),
        ("migrate apply", {"applied", "isolated"}),
        ("migrate status", {"applied", "head", "pending"}),
        ("db status", {"state", "cluster"}),
        ("db start", {"pid", "data_dir"}),
        ("db url", {"url"}),
        ("dsn show", {"database", "parts", "warnings"}),
        ("model show", {"model_id", "dimension", "weights_hash"}),
        ("snapshot take", {"id", "name", "taken_at", "groups"}),
        ("snapshot list", {"snapshots"}),
        ("snapshot show 1", {"id", "groups", "contents"}),
        ("snapshot diff 1", {"from", "to", "differences", "moved", "not_compared"}),
        ("snapshot restore-plan 1", {"snapshot", "change", "left_out"}),
        ("health", {"status", "checks"}),
    ],
)
def test_json_is_one_object_on_stdout(ragline: Command, arguments: str, keys: set[str]) -> None:
    assert keys <= ragline.json(*arguments.split()).keys()


def test_ingest_prints_one_object_and_names_rejections_in_it(
    ragline: Command, tmp_path: Path
) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "bad.txt").write_bytes(b"\0")

    done = ragline.run("ingest", tmp_path, "-c", "rejecting", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    report = one_object(done.stdout)
    assert (report["added"], [r["reason"] for r in report["rejections"]]) == (1, ["NUL_BYTE"])
    strict = ragline.run("ingest", tmp_path, "-c", "rejecting", "--json", "--strict")
    assert strict.returncode == 3
    assert one_object(strict.stdout)["unchanged"] == 1


def test_removing_says_what_it_would_do_and_acts_on_yes(ragline: Command, docs: Path) -> None:
    ragline.json("ingest", docs, "-c", "gone")

    planned = ragline.run("collection", "remove", "gone", "--json")

    assert planned.returncode == 2
    plan = one_object(planned.stdout)
    assert (plan["removed"], plan["would_remove"]["documents"]) == (None, 3)
    assert "ragline collection remove gone --yes" in planned.stderr
    assert ragline.json("collection", "show", "gone")["documents"] == 3
    assert ragline.json("collection", "remove", "gone", "--yes") == {"removed": "gone"}
    assert ragline.run("collection", "show", "gone").returncode == 2


# Streams


def test_data_goes_to_stdout_and_remarks_to_stderr(ragline: Command, docs: Path) -> None:
    done = ragline.run("ingest", docs, "-c", "kb")
    assert done.stdout.startswith("kb: 3 found, 0 added, 0 replaced, 3 unchanged")
    assert done.stderr == ""

    done = ragline.with_(RAGLINE_MODEL_DIR="").run("ask", "pump", "-c", "kb")
    assert "The pump" in done.stdout
    assert done.stderr.startswith("warning: searched by words alone")


@pytest.mark.parametrize("arguments", ["ingest {docs} -c fresh", "search w1 -c kb", "health"])
def test_away_from_a_terminal_nothing_is_drawn_or_coloured(
    ragline: Command, docs: Path, arguments: str
) -> None:
    done = ragline.run(*arguments.format(docs=docs).split())

    assert done.returncode == 0
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", done.stdout + done.stderr)


def test_documents_and_file_names_do_not_steer_the_terminal(
    ragline: Command, tmp_path: Path
) -> None:
    (tmp_path / "bell\x1b]0;owned\x07.txt").write_bytes(b"\0")

    for done in (
        ragline.run("search", "escapes", "-c", "kb"),
        ragline.run("ask", "escapes red harmless", "-c", "kb"),
        ragline.run("ingest", tmp_path, "-c", "named"),
    ):
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        assert "\x07" not in done.stdout + done.stderr


def on_a_terminal(command: Command, *arguments: str | Path) -> tuple[str, str]:
    """Run with stderr on a terminal; return what stdout and the terminal got."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, *map(str, arguments)],
        env={**command.environment, "TERM": "xterm-256color", "COLUMNS": "100"},
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
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown
    return out.decode(), shown.decode()


def test_on_a_terminal_a_bar_shows_progress_and_stdout_stays_clean(
    ragline: Command, docs: Path
) -> None:
    out, shown = on_a_terminal(ragline, "ingest", docs, "-c", "barred")

    assert "ingesting" in shown
    assert "\x1b" not in out
    assert out.startswith("barred: 3 found, 3 added")


def test_colours_are_left_out_when_the_environment_says_so(ragline: Command, docs: Path) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*[0-9]m")
    _, shown = on_a_terminal(ragline, "ingest", docs, "-c", "colours")
    assert coloured.search(shown)

    _, shown = on_a_terminal(ragline.with_(NO_COLOR="1"), "ingest", docs, "-c", "grey")
    assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3|4|9|10)[0-9](?:;[0-9;]*)?m", shown)


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_quiet_and_json_show_no_bar(ragline: Command, docs: Path, option: str) -> None:
    _, shown = on_a_terminal(ragline, "ingest", docs, "-c", "kb", option)

    assert shown == ""


@pytest.mark.parametrize(
    "arguments", ["collection list", "search w1 -c kb --json", "--help", "dsn show"]
)
def test_a_reader_that_goes_away_is_no_error_to_shout_about(
    ragline: Command, arguments: str
) -> None:
    process = ragline.start(*arguments.split())
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None

    assert process.stderr.read() == ""
    process.wait(120)
    process.stderr.close()


@pytest.mark.parametrize(
    "arguments", ["search pump -c kb", "search pump -c kb --json", "collection list", "--help"]
)
def test_a_full_disk_is_said_in_a_sentence(ragline: Command, arguments: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [PROGRAM, *arguments.split()],
            env=ragline.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert done.returncode == 1
    assert done.stderr == "error: stdout cannot be written: No space left on device\n"


def test_a_closed_stdout_is_said_in_a_sentence(ragline: Command) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {PROGRAM} collection list --json >&-"],
        env=ragline.environment,
        stderr=subprocess.PIPE,
        text=True,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("error: stdout is closed")


def test_file_names_forge_no_line(ragline: Command, tmp_path: Path) -> None:
    (tmp_path / "a\nwarning: all is well\u2028.txt").write_bytes(b"\0")
    (tmp_path / "b\nfake w30.txt").write_text("w30 is a word")

    ingested = ragline.run("ingest", tmp_path, "-c", "forged")
    found = ragline.run("search", "w30", "-c", "forged")
    answer = ragline.run("ask", "w30 is a word", "-c", "forged")

    assert [line.split()[0] for line in ingested.stderr.splitlines()] == ["rejected"]
    assert "a\\nwarning: all is well\\u2028.txt" in ingested.stderr
    assert "b\\nfake w30" in found.stdout
    assert "b\\nfake w30" in answer.stdout


def test_a_folder_that_became_empty_is_pruned_with_yes_only(
    ragline: Command, tmp_path: Path
) -> None:
    for name in ("1.txt", "2.txt"):
        (tmp_path / name).write_text(f"number {name}")
    ragline.json("ingest", tmp_path, "-c", "emptied")
    for path in tmp_path.iterdir():
        path.unlink()

    refused = ragline.run("ingest", tmp_path, "-c", "emptied", "--prune")

    assert refused.returncode == 2
    assert f"nothing is left below '{tmp_path}'" in refused.stderr
    assert "knows 2 document(s) from there: is it mounted?" in refused.stderr
    assert "--yes" in refused.stderr
    assert ragline.json("ingest", tmp_path, "-c", "emptied", "--prune", "--yes")["pruned"] == 2


def test_what_an_encoding_lacks_is_written_as_escapes(ragline: Command, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w20 and a pump in Ødegård 🙂")
    narrow = ragline.with_(PYTHONIOENCODING="ascii")
    ragline.json("ingest", tmp_path, "-c", "wide")

    text = narrow.run("search", "w20", "-c", "wide")
    found = narrow.json("search", "w20", "-c", "wide")

    assert text.returncode == 0
    assert "\\xd8deg" in text.stdout
    assert found["hits"][0]["body"] == "w20 and a pump in Ødegård 🙂"


# What search and ask show


def test_explain_shows_ranks_scores_what_was_used_and_the_time_of_each_stage(
    ragline: Command,
) -> None:
    done = ragline.run("search", "pump w1", "-c", "kb", "--explain")

    assert re.search(r"score 1\.0\d+ +vector rank 1 \(\d\.\d{4}\) +BM25 rank 1 \(\d", done.stdout)
    assert re.search(r"kb: hybrid, model tiny, ef_search 100.*terms pump w1", done.stdout)
    for stage in ("embed", "search", "fuse", "total", "kb.vector", "kb.lexical", "kb.statement"):
        assert re.search(rf"^ +{stage} +\d+\.\d+ ms$", done.stdout, re.MULTILINE), stage
    found = ragline.json("search", "pump w1", "-c", "kb", "--explain")
    assert found["used"][0]["vector_plan"]
    assert {"kb.vector", "kb.lexical"} <= found["timings_ms"].keys()
    best = found["hits"][0]
    assert best["score"] == pytest.approx(1)  # the best of both halves


def test_an_answer_shows_its_citations_by_number(ragline: Command) -> None:
    done = ragline.run("ask", "the pump w1 w2 runs at night", "-c", "kb")

    assert re.search(r"runs at night\..*\[1\]", done.stdout, re.DOTALL)
    assert re.search(
        r"^ +\[1\] The pump, characters \d+-\d+ \(.*pump\.md\)$", done.stdout, re.MULTILINE
    )


def test_what_is_not_there_is_said_and_is_no_failure(ragline: Command) -> None:
    done = ragline.with_(RAGLINE_MODEL_DIR="").run("ask", "Mongolia", "-c", "kb")

    assert (done.returncode, done.stdout) == (0, "Not found in the documents.\n")


# Exit codes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("frobnicate", "frobnicate"),
        ("search", "Missing"),
        ("search w1 --filter 'lang =='", "filter"),
        ("search w1 -c kb --frobnicate", "No such option"),
        ("search w1 -c kb --method sideways", "sideways"),
        ("search w1 -c kb -k 0", "k is 0"),
        ("search w1 -c kb -k many", "valid integer"),
        ("search w1 -c kb --ef-search 5000", "ef_search is 5000"),
        ("search '' -c kb", "the question is empty"),
        ("ask ' ' -c kb", "the question is empty"),
        ("search w1 -c nope", "collection 'nope' does not exist; there are: "),
        ("collection show nope", "'nope' does not exist"),
        ("collection remove nope --yes", "'nope' does not exist"),
        ("ingest /no/such/folder -c kb", "there is no file or folder '/no/such/folder'"),
        ("ingest {docs} -c kb --chunk-size 99", "chunk size 200, not 99"),
        ("ingest {docs} -c new --chunk-size 3", "chunk size"),
        ("ingest {docs} -c new --language klingon", "'klingon' is not known"),
        ("ingest {docs} -c 'a b'", "'a b' cannot name a collection"),
        ("ingest {docs} -c new --ignore '!'", "pattern"),
        ("ingest '' -c new", "a path is empty"),
        ("ingest {docs} '' -c new", "a path is empty"),
        ("ingest {docs} -c new -c newer", "given 2 times (new, newer)"),
    ],
)
def test_what_cannot_be_asked_ends_with_2_and_a_sentence(
    ragline: Command, docs: Path, arguments: str, said: str
) -> None:
    done = ragline.run(*shlex.split(arguments.format(docs=docs)))

    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert (done.stdout, "Traceback" in done.stderr) == ("", False)


def test_without_a_collection_every_one_is_searched(ragline: Command) -> None:
    done = ragline.run("search", "w1", "--json")
    assert done.returncode == 0, done.stderr
    listed = one_object(ragline.run("collection", "list", "--json").stdout)
    searched = {used["collection"] for used in one_object(done.stdout)["used"]}
    assert searched == {facts["name"] for facts in listed["collections"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("model show", "ragline model fetch"),
        ("db status", ""),
        ("ask w1 -c kb", "model.onnx is missing"),
    ],
)
def test_what_is_not_as_it_must_be_ends_with_3(tmp_path: Path, arguments: str, said: str) -> None:
    command = Command(folder=tmp_path)
    if arguments.startswith("ask"):
        with place() as other:
            (other.folder / "model").mkdir()
            broken = other.with_(RAGLINE_MODEL_DIR=str(other.folder / "model"))
            other.json("ingest", tmp_path, "-c", "kb")
            done = broken.run("ingest", tmp_path, "-c", "kb")
    else:
        done = command.run(*arguments.split())

    assert done.returncode == 3, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_schema_newer_than_the_code_is_refused_with_3(ragline: Command) -> None:
    cluster = embedded.status(ragline.data_dir).cluster
    assert cluster is not None
    with psycopg.connect(embedded.url(cluster), autocommit=True) as db:
        row = db.execute("select version_num from ragline.alembic_version").fetchone()
        assert row is not None
        try:
            db.execute("update ragline.alembic_version set version_num = '9999'")
            ended = [
                ragline.run(*arguments.split())
                for arguments in ("collection list", "search w1 -c kb", "migrate apply", "health")
            ]
        finally:
            db.execute("update ragline.alembic_version set version_num = %s", row)

    assert [done.returncode for done in ended] == [3, 3, 3, 3], [done.stderr for done in ended]
    for done in ended:
        assert "9999" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *("ingest {docs} -c kb", "search w1 -c kb", "ask w1 -c kb", "collection list"),
        *("collection show kb", "collection remove kb --yes", "migrate plan", "migrate apply"),
        "migrate status",
    ],
)
def test_a_database_that_does_not_answer_ends_with_7(
    nowhere: Command, docs: Path, arguments: str
) -> None:
    done = nowhere.run(*arguments.format(docs=docs).split())

    assert done.returncode == 7, done.stderr
    assert done.stderr.startswith(
        "error: no PostgreSQL answers at postgresql://me:***@127.0.0.1:1/"
    )
    assert (done.stdout, "Traceback" in done.stderr) == ("", False)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in SKIPPED])
def test_no_command_prints_the_password(tmp_path: Path, docs: Path, command: str) -> None:
    more = {"ingest": [str(docs), "-c", "kb"], "search": ["w1", "-c", "kb"]}
    more["ask"] = more["search"]
    more["collection show"] = more["collection remove"] = ["kb"]
    ragline = Command(folder=tmp_path, more={"POSTGRES_DSN": UNREACHABLE})

    done = ragline.run(*command.split(), *more.get(command, []))

    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "url", [f"postgresql://me:{SECRET}@[::1", f"mysql://me:{SECRET}@host/db", f"garbage {SECRET}"]
)
def test_a_malformed_dsn_ends_with_2_and_without_the_password(tmp_path: Path, url: str) -> None:
    done = Command(folder=tmp_path, more={"DATABASE_URL": url}).run("collection", "list")

    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert SECRET not in done.stderr


def test_health_fails_with_3_and_still_prints_its_object(nowhere: Command) -> None:
    done = nowhere.run("health", "--json")

    assert done.returncode == 3
    assert one_object(done.stdout)["status"] == "fail"
    assert SECRET not in done.stdout + done.stderr


# Ctrl-C


def test_an_interrupted_ingest_ends_with_130_and_whole_documents(
    ragline: Command, tmp_path: Path
) -> None:
    for number in range(2000):
        (tmp_path / f"{number}.txt").write_text(f"number w{number % 400} and more words. " * 30)
    cluster = embedded.status(ragline.data_dir).cluster
    assert cluster is not None
    with held_up(embedded.url(cluster), "1999.txt"):
        process = ragline.start("ingest", tmp_path, "-c", "interrupted")
        while not (written := _documents(ragline, "interrupted")):
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)

    assert (process.returncode, stdout, stderr) == (130, "", "interrupted\n")
    kept = _documents(ragline, "interrupted")
    assert written <= kept < 2000
    facts = ragline.json("collection", "show", "interrupted")
    assert (facts["documents"], facts["chunks"]) == (kept, 2 * kept)
    report = ragline.json("ingest", tmp_path, "-c", "interrupted")
    assert (report["unchanged"], report["added"]) == (kept, 2000 - kept)


def _documents(ragline: Command, collection: str) -> int:
    cluster = embedded.status(ragline.data_dir).cluster
    assert cluster is not None
    with psycopg.connect(embedded.url(cluster), autocommit=True) as db:
        row = db.execute(
            """
            select count(*) from ragline.document d
            join ragline.collection c on c.id = d.collection_id where c.name = %s
            """,
            [collection],
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_what_json_prints_is_what_the_library_returns(ragline: Command) -> None:
    done = ragline.run("collection", "show", "kb", "--json")

    assert json.loads(done.stdout)["space"]["dimension"] == tiny_model.DIMENSION
