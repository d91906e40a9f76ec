"""libpq's texts: connection strings before it parses them, service files, passfiles, options.

Everything here takes text and returns values; `config.py` reads the files. Messages never quote
the text itself, because any piece of a connection string may be a piece of a password.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from ragline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PARAMETER_OF: Mapping[str, str] = MappingProxyType(
    {
        "PGHOST": "host",
        "PGHOSTADDR": "hostaddr",
        "PGPORT": "port",
        "PGDATABASE": "dbname",
        "PGUSER": "user",
        "PGPASSWORD": "password",
        "PGPASSFILE": "passfile",
        "PGOPTIONS": "options",
        "PGCONNECT_TIMEOUT": "connect_timeout",
        "PGTARGETSESSIONATTRS": "target_session_attrs",
        "PGLOADBALANCEHOSTS": "load_balance_hosts",
        "PGSSLMODE": "sslmode",
        "PGSSLNEGOTIATION": "sslnegotiation",
        "PGSSLROOTCERT": "sslrootcert",
        "PGSSLCERT": "sslcert",
        "PGSSLKEY": "sslkey",
        "PGSSLCRL": "sslcrl",
        "PGSSLCRLDIR": "sslcrldir",
        "PGSSLCERTMODE": "sslcertmode",
        "PGSSLSNI": "sslsni",
        "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version",
        "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version",
        "PGCHANNELBINDING": "channel_binding",
        "PGREQUIREAUTH": "require_auth",
        "PGREQUIREPEER": "requirepeer",
        "PGGSSENCMODE": "gssencmode",
        "PGGSSDELEGATION": "gssdelegation",
        "PGKRBSRVNAME": "krbsrvname",
        "PGGSSLIB": "gsslib",
    }
)
# Any other variable says how to log in, not that there is a database to log in to.
NAMES_A_DATABASE = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT")

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9.+-]*)://", re.ASCII)
_POSTGRES = re.compile(r"postgres(ql)?(\+[a-z0-9_]+)?", re.IGNORECASE)
# What SQLAlchemy's users write for asyncpg; libpq calls it sslmode.
_ASYNCPG_SSL = re.compile(
    r"(?<![^&])ssl=(?=(?:disable|allow|prefer|require|verify-ca|verify-full)(?:&|$))"
)
_FIELDS = re.compile(r"((?:\\.|[^\\:])*):" * 4 + r"(.*)", re.DOTALL)
# libpq takes its own folder for "localhost"; which one that is depends on who built it.
_DEFAULT_SOCKET_FOLDERS = frozenset({"/tmp", "/run/postgresql", "/var/run/postgresql"})  # noqa: S108
_EXPLANATIONS = (
    ("invalid percent-encoded token", 'a "%" is not followed by two hexadecimal digits; write %25'),
    ("forbidden value", "it holds the character %00"),
    ("invalid URI query parameter", "a parameter after the ? is none of libpq's"),
    ("invalid connection option", "a keyword is none of libpq's; quote values that hold spaces"),
    ('missing "="', 'it is neither a URL ("postgresql://…") nor a keyword string ("host=…")'),
    ('missing key/value separator "="', 'a parameter after the ? has no "="'),
    ('extra key/value separator "="', 'a parameter after the ? has two "="; write %3D'),
    ("unterminated quoted string", "a quote is not closed"),
    ("end of string reached", 'an IPv6 address is not closed with "]"'),
    ("IPv6 host address may not be empty", "an IPv6 address is empty"),
    ("unexpected character", "a character follows an IPv6 address that does not belong there"),
)


def standard_form(text: str, *, source: str) -> str:
    """Return a connection string as libpq reads it: driver names and asyncpg's `ssl` translated.

    Raises ConfigError, naming `source`, for another scheme and for what libpq would silently
    misread.
    """
    found = _SCHEME.match(text)
    if not found:
        return text
    if not _POSTGRES.fullmatch(found["scheme"]):
        raise ConfigError(
            f"{source} is not a PostgreSQL URL: its scheme is {found['scheme']!r}; "
            "write postgresql://user:password@host:port/database"
        )
    rest = text[found.end() :]
    before_query = rest.partition("?")[0]
    if "@" in before_query.partition("/")[2]:
        raise ConfigError(
            f'{source} holds "@" after a "/"; percent-encode special characters in the password '
            "(/ is %2F, @ is %40) and in the database's name"
        )
    head, mark, query = rest.rpartition("?")
    if not mark:
        return f"postgresql://{rest}"
    if len(re.findall(r"(?<![^&])host=", query)) > 1:
        raise ConfigError(f"{source} gives host twice; write host=first,second&port=5432,5433")
    return f"postgresql://{head}?{_ASYNCPG_SSL.sub('sslmode=', query)}"


def malformed(message: str, *, source: str) -> ConfigError:
    """Return the error for libpq's refusal to parse; libpq's own words may quote a password."""
    reason = next((words for start, words in _EXPLANATIONS if message.startswith(start)), None)
    said = reason or "libpq cannot parse it"
    return ConfigError(
        f"{source} is malformed: {said}; write postgresql://user:password@host:port/database "
        "with special characters percent-encoded"
    )


def service_names(text: str) -> list[str]:
    """Return the names of the services in the text of a service file."""
    lines = (line.strip() for line in text.splitlines())
    return [line[1:-1] for line in lines if line.startswith("[") and line.endswith("]")]


def service(text: str, name: str, *, source: str) -> dict[str, str] | None:
    """Return the parameters of one service, or None when the text does not define it.

    As in libpq, the first section and the first value win. Raises ConfigError with the line.
    """
    parameters: dict[str, str] | None = None
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if line.startswith("["):
            if parameters is not None:
                break
            if line == f"[{name}]":
                parameters = {}
        elif parameters is not None and line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            if not equals or not re.fullmatch(r"[a-z_]+", key) or key.startswith("service"):
                raise ConfigError(f"{source}, line {number}: write keyword=value, without spaces")
            parameters.setdefault(key, value)
    return parameters


def password_for(
    text: str, *, host: str, port: int, database: str, user: str
) -> tuple[str, int] | None:
    """Return the first password of a passfile's text that fits, with its line number, or None."""
    wanted = (host, str(port), database, user)
    for number, line in enumerate(text.split("\n"), start=1):
        found = None if line.startswith("#") else _FIELDS.fullmatch(line.rstrip("\r"))
        if found and all(map(_fits, found.groups()[:4], wanted)):
            return _unescaped(found[5]), number
    return None


def as_server_settings(options: str) -> dict[str, str]:
    """Return `options` ("-c name=value --name=value") as settings by name.

    What has another form stays together under the name "options", for the server to judge.

    >>> as_server_settings("-c search_path=kb --work-mem=64MB")
    {'search_path': 'kb', 'work_mem': '64MB'}
    """
    words = [_unescaped(word) for word in re.findall(r"(?:\\.|[^\\\s])+", options, re.DOTALL)]
    settings: dict[str, str] = {}
    others: list[str] = []
    waiting = iter(words)
    for word in waiting:
        pair = next(waiting, "") if word == "-c" else re.sub("^(-c|--)", "", word)
        name, equals, value = pair.partition("=")
        if equals and word.startswith(("-c", "--")):
            settings[name.replace("-", "_")] = value
        else:
            others += [word, pair] if word == "-c" else [word]
    if others:
        settings["options"] = " ".join(
            re.sub(r"([\\\s])", r"\\\1", word) for word in others if word
        )
    return settings


def _fits(pattern: str, wanted: str) -> bool:
    if pattern == "*":
        return True
    text = _unescaped(pattern)
    return text == wanted or (text == "localhost" and wanted in _DEFAULT_SOCKET_FOLDERS)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
