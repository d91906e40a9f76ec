from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain, combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import pq
from typer.testing import CliRunner

from ragline import config
from ragline.cli.dsn import app
from ragline.core.dsn import Dsn, DsnConflict, Host, Secret
from ragline.core.libpq import PARAMETER_OF
from ragline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

PASSWORD = "s3cr3t"

# 127.0.0.x: libpq needs no name server to say what it would do.
URLS = {
    "no URL": None,
    "whole": f"postgresql://url:{PASSWORD}1@127.0.0.1:1111/url",
    "host": "postgres://127.0.0.1",
    "two hosts": "postgresql+asyncpg://127.0.0.1:1111,[::1]/url?ssl=disable",
    "login": f"user=url password={PASSWORD}1",
    "service": "postgresql+psycopg:///url?service=kb",
}
VARIABLES = {
    "PGHOST": "127.0.0.2",
    "PGPORT": "2222",
    "PGDATABASE": "env",
    "PGUSER": "env",
    "PGPASSWORD": f"{PASSWORD}2",
    "PGSSLMODE": "allow",
}
SERVICES = {
    "no service": "",
    "whole service": f"host=127.0.0.3\nport=3333\nuser=svc\npassword={PASSWORD}3\ndbname=svc\n",
    "part of a service": "host=127.0.0.3\nsslmode=require\nconnect_timeout=3\n",
}
PASSFILES = {
    "no passfile": "",
    "passfile for all": f"*:*:*:*:{PASSWORD}4\n",
    "passfile for some": f"127.0.0.1:1111:url:env:{PASSWORD}5\n127.0.0.3:*:*:*:{PASSWORD}6\n",
}


def subsets(names: Iterable[str]) -> list[tuple[str, ...]]:
    every = list(names)
    return list(chain.from_iterable(combinations(every, n) for n in range(len(every) + 1)))


def load(home: Path, **environ: str) -> config.Config:
    return config.load(environ={"HOME": str(home), **environ})


def write_passfile(home: Path, text: str, *, mode: int = 0o600) -> Path:
    file = home / ".pgpass"
    file.write_text(text)
    file.chmod(mode)
    return file


def dsn_of(home: Path, **environ: str) -> Dsn:
    dsn = load(home, **environ).dsn
    assert dsn is not None
    return dsn


def libpq_would_use(environ: dict[str, str], conninfo: str) -> dict[str, str]:
    """Ask libpq itself what it would connect with; nothing waits for an answer."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [*PARAMETER_OF, "PGSERVICE", "PGSERVICEFILE", "PGSYSCONFDIR", "HOME"]:
            patch.delenv(name, raising=False)
        for name, value in environ.items():
            patch.setenv(name, value)
        connection = pq.PGconn.connect_start(conninfo.encode())
        found = {option.keyword.decode(): option.val for option in connection.info}
        found["password"] = connection.password
        connection.finish()
    return {key: value.decode() for key, value in found.items() if value}


@pytest.mark.parametrize("passfile", PASSFILES)
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("url", URLS)
def test_every_combination_of_sources_is_what_libpq_would_use(
    tmp_path: Path, url: str, service: str, passfile: str
) -> None:
    if PASSFILES[passfile]:
        write_passfile(tmp_path, PASSFILES[passfile])
    file = tmp_path / "services"
    file.write_text(f"[other]\nhost=127.0.0.9\n[kb]\n{SERVICES[service]}")
    text = URLS[url]
    fixed = {"HOME": str(tmp_path), "PGSERVICEFILE": str(file)}
    if SERVICES[service]:
        fixed["PGSERVICE"] = "kb"
    for names in subsets(VARIABLES):
        environ = fixed | {name: VARIABLES[name] for name in names}
        dsn = config.load(environ=environ | ({"DATABASE_URL": text} if text else {})).dsn
        if not (text or "PGSERVICE" in environ or {"PGHOST", "PGPORT", "PGDATABASE"} & {*names}):
            assert dsn is None, names
            continue
        plain = (text or "").replace("+asyncpg", "").replace("+psycopg", "")
        want = libpq_would_use(environ, plain.replace("ssl=disable", "sslmode=disable"))
        assert dsn is not None
        if want.get("host"):
            assert ",".join(host.host for host in dsn.hosts) == want["host"], names
        assert [host.port for host in dsn.hosts] == ports(want["port"], len(dsn.hosts)), names
        assert (dsn.user, dsn.database) == (want["user"], want["dbname"]), names
        assert (dsn.password and dsn.password.reveal()) == want.get("password"), names
        assert (dsn.option("sslmode") or "prefer") == want["sslmode"], names
        assert dsn.option("connect_timeout") == want.get("connect_timeout"), names
        assert PASSWORD not in f"{dsn!r} {dsn} {dsn.sources}", names


def ports(text: str, count: int) -> list[int]:
    each = [int(port or 5432) for port in text.split(",")]
    return each if len(each) == count else each * count


SAME = ("postgresql://u:s3cr3t@h/d", "host=h port=5432 user=u password=s3cr3t dbname=d")
DIFFERENT = {
    "host": "postgresql://u:s3cr3t@other/d",
    "port": "postgresql://u:s3cr3t@h:5433/d",
    "database": "postgresql://u:s3cr3t@h/e",
    "user": "postgresql://v:s3cr3t@h/d",
    "password": "postgresql://u:s3cr3t2@h/d",
    "sslmode": "postgresql://u:s3cr3t@h/d?sslmode=require",
}


@pytest.mark.parametrize("part", DIFFERENT)
def test_two_different_databases_are_an_error_that_names_the_part(
    tmp_path: Path, part: str
) -> None:
    for one, other in [(SAME[0], DIFFERENT[part]), (DIFFERENT[part], SAME[1])]:
        with pytest.raises(DsnConflict) as caught:
            load(tmp_path, DATABASE_URL=one, POSTGRES_DSN=other)
        assert caught.value.parts == (part,)
        assert f"differ in {part}" in str(caught.value)
        assert PASSWORD not in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(("one", "other"), list(product(SAME, SAME)))
def test_the_same_database_in_two_spellings_is_no_conflict(
    tmp_path: Path, one: str, other: str
) -> None:
    loaded = load(tmp_path, DATABASE_URL=one, POSTGRES_DSN=other)

    assert loaded.warnings == ()
    assert str(loaded.dsn) == "postgresql://u:***@h:5432/d"


def test_the_environment_completes_both_before_they_are_compared(tmp_path: Path) -> None:
    both = {"DATABASE_URL": "postgresql://h/d", "POSTGRES_DSN": "postgresql://u@h:7/d"}

    assert load(tmp_path, PGUSER="u", PGPORT="7", **both).dsn
    with pytest.raises(DsnConflict, match="port: '8' in DATABASE_URL, '7' in POSTGRES_DSN"):
        load(tmp_path, PGUSER="u", PGPORT="8", **both)


def test_postgres_dsn_alone_is_used_with_a_warning(tmp_path: Path) -> None:
    loaded = load(tmp_path, POSTGRES_DSN="postgresql://h/d", DATABASE_URL=" ")

    assert loaded.dsn is not None
    assert loaded.dsn.sources["host"] == "POSTGRES_DSN"
    assert loaded.warnings == ("POSTGRES_DSN is a fallback; set DATABASE_URL instead",)


@pytest.mark.parametrize("name", ["PGPASSWORD", "PGUSER", "PGSSLMODE", "PGPASSFILE", "PGOPTIONS"])
def test_how_to_log_in_alone_names_no_database(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, **{name: "x"}).dsn is None


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR", "PGDATABASE", "PGPORT"])
def test_where_to_connect_names_a_database(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, **{name: "5432"}).dsn is not None
    assert load(tmp_path, **{name: ""}).dsn is None


def test_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / ".pg_service.conf").write_text("[kb]\nhost=h\nsslmode=require\n")
    write_passfile(tmp_path, "# one\nh:*:*:*:s3cr3t\n")

    dsn = dsn_of(tmp_path, DATABASE_URL="postgresql:///d?service=kb", PGUSER="u")

    assert dsn.sources == {
        "host": "service file ~/.pg_service.conf [kb]",
        "sslmode": "service file ~/.pg_service.conf [kb]",
        "port": "default",
        "database": "DATABASE_URL",
        "user": "PGUSER",
        "password": "passfile ~/.pgpass line 2",
    }


@pytest.mark.parametrize(
    ("text", "hosts", "database"),
    [
        ("postgresql://%2Fvar%2Frun/db", (Host("/var/run"),), "db"),
        ("postgresql:///db?host=/var/run&port=7", (Host("/var/run", 7),), "db"),
        ("postgres://u@[::1]:6/d%2Fb%40", (Host("::1", 6),), "d/b@"),
        ("postgresql+asyncpg://a:1,b:2/db", (Host("a", 1), Host("b", 2)), "db"),
        (
            "host=a,b hostaddr=::1,::2 dbname='d b'",
            (Host("a", 5432, "::1"), Host("b", 5432, "::2")),
            "d b",
        ),
        ("\n postgresql://h/db\n", (Host("h"),), "db"),
    ],
)
def test_forms_of_a_url(tmp_path: Path, text: str, hosts: tuple[Host, ...], database: str) -> None:
    dsn = dsn_of(tmp_path, DATABASE_URL=text)

    assert (dsn.hosts, dsn.database) == (hosts, database)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("postgresql://u:s3%cr3t@h/d", "write %25"),
        ("postgresql://u:s3/cr3t@h/d", "percent-encode special characters"),
        ("postgresql://u:s3@cr3t@h/d", "percent-encoded"),
        ("postgresql://u:s3?x/cr3t@h/d", "none of libpq's|has no|percent-encode"),
        ("postgresql://u:cr3t/d", "percent-encode"),
        ("u:s3cr3t@h/d", "neither a URL"),
        ('"postgresql://u:s3cr3t@h/d"', "neither a URL"),
        ("host=h password=my s3cr3t", "neither a URL"),
        ("host=h password=my s3cr3t=1", "none of libpq's"),
        ("host=h password='s3cr3t", "a quote is not closed"),
        ("postgresql://u:s3cr3t@h/d?pool=5", "none of libpq's"),
        ("postgresql://u:s3cr3t@h/d?sslmode", 'has no "="'),
        ("postgresql://u:s3cr3t@[::1/d", "not closed"),
        ("postgresql://u:s3cr3t@h:x/d", "not a number"),
        ("postgresql://u:s3cr3t\udcff@h/d", "not UTF-8"),
        ("jdbc:postgresql://h/d?password=s3cr3t", "none of libpq's"),
        ("mysql://u:s3cr3t@h/d", "not a PostgreSQL URL"),
    ],
)
@pytest.mark.parametrize("name", ["DATABASE_URL", "POSTGRES_DSN"])
def test_malformed_urls_are_refused_without_showing_them(
    tmp_path: Path, text: str, reason: str, name: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        load(tmp_path, **{name: text})
    assert name in str(caught.value)
    assert "cr3t" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_unknown_service_names_the_nearest_and_the_files(tmp_path: Path) -> None:
    (tmp_path / ".pg_service.conf").write_text("[kb-prod]\nhost=h\n")

    with pytest.raises(ConfigError) as caught:
        load(tmp_path, PGSERVICE="kb-prd", PGSYSCONFDIR=str(tmp_path / "etc"))
    assert str(caught.value) == (
        'service "kb-prd" does not exist; the nearest that exists is "kb-prod"; '
        "looked in ~/.pg_service.conf and ~/etc/pg_service.conf"
    )


def test_service_of_the_system_is_found_after_the_users(tmp_path: Path) -> None:
    (tmp_path / "pg_service.conf").write_text("[kb]\nhost=system\n[own]\nhost=system\n")
    (tmp_path / ".pg_service.conf").write_text("[own]\nhost=user\n")
    place = {"PGSYSCONFDIR": str(tmp_path)}

    assert dsn_of(tmp_path, PGSERVICE="kb", **place).hosts == (Host("system"),)
    assert dsn_of(tmp_path, PGSERVICE="own", **place).hosts == (Host("user"),)


def test_service_of_the_url_goes_before_the_one_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".pg_service.conf").write_text("[one]\nhost=one\n[two]\nhost=two\n")

    dsn = dsn_of(tmp_path, DATABASE_URL="postgresql:///d?service=one", PGSERVICE="two")

    assert dsn.hosts == (Host("one"),)


def test_misspelt_keyword_of_a_service_is_named(tmp_path: Path) -> None:
    (tmp_path / ".pg_service.conf").write_text("[kb]\nsslmod=require\n")

    with pytest.raises(ConfigError, match=r'keyword "sslmod" .* nearest that exists is "sslmode"'):
        load(tmp_path, PGSERVICE="kb")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_passfile_that_others_can_open_is_ignored_with_a_warning(tmp_path: Path, mode: int) -> None:
    write_passfile(tmp_path, "*:*:*:*:s3cr3t\n", mode=mode)
    loaded = load(tmp_path, PGHOST="h")

    assert loaded.dsn is not None
    assert loaded.dsn.password is None
    assert loaded.warnings == (
        "passfile ~/.pgpass is ignored: group or others may read it; run chmod 600 on it",
    )


def test_passfile_that_was_named_and_is_not_there_is_a_warning(tmp_path: Path) -> None:
    named = load(tmp_path, PGHOST="h", PGPASSFILE=str(tmp_path / "none"))

    assert named.warnings == ("passfile ~/none is ignored: No such file or directory",)
    assert load(tmp_path, PGHOST="h").warnings == ()
    assert load(tmp_path, PGHOST="h", PGPASSFILE=str(tmp_path)).warnings == (
        "passfile ~/. is ignored: it is not a plain file",
    )


def test_hosts_with_different_passwords_are_a_warning(tmp_path: Path) -> None:
    write_passfile(tmp_path, "a:*:*:*:s3cr3t1\nb:*:*:*:s3cr3t2\n")
    loaded = load(tmp_path, DATABASE_URL="postgresql://a,b/d")

    assert loaded.dsn is not None
    assert loaded.dsn.password == Secret("s3cr3t1")
    assert loaded.warnings == (
        "passfile ~/.pgpass has not one password for all hosts; that of line 1 is used",
    )


def test_what_asyncpg_ignores_is_a_warning_and_what_it_cannot_protect_an_error(
    tmp_path: Path,
) -> None:
    loaded = load(tmp_path, DATABASE_URL="postgresql://h/d?channel_binding=require")

    said = "asyncpg, which ragline serves with, does not know and ignores: "
    assert loaded.warnings == (f"{said}channel_binding (DATABASE_URL)",)
    with pytest.raises(ConfigError, match="gssencmode=require"):
        load(tmp_path, PGHOST="h", PGGSSENCMODE="require")


@pytest.mark.parametrize(
    ("name", "value", "field", "want"),
    [
        ("RAGLINE_DB_PORT", "5499", "db_port", 5499),
        ("RAGLINE_DB_PORT", "", "db_port", None),
        ("RAGLINE_THREADS", " 3 ", "threads", 3),
        ("RAGLINE_LOCK_TIMEOUT_MS", "500", "lock_timeout_ms", 500),
        ("RAGLINE_LOCK_TIMEOUT_MS", "", "lock_timeout_ms", 2000),
        ("RAGLINE_QUERY_TIMEOUT", "2.5", "query_timeout_s", 2.5),
        ("RAGLINE_QUERY_TIMEOUT", "", "query_timeout_s", 30.0),
        ("RAGLINE_POOL_TIMEOUT", "1", "pool_timeout_s", 1.0),
        ("RAGLINE_POOL_TIMEOUT", "", "pool_timeout_s", 10.0),
        ("RAGLINE_API_KEY", "k-1-and-15-others", "api_key", Secret("k-1-and-15-others")),
        ("RAGLINE_API_KEY", "", "api_key", None),
        ("RAGLINE_MODEL_DIR", "/models/x", "model_dir", Path("/models/x")),
        ("RAGLINE_MODEL_DIR", "", "model_dir", None),
        ("RAGLINE_MODEL_DIR", "", "model_dirs", ()),
        ("RAGLINE_MODEL_DIR", "/models/x:/y", "model_dir", Path("/models/x")),
        ("RAGLINE_MODEL_DIR", "/x:/y::/x", "model_dirs", (Path("/x"), Path("/y"))),
        ("RAGLINE_RESTART_COMMAND", "", "restart_command", ()),
        (
            "RAGLINE_RESTART_COMMAND",
            "sudo systemctl restart 'postgres ql'",
            "restart_command",
            ("sudo", "systemctl", "restart", "postgres ql"),
        ),
        ("RAGLINE_MODEL_PRECISION", "int8", "model_precision", "int8"),
        ("RAGLINE_MODEL_PRECISION", "", "model_precision", "fp32"),
        ("RAGLINE_DATA_DIR", "/data", "data_dir", Path("/data")),
        ("RAGLINE_EVAL_CACHE_MB", "8", "eval_cache_mb", 8),
        ("RAGLINE_EVAL_CACHE_MB", "", "eval_cache_mb", 256),
        ("RAGLINE_JUDGE_MAX_TOKENS", "", "judge_max_tokens", None),
    ],
)
def test_settings(tmp_path: Path, name: str, value: str, field: str, want: object) -> None:
    assert getattr(load(tmp_path, **{name: value}), field) == want


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("RAGLINE_DB_PORT", ["0", "65536", "x", "1.5", "-1"]),
        ("RAGLINE_THREADS", ["0", "many", "1025"]),
        ("RAGLINE_LOCK_TIMEOUT_MS", ["0", "-1", "2s", "nan"]),
        ("RAGLINE_QUERY_TIMEOUT", ["0", "-1", "nan", "inf", "30s"]),
        ("RAGLINE_POOL_TIMEOUT", ["0", "1e9", "soon"]),
        ("RAGLINE_MODEL_PRECISION", ["fp16", "INT8", "8"]),
        ("RAGLINE_EVAL_CACHE_MB", ["0", "-1", "256MB", "1000001"]),
    ],
)
def test_malformed_settings_name_variable_value_and_remedy(
    tmp_path: Path, name: str, values: list[str]
) -> None:
    for value in values:
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, **{name: value})
        assert str(caught.value).startswith(f"{name} is {value!r}; write ")


@pytest.mark.parametrize("key", ["s3cr3t two", "s3cr3t\x7f", "s3cr3té", "s3cr3t\nx"])
def test_api_key_that_no_header_can_carry_is_refused_unseen(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="RAGLINE_API_KEY") as caught:
        load(tmp_path, RAGLINE_API_KEY=key)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("key", [PASSWORD, "s3cr3t-is-short"])
def test_api_key_that_could_be_guessed_is_refused_unseen(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=r"RAGLINE_API_KEY .* fewer than 16") as caught:
        load(tmp_path, RAGLINE_API_KEY=key)
    assert PASSWORD not in str(caught.value)


def test_config_prints_no_secret(tmp_path: Path) -> None:
    loaded = load(tmp_path, RAGLINE_API_KEY=PASSWORD * 3, DATABASE_URL=SAME[0])

    assert loaded.api_key is not None
    assert PASSWORD not in repr(loaded)


def test_data_dir_of_the_caller_goes_first_and_is_absolute(tmp_path: Path) -> None:
    environ = {"RAGLINE_DATA_DIR": "relative"}

    assert config.load(data_dir=tmp_path, environ=environ).data_dir == tmp_path
    assert config.load(environ=environ).data_dir == Path.cwd() / "relative"


@pytest.mark.parametrize(("uid", "want"), [(0, "/var/lib/ragline"), (1000, "/xdg/ragline")])
def test_default_data_dir(monkeypatch: pytest.MonkeyPatch, uid: int, want: str) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    found = config.load(environ={"HOME": "/home/none"}).data_dir

    assert found == Path(want) or sys.platform == "darwin"


def test_threads_default_to_the_usable_processors(tmp_path: Path) -> None:
    assert load(tmp_path).threads == len(os.sched_getaffinity(0))


def test_a_precision_is_of_the_default_model_only(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"RAGLINE_MODEL_DIR names another one; unset one of them"
    ):
        load(tmp_path, RAGLINE_MODEL_PRECISION="int8", RAGLINE_MODEL_DIR="/models/x")

    assert load(tmp_path, RAGLINE_MODEL_PRECISION="fp32", RAGLINE_MODEL_DIR="/m").model_dir


def test_a_restart_command_that_is_no_command_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="RAGLINE_RESTART_COMMAND is no command line"):
        load(tmp_path, RAGLINE_RESTART_COMMAND="systemctl 'restart")


def test_pinned_threads_respect_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"]
    for name in [*names, "TOKENIZERS_PARALLELISM"]:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")

    config.pin_threads(2)

    assert [os.environ[name] for name in names] == ["2", "2", "7", "2"]
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_child_processes_get_no_login() -> None:
    ours = {"DATABASE_URL": "x", "POSTGRES_DSN": "x", "RAGLINE_API_KEY": "x", "PGPASSWORD": "x"}
    kept = {"PATH": "/bin", "RAGLINE_DATA_DIR": "/d", "PG": "kept", "LC_ALL": "C"}

    assert config.child_environment(ours | kept | {"PGDATA": "x"}) == kept


def test_neither_psycopg_nor_a_model_is_loaded_without_a_dsn() -> None:
    code = (
        "import sys; from ragline import config; config.load(environ={'HOME': '/'});"
        "print(sorted({'psycopg', 'asyncpg', 'sqlalchemy', 'numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout == "[]\n"


def show(home: Path, *arguments: str, **environ: str) -> Any:
    cleared = dict.fromkeys([*PARAMETER_OF, "PGSERVICE", "PGSERVICEFILE", "POSTGRES_DSN"])
    env = cleared | {"DATABASE_URL": None, "HOME": str(home)} | environ
    return CliRunner().invoke(app, ["show", *arguments], env=env)


def test_show_lists_parts_and_sources_without_secrets(tmp_path: Path) -> None:
    url = "postgresql://u:s3cr3t1@h1,h2/d?sslpassword=s3cr3t2"
    result = show(tmp_path, POSTGRES_DSN=url, PGSSLMODE="require")

    assert result.exit_code == 0
    assert result.stderr == "warning: POSTGRES_DSN is a fallback; set DATABASE_URL instead\n"
    assert result.stdout.splitlines() == [
        "part              value               from",
        "host              h1,h2               POSTGRES_DSN",
        "port              5432,5432           default",
        "database          d                   POSTGRES_DSN",
        "user              u                   POSTGRES_DSN",
        "password          ***                 POSTGRES_DSN",
        "sslmode           require             PGSSLMODE",
        "sslpassword       ***                 POSTGRES_DSN",
        "application_name  ragline:<workload>  ragline",
    ]


def test_show_as_json(tmp_path: Path) -> None:
    url = "postgresql://u:s3cr3t@h/d?hostaddr=::1"
    result = show(tmp_path, "--json", "--data-dir", str(tmp_path), DATABASE_URL=url)
    found = json.loads(result.stdout)

    assert PASSWORD not in result.output
    assert found["database"] == "yours"
    assert found["url"] == "postgresql://u:***@h:5432/d?hostaddr=%3A%3A1"
    assert found["data_dir"] == str(tmp_path)
    assert found["warnings"] == []
    assert {"part": "hostaddr", "value": "::1", "from": "DATABASE_URL"} in found["parts"]
    assert {"part": "password", "value": "***", "from": "DATABASE_URL"} in found["parts"]


def test_show_says_that_the_embedded_database_is_used(tmp_path: Path) -> None:
    result = show(tmp_path, "--data-dir", str(tmp_path))
    as_json = show(tmp_path, "--data-dir", str(tmp_path), "--json")

    assert result.stdout.startswith(f"the embedded database is used; its data is in {tmp_path}\n")
    assert json.loads(as_json.stdout)["database"] == "embedded"
    assert json.loads(as_json.stdout)["url"] is None


def test_show_of_a_conflict_is_the_error(tmp_path: Path) -> None:
    result = show(tmp_path, DATABASE_URL=SAME[0], POSTGRES_DSN=DIFFERENT["password"])

    assert isinstance(result.exception, DsnConflict)
    assert PASSWORD not in result.output
