"""Connection strings in a text: found, shown without their secrets.

What is shown is put together from the parts that look like a host, a port, a user and a database.
Nothing is quoted: a password that is not percent-encoded may be anywhere in the string.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ragline.core.dsn import HIDDEN, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

_URL = re.compile(
    r"(?<![A-Za-z0-9])(?P<scheme>(?:jdbc:)?postgres(?:ql)?(?:\+[A-Za-z0-9_]+)?)://", re.IGNORECASE
)
_END = re.compile(r"[\s\"'`<>|]|\\(?=[nrt\"'])")
_PLAIN_END = "),;]}."
# ${NAME}, $NAME, $(command), {name}, {{ name }}, %s, %(name)s, <name>, ***, …, ...
_STANDS_FOR = re.compile(
    r"\$\{\{?[^{}]*\}\}?|\$\([^()]*\)|\$\w+|\{\{[^{}]*\}\}|\{[^{}]*\}|%\(\w+\)s|%s|<[^<>]*>|\*{2,}"
    r"|…|\.\.\.",
)
_DEFAULT = re.compile(r"\$\{\w+:?[-=](?P<text>[^{}]*)\}")
_SHOWABLE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9_])?")
_HOST = re.compile(r"[A-Za-z0-9_.,:/\[\]%-]{1,200}")
_LONGEST = 2000
_KEYWORDS = (
    "host|hostaddr|port|dbname|user|password|service|passfile|sslmode|sslcert|sslkey|sslrootcert"
    "|connect_timeout|application_name|options|target_session_attrs|client_encoding|sslpassword"
)
_PAIR = rf"(?:{_KEYWORDS})\s{{0,9}}=\s{{0,9}}(?:'(?:\\.|[^'\\]){{0,500}}'|[^\s'\"`]{{0,500}})"
_PAIRS = re.compile(rf"(?<![\w.&?$-]){_PAIR}(?:\s+{_PAIR})+")
_EACH = re.compile(rf"({_KEYWORDS})\s*=\s*('(?:\\.|[^'\\])*'|[^\s'\"`]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One connection string. `text` is set when it is complete, to be tried."""

    start: int
    end: int
    shown: str
    has_password: bool
    text: Secret | None = field(default=None, repr=False)


def stands_for_something(value: str) -> bool:
    """Whether a value is put in later: `${NAME}`, `{name}`, `%s`, `***`; a default makes it real."""
    if any(default["text"].strip() for default in _DEFAULT.finditer(value)):
        return False
    return not _STANDS_FOR.sub("", value).strip()


def targets(text: str) -> Iterator[Target]:
    """Yield the connection strings in a text."""
    urls = list(_URL.finditer(text)) if "://" in text else []
    following = [*(found.start() for found in urls[1:]), len(text)]
    for found, next_one in zip(urls, following, strict=False):
        limit = min(next_one, found.end() + _LONGEST)
        end = _end(text, found, limit)
        is_cut = end == limit < len(text)
        if target := _of_url(found["scheme"], text[found.end() : end], found.start(), end):
            yield _hidden(target) if is_cut or _goes_on(text[end:limit]) else target
    for found in _PAIRS.finditer(text) if "=" in text else ():
        if target := _of_pairs(found[0], found.start(), found.end()):
            yield target


def _goes_on(rest: str) -> bool:
    """Whether a password may hold what ended the string: an @ follows, and no quote closed it."""
    if re.match(r"[\"'`](?:[\s,;:)\]}\\]|$)", rest):
        return False
    return "@" in rest.partition("\n")[0][:1000]


def _end(text: str, found: re.Match[str], limit: int) -> int:
    """Return where a URL ends: at its quote when it is in quotes, else at a space."""
    quote = text[found.start() - 1 : found.start()]
    if quote and quote in "\"'`":
        closing = text.find(quote, found.end(), limit)
        line = text.find("\n", found.end(), limit)
        if closing >= 0 and (line < 0 or closing < line):
            return closing
    start, position = found.end(), found.end()
    while end := _END.search(text, position, limit):
        # "<" may begin a name that stands for something, which ends with ">".
        standing = _STANDS_FOR.match(text, end.start(), limit)
        if standing is None or end[0] != "<" or "\n" in standing[0]:
            break
        position = standing.end()
    stop = end.start() if end else limit
    whole = text[start:stop]
    if _closes_a_placeholder(whole):
        return stop
    return start + len(whole.rstrip(_PLAIN_END))


def _closes_a_placeholder(whole: str) -> bool:
    standing = [one.end() for one in _STANDS_FOR.finditer(whole)]
    return bool(standing) and standing[-1] == len(whole)


def _of_url(scheme: str, rest: str, start: int, end: int) -> Target | None:
    before, _, query = _cut(rest)
    # The last @, because a password that is not encoded may hold others.
    login, at, server = before.rpartition("@")
    user, colon, password = login.partition(":")
    authority, _, path = server.partition("/")
    host, port = _host_and_port(authority)
    given = dict(_query(query))
    if not at and "@" in query:
        return _unclear(scheme, start, end)
    user, password = user or given.get("user", ""), password or given.get("password", "")
    host = host or given.get("host", "") or given.get("hostaddr", "")
    port, database = port or given.get("port", ""), path or given.get("dbname", "")
    if port.casefold() == "port":
        return None  # a form to fill in: user:password@host:port/database
    is_broken = bool(port) and not stands_for_something(port) and not _is_ports(port)
    if is_broken:
        return _unclear(scheme, start, end)  # user:password/database, or a password with a "/"
    if not any(part and not stands_for_something(part) for part in (host, database, password)):
        return None
    has_password = bool(password) and not stands_for_something(password)
    shown = _shown_url(scheme, user, bool(password or (at and colon)), host, port, database)
    return Target(
        start=start,
        end=end,
        shown=shown,
        has_password=has_password,
        text=None if _is_open(rest) else Secret(f"{scheme.split(':')[-1]}://{rest}"),
    )


def _unclear(scheme: str, start: int, end: int) -> Target:
    """Return what is malformed in a way that an unencoded password makes."""
    return Target(start=start, end=end, shown=f"{scheme}://{HIDDEN}", has_password=True)


def _cut(rest: str) -> tuple[str, str, str]:
    """Return what is before the parameters, the ?, and the parameters."""
    at = rest.rfind("@")
    query = rest.find("?", at + 1)
    if query < 0:
        # `user:pass?word/host=a@b`: nobody knows; a ? before the last @ may be of a parameter.
        query = rest.find("?")
        if query >= 0 and not re.match(r"\w+=", rest[query + 1 :]):
            query = -1
    return (rest, "", "") if query < 0 else (rest[:query], "?", rest[query + 1 :])


def _host_and_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        address, _, port = authority.partition("]")
        return address + "]", port.removeprefix(":")
    outside = _STANDS_FOR.sub(lambda one: one[0].replace(":", "\0"), authority)
    host, _, port = outside.partition(":")
    return host.replace("\0", ":"), port.replace("\0", ":")


def _is_ports(port: str) -> bool:
    # Of several hosts, what follows the first colon: 5432,second:5433
    return re.fullmatch(r"\d{1,5}(?:,[A-Za-z0-9_.\[\]:-]*)?", port, re.ASCII) is not None


def _query(query: str) -> Iterator[tuple[str, str]]:
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        yield name, unquote(value, errors="replace")


def _is_open(rest: str) -> bool:
    return _STANDS_FOR.search(rest) is not None


def _shown_url(
    scheme: str, user: str, has_password: bool, host: str, port: str, database: str
) -> str:
    login = f"{_part(user)}{':' + HIDDEN if has_password else ''}@" if user or has_password else ""
    address = _part(host, _HOST) + (f":{_part(port, _HOST)}" if port else "")
    return f"{scheme}://{login}{address}/{_part(database)}"


def _part(value: str, pattern: re.Pattern[str] = _SHOWABLE) -> str:
    if not value or pattern.fullmatch(value):
        return value
    return "{…}" if stands_for_something(value) else HIDDEN


def _hidden(target: Target) -> Target:
    return replace(target, shown=f"{target.shown.partition('://')[0]}://{HIDDEN}", text=None)


def _of_pairs(text: str, start: int, end: int) -> Target | None:
    given = {name: _unquoted(value) for name, value in _EACH.findall(text)}
    named = given.keys()
    if not ("dbname" in named or ("host" in named and named & {"user", "password", "port"})):
        return None
    parts = [given.get(name, "") for name in ("host", "dbname", "password", "hostaddr")]
    if not any(part and not stands_for_something(part) for part in parts):
        return None
    password = given.get("password", "") or given.get("sslpassword", "")
    shown = [
        f"{name}={_part(given[name], _HOST if name == 'host' else _SHOWABLE)}"
        for name in ("host", "port", "dbname", "user")
        if name in given
    ]
    shown += [f"password={HIDDEN}"] if password else []
    return Target(
        start=start,
        end=end,
        shown=" ".join(shown),
        has_password=bool(password) and not stands_for_something(password),
        text=None if any(map(_is_open, given.values())) else Secret(text),
    )


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == "'":
        return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
    return value.rstrip(",;)")  # of the sentence around it
