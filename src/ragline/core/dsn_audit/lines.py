"""What is read line by line: shell, env files, TOML, YAML, SQL and other configuration.

No grammar is needed for what is looked for: connection strings, variables that hold a password, and
programs that log in. `tomllib` says whether TOML is sound; YAML has no reader among our requirements.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ragline.core.dsn import HIDDEN
from ragline.core.dsn_audit import finding
from ragline.core.dsn_audit.finding import Spot
from ragline.core.dsn_audit.targets import Target, stands_for_something, targets
from ragline.core.dsn_audit.variables import holds_a_password, names_a_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Kind = Literal[
    "shell", "env", "toml", "yaml", "sql", "config", "source", "service", "passfile", "hcl"
]

PROGRAMS = (
    "psql|pg_dump|pg_dumpall|pg_restore|pgbench|createdb|dropdb|createuser|dropuser|vacuumdb"
    "|reindexdb|clusterdb|pg_basebackup|pg_amcheck|pgcli"
)
_LONGEST_LINE = 20_000
_EMPTY = frozenset({"null", "~", "|", ">", "|-", ">-", "{", "["})
_WORTH_A_LOOK = re.compile(r"postgres|password|dbname", re.IGNORECASE)
_SETTING = re.compile(
    r"(?<![\w.-])(?P<name>[A-Za-z][\w.-]{1,80})[\"']?[ \t]*(?:=>|[:=])[ \t]*"
    r"(?P<value>\"(?:\\.|[^\"\\])*\"|'[^']*'|\$\{[^}]*\}[^\s,;}]*|[^\s,;}]+)"
)
_KEY = re.compile(
    r"(?P<indent>[ \t]*)(?P<item>-[ \t]+)?[\"']?(?P<name>[A-Za-z_]{1,40})[\"']?[ \t]*[:=][ \t]*"
    r"(?P<value>.*)"
)
_DOCKER_ENV = re.compile(r"^\s*ENV\s+(?P<name>[A-Za-z]\w*)\s+(?P<value>[^\s=]\S*)", re.IGNORECASE)
_VARIABLE = re.compile(r"(?<![\\$])\$(?:(?P<plain>[A-Za-z_]\w*)|\{[#!]?(?P<braced>[A-Za-z_]\w*))")
_PRINTENV = re.compile(r"\bprintenv\s+(?P<name>[A-Za-z_]\w*)")
_SINGLE_QUOTED = re.compile(r"'[^']*'")
# In a shell: where a command begins, after assignments and words that go before it.
# Nothing is given back (*+, ++): a hostile line would be matched for ever.
_COMMAND = re.compile(
    r"(?:^|[;&|(`{!]|\b(?:then|do|else|if|while|until|exec|sudo|env|time|nohup|command|xargs)\b)"
    rf"(?:\s++|-[A-Za-z]++\s++(?:(?!(?:{PROGRAMS})\b)[a-z]++\s++)?+)*+"
    r"(?:[A-Za-z_]\w*+=(?:\"[^\"]*+\"|'[^']*+'|[^\s\"']*+)\s++)*+"
    rf"(?P<program>(?:[\w./~$-]{{1,200}}/)?(?:{PROGRAMS}))(?=[\s;&|)`]|$)(?P<arguments>[^;|\n]*)"
)
# Inside another program's arguments, or elsewhere: only with arguments that say where to.
_INNER_COMMAND = re.compile(
    rf"(?<![\w.-])(?P<program>{PROGRAMS})(?P<arguments>[\"']?,?\s+[\"']?(?:-{{1,2}}[A-Za-z]"
    r"|postgres(?:ql)?://|\$|(?:host|dbname|service)=)[^\n]*)"
)
_HARMLESS = re.compile(r"^[\"',\s]*(?:--version|--help|-V|-\?)(?![\w-])")
_RESOLVED = re.compile(r"\bragline\s+db\s+url\b")
_META_CONNECT = re.compile(r"^\s*\\(?:c|connect)\s+(?![-\s]*$)\S")
_GETENV = re.compile(r"^\s*\\getenv\s+\S+\s+(?P<name>\w+)")
_DBLINK = re.compile(r"\b(?P<name>dblink(?:_connect(?:_u)?)?)\s*\(", re.IGNORECASE)
_OTHER_READ = re.compile(
    r"(?:\benviron(?:\.get)?\s*[\[(]|\b(?:os\.)?(?:getenv|Getenv|LookupEnv)\(|\bprocess\.env\[|\bENV\["
    r"|\bENV\.fetch\(|\benv::var\(|\bGetEnvironmentVariable\()\s*[\"'](?P<quoted>[A-Za-z_]\w*)[\"']"
    r"|(?:\bprocess\.env\.|\$env:)(?P<plain>[A-Za-z_]\w*)"
)
_FLOW = re.compile(
    r"(?:(?P<title>[\w.-]{1,40})[\"']?[ \t]*[:=][ \t]*)?(?<!\$)\{(?P<inside>[^{}]{1,2000})\}"
)
_FLOW_PAIR = re.compile(
    r"[\"']?(?P<name>[A-Za-z_]{1,40})[\"']?[ \t]*[:=][ \t]*"
    r"(?P<value>\"(?:\\.|[^\"\\])*\"|'[^']*'|[^\s,}]+)"
)
_SECTION = re.compile(r"[ \t]*\[+[ \t]*[\"']?(?P<name>[\w.-]{1,80})")
_OF_A_DATABASE = re.compile(
    r"(?:^|[._-])(?:postgres|postgresql|pg|pgvector|database|db|datasource)(?:$|[._-])",
    re.IGNORECASE,
)
_REFERENCE = re.compile(
    r"=[ \t]*[A-Za-z_]\w*(?:\.[\w\[\]\"*-]+)+[ \t]*(?=$|[,}])", re.MULTILINE
)  # of Terraform: var.db_password
_PASSFILE = re.compile(r"(?:(?:\\.|[^\\:])*:){4}(?P<password>(?:\\.|[^\\:])+)")
_SQL_PASSWORD = re.compile(
    r"\bpassword\s+(?P<value>'(?:''|[^'])*'|E'(?:\\.|[^'\\])*'|\$(?P<tag>\w{0,60})\$.{0,500}?\$(?P=tag)\$)",
    re.IGNORECASE,
)


_ROLE_PASSWORD = re.compile(
    r"\b(?:create|alter)\s+(?:role|user)\b[^;]{1,300}?" + _SQL_PASSWORD.pattern, re.IGNORECASE
)
_COMMENTS = {"sql": "--", "source": "//"}


def spots(text: str, kind: Kind) -> Iterator[Spot]:
    """Yield the faults of a text, line by line."""
    if kind == "toml" and (line := _toml_fault(text)):
        yield Spot(line=line, kind=finding.UNPARSABLE, evidence="not TOML")
    if kind == "hcl":
        text = _REFERENCE.sub("= ", text)
    for number, found in enumerate(text.split("\n"), start=1):
        if kind != "source":  # what was packed for browsers
            yield from _too_long(found, number)
        yield from _in_line(found[:_LONGEST_LINE], number, kind)
    if kind in ("toml", "yaml", "config", "service", "hcl"):
        yield from _logins(text, is_service=kind == "service")


def credentials(text: str, first_line: int = 1) -> Iterator[Spot]:
    """Yield only what holds a password: of comments, output and documentation."""
    for number, line in enumerate(text.split("\n"), start=first_line):
        yield from _too_long(line, number)
        for target in targets(line[:_LONGEST_LINE]):
            if target.has_password:
                yield Spot(line=number, kind=finding.CREDENTIAL, evidence=target.shown)


def commands(text: str, number: int, *, is_shell: bool = True) -> Iterator[Spot]:
    """Yield the programs of PostgreSQL that a line starts, which log in by themselves."""
    seen = set()
    for pattern in (_COMMAND, _INNER_COMMAND) if is_shell else (_INNER_COMMAND,):
        for found in pattern.finditer(text):
            program = found["program"].rpartition("/")[2]
            if found.start("program") + len(found["program"]) - len(program) in seen:
                continue
            seen.add(found.start("program") + len(found["program"]) - len(program))
            if not _HARMLESS.match(found["arguments"]) and not _RESOLVED.search(found["arguments"]):
                yield Spot(line=number, kind=finding.OWN_CONNECT, evidence=f"{program} …")


def targets_in(text: str, number: int) -> Iterator[Spot]:
    """Yield the connection strings of one line."""
    yield from (named(target, number) for target in targets(text))


def named(target: Target, number: int) -> Spot:
    """Return that a line names a database."""
    kind = finding.CREDENTIAL if target.has_password else finding.HARD_CODED
    return Spot(line=number, kind=kind, evidence=target.shown, target=target.text)


def _too_long(line: str, number: int) -> Iterator[Spot]:
    """Yield that a line is read no further, where that may matter: what long lines hold is data."""
    if len(line) > _LONGEST_LINE and _WORTH_A_LOOK.search(line, _LONGEST_LINE):
        evidence = f"a line of more than {_LONGEST_LINE} characters, read no further"
        yield Spot(line=number, kind=finding.UNPARSABLE, evidence=evidence)


def _in_line(text: str, number: int, kind: Kind) -> Iterator[Spot]:
    code, comment = _without_comment(text, _COMMENTS.get(kind, "#"))
    yield from targets_in(code, number)
    yield from credentials(comment, number)
    yield from _PARTICULAR[kind](code, number)
    if kind != "sql":
        yield from passwords(text, number)
        yield from sql_passwords(code, number)


def is_login(names: set[str], title: str = "") -> bool:
    """Whether settings of these names, side by side, log in to a database; `title` is above them."""
    if names & {"dbname", "db_name"} or ("host" in names and names & {"database", "db"}):
        return True
    return bool(_OF_A_DATABASE.search(title) and names & {"host", "user", "username", "url"})


def login_names(given: Mapping[str, object]) -> set[str]:
    """Return the names of settings, without a `db` that is a number: that is Redis's."""
    return {name for name in given if name != "db" or not str(given[name]).isdigit()}


def sql_passwords(text: str, number: int) -> Iterator[Spot]:
    """Yield the passwords that statements within another language give."""
    for found in _ROLE_PASSWORD.finditer(text):
        yield from _sql_password(found, number + text.count("\n", 0, found.start("value")))


@dataclass(slots=True)
class _Block:
    """Settings of one indent, with what is above them."""

    indent: int
    title: str
    names: dict[str, tuple[int, str]] = field(default_factory=dict)


def _logins(text: str, *, is_service: bool) -> Iterator[Spot]:
    """Yield each `password` that stands in a block with the other parts of a login."""
    blocks: list[_Block] = []
    section = above = ""
    for number, line in enumerate(text.split("\n"), start=1):
        code = _without_comment(line[:_LONGEST_LINE], "#")[0]
        yield from _flows(code, number)
        found = _KEY.fullmatch(code)
        indent = len(found["indent"]) + len(found["item"] or "") if found else 0
        ends = line.lstrip().startswith(("[", "}", "{"))
        # The next item of a list is a block of its own.
        inside = indent if found and found["item"] else indent + 1
        while blocks and (ends or (found and blocks[-1].indent >= inside)):
            yield from _login(blocks.pop(), is_service=is_service)
        if header := _SECTION.match(line):
            section, above = header["name"], ""
        if found:
            if not blocks or blocks[-1].indent < indent:
                blocks.append(_Block(indent, above or section))
            blocks[-1].names[found["name"].lower()] = (number, found["value"])
            above = found["name"] if found["value"].strip() in ("", "{") else ""
    for block in blocks:
        yield from _login(block, is_service=is_service)


def _flows(code: str, number: int) -> Iterator[Spot]:
    """Yield the passwords of what is written in one line: {host: h, dbname: d, password: p}."""
    for flow in _FLOW.finditer(code) if "{" in code else ():
        block = _Block(0, flow["title"] or "")
        for pair in _FLOW_PAIR.finditer(flow["inside"]):
            block.names[pair["name"].lower()] = (number, pair["value"])
        yield from _login(block)


def _login(block: _Block, *, is_service: bool = False) -> Iterator[Spot]:
    names = {name: _bare(written) for name, (_, written) in block.names.items()}
    variable = names.get("name", "")
    if holds_a_password(variable) and _is_given(names.get("value", "")):
        # An item of Kubernetes, or of ECS: {name: PGPASSWORD, value: secret}.
        number = block.names["value"][0]
        yield Spot(line=number, kind=finding.CREDENTIAL, evidence=f"{variable}={HIDDEN}")
    has_url = any("postgres" in value and "://" in value for value in names.values())
    if _is_given(names.get("password", "")) and (
        is_service or has_url or is_login(login_names(names), block.title)
    ):
        number = block.names["password"][0]
        yield Spot(line=number, kind=finding.CREDENTIAL, evidence=f"password={HIDDEN}")


def _bare(written: str) -> str:
    return written.strip().rstrip(",").strip("\"'")


def _is_given(value: str) -> bool:
    return (
        bool(value)
        and value not in _EMPTY
        and not value.startswith(("!", "&", "*"))
        and not stands_for_something(value)
    )


def passwords(text: str, number: int) -> Iterator[Spot]:
    """Yield what is given to a variable that holds a password: PGPASSWORD=secret."""
    for found in (*_SETTING.finditer(text), *_DOCKER_ENV.finditer(text)):
        name, value = found["name"], found["value"].strip("\"'").strip()
        if not holds_a_password(name) or not value or value in _EMPTY:
            continue
        if not stands_for_something(value) and not value.startswith(("file:", "!")):
            evidence = f"{name}={HIDDEN}"
            yield Spot(line=number, kind=finding.CREDENTIAL, evidence=evidence)


def _shell(text: str, number: int) -> Iterator[Spot]:
    yield from commands(text, number)
    yield from _reads(text, number)
    unquoted = _outside_single_quotes(text)
    names = [found["plain"] or found["braced"] for found in _VARIABLE.finditer(unquoted)]
    names += [found["name"] for found in _PRINTENV.finditer(unquoted)]
    for name in dict.fromkeys(names):
        if names_a_database(name):
            yield Spot(line=number, kind=finding.ENVIRONMENT_READ, evidence=f"${name}")


def _outside_single_quotes(text: str) -> str:
    """Return the text without what is in single quotes, unless those are in double quotes."""
    parts = re.split(r"(\"(?:\\.|[^\"\\])*\"?)", text)
    return "".join(
        part if part.startswith('"') else _SINGLE_QUOTED.sub("''", part) for part in parts
    )


def _sql(text: str, number: int) -> Iterator[Spot]:
    if _META_CONNECT.match(text):
        yield Spot(line=number, kind=finding.OWN_CONNECT, evidence="\\connect …")
    if (found := _GETENV.match(text)) and names_a_database(found["name"]):
        yield Spot(line=number, kind=finding.ENVIRONMENT_READ, evidence=f"\\getenv {found['name']}")
    for found in _DBLINK.finditer(text):
        yield Spot(line=number, kind=finding.OWN_CONNECT, evidence=f"{found['name'].lower()}(…)")
    for found in _SQL_PASSWORD.finditer(text):
        yield from _sql_password(found, number)


def _sql_password(found: re.Match[str], number: int) -> Iterator[Spot]:
    value = found["value"].removeprefix("E").strip("'")
    if value and not stands_for_something(value):
        yield Spot(line=number, kind=finding.CREDENTIAL, evidence=f"password '{HIDDEN}'")


def _inner(text: str, number: int) -> Iterator[Spot]:
    yield from commands(text, number, is_shell=False)
    yield from _reads(text, number)


def _reads(text: str, number: int) -> Iterator[Spot]:
    """Yield the variables that a line of another language reads: os.environ["PGHOST"]."""
    for found in _OTHER_READ.finditer(text):
        name = found["quoted"] or found["plain"]
        if names_a_database(name):
            yield Spot(line=number, kind=finding.ENVIRONMENT_READ, evidence=f"environment: {name}")


def _passfile(text: str, number: int) -> Iterator[Spot]:
    if (found := _PASSFILE.fullmatch(text)) and not stands_for_something(found["password"]):
        yield Spot(line=number, kind=finding.CREDENTIAL, evidence=f"password={HIDDEN}")


def _nothing(_text: str, _number: int) -> Iterator[Spot]:
    yield from ()


_PARTICULAR: dict[Kind, Callable[[str, int], Iterator[Spot]]] = {
    "shell": _shell,
    "sql": _sql,
    "yaml": _inner,
    "toml": _inner,
    "config": _inner,
    "env": _nothing,
    "source": _reads,
    "service": _nothing,
    "hcl": _inner,
    "passfile": _passfile,
}


def _without_comment(text: str, mark: str) -> tuple[str, str]:
    """Return the line before its comment, and the comment."""
    if mark not in text:
        return text, ""
    quote = ""
    position = 0
    while position < len(text):
        letter = text[position]
        if quote:
            position += letter == "\\" and quote == '"'
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif text.startswith(mark, position) and (
            mark == "--" or position == 0 or text[position - 1].isspace()
        ):
            return text[:position], text[position:]
        position += 1
    return text, ""


def _toml_fault(text: str) -> int | None:
    """Return the line in which TOML breaks off, or None when it is sound."""
    try:
        tomllib.loads(text)
    except RecursionError:
        return 1
    except ValueError as error:
        # Not its words, which may quote the text; the line is at their end.
        found = re.search(r"line (\d+)", str(error).rpartition("(at")[2])
        return int(found[1]) if found else max(1, text.count("\n"))
    return None
