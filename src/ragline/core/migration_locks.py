"""What a statement of a migration locks, and whom that holds up.

It is read from the words of the statement, as `alembic upgrade --sql` writes them. What it may lose is
read as well; a statement that is not known to lose nothing counts as losing what cannot be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from ragline.core.migration_sql import NAME, PART, before_word, calls, divided, last, plain, split
from ragline.core.migration_statements import Loss, OutsideIndex, Statement, Way, unknown

_EXCLUSIVE = ("ACCESS EXCLUSIVE", "readers and writers")
_WRITERS = ("SHARE ROW EXCLUSIVE", "writers")
_INDEXING = ("SHARE", "writers")
_BESIDE = ("SHARE UPDATE EXCLUSIVE", "other changes of the table")
_WRITING = ("ROW EXCLUSIVE", "writers of the same rows")
_NOBODY = ("none", "nothing")
_BORDERS = ("begin", "start", "commit", "end", "rollback", "abort")
_SAVEPOINT = re.compile(r"(?i)rollback\s+(work\s+|transaction\s+)?to\b")
_CASCADE = re.compile(r"(?i)\bcascade\s*$")
_NO_COLUMN = ("constraint", "foreign", "primary", "unique", "check", "exclude", "column", "if")
_TYPED = re.compile(
    rf"\s*alter\s+(?:column\s+)?(?P<column>{PART})\s+(?:set\s+data\s+)?type\s+"
    r"(?P<type>.+?)(?:\s+collate\s+\S+)?(?:\s+using\b(?P<using>.+))?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_MAY_LOSE = re.compile(
    r"(?i)\b(delete|drop|truncate|update|merge|alter|execute|perform|call|copy)\b"
)
_FOR_UPDATE = re.compile(r"(?i)\bfor\s+(no\s+key\s+)?update\b")
_MOVING = (
    r"set\s+(?:session\s+|local\s+)?(?:search_path|schema|role|session\s+authorization)\b"
    r"|reset\s+(?:search_path|role|session\s+authorization|all)\b|discard\b"
    r"|alter\s+schema\b.*\brename\b"
)
_MOVING_SELECT = re.compile(r"(?i)'(search_path|role|session_authorization)'")
_DROPPED = (
    r"view|materialized\s+view|index|trigger|event\s+trigger|policy|rule|statistics|function|"
    r"procedure|routine|aggregate|type|domain|schema|sequence|operator|cast|collation|role|user|"
    r"group|publication|subscription|text\s+search|access\s+method|transform|conversion|language|"
    r"server|foreign\s+data\s+wrapper|user\s+mapping|foreign\s+table"
)
_ALTERED = (
    r"index|view|materialized\s+view|sequence|function|procedure|routine|aggregate|type|domain|"
    r"extension|schema|role|user|group|default\s+privileges|policy|trigger|event\s+trigger|"
    r"publication|subscription|statistics|collation|foreign\s+table|database|system|operator|"
    r"text\s+search|rule|language|server|tablespace|large\s+object"
)
_HARMLESS = (
    r"set|show|reset|grant|revoke|analyze|analyse|vacuum|reindex|lock|savepoint|release|rollback|"
    r"notify|listen|unlisten|cluster|checkpoint|refresh|import\s+foreign\s+schema|security\s+label|"
    r"comment|reassign|load"
)


def statements(sql: str) -> list[Statement]:
    """Return what each statement of a migration does; BEGIN, COMMIT and the like are left out.

    What stands between COMMIT and BEGIN runs outside of a transaction: `autocommit_block` writes that.
    """
    found = []
    is_outside = False
    for text in split(sql):
        if _is_border(text):
            is_outside = _first_word(text) not in ("begin", "start")
        else:
            found.append(replace(read(text), is_outside=is_outside))
    return found


def ends_transaction(sql: str) -> bool:
    """Return whether one of some statements begins or ends a transaction."""
    return any(map(_is_border, split(sql)))


def read(text: str) -> Statement:
    """Return what one statement locks and may lose."""
    return next(
        reader(text, match)
        for pattern, reader in _READERS
        if (match := pattern.match(text)) is not None
    )


def _is_border(text: str) -> bool:
    return _first_word(text) in _BORDERS and not _SAVEPOINT.match(text)


def _first_word(text: str) -> str:
    return text.split(None, 1)[0].lower()


# Reading. Each takes the statement and its match.


def _names(text: str) -> tuple[str, ...]:
    return tuple(re.findall(NAME, text))


def _emptied(text: str, names: str, way: Way, is_lenient: bool) -> Statement:
    tables = _names(re.sub(r"(?i)\bonly\b|\*", "", names))
    return Statement(
        text=text,
        lock=_EXCLUSIVE[0],
        blocks=_EXCLUSIVE[1],
        tables=tables,
        losses=tuple(
            Loss(kind="rows", table=table, way=way, is_lenient=is_lenient) for table in tables
        ),
        writes=tables if way.startswith("truncate") else (),
    )


def _drop_table(text: str, match: re.Match[str]) -> Statement:
    names = re.sub(r"(?i)\b(cascade|restrict)\s*$", "", match["rest"])
    way: Way = "drop cascade" if _CASCADE.search(text) else "drop"
    return _emptied(text, names, way, match["lenient"] is not None)


def _truncate(text: str, match: re.Match[str]) -> Statement:
    rest = re.sub(r"(?i)\b(restart|continue)\s+identity|\b(cascade|restrict)\b", "", match["rest"])
    way: Way = "truncate cascade" if _CASCADE.search(text) else "truncate"
    return _emptied(text, rest, way, False)


def _create_table(text: str, match: re.Match[str]) -> Statement:
    others = _referenced(text)
    lock, blocks = _WRITERS if others else _NOBODY
    return Statement(
        text=text,
        lock=lock,
        blocks=blocks,
        tables=others,
        creates=() if match["lenient"] else (plain(match["name"]),),
        may_create=(plain(match["name"]),) if match["lenient"] else (),
        calls=calls(text),
    )


def _create_index(text: str, match: re.Match[str]) -> Statement:
    return _index(text, match, "create", match["table"], _INDEXING)


def _drop_index(text: str, match: re.Match[str]) -> Statement:
    return _index(text, match, "drop", None, _EXCLUSIVE)


def _index(
    text: str,
    match: re.Match[str],
    action: Literal["create", "drop"],
    table: str | None,
    in_one_go: tuple[str, str],
) -> Statement:
    name, is_beside = match["name"], match["concurrently"] is not None
    lock, blocks = _BESIDE if is_beside else in_one_go
    index = OutsideIndex(
        action=action, name=name or "", table=table, is_lenient=match["lenient"] is not None
    )
    return Statement(
        text=text,
        lock=lock,
        blocks=blocks,
        tables=(table or f"the table of {name}",),
        index=index if is_beside and name else None,
        calls=calls(text),
    )


def _alter_table(text: str, match: re.Match[str]) -> Statement:
    table, rest = match["name"], match["rest"]
    lock, blocks = _EXCLUSIVE
    if re.match(r"(?i)\s*(validate\s+constraint|alter\s+(column\s+)?\S+\s+set\s+stat)", rest):
        lock, blocks = _BESIDE
    is_key = re.match(r"(?i)\s*add\s+(constraint\s+\S+\s+)?foreign\s+key", rest) is not None
    if is_key:
        lock, blocks = _WRITERS
    added, maybe_added = _added(table, rest)
    return Statement(
        text=text,
        lock=lock,
        blocks=blocks,
        tables=(table, *(_referenced(rest) if is_key else ())),
        creates=added,
        may_create=maybe_added,
        losses=tuple(_altered(table, rest)),
        renames=tuple(_renamed(table, rest)),
        calls=calls(text),
    )


def _referenced(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(re.findall(rf"(?i)\breferences\s+({NAME})", text)))


def _added(table: str, rest: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that are added, and those that are where they are not there already."""
    new: list[str] = []
    maybe: list[str] = []
    for lenient, word in re.findall(
        rf"(?i)\badd\s+(?:column\s+)?(if\s+not\s+exists\s+)?({PART})", rest
    ):
        if word.lower() not in _NO_COLUMN:
            (maybe if lenient else new).append(f"{plain(table)}.{plain(word)}")
    return tuple(new), tuple(maybe)


def _renamed(table: str, rest: str) -> Iterator[tuple[str, str]]:
    name = plain(table)
    schema = name.rpartition(".")[0]
    if found := re.match(rf"(?i)\s*rename\s+to\s+({PART})", rest):
        yield name, f"{schema}.{plain(found[1])}" if schema else plain(found[1])
    elif found := re.match(rf"(?i)\s*set\s+schema\s+({PART})", rest):
        yield name, f"{plain(found[1])}.{last(name)}"
    elif found := re.match(
        rf"(?i)\s*rename\s+(?!constraint\b)(?:column\s+)?({PART})\s+to\s+({PART})", rest
    ):
        yield f"{name}.{plain(found[1])}", f"{name}.{plain(found[2])}"


def _altered(table: str, rest: str) -> Iterator[Loss]:
    dropped = (
        r"(?i)\bdrop\s+(?!constraint\b|default\b|not\b|identity\b|expression\b)"
        rf"(?:column\s+)?(if\s+exists\s+)?({PART})"
    )
    for lenient, column in re.findall(dropped, rest):
        yield Loss(kind="column", table=table, columns=(column,), is_lenient=bool(lenient))
    for action in divided(rest):
        if (found := _TYPED.match(action)) is None:
            continue
        column, using = found["column"], re.sub(r"[()\s]", "", found["using"] or "")
        is_plain = plain(using.partition("::")[0]) == plain(column)
        yield Loss(
            kind="type",
            table=table,
            columns=(column,),
            new_type=found["type"].strip(),
            is_computed=bool(using) and not is_plain,
        )


def _delete(text: str, match: re.Match[str]) -> Statement:
    return _written(text, match, Loss(kind="rows", table=match["name"], way="delete"))


def _update(text: str, match: re.Match[str]) -> Statement:
    return _written(text, match, _assigned(match["name"], match["rest"]))


def _assigned(table: str, rest: str) -> Loss:
    """Return the values that an UPDATE writes over; of all columns where that cannot be told."""
    assigned = rest[len(before_word(rest, "set")) :][len("set") :]
    columns: list[str] = []
    for one in divided(before_word(assigned, "from", "where", "returning")):
        several = re.match(r"\s*\(([^()]*)\)\s*=", one)
        single = re.match(rf"\s*({PART})\s*(?:\[[^\]]*\]|\.\s*{PART})*\s*=", one)
        if several is None and single is None:
            return Loss(kind="values", table=table)
        columns += _names(several[1]) if several else [single[1]] if single else []
    return Loss(kind="values", table=table, columns=tuple(dict.fromkeys(columns)))


def _insert(text: str, match: re.Match[str]) -> Statement:
    conflict = text[len(before_word(text, "on\\s+conflict")) :]
    if (found := re.search(r"(?i)\bdo\s+update\b", conflict)) is None:
        return replace(_written(text, match), blocks="nothing")
    return _written(text, match, _assigned(match["name"], conflict[found.end() :]))


def _written(text: str, match: re.Match[str], *lost: Loss) -> Statement:
    return Statement(
        text=text,
        lock=_WRITING[0],
        blocks=_WRITING[1],
        tables=(match["name"],),
        losses=lost,
        calls=calls(text),
        writes=(match["name"],),
    )


def _comment(text: str, match: re.Match[str]) -> Statement:
    lock, blocks = _BESIDE
    return Statement(text=text, lock=lock, blocks=blocks, tables=(match["name"],))


def may_lose(code: str) -> bool:
    """Return whether the text of a function or of a block may lose something.

    What it calls is another question; `for update` only locks.
    """
    return _MAY_LOSE.search(_FOR_UPDATE.sub("", code)) is not None


def _code(text: str, match: re.Match[str]) -> Statement:
    return Statement(
        text=text,
        losses=(unknown(text),) if may_lose(text) else (),
        calls=calls(text),
        moves_names=_MOVING_SELECT.search(text) is not None,
    )


def _lossless(text: str, match: re.Match[str]) -> Statement:
    return Statement(text=text)


def _moving(text: str, match: re.Match[str]) -> Statement:
    return Statement(text=text, moves_names=True)


def _create(text: str, match: re.Match[str]) -> Statement:
    runs_later = match["code"] is not None
    return Statement(
        text=text,
        calls=() if runs_later else calls(text),
        makes_code=runs_later and may_lose(match["body"]),
    )


def _unread(text: str, match: re.Match[str]) -> Statement:
    return Statement(text=text, losses=(unknown(text),))


def _drop(text: str, match: re.Match[str]) -> Statement:
    lost = (unknown(text),) if _CASCADE.search(text) else ()
    return Statement(text=text, losses=lost)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE | re.DOTALL)


_LENIENT = r"(?:if\s+exists\s+)?"
_READERS = (
    (_pattern(r"drop\s+table\s+(?P<lenient>if\s+exists\s+)?(?P<rest>.+)"), _drop_table),
    (_pattern(r"truncate\s+(?:table\s+)?(?:only\s+)?(?P<rest>.+)"), _truncate),
    (
        _pattern(
            r"create\s+(?:(?:global|local)\s+)?(?:(?:temp|temporary|unlogged)\s+)?table\s+"
            rf"(?P<lenient>if\s+not\s+exists\s+)?(?P<name>{NAME})"
        ),
        _create_table,
    ),
    (
        _pattern(
            r"create\s+(?:unique\s+)?index\s+(?P<concurrently>concurrently\s+)?"
            rf"(?P<lenient>if\s+not\s+exists\s+)?(?:(?!on\s)(?P<name>{PART})\s+)?"
            rf"on\s+(?:only\s+)?(?P<table>{NAME})"
        ),
        _create_index,
    ),
    (
        _pattern(
            r"drop\s+index\s+(?P<concurrently>concurrently\s+)?(?P<lenient>if\s+exists\s+)?"
            rf"(?P<name>{NAME})"
        ),
        _drop_index,
    ),
    (
        _pattern(rf"alter\s+table\s+{_LENIENT}(?:only\s+)?(?P<name>{NAME})(?P<rest>.+)"),
        _alter_table,
    ),
    (_pattern(rf"delete\s+from\s+(?:only\s+)?(?P<name>{NAME})"), _delete),
    (_pattern(rf"update\s+(?:only\s+)?(?P<name>{NAME})(?P<rest>.+)"), _update),
    (_pattern(rf"insert\s+into\s+(?P<name>{NAME})"), _insert),
    (_pattern(rf"comment\s+on\s+(?:table|column)\s+(?P<name>{NAME})"), _comment),
    (_pattern(r"(?:do|with|merge|select|values)\b"), _code),
    (_pattern(_MOVING), _moving),
    (
        _pattern(
            r"create\s+(?:or\s+replace\s+)?(?:constraint\s+)?"
            r"(?P<code>(?:function|procedure|rule)\b)?(?P<body>.+)"
        ),
        _create,
    ),
    (_pattern(rf"drop\s+(?:{_DROPPED})\b"), _drop),
    (_pattern(r"alter\s+type\b.*\b(?:drop|alter)\s+attribute\b"), _unread),
    (_pattern(rf"alter\s+(?:{_ALTERED})\b"), _lossless),
    (_pattern(rf"(?:{_HARMLESS})\b"), _lossless),
    (_pattern(""), _unread),
)
