"""The audit's reading of texts: what is a fault, what is none, and that no password gets out."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from growth import is_linear
from ragline.core import baselines, dsn_audit
from ragline.core.dsn_audit import Kind, judging
from ragline.core.dsn_audit.finding import CLASSES, Finding
from ragline.errors import ConfigError

KINDS: tuple[Kind, ...] = tuple(kind for one in get_args(Kind) for kind in get_args(one))
SCHEME = "postgresql://"
CANARY = "Qx7canary"


def audit(kind: Kind, text: str) -> list[tuple[int, str, str]]:
    return [(one.line, one.kind.name, one.evidence) for one in dsn_audit.audit(kind, text.encode())]


def names(kind: Kind, text: str) -> list[str]:
    return [name for _, name, _ in audit(kind, text)]


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.environ['DATABASE_URL']",
        "import os as o\no.environ.get('PGHOST', 'x')",
        "from os import environ as e\ne.pop('POSTGRES_DSN')",
        "from os import getenv\ngetenv('PG_CONN_STR')",
        "import os\nos.environb[b'PGPASSWORD']",
        "import os\n'PGHOST' in os.environ",
        "import os\nenv = os.environ.copy()\nenv['DB_HOST']",
        "import os\nenv = given or os.environ\nenv.get('APP_DATABASE_URL')",
        "import os\nKEY = 'PGVECTOR_CONNECTION_STRING'\nos.environ[KEY]",
        "from decouple import config\nconfig('DATABASE_URL')",
        "class S(BaseSettings):\n    postgres_password: str",
        "class S:\n    url: str = Field(..., alias='DATABASE_URL')",
        "import os\nf'x{os.environ[\"PGUSER\"]}'",
        "import os\n'x' + os.environ['PGUSER'] + 'y'",
    ],
)
def test_reads_of_the_environment_are_seen_under_any_name(code: str) -> None:
    assert names("python", code) == ["environment-read"]


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.environ['HOME']",
        "import os\nos.environ['DATABASE_URL'] = x",
        "import os\ndel os.environ['DATABASE_URL']",
        "x['DATABASE_URL']",
        "x.get('DATABASE_URL')",
        "NAMES = ('DATABASE_URL', 'PGHOST')",
        "{'PGPASSWORD': 'password'}",
        "import psycopg\npsycopg.connect(dsn.for_psycopg('x'), autocommit=True)",
        "import asyncpg\nasyncpg.connect(**{**dsn.for_asyncpg('x'), 'timeout': 3})",
        "import asyncpg\nlogin = dsn.for_asyncpg('x') | more\nasyncpg.create_pool(**login)",
        "import sqlalchemy as s\ns.create_engine(url=dsn.for_sqlalchemy('x'))",
        "import psycopg\nx: psycopg.Connection",
        "from psycopg_pool import ConnectionPool\ndef f(pool: ConnectionPool): ...",
        f"f'{SCHEME}{{user}}:{{password}}@{{host}}:{{port}}/{{name}}'",
        f"'{SCHEME}%s:%s@%s/%s' % x",
        f"'{SCHEME}user:password@host:port/database'",
        f"'{SCHEME}…'",
        f"'a URL begins with {SCHEME}'",
        f"'''see {SCHEME}h/d'''",
        "x = 'host=' + name",
        "'user=a and port=b'",
    ],
)
def test_what_goes_through_the_resolver_or_names_nothing_is_no_fault(code: str) -> None:
    assert audit("python", code) == []


@pytest.mark.parametrize(
    "code",
    [
        "import psycopg2\npsycopg2.connect(x)",
        "from psycopg import AsyncConnection as C\nC.connect(x)",
        "import asyncpg\nopen = asyncpg.connect",
        "from functools import partial\nfrom asyncpg import create_pool\npartial(create_pool, x)",
        "from sqlalchemy.ext.asyncio import create_async_engine\ncreate_async_engine(x)",
        "from psycopg_pool import ConnectionPool\nConnectionPool(x)",
        "import psycopg\nu = dsn.for_psycopg('x')\ndef f(u):\n    psycopg.connect(u)",
        "import psycopg\nu = dsn.for_psycopg('x')\nu = read()\npsycopg.connect(u)",
        "import os\nos.system('psql -h db kb')",
        "import subprocess\nsubprocess.run(('/usr/bin/pg_dump', 'kb'))",
        "import subprocess\nsubprocess.run(f'psql -h {host}', shell=True)",
    ],
)
def test_connects_are_seen_under_any_name(code: str) -> None:
    assert names("python", code) == ["own-connect"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("shell", f"psql '{SCHEME}h/d'"),
        ("shell", "sudo -u postgres psql"),
        ("shell", "x=$(psql -c 'select 1')"),
        ("shell", "PGHOST=db psql"),
        ("shell", "if pg_dump kb; then"),
        ("shell", "docker exec db psql -U app"),
        ("yaml", "  - run: psql -h db -f x.sql"),
        ("yaml", 'command: "pg_dump $PGDATABASE"'),
        ("config", "RUN createdb -h db kb"),
        ("sql", "\\c kb"),
        ("sql", "select dblink_connect('x')"),
    ],
)
def test_programs_that_log_in_are_seen(kind: Kind, text: str) -> None:
    assert "own-connect" in names(kind, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("shell", "# psql -h db"),
        ("shell", "psql --version"),
        ("shell", "command -v psql_of_ours"),
        ("shell", "export DATABASE_URL"),
        ("shell", "echo \\$DATABASE_URL '$DATABASE_URL'"),
        ("yaml", "name: Install psql and pg_dump"),
        ("yaml", "POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?set it}"),
        ("yaml", "POSTGRES_PASSWORD:"),
        ("yaml", "POSTGRES_PASSWORD: |"),
        ("env", "POSTGRES_PASSWORD=<yours>"),
        ("env", f"URL={SCHEME}${{USER}}:${{PW}}@${{HOST}}/${{DB}}"),
        ("toml", "password = 'of something else'"),
        ("sql", "\\c"),
        ("sql", "create role x password :'given'"),
        ("sql", "alter role x password null"),
    ],
)
def test_what_only_looks_like_it_is_no_fault(kind: Kind, text: str) -> None:
    assert audit(kind, text) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("app@db.example/kb", "app@db.example/kb"),
        ("app:x1y2@[::1]:5433/kb?sslmode=require", "app:***@[::1]:5433/kb"),
        ("a:1,b:2/kb", "a:1,b:2/kb"),
        ("/kb?host=/run/pg", "/run/pg/kb"),
        ("h/d?user=u&password=x1y2", "u:***@h/d"),
        ("u:pa/ss@h/d", "u:***@h/d"),
        ("u:p@ss@h/d", "u:***@h/d"),
        ("u:cr3t/d", "***"),
        ("u:12?x@h/d", "u:***@h/d"),
        ("h/d?password=a@b", "***"),
        ("{user}:x1y2@h/d", "{…}:***@h/d"),
        ("u:${PW:-x1y2}@h/d", "u:***@h/d"),
        ("h/na me", "h/na"),
    ],
)
def test_what_is_shown_of_a_url(text: str, shown: str) -> None:
    (found,) = audit("env", f"X={SCHEME}{text}")

    assert found[2] == f"{SCHEME}{shown}"
    assert found[1] == ("credential" if "***" in shown else "hard-coded-dsn")


def test_the_password_of_a_django_database_is_a_credential() -> None:
    code = f"D = {{'ENGINE': 'django.db.backends.postgresql', 'PASSWORD': '{CANARY}'}}"
    assert audit("python", code) == [(1, "credential", "PASSWORD=***")]
    assert audit("python", f"D = {{'ENGINE': 'mysql', 'PASSWORD': '{CANARY}'}}") == []


@pytest.mark.parametrize(
    ("kind", "text", "line"),
    [
        ("toml", "[database]\nhost = 'h'\npassword = '@@'  # here\ndbname = 'd'\n", 3),
        ("config", "[kb]\nhost=h\ndbname=d\n\npassword=@@\n", 5),
        ("yaml", "db:\n  host: h\n  pool:\n    size: 3\n  password: @@\n  database: d\nx: 1\n", 5),
        ("yaml", "db:\n  dbname: d\n  more:\n    - a: 1\n    - b: 2\n  password: @@\n", 6),
        ("config", '{\n "db": {\n  "dbname": "d",\n  "password": "@@"\n }\n}\n', 4),
        ("python", "LOGIN = {\n 'dbname': 'd',\n 'password': '@@'}", 3),
        ("yaml", "- host: h\n  database: d\n- host: i\n  password: @@\n", None),
        ("toml", "[a]\npassword = '@@'\n[b]\ndbname = 'd'\n", None),
        ("yaml", "smtp:\n  host: h\n  password: @@\n", None),
        ("yaml", "db:\n  dbname: d\n  password: ${PW}\n", None),
    ],
)
def test_a_password_beside_the_rest_of_a_login_is_a_credential(
    kind: Kind, text: str, line: int | None
) -> None:
    wanted = [(line, "credential", "password=***")] if line else []
    assert audit(kind, text.replace("@@", CANARY)) == wanted


def test_a_source_in_the_encoding_that_it_declares_is_read() -> None:
    code = "# -*- coding: latin-1 -*-\nimport os\nos.getenv('PGHOST')  # \xe4\n"
    (found,) = dsn_audit.audit("python", code.encode("latin-1"))
    assert (found.line, found.kind.name) == (3, "environment-read")


def test_a_text_over_several_lines_has_its_own_lines() -> None:
    code = f"x = 1\ny = '''\n\n{SCHEME}h/d\n'''\n"
    assert audit("python", code) == [(4, "hard-coded-dsn", f"{SCHEME}h/d")]


def test_the_lines_of_a_notebook_are_those_of_the_file() -> None:
    def text(source: object, **more: object) -> str:
        cell = {"cell_type": "code", "source": source, **more}
        return json.dumps({"cells": [cell]}, indent=0)

    read = "os.getenv('PGHOST')"
    one_piece = text(f"import os\n{read}\n")
    in_lines = text(["import os\n", f"{read}\n"])
    printed = text([], outputs=[{"text": ["ok\n", f"{SCHEME}u:{CANARY}@h/d\n"]}])

    for found, piece in ((one_piece, "PGHOST"), (in_lines, "PGHOST"), (printed, CANARY)):
        (line,) = [n for n, one in enumerate(found.split("\n"), start=1) if piece in one]
        assert [one[0] for one in audit("notebook", found)] == [line]


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("a.py", "", "python"),
        (".env", "", "env"),
        (".env.local", "", "env"),
        ("prod.env", "", "env"),
        ("docker-compose.override.yml", "", "yaml"),
        ("Dockerfile", "", "config"),
        ("run", "#!/usr/bin/env bash", "shell"),
        ("run", "#!/usr/bin/python3 -E", "python"),
        ("run", "", None),
        ("README.md", "", None),
        ("photo.png", "", None),
    ],
)
def test_a_file_is_read_as_what_its_name_says(name: str, head: str, kind: Kind | None) -> None:
    assert dsn_audit.kind_of(name, head) == kind


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("python", b"x = 1\n)\n", 2),
        ("python", b"x = '\0'", 1),
        ("python", b"(" * 5000, 1),
        ("python", b"x = " + b"-" * 20000 + b"1", 1),
        ("python", b"PGHOST = " + b"1 + " * 20000 + b"1", 1),
        ("toml", b"a = 1\nb = ]\n", 2),
        ("toml", b"a = " + b"[" * 20000, 1),
        ("notebook", b"{\n]", 2),
        ("notebook", b"[1, 2]", 1),
        ("notebook", b'{"cells": [1]}', 1),
        ("notebook", b"[" * 20000, 1),
        ("yaml", b"a: 1\nb: \xff\n", 2),
    ],
)
def test_what_cannot_be_parsed_is_a_finding(kind: Kind, data: bytes, line: int) -> None:
    (found, *others) = dsn_audit.audit(kind, data)

    assert (found.kind.name, found.line) == ("unparsable", line)
    assert not others


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(KINDS), data=st.binary(max_size=400))
@example(kind="notebook", data=b'{"cells": [{"cell_type": "code", "source": {"a": 1}}]}')
@example(kind="notebook", data=b'{"cells": [{"cell_type": "code", "source": ["%%bash", 3, null]}]}')
@example(kind="notebook", data=b'{"worksheets": [{"cells": [{"input": "x"}]}]}')
def test_any_bytes_are_read_as_anything(kind: Kind, data: bytes) -> None:
    dsn_audit.audit(kind, data)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "host=",
            "host=h ",
            "host ",
            "dbname='",
            "sudo -a  b  ",
            "sudo   ",
            "x=y ",
            'x="',
            "psql ",
        ),
        *(
            SCHEME,
            f"{SCHEME}h",
            f"'{SCHEME}",
            ")",
            f"{SCHEME}a)",
            "${",
            "{",
            "<",
            "password $a$",
            "$(",
        ),
        *("PGPASSWORD=", "postgres", "a.", "-a ", "\\", "%(", "'", "(", "@", f"{SCHEME}<"),
    ],
)
def test_hostile_repetition_takes_no_time_to_speak_of(piece: str) -> None:
    def work(size: int) -> None:
        text = piece * (size // len(piece))
        for kind in KINDS:
            dsn_audit.audit(kind, text.encode())
        dsn_audit.audit("python", f"x = {text!r}\n# postgres".encode())
        # Long lines grow as well: one as long as ever would hide what is squared in the small work.
        lines = "\n".join([piece * (size // 20 // len(piece))] * 50)
        for kind in ("shell", "sql", "yaml"):
            dsn_audit.audit(kind, lines.encode())

    assert is_linear(work, 60_000)


PIECES = st.sampled_from(
    [
        *(
            SCHEME,
            "postgres://",
            "jdbc:postgresql://",
            "user:",
            "@",
            "/",
            "?",
            "host=h ",
            "dbname=d ",
        ),
        *("password=", "PGPASSWORD=", "PGPASSWORD: ", "import os\n", "os.environ[", "]", "'", '"'),
        *(
            "${",
            "}",
            "{",
            "%(",
            "#",
            "--",
            "\n",
            " ",
            "\\",
            "psql -h ",
            "=",
            "[",
            "<",
            ">",
            "f'",
            "\0",
        ),
        *(
            "create role x password '",
            "psycopg.connect(",
            ")",
            "\\c ",
            "%%bash\n",
            "!",
            "\t",
            "é",
            ",",
        ),
    ]
)


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(KINDS), pieces=st.lists(PIECES, max_size=25))
def test_any_text_of_what_is_looked_for_is_read(kind: Kind, pieces: list[str]) -> None:
    text = "".join(pieces)
    dsn_audit.audit(kind, text.encode())
    cell = {"cell_type": "code", "source": text.splitlines(keepends=True), "outputs": [{"t": text}]}
    dsn_audit.audit("notebook", json.dumps({"cells": [cell]}).encode())


# Each has a place for a password, written as it comes: not percent-encoded, not escaped.
PLANTED = (
    f"URL={SCHEME}app:@@@db.example:5432/kb",
    f"url: '{SCHEME}app:@@@db.example/kb'",
    f'url = "{SCHEME}app:@@@db.example/kb?sslmode=require"',
    f"x = '{SCHEME}app:@@@h/d'",
    f"x = f'{SCHEME}{{u}}:@@@{{h}}/d'",
    f"x = '{SCHEME}app:' + '@@' + '@h/d'",
    f"# {SCHEME}app:@@@h/d",
    f"psql {SCHEME}app:@@@h/d -c 'select 1'",
    f"{SCHEME}h/d?user=u&password=@@",
    "jdbc:postgresql://h/d?user=u&password=@@&ssl=true",
    "X='host=h dbname=d user=u password=@@'",
    'x = "host=h user=u password=@@ dbname=d"',
    "PGPASSWORD=@@ psql -h h",
    "POSTGRES_PASSWORD: @@",
    "db_password = '@@'",
    "import psycopg\npsycopg.connect(host='h', password='@@')",
    "import os\nos.environ['PGPASSWORD'] = '@@'",
    "create role app password '@@';",
    "alter role app password $$@@$$;",
    "[a\nx = '@@'",
    "def f(:\n    x = '@@'",
)
PASSWORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r"),
    max_size=6,
).map(lambda text: f"Zq9{text}kW4")


@settings(max_examples=600, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    planted=st.sampled_from(PLANTED),
    password=PASSWORDS,
)
def test_a_password_is_never_shown(kind: Kind, planted: str, password: str) -> None:
    text = planted.replace("@@", password, 1)
    if kind == "notebook":
        text = json.dumps({"cells": [{"cell_type": "code", "source": text}]})
    found = dsn_audit.audit(kind, text.encode())

    said = " ".join([*(spot.evidence for spot in found), repr(found)])
    # No half of it either, where a character that should be encoded cut it in two.
    assert "Zq9" not in said
    assert "kW4" not in said


def finding(path: str = "a.py", name: str = "credential", evidence: str = "x") -> Finding:
    kind = CLASSES[name]
    return Finding(path=path, line=1, id=kind.id, name=name, evidence=evidence, fix=kind.fix)


FINDINGS = st.lists(
    st.builds(
        finding,
        path=st.sampled_from(["a.py", "b/c.py", "é.py"]),
        name=st.sampled_from(sorted(CLASSES)),
        evidence=st.sampled_from(["x", "y"]),
    ),
    max_size=12,
)


@given(before=FINDINGS, after=FINDINGS)
def test_a_baseline_knows_each_finding_as_often_as_it_was_there(
    before: list[Finding], after: list[Finding]
) -> None:
    known = judging.baseline(baselines.written(before, "class"), source="b")

    assert all(one.status == "known" for one in baselines.judged(before, (), known))
    left = list(before)
    for one in baselines.judged(after, (), known):
        same = next((other for other in left if other.key == one.key), None)
        assert one.status == ("known" if same else "new")
        if same:
            left.remove(same)


@given(text=st.text(max_size=60))
def test_any_text_as_a_list_is_read_or_refused_in_a_sentence(text: str) -> None:
    for read in (judging.allowances, judging.baseline):
        said = ""
        try:
            read(text, source="the file")
        except ConfigError as error:
            said = str(error)
        assert not said or said.startswith("the file")


@pytest.mark.parametrize(
    ("pattern", "path", "is_allowed"),
    [
        ("tests/**", "tests/a/b.py", True),
        ("tests/**", "src/tests.py", False),
        ("*.py", "a/b.py", True),
        ("/a.py", "b/a.py", False),
        ("a/*.py", "a/b/c.py", False),
    ],
)
def test_a_path_is_a_pattern_as_in_a_gitignore(pattern: str, path: str, is_allowed: bool) -> None:
    text = f'[[allow]]\npath = "{pattern}"\nclass = "DSN003"\nreason = "r"\n'
    (one,) = baselines.judged([finding(path)], judging.allowances(text, source="x"), {})

    assert (one.status == "allowed") is is_allowed
