from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url

from ragline.cli import output
from ragline.core import dsn_merge, libpq
from ragline.core.dsn import (
    Driver,
    Dsn,
    DsnConflict,
    Host,
    Secret,
    differing_parts,
    missing,
    nearest,
    not_for_asyncpg,
)
from ragline.errors import ConfigError

UGLY = "a b%20%@:/?#&=+'\"\\[]\n\té漢"

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
names = st.text(st.sampled_from(UGLY) | characters, min_size=1)
hosts = st.sampled_from(
    [
        Host("db.example.org", 5432),
        Host("10.0.0.7", 6543, "10.0.0.8"),
        Host("::1", 5433),
        Host("fe80::1", 1),
        Host("/var/run/postgresql", 65535),
        Host("/srv/a folder/50%", 5432),
    ]
)
dsns = st.builds(
    Dsn,
    hosts=st.lists(hosts, min_size=1, max_size=3).map(tuple),
    database=names,
    user=names,
    password=st.none() | names.map(Secret),
    options=st.sampled_from(
        [
            (),
            (("connect_timeout", "7"), ("sslmode", "require"), ("sslrootcert", "/a b/ca%.crt")),
            (("options", "-c search_path=kb,public -c work_mem=5MB"),),
            (("passfile", "/a:b/passfile"), ("target_session_attrs", "read-write")),
        ]
    ),
)


def one(**changes: Any) -> Dsn:
    base = Dsn(hosts=(Host("h"),), database="d", user="u", password=Secret("p"))
    return dataclasses.replace(base, **changes)


def merged(*sources: tuple[str, dict[str, str]]) -> Dsn:
    return dsn_merge.merge(
        [dsn_merge.Source(name=name, parameters=given) for name, given in sources],
        os_user="me",
        default_host=lambda port: f"/sockets/{port}",
    )


def as_libpq_sees(dsn: Dsn) -> dict[str, str]:
    seen = {
        "host": ",".join(host.host for host in dsn.hosts),
        "port": ",".join(str(host.port) for host in dsn.hosts),
        "dbname": dsn.database,
        "user": dsn.user,
        **{key: value for key, value in dsn.options if isinstance(value, str)},
    }
    if dsn.password:
        seen["password"] = dsn.password.reveal()
    if any(host.address for host in dsn.hosts):
        seen["hostaddr"] = ",".join(host.address or "" for host in dsn.hosts)
    return seen


def sqlalchemy_arguments(url: str) -> dict[str, Any]:
    parsed = make_url(url)
    return dict(parsed.get_dialect()().create_connect_args(parsed)[1])


@given(dsns)
def test_psycopg_string_means_what_the_value_says(dsn: Dsn) -> None:
    seen = conninfo_to_dict(dsn.for_psycopg("eval"))

    assert {"options": "", **as_libpq_sees(dsn), "application_name": "ragline:eval"} == seen


@given(dsns)
def test_sqlalchemy_url_for_psycopg_means_what_the_value_says(dsn: Dsn) -> None:
    seen = sqlalchemy_arguments(dsn.for_sqlalchemy("eval"))

    want = as_libpq_sees(dsn) | {"application_name": "ragline:eval"}
    assert {key: str(value) for key, value in seen.items()} == want


@given(dsns)
def test_sqlalchemy_url_for_asyncpg_means_what_the_value_says(dsn: Dsn) -> None:
    seen = sqlalchemy_arguments(dsn.for_sqlalchemy("eval", "asyncpg"))

    addresses = [host.address or host.host for host in dsn.hosts]
    ports = [host.port for host in dsn.hosts]
    assert seen["host"] == (addresses if len(addresses) > 1 else addresses[0])
    assert seen["port"] == (ports if len(ports) > 1 else ports[0])
    assert (seen["user"], seen["database"]) == (dsn.user, dsn.database)
    assert seen.get("password") == (dsn.password.reveal() if dsn.password else None)
    assert "application_name=ragline%3Aeval" in seen["dsn"]


@given(dsns)
def test_shown_urls_parse_back_to_everything_but_the_password(dsn: Dsn) -> None:
    want = as_libpq_sees(dsn)
    password = want.pop("password", None)

    assert conninfo_to_dict(dsn.redacted()) == want | ({"password": "***"} if password else {})


@given(dsns, names.map("s3cr3t".__add__), names.map("s3cr3t".__add__))
def test_no_picture_of_a_dsn_holds_its_secrets(dsn: Dsn, password: str, key: str) -> None:
    secret = dataclasses.replace(
        dsn, password=Secret(password), options=(*dsn.options, ("sslpassword", Secret(key)))
    )
    other = dataclasses.replace(secret, password=Secret("s3cr3t too"), options=())

    pictures = [repr(secret), str(secret), f"{secret}", secret.redacted()]
    pictures += [str(DsnConflict("DATABASE_URL", secret, "POSTGRES_DSN", other))]
    pictures += [repr(differing_parts(secret, other)), repr(secret.sources)]
    assert not [picture for picture in pictures if "s3cr3t" in picture]


def test_secret_prints_as_stars_and_compares_by_text() -> None:
    secret = Secret("hunter2")

    assert f"{secret} {secret!r} {secret!s} {[secret]}" == "*** *** *** [***]"
    assert secret == Secret("hunter2")
    assert secret != Secret("hunter3")
    assert secret != "hunter2"
    assert len({secret, Secret("hunter2")}) == 1
    assert copy.deepcopy(secret) == pickle.loads(pickle.dumps(secret)) == secret  # noqa: S301


def test_secret_cannot_be_changed_or_walked_into() -> None:
    with pytest.raises(AttributeError):
        Secret("a")._text = "b"
    with pytest.raises(AttributeError):
        del Secret("a")._text
    with pytest.raises(TypeError, match="Secret has no JSON form"):
        output.plain(one())


def test_asyncpg_arguments() -> None:
    dsn = one(
        hosts=(Host("a", 1), Host("b", 2, "10.0.0.9")),
        options=(
            ("connect_timeout", "5"),
            ("options", r"-c search_path=kb\ x --work-mem=5MB -cjit=off"),
            ("sslmode", "verify-ca"),
            ("sslrootcert", "/a b/ca.crt"),
            ("target_session_attrs", "read-write"),
        ),
    )

    assert dsn.for_asyncpg("serve") == {
        "host": ["a", "10.0.0.9"],
        "port": [1, 2],
        "user": "u",
        "password": "p",
        "database": "d",
        "ssl": "verify-ca",
        "target_session_attrs": "read-write",
        "server_settings": {
            "application_name": "ragline:serve",
            "search_path": "kb x",
            "work_mem": "5MB",
            "jit": "off",
        },
        "dsn": "postgresql://?sslrootcert=%2Fa%20b%2Fca.crt",
        "timeout": 10.0,
    }


def test_our_application_name_wins_over_the_one_in_options() -> None:
    settings = one(options=(("options", "-c application_name=x"),)).for_asyncpg("serve")

    assert settings["server_settings"] == {"application_name": "ragline:serve"}


@pytest.mark.parametrize(
    ("host", "options", "ssl"),
    [
        ("h", {}, "prefer"),
        ("h", {"sslmode": "disable"}, "disable"),
        ("h", {"sslrootcert": "system"}, True),
        ("/tmp", {"sslmode": "require"}, "disable"),
    ],
)
def test_tls_for_asyncpg(host: str, options: dict[str, str], ssl: str | bool) -> None:
    arguments = one(hosts=(Host(host),), options=tuple(options.items())).for_asyncpg("serve")

    assert arguments["ssl"] == ssl
    assert "dsn" not in arguments


@pytest.mark.parametrize(("text", "timeout"), [("0", None), ("-1", None), ("3", 3.0)])
def test_libpq_timeout_of_nothing_is_no_timeout(text: str, timeout: float | None) -> None:
    assert one(options=(("connect_timeout", text),)).for_asyncpg("serve")["timeout"] == timeout


def test_passfile_goes_to_the_driver_only_without_a_password() -> None:
    options = (("passfile", "/p"),)

    assert "passfile" not in one(options=options).for_asyncpg("serve")
    assert one(options=options, password=None).for_asyncpg("serve")["passfile"] == "/p"
    assert "passfile=%2Fp" in one(options=options, password=None).for_sqlalchemy("x", "asyncpg")


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        (one(hosts=(Host("@pg"),)), "abstract socket"),
        (one(options=(("gssencmode", "require"),)), "GSSAPI"),
        (one(hosts=(Host("h", 1, "::1"),), options=(("sslmode", "verify-full"),)), "hostaddr"),
        (one(options=(("connect_timeout", "soon"),)), "whole number of seconds"),
    ],
)
def test_what_asyncpg_cannot_protect_is_refused(dsn: Dsn, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        dsn.for_asyncpg("serve")


def test_system_certificates_are_refused_where_no_driver_can_be_told() -> None:
    dsn = one(options=(("sslrootcert", "system"),))

    assert "sslrootcert=system" in dsn.for_sqlalchemy("admin")
    with pytest.raises(ConfigError, match="sslrootcert=system"):
        dsn.for_sqlalchemy("admin", "asyncpg")


def test_unknown_driver_is_refused() -> None:
    driver: Driver = "pg8000"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="pg8000"):
        one().for_sqlalchemy("admin", driver)


def test_options_that_only_psycopg_honours_are_named() -> None:
    options = (("channel_binding", "require"), ("gssencmode", "prefer"), ("sslmode", "require"))

    assert not_for_asyncpg(one(options=options)) == ("channel_binding",)


def test_a_copy_says_where_its_parts_came_from() -> None:
    copied = one().login("serve", Secret("x")).on("kb")

    assert (copied.user, copied.password, copied.database) == ("serve", Secret("x"), "kb")
    assert copied.sources == {
        "user": "workload role",
        "password": "workload role",
        "database": "chosen by ragline",
    }


def test_sources_do_not_count_when_values_are_compared() -> None:
    assert one(sources={"host": "PGHOST"}) == one(sources={"host": "DATABASE_URL"})
    assert hash(one(sources={"host": "PGHOST"})) == hash(one())


def test_dsn_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one host"):
        one(hosts=())


def test_first_source_that_gives_a_part_wins() -> None:
    dsn = merged(
        ("DATABASE_URL", {"host": "a", "user": ""}),
        ("service", {"host": "b", "dbname": "kb"}),
        ("PGUSER", {"user": "ann"}),
    )

    assert dsn == Dsn(hosts=(Host("a"),), database="kb", user="ann")
    assert dsn.sources == {
        "host": "DATABASE_URL",
        "port": "default",
        "database": "service",
        "user": "PGUSER",
    }


def test_what_nobody_gives_is_libpqs_default() -> None:
    dsn = merged()

    assert dsn == Dsn(hosts=(Host("/sockets/5432"),), database="me", user="me")
    assert dsn.sources["database"] == "default (the user's name)"


@pytest.mark.parametrize(
    ("given_parts", "want"),
    [
        ({"host": "a,b"}, (Host("a"), Host("b"))),
        ({"host": "a,b", "port": "7"}, (Host("a", 7), Host("b", 7))),
        ({"host": "a,::1,/s", "port": "1,2,"}, (Host("a", 1), Host("::1", 2), Host("/s"))),
        ({"host": "a,", "port": "9"}, (Host("a", 9), Host("/sockets/9", 9))),
        ({"host": "a,b", "hostaddr": "::1,"}, (Host("a", address="::1"), Host("b"))),
        ({"hostaddr": "10.0.0.1,10.0.0.2"}, (Host("10.0.0.1"), Host("10.0.0.2"))),
    ],
)
def test_lists_of_hosts(given_parts: dict[str, str], want: tuple[Host, ...]) -> None:
    assert merged(("DATABASE_URL", given_parts)).hosts == want


@pytest.mark.parametrize(
    ("given_parts", "reason"),
    [
        ({"host": "a,b,c", "port": "1,2"}, "2 ports .* number of hosts, 3"),
        ({"host": "a,b", "hostaddr": "::1"}, "1 addresses .* 2 hosts"),
        ({"port": "0"}, "not a number from 1 to 65535"),
        ({"port": "65536"}, "not a number from 1 to 65535"),
        ({"port": "s3cr3t"}, "not a number from 1 to 65535"),
        ({"port": "٣"}, "not a number from 1 to 65535"),
        ({"host": "s3cr3t@h"}, 'holds "@"'),
    ],
)
def test_malformed_parts_are_refused_without_showing_them(
    given_parts: dict[str, str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        merged(("DATABASE_URL", given_parts))
    assert "DATABASE_URL" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("postgres://h/d", "postgresql://h/d"),
        ("POSTGRESQL+AsyncPG://h/d", "postgresql://h/d"),
        ("postgres+psycopg2://u:a?b@h/d", "postgresql://u:a?b@h/d"),
        ("postgresql+asyncpg://h/d?ssl=require", "postgresql://h/d?sslmode=require"),
        (
            "postgresql://h/d?a=1&ssl=verify-full&b=2",
            "postgresql://h/d?a=1&sslmode=verify-full&b=2",
        ),
        ("postgresql://h/d?ssl=true", "postgresql://h/d?ssl=true"),
        ("postgresql://h/d?myssl=require", "postgresql://h/d?myssl=require"),
        ("host=h password='a://b'", "host=h password='a://b'"),
    ],
)
def test_connection_strings_in_libpqs_form(text: str, want: str) -> None:
    assert libpq.standard_form(text, source="DATABASE_URL") == want


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mysql://u:s3cr3t@h/d", "its scheme is 'mysql'"),
        ("postgresql+://u:s3cr3t@h/d", "not a PostgreSQL URL"),
        ("postgresql://u:s3/cr3t@h/d", "percent-encode"),
        ("postgresql:///d?host=a:1&host=b:2", "gives host twice"),
    ],
)
def test_strings_that_libpq_would_misread_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        libpq.standard_form(text, source="DATABASE_URL")
    assert "s3cr3t" not in str(caught.value)
    assert "cr3t" not in str(caught.value)


SERVICES = """# people's databases
[other]
host=elsewhere
[kb]
  host=db.example.org
# comment
password=a=b%c ;d
host=second value loses

[kb]
user=second section loses
"""


def test_service_is_read_as_libpq_reads_it() -> None:
    found = libpq.service(SERVICES, "kb", source="service file")

    assert found == {"host": "db.example.org", "password": "a=b%c ;d"}
    assert libpq.service(SERVICES, "k", source="service file") is None
    assert libpq.service_names(SERVICES) == ["other", "kb", "kb"]


@pytest.mark.parametrize("line", ["s3cr3t", "password = s3cr3t", "service=s3cr3t", "ldap://s3cr3t"])
def test_malformed_service_names_the_line_only(line: str) -> None:
    with pytest.raises(ConfigError, match="service file, line 2") as caught:
        libpq.service(f"[kb]\n{line}\n", "kb", source="service file")
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("h:5432:d:u:pw", "pw"),
        ("*:*:*:*:pw", "pw"),
        ("h:5432:d:u:p:w\\:\\\\x\\", "p:w:\\x\\"),
        ("h:5432:d:u: pw \r", " pw "),
        ("h:5432:d:\\u:pw", "pw"),
        ("h:5432:d:\\*:pw", None),
        ("H:5432:d:u:pw", None),
        ("h:5433:d:u:pw", None),
        ("#h:5432:d:u:pw", None),
        ("h:5432:d:u", None),
    ],
)
def test_passfile_lines(line: str, password: str | None) -> None:
    found = libpq.password_for(f"# first\n{line}\n", host="h", port=5432, database="d", user="u")

    assert found == ((password, 2) if password else None)


@pytest.mark.parametrize(
    ("folder", "fits"), [("/tmp", True), ("/var/run/postgresql", True), ("/srv", False)]
)
def test_localhost_in_a_passfile_means_the_default_sockets_too(folder: str, fits: bool) -> None:
    found = libpq.password_for("localhost:*:*:*:pw", host=folder, port=1, database="d", user="u")

    assert found == (("pw", 1) if fits else None)


@given(names.filter(lambda text: "\n" not in text), names.filter(lambda text: "\n" not in text))
def test_any_escaped_passfile_entry_gives_its_password(user: str, password: str) -> None:
    line = ":".join(
        part.replace("\\", "\\\\").replace(":", "\\:") for part in ("h", "1", "d", user, password)
    )
    found = libpq.password_for(line, host="h", port=1, database="d", user=user)

    # A final carriage return belongs to the line's end, as in libpq.
    assert found == (password.rstrip("\r"), 1)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {}),
        ("-c a=b=c", {"a": "b=c"}),
        ("-c", {"options": "-c"}),
        ("-c a", {"options": "-c a"}),
        ("endpoint=ep-1", {"options": "endpoint=ep-1"}),
        (r"-B 5 -c a=x\ y", {"a": "x y", "options": "-B 5"}),
        (r"-c a=\\", {"a": "\\"}),
    ],
)
def test_options_as_server_settings(options: str, settings: dict[str, str]) -> None:
    assert libpq.as_server_settings(options) == settings


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, ()),
        ({"hosts": (Host("other"),)}, ("host",)),
        ({"hosts": (Host("h", 1),)}, ("port",)),
        ({"database": "e"}, ("database",)),
        ({"user": "v"}, ("user",)),
        ({"password": Secret("q")}, ("password",)),
        ({"password": None, "user": "v"}, ("user", "password")),
        ({"options": (("sslmode", "require"),)}, ("sslmode",)),
        ({"options": (("sslpassword", Secret("q")),)}, ("sslpassword",)),
    ],
)
def test_differing_parts_are_named(changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    assert tuple(differing_parts(one(), one(**changes))) == parts
    assert (one() == one(**changes)) is (not parts)


def test_conflict_names_both_values_and_the_way_out() -> None:
    error = DsnConflict("DATABASE_URL", one(), "POSTGRES_DSN", one(database="e", password=None))

    assert error.parts == ("database", "password")
    assert str(error) == (
        "DATABASE_URL and POSTGRES_DSN are both set and differ in "
        "database: 'd' in DATABASE_URL, 'e' in POSTGRES_DSN; password (not shown); "
        "unset POSTGRES_DSN, or make them equal"
    )


@pytest.mark.parametrize(
    ("name", "existing", "like"),
    [
        ("ragl", ["postgres", "ragline"], "ragline"),
        ("RAGLINE", ["ragline2", "ragline"], "ragline"),
        ("postgers", ["postgres", "template1"], "postgres"),
        ("xyz", ["postgres"], None),
        ("xyz", [], None),
    ],
)
def test_nearest_name(name: str, existing: list[str], like: str | None) -> None:
    assert nearest(name, existing) == like


@pytest.mark.parametrize(
    ("existing", "sentence"),
    [
        (["ragline"], 'database "ragl" does not exist; the nearest that exists is "ragline"'),
        ([], 'database "ragl" does not exist, and there is no other'),
        (["x", "w"], 'database "ragl" does not exist; there are "w", "x"'),
        (
            list("tuvwxyz"),
            'database "ragl" does not exist; there are "t", "u", "v", "w", "x" and 2 more',
        ),
    ],
)
def test_missing_names_what_exists(existing: list[str], sentence: str) -> None:
    assert missing("database", "ragl", existing) == sentence
