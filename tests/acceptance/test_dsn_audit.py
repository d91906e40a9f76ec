"""`ragline dsn audit` on a tree with every class planted finds each in its line, and nothing else.

A planted line is marked: `!credential` at its end says what is to be found in it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import psycopg
import pytest

from command import PROGRAM, one_object
from ragline.ops import embedded
from ragline.ops.embedded import Cluster

ROOT = Path(__file__).parents[2]
CANARY = "Qx7canary"
SCHEME = "postgresql://"

PYTHON = f'''"""Not a finding: {SCHEME}user:password@host:port/database."""
import os
import subprocess
from os import environ as outside, getenv

import asyncpg as pg
import psycopg
from dotenv import dotenv_values
from langchain_postgres import PGVector
from sqlalchemy import create_engine as make

from ragline import config

NAME = "POSTGRES_DSN"
URL = "{SCHEME}app@db.example/kb"  # !hard-coded-dsn
# the old one was {SCHEME}app:{CANARY}@db.example/kb !credential
FORM = f"{SCHEME}{{URL}}:{{NAME}}@{{URL}}/{{NAME}}"
PIECES = "{SCHEME}app:" + "{CANARY}" + "@db.example/kb"  # !credential
PAIRS = "host=db.example dbname=kb password={CANARY}"  # !credential
one = os.environ["DATABASE_URL"]  # !environment-read
two = outside.get("PGHOST")  # !environment-read
three = getenv(NAME, "")  # !environment-read
four = os.environ["HOME"]
five = os.environ.copy()["DATABASE_URL"]  # !environment-read
six = {{**os.environ}}.get("PG" + "USER")  # !environment-read
seven = dotenv_values(".env")["POSTGRES_URL"]  # !environment-read
eight = getenv("PGPASSWORD", "{CANARY}")  # !environment-read !credential
os.environ["DATABASE_URL"] = one
os.environ["PGPASSWORD"] = "{CANARY}"  # !credential


async def connect() -> None:
    """A text such as {SCHEME}h/d in a docstring is documentation."""
    dsn = config.load().dsn
    login = dsn.for_asyncpg("serve")
    await pg.connect(**login)
    psycopg.connect(dsn.for_psycopg("read"))
    await pg.create_pool(one)  # !own-connect
    psycopg.connect(  # !own-connect
        host="db.example",
        password="{CANARY}",  # !credential
    )
    make(URL)  # !own-connect
    subprocess.run(["psql", "-h", "db.example"])  # !own-connect
    subprocess.run(["psql", "--version"])
    subprocess.run(["sh", "-c", "PGPASSWORD={CANARY} psql -h db.example"])  # !own-connect !credential
    subprocess.run(["docker", "exec", "db", "psql", "-U", "app"])  # !own-connect
    subprocess.run(["which", "psql"])
    PGVector(connection=one)  # !own-connect
    anything(host="h", database="d", password="{CANARY}")  # !credential
    make("sqlite://")
    redis(host="h", db=0, password="{CANARY}")
    print(f"(host={{one}}, port={{two}})")
    run("alter role app password '{CANARY}'")  # !credential
'''

SHELL = f"""#!/bin/sh
# psql -h db.example is what was done before
export DATABASE_URL
psql -h db.example kb  # !own-connect
PGPASSWORD={CANARY} pg_dump -h db.example kb > kb.sql  # !credential !own-connect
echo "$DATABASE_URL"  # !environment-read
echo '$DATABASE_URL'
psql "$(ragline db url)" -c 'select 1'
curl {SCHEME}app:{CANARY}@db.example/kb  # !credential
apt-get install postgresql-client psql
psql -f - <<SQL  # !own-connect
create role app password '{CANARY}';  # !credential
SQL
python -c 'import os; os.environ["PGHOST"]'  # !environment-read
"""

COMPOSE = f"""services:
  db:
    image: pgvector/pgvector:pg18
    environment:
      POSTGRES_PASSWORD: {CANARY}  # !credential
      POSTGRES_PASSWORD_FILE: /run/secrets/db
    healthcheck:
      test: ["CMD-SHELL", "pg_isready -U postgres"]
  app:
    environment:
      - DATABASE_URL=postgresql+asyncpg://app:{CANARY}@db:5432/kb  # !credential
      - POSTGRES_DSN=${{POSTGRES_DSN}}
      - OTHER={SCHEME}app:${{DB_PASSWORD:-{CANARY}}}@db/kb  # !credential
      - THIRD={SCHEME}app:${{DB_PASSWORD}}@db/kb  # !hard-coded-dsn
    command: ["psql", "-h", "db", "-U", "app"]  # !own-connect
"""

TOML = f"""[tool.app]
url = "{SCHEME}db.example/kb"  # !hard-coded-dsn
db_password = "{CANARY}"  # !credential
password_hint = "none"
"""

KUBERNETES = f"""env:
- name: PGPASSWORD
  value: {CANARY}  # !credential
- value: {CANARY}  # !credential
  name: DB_PASSWORD
- {{name: POSTGRES_PASSWORD, value: {CANARY}}}  # !credential
- name: PGPASSWORD
  valueFrom: {{secretKeyRef: {{name: db, key: PGPASSWORD}}}}
- name: OTHER
  value: none
database:
  host: localhost
  user: app
  password: {CANARY}  # !credential
  name: kb
redis: {{host: h, db: 0, password: none-of-ours}}
mail:
  host: localhost
  user: app
  password: none-of-ours
datasource:
  url: jdbc:{SCHEME}h/d  # !hard-coded-dsn
  password: {CANARY}  # !credential
one: {{host: h, dbname: d, password: {CANARY}}}  # !credential
run: |
  python -c 'import os; os.getenv("DATABASE_URL")'  # !environment-read
"""

ITEMS = f"""{{
 "environment": [
  {{
   "name": "PGPASSWORD",
   "value": "{CANARY}", "was": "!credential"
  }}
 ]
}}
"""

PASSFILE = f"h:5432:kb:app:{CANARY} !credential\n# h:5432:kb:app:password\nh:5432:kb:app:\n"

SERVICES = f"[kb]\nhost=h\nuser=app\npassword={CANARY}  # !credential\n"

TYPESCRIPT = f"""// {SCHEME}h/d is documentation
const url = process.env.DATABASE_URL; // !environment-read
const other = "{SCHEME}app:{CANARY}@h/d"; // !credential
"""

TERRAFORM = f"""resource "aws_db_instance" "kb" {{
  username = "app"
  password = "{CANARY}"  # !credential
  db_name  = "kb"
}}
resource "aws_db_instance" "other" {{
  password = var.db_password
  db_name  = "kb"
}}
"""

ENV = f"""# {SCHEME}app@h/d is a comment
DATABASE_URL='{SCHEME}app:{CANARY}@db.example/kb' # !credential
export PGPASSWORD="{CANARY}" # !credential
PGHOST=db.example
POSTGRES_PASSWORD=
"""

SQL = f"""\\connect kb -- !own-connect
\\getenv url DATABASE_URL -- !environment-read
create role app login password '{CANARY}'; -- !credential
create role other login password :'secret';
select * from dblink('host=db.example dbname=kb', 'select 1'); -- !own-connect !hard-coded-dsn
"""  # noqa: S608 - nobody runs it

INI = f"""[alembic]
sqlalchemy.url = {SCHEME}app:{CANARY}@db.example/kb  ; !credential
"""

CELLS = (
    ("markdown", ["# Log in\n", f"with {SCHEME}app:{CANARY}@db.example/kb !credential\n"]),
    (
        "code",
        [
            "%load_ext sql\n",
            "import os\n",
            "import psycopg\n",
            "\n",
            "url = os.getenv('DATABASE_URL')  # !environment-read\n",
            "psycopg.connect(url)  # !own-connect\n",
            "!psql -h db.example kb  # !own-connect",
        ],
    ),
    ("code", ["%%bash\n", "pg_dump $PGDATABASE  # !own-connect !environment-read\n"]),
    ("code", ["!pip install \\\n", "   psycopg\n", "os.getenv('PGPORT')  # !environment-read\n"]),
    ("code", ["%%html\n", f"<a href='{SCHEME}app:{CANARY}@h/d'>  !credential\n"]),
)


def notebook() -> str:
    cells = [
        {"cell_type": kind, "metadata": {}, "source": source, "outputs": []}
        for kind, source in CELLS
    ]
    value = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(value, indent=1)


def marked(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        for name in re.findall(r"!([a-z]+-[a-z-]+|credential|unparsable)", line):
            yield number, name


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project with every class planted, and what is not to be looked at."""
    top = tmp_path / "project"
    planted = {
        "app/connect.py": PYTHON,
        "app/broken.py": f"def broken(:  # !unparsable\n    url = '{SCHEME}h/d'  # !hard-coded-dsn\n",
        "deploy/run.sh": SHELL,
        "deploy/compose.yaml": COMPOSE,
        "deploy/settings.toml": TOML,
        "deploy/pod.yaml": KUBERNETES,
        "deploy/task.json": ITEMS,
        "deploy/.pgpass": PASSFILE,
        "deploy/pg_service.conf": SERVICES,
        "deploy/main.tf": TERRAFORM,
        "web/db.ts": TYPESCRIPT,
        "deploy/broken.toml": "[one\n# the line above is !unparsable\n",
        "deploy/.env": ENV,
        "deploy/roles.sql": SQL,
        "alembic.ini": INI,
        "look.ipynb": notebook(),
        "broken.ipynb": '{\n "cells": [ "!unparsable"\n}\n',
    }
    left_out = {
        "README.md": f"{SCHEME}app@h/d",
        ".git/config.toml": f'url = "{SCHEME}h/d"',
        ".venv/lib/site.py": "import os; os.getenv('PGHOST')",
        "node_modules/x/compose.yaml": f"url: {SCHEME}h/d",
    }
    for name, text in {**planted, **left_out}.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def expected(tree: Path) -> Counter[tuple[str, int, str]]:
    found: Counter[tuple[str, int, str]] = Counter()
    for file in tree.rglob("*"):
        name = file.relative_to(tree).as_posix()
        if file.is_file() and not name.startswith((".git/", ".venv/", "node_modules/")):
            found.update((name, line, kind) for line, kind in marked(file.read_text()))
    # What breaks TOML and JSON off is seen in the line after it.
    found -= Counter({("deploy/broken.toml", 2, "unparsable"): 1})
    found -= Counter({("broken.ipynb", 2, "unparsable"): 1})
    found[("deploy/broken.toml", 1, "unparsable")] += 1
    found[("broken.ipynb", 3, "unparsable")] += 1
    return found


def run(tree: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    outside = ("RAGLINE_", "PG", "DATABASE_URL", "POSTGRES_DSN")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(outside)}
    done = subprocess.run(
        [PROGRAM, "dsn", "audit", *arguments],
        cwd=tree,
        env={**kept, **more},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert CANARY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def found_in(tree: Path, *arguments: str, code: int) -> Any:
    done = run(tree, ".", *arguments, "--json")
    assert done.returncode == code, done.stderr
    return one_object(done.stdout)


def places(found: Any) -> Counter[tuple[str, int, str]]:
    return Counter((one["path"], one["line"], one["name"]) for one in found["findings"])


def test_each_planted_fault_is_found_in_its_line_and_nothing_else(tree: Path) -> None:
    found = found_in(tree, code=4)

    wanted = expected(tree)
    assert places(found) == wanted, (places(found) - wanted, wanted - places(found))
    assert {name for _, _, name in wanted} == {
        *("environment-read", "hard-coded-dsn", "credential", "own-connect", "unparsable")
    }
    assert found["failed"] == sum(wanted.values())
    assert all(one["fix"] and one["evidence"] for one in found["findings"])
    assert {one["cell"] for one in found["findings"] if one["path"] == "look.ipynb"} == {
        1,
        2,
        3,
        4,
        5,
    }


def test_the_text_says_file_line_class_and_fix_and_exits_with_4(tree: Path) -> None:
    done = run(tree, "deploy/run.sh")

    assert done.returncode == 4
    assert "deploy/run.sh:4  DSN004 own-connect  psql …" in done.stdout
    assert f"deploy/run.sh:9  DSN003 credential  {SCHEME}app:***@db.example/kb" in done.stdout
    assert "fix DSN003: change that password" in done.stdout
    assert "1 file read, 0 skipped; 8 findings: 8 new, 0 known, 0 allowed" in done.stdout


def test_after_a_baseline_only_new_findings_fail(tree: Path) -> None:
    before = found_in(tree, "--baseline", "known.json", "--write-baseline", code=0)
    assert CANARY not in (tree / "known.json").read_text()
    again = found_in(tree, "--baseline", "known.json", code=0)
    assert {one["status"] for one in again["findings"]} == {"known"}
    assert len(again["findings"]) == len(before["findings"])

    # Lines move; the same fault once more in the same file is a new one.
    script = tree / "deploy/run.sh"
    script.write_text(SHELL.replace("export", "\n\nexport") + "psql -h db.example kb\n")
    (tree / "deploy/new.py").write_text("import os\n\nos.getenv('PGUSER')\n")
    after = found_in(tree, "--baseline", "known.json", code=4)

    new = [(one["path"], one["name"]) for one in after["findings"] if one["status"] == "new"]
    assert new == [("deploy/new.py", "environment-read"), ("deploy/run.sh", "own-connect")]
    assert after["failed"] == 2
    found_in(tree, "--baseline", "known.json", "--fail-on", "never", code=0)
    script.write_text(SHELL)
    (tree / "deploy/new.py").unlink()
    found_in(tree, "--baseline", "known.json", "--fail-on", "any", code=4)


def test_the_allow_list_lets_pass_what_has_a_reason(tree: Path) -> None:
    (tree / ".ragline-audit.toml").write_text(
        """
        [[allow]]
        path = "deploy/**"
        class = ["credential", "DSN004"]
        reason = "moves to the secret store next week"

        [[allow]]
        path = "gone.py"
        class = "credential"
        reason = "was there once"
        """
    )
    found = found_in(tree, code=4)

    allowed = [one for one in found["findings"] if one["status"] == "allowed"]
    assert {one["name"] for one in allowed} == {"credential", "own-connect"}
    assert all(one["path"].startswith("deploy/") for one in allowed)
    assert {one["reason"] for one in allowed} == {"moves to the secret store next week"}
    assert found["failed"] == len(found["findings"]) - len(allowed)
    assert [one["path"] for one in found["unused_allowances"]] == ["gone.py"]
    # Of folders that were not looked at, nobody knows.
    (tree / ".ragline-audit.toml").write_text(
        '[[allow]]\npath = "deploy/**"\nclass = "credential"\nreason = "r"\n'
    )
    done = run(tree, "app", "--json", "--fail-on", "never")
    assert one_object(done.stdout)["unused_allowances"] == []


def test_a_text_in_utf_16_is_read_and_a_notebook_in_another_language_is_no_broken_python(
    tmp_path: Path,
) -> None:
    (tmp_path / "win.env").write_text(f"X={SCHEME}app:{CANARY}@h/d\n", encoding="utf-16")
    notebook = {
        "cells": [{"cell_type": "code", "source": ["x <- 1\n", f"y <- '{SCHEME}h/d'"]}],
        "metadata": {"kernelspec": {"language": "R", "name": "ir"}},
    }
    (tmp_path / "r.ipynb").write_text(json.dumps(notebook))
    found = found_in(tmp_path, code=4)
    assert places(found) == Counter(
        {("r.ipynb", 1, "hard-coded-dsn"): 1, ("win.env", 1, "credential"): 1}
    )
    assert found["skipped"] == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('path = "a"\nclass = "credential"', "has no reason"),
        ('path = "a"\nclass = "credential"\nreason = " "', "has no reason"),
        ('path = "a"\nclass = "credentials"\nreason = "r"', "did you mean credential?"),
        ('class = "credential"\nreason = "r"', "has no path"),
        ('path = "a"\nreason = "r"', "has no class"),
        ('path = "a"\nclass = "credential"\nreason = "r"\nwhy = "x"', "holds 'why'"),
        ("path = ", "is not TOML"),
    ],
)
def test_an_allow_list_that_says_too_little_is_refused(tree: Path, entry: str, said: str) -> None:
    (tree / "allow.toml").write_text(f"[[allow]]\n{entry}\n")

    done = run(tree, ".", "--allow", "allow.toml")

    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing",), "there is no file or folder 'missing'"),
        ((".", "--baseline", "none.json"), "write one with --write-baseline"),
        ((".", "--write-baseline"), "add --baseline FILE"),
        ((".", "--baseline", "alembic.ini"), "is not JSON"),
        ((".", "--allow", "none.toml"), "cannot read none.toml"),
        ((".", "--sarif", "none/x.sarif"), "cannot be written"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence_and_2(
    tree: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = run(tree, *arguments)

    assert done.returncode == 2, done.stderr
    assert said in done.stderr


def test_what_cannot_be_read_is_skipped_and_said(tree: Path) -> None:
    (tree / "loop").symlink_to(tree)
    (tree / "link.py").symlink_to("app/connect.py")
    (tree / "binary.py").write_bytes(b"\x7fELF\0\0\0" + SCHEME.encode() + b"h/d")
    with (tree / "huge.sql").open("wb") as file:
        file.truncate(9 << 20)
    os.mkfifo(tree / "pipe.sh")
    (tree / "latin.py").write_bytes(b"# \xe4\nimport os\nos.getenv('PGPORT')\n")

    found = found_in(tree, code=4)

    reasons = {one["path"]: one["reason"] for one in found["skipped"]}
    assert reasons.keys() == {"loop", "link.py", "binary.py", "huge.sql", "pipe.sh"}
    assert "symlink" in reasons["loop"]
    assert "binary" in reasons["binary.py"]
    assert "limit" in reasons["huge.sql"]
    assert "plain file" in reasons["pipe.sh"]
    wanted = expected_without_latin(tree)
    wanted[("latin.py", 1, "unparsable")] += 1
    wanted[("latin.py", 3, "environment-read")] += 1
    assert places(found) == wanted


def expected_without_latin(tree: Path) -> Counter[tuple[str, int, str]]:
    for name in ("latin.py", "binary.py", "huge.sql", "pipe.sh", "loop", "link.py"):
        (tree / name).unlink()
    return expected(tree)


# What the specification (SARIF 2.1.0, section 3) says of the parts that are written.
TEXT = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}
LOCATION = {
    "type": "object",
    "properties": {
        "physicalLocation": {
            "type": "object",
            "properties": {
                "artifactLocation": {
                    "type": "object",
                    "properties": {"uri": {"type": "string", "format": "uri-reference"}},
                    "additionalProperties": False,
                },
                "region": {
                    "type": "object",
                    "properties": {"startLine": {"type": "integer", "minimum": 1}},
                    "additionalProperties": False,
                },
            },
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
RESULT = {
    "type": "object",
    "properties": {
        "ruleId": {"type": "string"},
        "ruleIndex": {"type": "integer", "minimum": 0},
        "level": LEVEL,
        "message": TEXT,
        "locations": {"type": "array", "items": LOCATION},
        "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
        "baselineState": {"enum": ["new", "unchanged", "updated", "absent"]},
        "suppressions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "kind": {"enum": ["inSource", "external"]},
                    "justification": {"type": "string"},
                },
                "required": ["kind"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["message"],
    "additionalProperties": False,
}


def test_sarif_says_the_same(tree: Path) -> None:
    found_in(tree, "--baseline", "known.json", "--write-baseline", code=0)
    (tree / "a new.py").write_text("import os\nos.getenv('PGUSER')\n")
    (tree / "allow.toml").write_text(
        '[[allow]]\npath = "*.ipynb"\nclass = "unparsable"\nreason = "half of one"\n'
    )
    options = ("--baseline", "known.json", "--allow", "allow.toml", "--sarif", "audit.sarif")
    found = found_in(tree, *options, code=4)

    text = (tree / "audit.sarif").read_text()
    assert CANARY not in text
    log = json.loads(text)
    (only,) = log["runs"]
    assert (log["version"], only["tool"]["driver"]["name"]) == ("2.1.0", "ragline dsn audit")
    rules = only["tool"]["driver"]["rules"]
    for result in only["results"]:
        jsonschema_rs.validate(RESULT, result)
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    where = [one["locations"][0]["physicalLocation"] for one in only["results"]]
    assert [
        (one["artifactLocation"]["uri"].replace("%20", " "), one["region"]["startLine"])
        for one in where
    ] == [(one["path"], one["line"]) for one in found["findings"]]
    states = [one["baselineState"] for one in only["results"]]
    assert states == ["new" if one["status"] == "new" else "unchanged" for one in found["findings"]]
    (suppressed,) = (one for one in only["results"] if "suppressions" in one)
    assert suppressed["suppressions"][0]["justification"] == "half of one"


def test_tried_targets_name_the_nearest_that_exists(tmp_path: Path, cluster: Cluster) -> None:
    with psycopg.connect(embedded.url(cluster), autocommit=True) as db:
        db.execute("drop role if exists audit_app")
        db.execute(f"create role audit_app login password '{CANARY}'")
        row = db.execute("select current_database(), current_user").fetchone()
    assert row is not None
    database, superuser = row
    folder, port = cluster.socket_dir, cluster.port

    def pairs(dbname: str, user: str, more: str = "") -> str:
        return f"host={folder} port={port} dbname={dbname} user={user}{more}"

    (tmp_path / "targets.env").write_text(
        f"GOOD='{pairs(database, superuser)}'\n"
        f"TWICE='{pairs(database, superuser)}'\n"
        f"WRONG='{pairs(database + 'x', superuser)}'\n"
        f"NOBODY='{pairs(database, superuser + 'x')}'\n"
        f"AWAY='{SCHEME}app:{CANARY}@127.0.0.1:1/kb'\n"
        f"OPEN='{SCHEME}app:${{PW}}@127.0.0.1:1/kb'\n"
    )
    try:
        found = found_in(tmp_path, "--try", "--timeout", "60", code=4)
    finally:
        with psycopg.connect(embedded.url(cluster), autocommit=True) as db:
            db.execute("drop role audit_app")

    bad = {
        one["line"]: (one["name"], one["evidence"])
        for one in found["findings"]
        if one["id"] >= "DSN006"
    }
    assert {line: name for line, (name, _) in bad.items()} == {
        3: "unknown-database",
        4: "unknown-user",
        5: "not-reached",
    }
    assert f'the nearest that exists is "{database}"' in bad[3][1]
    assert f'the nearest that exists is "{superuser}"' in bad[4][1]
    assert sorted(one["outcome"] for one in found["tried"]) == [
        "exists",
        "not-reached",
        "unknown-database",
        "unknown-user",
    ]


def test_a_target_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        (tmp_path / "a.env").write_text(f"X={SCHEME}app:{CANARY}@127.0.0.1:{port}/kb\n")
        found = found_in(tmp_path, "--try", "--timeout", "0.5", code=4)

    assert [one["outcome"] for one in found["tried"]] == ["not-reached"]
    assert "no answer within 0.5 s" in found["tried"][0]["detail"]


def test_a_named_server_never_gets_the_password_of_our_own_environment(tmp_path: Path) -> None:
    """A file may name any host; it asks for a password in plain text, and gets none of ours."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)

        def ask() -> None:
            with server.accept()[0] as client:
                client.settimeout(120)
                client.recv(4096)  # the request for TLS
                client.sendall(b"N")
                client.recv(4096)  # the user and the database
                client.sendall(b"R\0\0\0\x08\0\0\0\x03")
                got.append(client.recv(4096))

        asking = threading.Thread(target=ask)
        asking.start()
        (tmp_path / "a.env").write_text(f"X={SCHEME}app@127.0.0.1:{server.getsockname()[1]}/kb\n")
        run(tmp_path, ".", "--try", "--timeout", "60", PGPASSWORD="mine-alone")
        asking.join()

    assert got
    assert b"mine-alone" not in got[0]


def test_our_own_tree_passes(tmp_path: Path) -> None:
    done = run(ROOT, *"src tests bench examples docs --fail-on any --json".split())

    assert done.returncode == 0, done.stdout
    found = one_object(done.stdout)
    assert found["failed"] == 0
    assert found["files"] > 300
    assert found["unused_allowances"] == []


def test_a_read_planted_in_our_own_code_fails_with_our_own_allow_list(tmp_path: Path) -> None:
    copy = tmp_path / "src/ragline/rag/answer.py"
    copy.parent.mkdir(parents=True)
    source = (ROOT / "src/ragline/rag/answer.py").read_text()
    copy.write_text(f"{source}\nimport os\n\nURL = os.getenv('DATABASE_URL')\n")
    (tmp_path / ".ragline-audit.toml").write_text((ROOT / ".ragline-audit.toml").read_text())

    done = run(tmp_path, "src", "--fail-on", "any")

    assert done.returncode == 4
    line = source.count("\n") + 4
    assert f"src/ragline/rag/answer.py:{line}  DSN001 environment-read" in done.stdout
