"""Where a database is and how to log in to it: one value, three drivers.

`config.py` reads the sources and lets libpq parse them, `dsn_merge.py` makes one database of them;
here it is compared and rendered. A password lives in a `Secret`, which no `print`, `repr` or error
shows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from ragline.core.libpq import as_server_settings
from ragline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_PORT = 5432
HIDDEN = "***"

SECRET_OPTIONS = frozenset(
    {"sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}
)
# asyncpg takes these from its `dsn` argument only.
_ASYNCPG_URL_OPTIONS = (
    "gsslib",
    "krbsrvname",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
)
_ASYNCPG_OPTIONS = frozenset(
    {"connect_timeout", "options", "passfile", "sslmode", "target_session_attrs"}
).union(_ASYNCPG_URL_OPTIONS)
# These ask asyncpg for nothing that it does not do anyway.
_ASYNCPG_DOES_ANYWAY = frozenset(
    {
        ("channel_binding", "disable"),
        ("channel_binding", "prefer"),
        ("client_encoding", "auto"),
        ("gssencmode", "disable"),
        ("gssencmode", "prefer"),
        ("load_balance_hosts", "disable"),
    }
)

Driver = Literal["psycopg", "asyncpg"]


class Secret:
    """A text that prints as `***`; equal to a secret of the same text.

    Deliberately no dataclass: what walks over fields, as JSON output does, must not find it.
    """

    __slots__ = ("_text",)
    _text: str

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "_text", text)

    def reveal(self) -> str:
        """Return the text itself: for the driver that needs it, for nothing else."""
        return self._text

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a secret does not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a secret does not change")

    def __repr__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, (self._text,)


@dataclass(frozen=True, slots=True)
class Host:
    """One server: a name, an IP address, or the folder of a Unix socket ("/…", or "@…").

    `address` is libpq's `hostaddr`: connect there, and use `host` only to check the certificate.
    """

    host: str
    port: int = DEFAULT_PORT
    address: str | None = None

    @property
    def is_socket(self) -> bool:
        """True when `host` is the folder of a Unix socket."""
        return self.host.startswith(("/", "@"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dsn:
    """A database and a login, complete: no driver has to look anything up.

    `options` are libpq's other parameters, sorted by name. `sources` says in words where each
    part came from; two values that differ only there are equal.
    """

    hosts: tuple[Host, ...]
    database: str
    user: str
    password: Secret | None = None
    options: tuple[tuple[str, str | Secret], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ValueError("a Dsn has at least one host")
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))

    def __str__(self) -> str:
        return self.redacted()

    def option(self, name: str) -> str | None:
        """Return the value of one of libpq's other parameters, or None when it is not set."""
        return next((_reveal(value) for key, value in self.options if key == name), None)

    def login(self, user: str, password: Secret | None, *, source: str = "workload role") -> Dsn:
        """Return a copy that logs in as another user."""
        sources = {**self.sources, "user": source, "password": source}
        return replace(self, user=user, password=password, sources=sources)

    def on(self, database: str, *, source: str = "chosen by ragline") -> Dsn:
        """Return a copy for another database of the same server."""
        return replace(self, database=database, sources={**self.sources, "database": source})

    def for_psycopg(self, workload: str) -> str:
        """Return libpq's keyword string, for psycopg; it holds the password."""
        # Set even when empty: libpq would otherwise add the environment's PGOPTIONS.
        pairs = {"options": ""} | self._everything(workload)
        return " ".join(f"{key}={_quoted(value)}" for key, value in pairs.items())

    def for_asyncpg(self, workload: str) -> dict[str, Any]:
        """Return the arguments for asyncpg's `connect` and `create_pool`; they hold the password.

        `timeout` is in seconds. Raises ConfigError for what asyncpg would silently not protect.
        """
        _check_asyncpg(self)
        arguments: dict[str, Any] = {
            "host": [host.address or host.host for host in self.hosts],
            "port": [host.port for host in self.hosts],
            "user": self.user,
            "database": self.database,
            "password": self.password and self.password.reveal(),
            "passfile": None if self.password else self.option("passfile"),
            "ssl": _asyncpg_ssl(self),
            "target_session_attrs": self.option("target_session_attrs") or "any",
            "server_settings": as_server_settings(self.option("options") or "")
            | {"application_name": application_name(workload)},
            "dsn": _asyncpg_url(self, {}),
        }
        arguments = {key: value for key, value in arguments.items() if value is not None}
        return arguments | _asyncpg_timeout(self)

    def for_sqlalchemy(self, workload: str, driver: Driver = "psycopg") -> str:
        """Return the URL for SQLAlchemy's `create_engine`; it holds the password.

        With asyncpg, SQLAlchemy cannot pass `connect_timeout` on: asyncpg's own 60 s apply.
        """
        if driver == "psycopg":
            query = self._everything(workload)
        elif driver == "asyncpg":
            query = self._asyncpg_query(workload)
        else:
            raise ValueError(f"no driver {driver!r}; there are psycopg and asyncpg")
        login = _encoded(self.user)
        if self.password:
            login += f":{_encoded(self.password.reveal())}"
        for name in ("user", "password"):
            query.pop(name, None)
        return f"postgresql+{driver}://{login}@/?{_query(query)}"

    def redacted(self) -> str:
        """Return a URL to show: it is complete, with `***` for every secret."""
        login = _encoded(self.user) + (f":{HIDDEN}" if self.password else "")
        servers = ",".join(f"{_url_host(host.host)}:{host.port}" for host in self.hosts)
        options = {
            key: HIDDEN if isinstance(value, Secret) else _encoded(value)
            for key, value in self.options
        }
        if any(host.address for host in self.hosts):
            options["hostaddr"] = _encoded(_servers(self.hosts)["hostaddr"])
        query = "&".join(f"{key}={value}" for key, value in options.items())
        return f"postgresql://{login}@{servers}/{_encoded(self.database)}{query and '?' + query}"

    def _everything(self, workload: str) -> dict[str, str]:
        pairs = _servers(self.hosts) | {"dbname": self.database, "user": self.user}
        if self.password:
            pairs["password"] = self.password.reveal()
        pairs |= {key: _reveal(value) for key, value in self.options}
        return pairs | {"application_name": application_name(workload)}

    def _asyncpg_query(self, workload: str) -> dict[str, str]:
        _check_asyncpg(self)
        if self.option("sslrootcert") == "system":
            raise ConfigError(
                "asyncpg under SQLAlchemy cannot use sslrootcert=system; "
                "name the file with the certificates instead"
            )
        # Unknown names in asyncpg's own URL become server settings.
        settings = {"application_name": application_name(workload)}
        if options := self.option("options"):
            settings["options"] = options
        query = {
            "host": ",".join(host.address or host.host for host in self.hosts),
            "port": ",".join(str(host.port) for host in self.hosts),
            "database": self.database,
            "ssl": str(_asyncpg_ssl(self)),
            "target_session_attrs": self.option("target_session_attrs") or "any",
            "dsn": _asyncpg_url(self, settings) or "",
        }
        if not self.password and (passfile := self.option("passfile")):
            query["passfile"] = passfile
        return query


class DsnConflict(ConfigError):
    """Two variables name two databases; `parts` says in what they differ."""

    def __init__(self, name: str, one: Dsn, other_name: str, other: Dsn) -> None:
        differing = differing_parts(one, other)
        self.parts = tuple(differing)
        said = [
            f"{part}: {values[0]!r} in {name}, {values[1]!r} in {other_name}"
            if values
            else f"{part} (not shown)"
            for part, values in differing.items()
        ]
        super().__init__(
            f"{name} and {other_name} are both set and differ in {'; '.join(said)}; "
            f"unset {other_name}, or make them equal"
        )


def application_name(workload: str) -> str:
    """Return the name that a workload's connections carry in `pg_stat_activity`."""
    return f"ragline:{workload}"


def differing_parts(one: Dsn, other: Dsn) -> dict[str, tuple[str, str] | None]:
    """Return the parts in which two databases differ, with both values; None hides a secret."""
    differing: dict[str, tuple[str, str] | None] = {}
    shown, shown_other = _shown(one), _shown(other)
    for part in shown | shown_other:
        values = shown.get(part, ""), shown_other.get(part, "")
        if values[0] != values[1]:
            differing[part] = values
    if one.password != other.password:
        differing["password"] = None
    for name in sorted(dict(one.options).keys() | dict(other.options).keys()):
        if one.option(name) != other.option(name) and name in SECRET_OPTIONS:
            differing[name] = None
    return differing


def not_for_asyncpg(dsn: Dsn) -> tuple[str, ...]:
    """Return the options that only psycopg honours; asyncpg, which serves, does not know them."""
    return tuple(
        key
        for key, value in dsn.options
        if key not in _ASYNCPG_OPTIONS and (key, value) not in _ASYNCPG_DOES_ANYWAY
    )


def nearest(name: str, existing: Sequence[str]) -> str | None:
    """Return the existing name most like `name`, or None when none is like it."""
    by_folded: dict[str, str] = {}
    for candidate in sorted(existing):
        by_folded.setdefault(candidate.casefold(), candidate)
    close = get_close_matches(name.casefold(), sorted(by_folded), n=1, cutoff=0.5)
    return by_folded[close[0]] if close else None


def missing(kind: str, name: str, existing: Sequence[str]) -> str:
    """Return the sentence for a database, user or service that does not exist.

    >>> missing("database", "ragl", ["postgres", "ragline"])
    'database "ragl" does not exist; the nearest that exists is "ragline"'
    """
    said = f'{kind} "{name}" does not exist'
    if like := nearest(name, existing):
        return f'{said}; the nearest that exists is "{like}"'
    if not existing:
        return f"{said}, and there is no other"
    some = ", ".join(f'"{other}"' for other in sorted(existing)[:5])
    more = f" and {len(existing) - 5} more" if len(existing) > 5 else ""
    return f"{said}; there are {some}{more}"


def _check_asyncpg(dsn: Dsn) -> None:
    if any(host.host.startswith("@") for host in dsn.hosts):
        raise ConfigError(
            'asyncpg, which ragline serves with, cannot use an abstract socket (a host with "@"); '
            "give the folder of the server's socket, or its TCP address"
        )
    if dsn.option("gssencmode") == "require":
        raise ConfigError(
            "asyncpg, which ragline serves with, cannot encrypt with GSSAPI (gssencmode=require); "
            "use TLS (sslmode=verify-full) instead"
        )
    checks_name = dsn.option("sslmode") == "verify-full" or dsn.option("sslrootcert") == "system"
    if checks_name and any(host.address for host in dsn.hosts):
        raise ConfigError(
            "asyncpg, which ragline serves with, checks the certificate against hostaddr; "
            "give the name in host only, or use sslmode=verify-ca"
        )


def _asyncpg_ssl(dsn: Dsn) -> str | bool:
    if all(host.is_socket for host in dsn.hosts):
        return "disable"  # as libpq does, whatever sslmode says
    if dsn.option("sslrootcert") == "system":
        return True  # the system's certificates, with the host's name checked
    return dsn.option("sslmode") or "prefer"


def _asyncpg_url(dsn: Dsn, settings: Mapping[str, str]) -> str | None:
    """Return a URL with nothing but what asyncpg takes in no other way, or None."""
    found = {name: dsn.option(name) for name in _ASYNCPG_URL_OPTIONS}
    if found["sslrootcert"] == "system":
        found["sslrootcert"] = None
    query = {key: value for key, value in found.items() if value} | dict(settings)
    return f"postgresql://?{_query(query)}" if query else None


def _asyncpg_timeout(dsn: Dsn) -> dict[str, float | None]:
    """Return asyncpg's `timeout`, which covers all hosts, from libpq's, which covers one."""
    text = dsn.option("connect_timeout")
    if text is None:
        return {}
    try:
        seconds = int(text)
    except ValueError:
        source = dsn.sources.get("connect_timeout", "options")
        raise ConfigError(
            f"connect_timeout (from {source}) is not a whole number of seconds; write for "
            "example connect_timeout=10"
        ) from None
    return {"timeout": float(seconds * len(dsn.hosts)) if seconds > 0 else None}


def _servers(hosts: Sequence[Host]) -> dict[str, str]:
    pairs = {
        "host": ",".join(host.host for host in hosts),
        "port": ",".join(str(host.port) for host in hosts),
    }
    if any(host.address for host in hosts):
        pairs["hostaddr"] = ",".join(host.address or "" for host in hosts)
    return pairs


def _shown(dsn: Dsn) -> dict[str, str]:
    options = {key: value for key, value in dsn.options if isinstance(value, str)}
    return _servers(dsn.hosts) | {"database": dsn.database, "user": dsn.user} | options


def _reveal(value: str | Secret) -> str:
    return value.reveal() if isinstance(value, Secret) else value


def _quoted(value: str) -> str:
    return "'" + re.sub(r"(['\\])", r"\\\1", value) + "'"


def _encoded(value: str) -> str:
    return quote(value, safe="")


def _query(pairs: Mapping[str, str]) -> str:
    return "&".join(f"{key}={_encoded(value)}" for key, value in pairs.items())


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith(("/", "@")) else _encoded(host)
