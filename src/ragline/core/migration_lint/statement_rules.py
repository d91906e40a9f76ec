"""What single statements do wrong, in the order in which a direction of a revision sends them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ragline.core.migration_lint import sql
from ragline.core.migration_lint.revision import Statement
from ragline.core.migration_sql import NAME, PART, divided, plain

Fault: TypeAlias = "tuple[str, int, str]"
_Seen: TypeAlias = "Callable[[_Course, str], Iterator[tuple[str, str]]]"

_VECTOR = re.compile(r"\b(vector|halfvec|sparsevec)\b", re.IGNORECASE)
_CREATED = re.compile(rf"^create (?:unlogged |temp |temporary )*table (?:if not exists )?({NAME})")
_INDEX = re.compile(
    rf"^create (?:unique )?index (concurrently )?(if not exists )?(?:({NAME}) )?on (?:only )?({NAME})"
    r"(?: using (\w+))?"
)
_ALTER = re.compile(rf"^alter table (?:if exists )?(?:only )?({NAME})\s*\*? (.*)$", re.DOTALL)
_VOLATILE = re.compile(
    r"\b(random|clock_timestamp|timeofday|gen_random_uuid|uuid_generate_v\d\w*|uuidv7|uuidv4"
    r"|nextval|statement_timestamp|txid_current|setval)\s*\("
)
# No word boundary after a name: it may end in a quote.
_UPDATE = re.compile(rf"^update (?:only )?({NAME})(?![\w$])(.*)$", re.DOTALL)
_DELETE = re.compile(rf"^(?:delete from) (?:only )?({NAME})(?![\w$])(.*)$", re.DOTALL)
_SET = re.compile(r"^set (?!constraints\b|transaction\b|session characteristics\b)(local )?(.*)$")
_TIMEOUT = re.compile(
    r"^(?:(?:set|reset) (?:local |session )?(\w+_timeout|all)\b(.*)"
    r"|select (?:pg_catalog\.)?set_config ?\()"
)
_NAMED_TIMEOUT = re.compile(r"'(\w+_timeout)'\s*,\s*('[^']*'|[^,]*)")
_NO_LIMIT = re.compile(r"^(?:(?:=|to)\s*)?'?\s*(?:0+\s*(?:us|ms|s|min|h|d)?|default)?\s*'?$")
_FOR_THE_SESSION = re.compile(r"\bset_config ?\( ?''\s*,\s*[^,]*,\s*false\b")
_LOCKS = re.compile(
    r"^(alter (?:table|index|sequence|view|materialized|type|domain)|drop |create (?:unique )?index"
    r"|truncate|lock |reindex|cluster|vacuum|create (?:constraint )?trigger|create policy|refresh"
    r"|update |delete )"
)
_OF_A_TABLE = re.compile(rf"^create (?:trigger|policy) .*? on ({NAME})")
_NO_BOUND = re.compile(
    r"(?:is (?:not )?null|is (?:not )?distinct from \S+|<> ?\S+|!= ?\S+|^true|^\(*\d+ ?= ?\d+"
    # A row of one table for each of another.
    rf"|^\(*{PART}\s*\.\s*{NAME} ?= ?{PART}\s*\.\s*{NAME})\)*$"
)
_SCANS = re.compile(
    r"^add (?:constraint " + PART + r" )?(check|foreign key|unique|primary key|exclude)\b"
)
_SCANS_OF_COLUMN = re.compile(r"\b(unique|primary key|references|check)\b")
_REWRITES = re.compile(r"^(vacuum (?:\([^)]*\bfull\b[^)]*\)|full\b)|cluster\b)")
_REWRITES_TABLE = re.compile(r"^set (?:logged|unlogged|tablespace|access method)\b")
_VECTOR_COLUMN = re.compile(
    rf"(?:^|[(,]|\badd (?:column )?(?:if not exists )?)\s*({PART}) (?:{PART}\s*\.\s*)?"
    r"\"?(?:vector|halfvec|sparsevec)\b", re.IGNORECASE
)  # fmt: skip


@dataclass(slots=True)
class _Course:
    """What was sent so far."""

    made: set[str] = field(default_factory=set)
    checked: bool = False
    timeouts: set[str] = field(default_factory=set)
    missed: set[str] = field(default_factory=set)
    is_autocommit: bool = False
    vectors: frozenset[tuple[str, str]] = frozenset()

    def is_new(self, table: str) -> bool:
        return _short(table) in self.made


def _short(table: str) -> str:
    """Return a table as most people mean it: without the schema that comes first."""
    return plain(table).removeprefix("public.")


def vectors(sent: Sequence[Statement]) -> set[tuple[str, str]]:
    """Return the columns, each with its table, that statements make as vectors."""
    found = set()
    for statement in sent:
        for text in sql.statements(statement.sql):
            blank = sql.without_texts(text)
            match = _CREATED.match(blank) or _ALTER.match(blank)
            if match is not None:
                columns = _VECTOR_COLUMN.findall(blank[match.end(1) :])
                found |= {(_short(match[1]), plain(column)) for column in columns}
    return found


def faults(
    sent: Sequence[Statement], known_vectors: frozenset[tuple[str, str]] = frozenset()
) -> Iterator[Fault]:
    """Yield the faults of what a direction sends: rule, line and what was seen."""
    course = _Course(vectors=known_vectors)
    for statement in sent:
        if statement.is_autocommit != course.is_autocommit:
            # What was set for the transaction is gone with it.
            course.is_autocommit = statement.is_autocommit
            course.timeouts.clear()
        for text in sql.statements(statement.sql):
            for rule, evidence in _of_one(course, text):
                yield rule, statement.line, evidence


def _of_one(course: _Course, text: str) -> Iterator[tuple[str, str]]:
    blank = sql.without_texts(text)
    for seen in _RULES:
        yield from seen(course, text if seen in _READS_TEXTS else blank)
    if created := _CREATED.match(blank):
        course.made.add(_short(created[1]))


def _indexes(course: _Course, text: str) -> Iterator[tuple[str, str]]:
    match = _INDEX.match(text)
    if match is None:
        if text.startswith("reindex ") and not re.search(r"\bconcurrently\b", text):
            yield "index-without-concurrently", text[:80]
        return
    concurrently, unless, name, table, method = match.groups()
    where = f"on {plain(table)}"
    if name is None:
        yield "index-without-name", f"an index {where} has no name"
    if concurrently:
        if unless:
            yield "if-not-exists-on-concurrent-index", f"{plain(name or 'index')} {where}"
    elif not course.is_new(table):
        rule = (
            "vector-index-without-concurrently"
            if method in ("hnsw", "ivfflat")
            else "index-without-concurrently"
        )
        yield rule, f"{method or 'an index'} {where}"


def _concurrently(course: _Course, text: str) -> Iterator[tuple[str, str]]:
    match = re.match(
        r"^(create (?:unique )?index|drop index|reindex .*|alter table .* detach partition .*"
        r"|refresh materialized view) concurrently\b", text
    )  # fmt: skip
    if match and not course.is_autocommit:
        yield "concurrently-in-transaction", text[:80]


def _alterations(course: _Course, text: str) -> Iterator[tuple[str, str]]:
    match = _ALTER.match(text)
    if match is None:
        return
    table = plain(match[1])
    for action in divided(match[2]):
        for rule, evidence in _alteration(course, match[1], action):
            yield rule, f"{table}: {evidence}"


def _alteration(course: _Course, table: str, action: str) -> Iterator[tuple[str, str]]:
    is_new = course.is_new(table)
    if dropped := re.match(rf"^drop (?:column )?(?!constraint )(?:if exists )?({PART})", action):
        if not is_new:
            yield "drop-column", f"drops {plain(dropped[1])}"
    elif re.match(r"^(?:rename (?!constraint\b)|set schema )", action):
        if not is_new:
            yield "rename-in-use", action
    elif not is_new:
        yield from _rewrites(course, table, action)


def created(text: str) -> str | None:
    """Return the table that a statement makes, or None."""
    match = _CREATED.match(text)
    return match and plain(match[1])


def altered(text: str) -> tuple[str, list[str]]:
    """Return the table that a statement alters, and how; no actions where it alters none."""
    match = _ALTER.match(text)
    return (plain(match[1]), divided(match[2])) if match else ("", [])


def _rewrites(course: _Course, table: str, action: str) -> Iterator[tuple[str, str]]:
    if typed := re.match(rf"^alter (?:column )?({PART}) (?:set data )?type\b", action):
        if _VECTOR.search(action) or (_short(table), plain(typed[1])) in course.vectors:
            yield "vector-type-change", action[:80]
    elif _REWRITES_TABLE.match(action):
        yield "rewrite-under-lock", action[:80]
    elif re.match(rf"^alter (?:column )?{PART} set not null", action):
        if not course.checked:
            yield "not-null-without-check", action
    elif scan := _SCANS.match(action):
        if not action.endswith("not valid") and " using index " not in action:
            yield "constraint-without-not-valid", f"{scan[1]} without NOT VALID"
    elif action.startswith("validate constraint"):
        course.checked = True
    elif action.startswith("add "):
        yield from _of_new_column(action)


def _of_new_column(action: str) -> Iterator[tuple[str, str]]:
    if found := _written_anew(action):
        yield "add-column-volatile-default", found
    scan = _SCANS_OF_COLUMN.search(sql.outermost(action))
    if scan is not None and not action.startswith("add constraint"):
        yield "constraint-without-not-valid", f"{scan[1]} of a new column"


def _written_anew(action: str) -> str | None:
    """Return why a new column has to be written into every row, or None."""
    if default := re.search(r"\bdefault (.*)$", action):
        found = _VOLATILE.search(default[1])
        return f"default {found[1]}()" if found else None
    return action[:80] if re.search(r"\b(?:big|small)?serial\b|\bgenerated\b", action) else None


def _rows(course: _Course, text: str) -> Iterator[tuple[str, str]]:
    for part in sql.parts_of(text):
        if (match := _UPDATE.match(part)) and not course.is_new(match[1]):
            if lacks := _unbounded(match[2], text):
                yield "unbounded-update", f"update {plain(match[1])}: {lacks}"
            continue
        match = _DELETE.match(part)
        if match and not course.is_new(match[1]) and (lacks := _unbounded(match[2], text)):
            yield "unbounded-delete", f"delete of {plain(match[1])}: {lacks}"
    if text.startswith("truncate "):
        yield "truncate", text[:80]


def _unbounded(rest: str, text: str) -> str | None:
    """Return why a statement reaches as many rows as the table has, or None."""
    if re.search(r"\blimit\b", text):
        return None
    where = re.search(r"\bwhere\b(.*?)(?:\breturning\b.*)?$", sql.outermost(rest), re.DOTALL)
    if where is None:
        return "no where"
    conditions = re.split(r"\b(?:and|or)\b", where[1])
    if all(_NO_BOUND.search(condition.strip()) for condition in conditions):
        return f"where{where[1][:60].rstrip()} has no bound"
    return None


def _drops(course: _Course, text: str) -> Iterator[tuple[str, str]]:
    names = dropped_tables(text)
    for name in names:
        if not course.is_new(name):
            yield "drop-table", f"drops {name}"
    if not names and re.match(r"^drop .* cascade$|^drop owned\b", text):
        yield "drop-cascade", text[:80]
    if rewriting := _REWRITES.match(text):
        yield "rewrite-under-lock", rewriting[1]


def dropped_tables(text: str) -> list[str]:
    """Return the tables, or schemas, that a statement drops."""
    match = re.match(r"^drop (?:table|schema) (?:if exists )?(.*?)(?: cascade| restrict)?$", text)
    return sql.names(match[1]) if match else []


def _settings(course: _Course, text: str) -> Iterator[tuple[str, str]]:
    if text.startswith("alter system"):
        yield "alter-system", text[:80]
    match = _SET.match(text)
    is_role = match is not None and re.match(r"(?:session )?(?:role|authorization)\b", match[2])
    is_of_session = match is not None and not match[1] and not is_role
    if (is_of_session and not course.is_autocommit) or _FOR_THE_SESSION.search(text):
        yield "set-without-local", text[:80]
    if text.startswith("create extension") and not (
        " version " in f"{text} " and " schema " in f"{text} "
    ):
        yield "create-extension-unpinned", text[:80]


def _waits(course: _Course, text: str) -> Iterator[tuple[str, str]]:
    if timeout := _TIMEOUT.match(text):
        named = [(timeout[1], timeout[2])] if timeout[1] else _NAMED_TIMEOUT.findall(text)
        for name, value in named:
            if name == "all":
                course.timeouts.clear()
            elif _NO_LIMIT.match(value.strip()):
                course.timeouts.discard(name)
            else:
                course.timeouts.add(name)
        return
    if not _LOCKS.match(text) or _waits_beside(text) or _is_of_new(course, text):
        return
    for name in ("lock_timeout", "statement_timeout"):
        rule = f"missing-{name.replace('_', '-')}"
        if name not in course.timeouts and rule not in course.missed:
            course.missed.add(rule)
            yield rule, f"before: {text[:70]}"


def _waits_beside(text: str) -> bool:
    return re.search(r"\bconcurrently\b", sql.outermost(sql.without_texts(text))) is not None


def _is_of_new(course: _Course, text: str) -> bool:
    """Whether a statement is about a table that this direction made: nobody waits for it."""
    found = _ALTER.match(text) or _UPDATE.match(text) or _DELETE.match(text)
    if found is None and (index := _INDEX.match(text)):
        return course.is_new(index[4])
    if found is None and (of := _OF_A_TABLE.match(text)):
        return course.is_new(of[1])
    return found is not None and course.is_new(found[1])


_RULES: tuple[_Seen, ...] = (
    _indexes, _concurrently, _alterations, _rows, _drops, _settings, _waits,
)  # fmt: skip
_READS_TEXTS = (_waits,)
