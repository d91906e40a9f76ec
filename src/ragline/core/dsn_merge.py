"""Several sources make one database: the merge of parsed parameters by libpq's rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ragline.core.dsn import DEFAULT_PORT, SECRET_OPTIONS, Dsn, Host, Secret
from ragline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Each connection carries the name of its workload instead.
_REPLACED = frozenset({"application_name", "fallback_application_name", "service", "servicefile"})
_PARTS = frozenset({"host", "hostaddr", "port", "dbname", "user", "password"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The parameters, by libpq's names, that one place gives: a URL, a variable, a service."""

    name: str
    parameters: Mapping[str, str] = field(repr=False)


def merge(sources: Sequence[Source], *, os_user: str, default_host: Callable[[int], str]) -> Dsn:
    """Return the database that the sources name together; the first that gives a part wins.

    `default_host` says where a server on this machine listens on a port. Raises ConfigError.
    """
    given = {
        key: (value, source.name)
        for source in reversed(sources)
        for key, value in source.parameters.items()
        if value and key not in _REPLACED
    }
    hosts, where = _hosts(given, default_host)
    user, where["user"] = given.get("user", (os_user, "default (the system user)"))
    database, where["database"] = given.get("dbname", (user, "default (the user's name)"))
    password = None
    if "password" in given:
        text, where["password"] = given["password"]
        password = Secret(text)
    options = {key: given[key] for key in sorted(given.keys() - _PARTS)}
    where |= {key: source for key, (_, source) in options.items()}
    return Dsn(
        hosts=hosts,
        database=database,
        user=user,
        password=password,
        options=tuple((key, _kept(key, value)) for key, (value, _) in options.items()),
        sources=where,
    )


def _hosts(
    given: Mapping[str, tuple[str, str]], default_host: Callable[[int], str]
) -> tuple[tuple[Host, ...], dict[str, str]]:
    """Return the servers and where host and port came from, by libpq's rules for lists."""
    addresses, address_source = given.get("hostaddr", ("", "default"))
    names, name_source = given.get("host", (addresses, address_source))
    ports, port_source = given.get("port", ("", "default"))
    hosts = names.split(",")
    numbers = _ports(ports, port_source, len(hosts))
    if "host" not in given:
        addresses = ""
    each_address = addresses.split(",") if addresses else [""] * len(hosts)
    if len(each_address) != len(hosts):
        raise ConfigError(
            f"{len(each_address)} addresses (hostaddr, from {address_source}) do not match "
            f"{len(hosts)} hosts (from {name_source}); give one address for each host"
        )
    _check_hosts(hosts, name_source)
    found = tuple(
        Host(host or address or default_host(port), port, address if host and address else None)
        for host, port, address in zip(hosts, numbers, each_address, strict=True)
    )
    # "a,b" in a URL is two hosts with two ports that are not given: libpq then ignores PGPORT.
    where = {"host": name_source, "port": port_source if ports.strip(",") else "default"}
    return found, where | ({"hostaddr": address_source} if addresses else {})


def _ports(text: str, source: str, count: int) -> list[int]:
    each = text.split(",")
    if len(each) == 1:
        each *= count
    if len(each) != count:
        raise ConfigError(
            f"{len(each)} ports (from {source}) do not match the number of hosts, {count}; "
            "give one port for all, or one for each"
        )
    return [_port(item, source) for item in each]


def _port(text: str, source: str) -> int:
    # The text is not shown: after "user:pa/ss@host" without percent-encoding it is a password.
    if not text:
        return DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise ConfigError(
            f"the port from {source} is not a number from 1 to 65535; if a password there holds "
            '"/", "@" or ":", percent-encode it'
        )
    return int(text)


def _check_hosts(hosts: Sequence[str], source: str) -> None:
    # Not shown, for the same reason: "user:pa@ss@host" makes "ss@host" the host.
    if any("@" in host[1:] or host == "@" for host in hosts):
        raise ConfigError(
            f'the host from {source} holds "@"; a password with "@" must be percent-encoded (%40)'
        )


def _kept(name: str, value: str) -> str | Secret:
    return Secret(value) if name in SECRET_OPTIONS else value
