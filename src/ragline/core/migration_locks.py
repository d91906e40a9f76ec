"""What a statement of a migration locks, whom that holds up, and what it may lose.

It is read from the words of the statement, as `alembic upgrade --sql` writes them: what runs inside a
function or a DO block cannot be seen from outside, and counts as losing something where it may.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

_PART = r'(?:"(?:[^"]|"")+"|[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)'
_NAME = rf"{_PART}(?:\s*\.\s*{_PART})?"
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
    |(?P<quoted>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<dollar>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<end>;)|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_EXCLUSIVE = ("ACCESS EXCLUSIVE", "readers and writers")
_WRITERS = ("SHARE ROW EXCLUSIVE", "writers")
_INDEXING = ("SHARE", "writers")
_BESIDE = ("SHARE UPDATE EXCLUSIVE", "other changes of the table")
_WRITING = ("ROW EXCLUSIVE", "writers of the same rows")
_NOBODY = ("none", "nothing")

LossKind = Literal["rows", "column", "type", "values", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What may be gone after a statement. `table` as SQL writes it; None is one that cannot be told."""

    kind: LossKind
    table: str | None
    columns: tuple[str, ...] = ()
    new_type: str = ""

    def __str__(self) -> str:
        if self.kind == "unknown" or self.table is None:
            return "what a block of code does, which cannot be read beforehand"
        if self.kind == "rows":
            return f"rows of {self.table}"
        named = ", ".join(self.columns)
        if self.kind == "type":
            return f"values of {self.table}.{named} that do not fit {self.new_type}"
        return f"values of {self.table}.{named}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideIndex:
    """An index built or dropped outside of any transaction, which a crash leaves half done."""

    action: Literal["create", "drop"]
    name: str
    table: str | None
    is_lenient: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement of a migration. `tables` exist before it; `creates` are tables or table.column."""

    text: str
    lock: str = "none"
    blocks: str = "nothing"
    tables: tuple[str, ...] = ()
    creates: tuple[str, ...] = ()
    losses: tuple[Loss, ...] = ()
    index: OutsideIndex | None = None
    is_outside: bool = False

    @property
    def is_form(self) -> bool:
        """Whether it changes the schema, and not rows alone."""
        return self.text.split(None, 1)[0].lower() in ("alter", "create", "drop")


def split(sql: str) -> list[str]:
    """Return the statements of a text without comments; quotes and dollar quotes are respected.

    >>> split("select ';'; -- one; two\\n drop table a;")
    ["select ';'", 'drop table a']
    """
    found: list[str] = []
    current: list[str] = []
    for token in _TOKEN.finditer(sql):
        if token["end"]:
            found.append("".join(current).strip())
            current = []
        else:
            current.append(" " if token["comment"] else token.group())
    found.append("".join(current).strip())
    return [text for text in found if text]


def statements(sql: str) -> list[Statement]:
    """Return what each statement of a migration does; BEGIN and COMMIT are left out.

    What stands between COMMIT and BEGIN runs outside of a transaction: `autocommit_block` writes that.
    """
    found = []
    is_outside = False
    for text in split(sql):
        word = text.split(None, 1)[0].lower()
        if word in ("begin", "commit"):
            is_outside = word == "commit"
            continue
        found.append(read(text, is_outside=is_outside))
    return found


def read(text: str, *, is_outside: bool = False) -> Statement:
    """Return what one statement locks and may lose."""
    for pattern, reader in _READERS:
        if (match := pattern.match(text)) is not None:
            return reader(text, match, is_outside)
    return Statement(text=text, is_outside=is_outside)


def losses(found: Sequence[Statement]) -> list[Loss]:
    """Return what statements may lose of what was there before them."""
    made: set[str] = set()
    lost: list[Loss] = []
    for statement in found:
        for loss in statement.losses:
            of_new = {plain(loss.table or "")} | {
                f"{plain(loss.table or '')}.{plain(column)}" for column in loss.columns
            }
            if not of_new & made and loss not in lost:
                lost.append(loss)
        made |= set(statement.creates)
    return lost


def created(found: Sequence[Statement]) -> set[str]:
    """Return the tables, and the columns as table.column, that statements make."""
    return {name for statement in found for name in statement.creates}


def locks(found: Sequence[Statement]) -> tuple[str, str]:
    """Return the locks of all statements together, and the most that they hold up."""
    order = ["nothing", _WRITING[1], _BESIDE[1], "writers", _EXCLUSIVE[1]]
    named = dict.fromkeys(
        f"{statement.lock} on {table}"
        for statement in found
        if statement.lock != "none"
        for table in statement.tables
    )
    most = max((order.index(statement.blocks) for statement in found), default=0)
    return ", ".join(named) or "none", order[most]


def plain(name: str) -> str:
    """Return a name without quotes and case: what two texts must agree in to mean one thing.

    >>> plain('Public."My Table"')
    'public.My Table'
    """
    parts = re.findall(_PART, name)
    return ".".join(
        part[1:-1].replace('""', '"') if part.startswith('"') else part.lower() for part in parts
    )


def parted(name: str) -> tuple[str | None, str]:
    """Return schema and name of a table as SQL writes it, unquoted; no schema is None."""
    parts = [plain(part) for part in re.findall(_PART, name)]
    return (parts[0], parts[1]) if len(parts) > 1 else (None, parts[0])


_WIDER = {
    "smallint": ("integer", "bigint", "numeric", "double precision"),
    "integer": ("bigint", "numeric", "double precision"),
    "bigint": ("numeric",),
    "real": ("double precision",),
    "date": ("timestamp without time zone", "timestamp with time zone"),
    "json": ("jsonb",),
}
_ALIASES = {
    "int": "integer", "int4": "integer", "int8": "bigint", "int2": "smallint", "float8":
    "double precision", "float": "double precision", "float4": "real", "varchar":
    "character varying", "timestamptz": "timestamp with time zone", "timestamp":
    "timestamp without time zone", "decimal": "numeric",
}  # fmt: skip


def narrows(old: str, new: str) -> bool:
    """Return whether values of a type may not survive becoming another; types as SQL writes them.

    >>> narrows("integer", "BIGINT"), narrows("text", "varchar(5)"), narrows("varchar(5)", "text")
    (False, True, False)
    """
    one, one_length = _type(old)
    other, other_length = _type(new)
    if one == other:
        return one_length != other_length and (
            other_length is not None and (one_length is None or one_length > other_length)
        )
    if other in ("text", "character varying") and other_length is None:
        return one == "vector" or one == "halfvec"
    return other not in _WIDER.get(one, ()) or other_length is not None


def _type(text: str) -> tuple[str, tuple[int, ...] | None]:
    name, _, rest = " ".join(text.lower().split()).partition("(")
    numbers = tuple(int(one) for one in re.findall(r"\d+", rest.partition(")")[0])) or None
    name = name.strip()
    after = rest.partition(")")[2].strip()
    full = f"{name} {after}".strip()
    return _ALIASES.get(full, full), numbers


# Reading. Each takes the statement, its match, and whether it runs outside of a transaction.


def _names(text: str) -> tuple[str, ...]:
    return tuple(re.findall(_NAME, text))


def _drop_table(text: str, match: re.Match[str], is_outside: bool) -> Statement:
    tables = _names(re.sub(r"(?i)\b(cascade|restrict)\s*$", "", match["rest"]))
    return Statement(
        text=text,
        lock=_EXCLUSIVE[0],
        blocks=_EXCLUSIVE[1],
        tables=tables,
        losses=tuple(Loss(kind="rows", table=table) for table in tables),
        is_outside=is_outside,
    )


def _truncate(text: str, match: re.Match[str], is_outside: bool) -> Statement:
    rest = re.sub(r"(?i)\b(restart|continue)\s+identity|\b(cascade|restrict)\b", "", match["rest"])
    return _drop_table(text, _REST.match(rest) or match, is_outside)


def _create_table(text: str, match: re.Match[str], is_outside: bool) -> Statement:
    others = tuple(dict.fromkeys(re.findall(rf"(?i)\breferences\s+({_NAME})", text)))
    lock, blocks = _WRITERS if others else _NOBODY
    return Statement(
        text=text,
        lock=lock,
        blocks=blocks,
        tables=others,
        creates=(plain(match["name"]),),
        is_outside=is_outside,
    )


def _create_index(text: str, match: re.Match[str], is_outside: bool) -> Statement:
    is_beside = match["concurrently"] is not None
    lock, blocks = _BESIDE if is_beside else _INDEXING
    index = None
    if is_beside and match["name"]:
        index = OutsideIndex(
            action="create",
            name=match["name"],
            table=match["table"],
            is_lenient=match["lenient"] is not None,
        )
    return Statement(
        text=text,
        lock=lock,
        blocks=blocks,
        tables=(match["table"],),
        index=index,
        is_outside=is_outside,
    )


def _drop_index(text: str, match: re.Match[str], is_outside: bool) -> Statement:
    is_beside = match["concurrently"] is not None
    lock, blocks = _BESIDE if is_beside else _EXCLUSIVE
    index = None
    if is_beside:
        index = OutsideIndex(
            action="drop",
            name=match["name"],
            table=None,
            is_lenient=match["lenient"] is not None,
        )
    return Statement(
        text=text,
        lock=lock,
        blocks=blocks,
        tables=(f"the table of {match['name']}",),
        index=index,
        is_outside=is_outside,
    )


def _alter_table(text: str, match: re.Match[str], is_outside: bool) -> Statement:
    table, rest = match["name"], match["rest"]
    lock, blocks = _EXCLUSIVE
    if re.match(r"(?i)\s*(validate\s+constraint|alter\s+(column\s+)?\S+\s+set\s+stat)", rest):
        lock, blocks = _BESIDE
    others: tuple[str, ...] = ()
    if re.match(r"(?i)\s*add\s+(constraint\s+\S+\s+)?foreign\s+key", rest):
        lock, blocks = _WRITERS
        others = _names_after(r"references", rest)
    return Statement(
        text=text,
        lock=lock,
        blocks=blocks,
        tables=(table, *others),
        creates=tuple(f"{plain(table)}.{plain(column)}" for column in _added(rest)),
        losses=tuple(_altered(table, rest)),
        is_outside=is_outside,
    )


def _names_after(word: str, text: str) -> tuple[str, ...]:
    return tuple(re.findall(rf"(?i)\b{word}\s+({_NAME})", text))


def _added(rest: str) -> list[str]:
    words = re.findall(rf"(?i)\badd\s+(?:column\s+)?(?:if\s+not\s+exists\s+)?({_PART})", rest)
    named = ("constraint", "foreign", "primary", "unique", "check", "exclude", "column")
    return [word for word in words if word.lower() not in named]


def _altered(table: str, rest: str) -> Iterator[Loss]:
    dropped = (
        r"(?i)\bdrop\s+(?!constraint\b|default\b|not\b|identity\b|expression\b)"
        rf"(?:column\s+)?(?:if\s+exists\s+)?({_PART})"
    )
    for column in re.findall(dropped, rest):
        yield Loss(kind="column", table=table, columns=(column,))
    typed = (
        rf"(?i)\balter\s+(?:column\s+)?({_PART})\s+(?:set\s+data\s+)?type\s+"
        r"([^,;()]+(?:\([^)]*\))?[^,;()]*?)(?=\s+using\b|\s+collate\b|,|$)"
    )
    for column, new in re.findall(typed, rest):
        yield Loss(kind="type", table=table, columns=(column,), new_type=new.strip())


def _delete(text: str, match: re.Match[str], is_outside: bool) -> Statement:
    return Statement(
        text=text,
        lock=_WRITING[0],
        blocks=_WRITING[1],
        tables=(match["name"],),
        losses=(Loss(kind="rows", table=match["name"]),),
        is_outside=is_outside,
    )


def _update(text: str, match: re.Match[str], is_outside: bool) -> Statement:
    assigned = tuple(dict.fromkeys(re.findall(rf"({_PART})\s*=(?!=)", match["rest"])))
    # Up to the condition: its comparisons are no assignments.
    before_where = re.split(r"(?i)\bwhere\b", match["rest"])[0]
    columns = tuple(column for column in assigned if re.search(rf"{column}\s*=", before_where))
    return Statement(
        text=text,
        lock=_WRITING[0],
        blocks=_WRITING[1],
        tables=(match["name"],),
        losses=(Loss(kind="values", table=match["name"], columns=columns),),
        is_outside=is_outside,
    )


def _insert(text: str, match: re.Match[str], is_outside: bool) -> Statement:
    lost: tuple[Loss, ...] = ()
    if re.search(r"(?i)\bon\s+conflict\b.*\bdo\s+update\b", text, re.DOTALL):
        lost = (Loss(kind="unknown", table=None),)
    return Statement(
        text=text,
        lock=_WRITING[0],
        blocks="nothing",
        tables=(match["name"],),
        losses=lost,
        is_outside=is_outside,
    )


def _comment(text: str, match: re.Match[str], is_outside: bool) -> Statement:
    return Statement(
        text=text,
        lock=_BESIDE[0],
        blocks=_BESIDE[1],
        tables=(match["name"],),
        is_outside=is_outside,
    )


_MAY_LOSE = re.compile(r"(?i)\b(delete|drop|truncate|update)\b")


def _code(text: str, match: re.Match[str], is_outside: bool) -> Statement:
    lost = (Loss(kind="unknown", table=None),) if _MAY_LOSE.search(text) else ()
    return Statement(text=text, losses=lost, is_outside=is_outside)


_REST = re.compile(r"(?P<rest>.*)", re.DOTALL)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE | re.DOTALL)


_LENIENT = r"(?:if\s+exists\s+)?"
_READERS = (
    (_pattern(rf"drop\s+table\s+{_LENIENT}(?P<rest>.+)"), _drop_table),
    (_pattern(r"truncate\s+(?:table\s+)?(?:only\s+)?(?P<rest>.+)"), _truncate),
    (
        _pattern(rf"create\s+(?:unlogged\s+)?table\s+(?:if\s+not\s+exists\s+)?(?P<name>{_NAME})"),
        _create_table,
    ),
    (
        _pattern(
            r"create\s+(?:unique\s+)?index\s+(?P<concurrently>concurrently\s+)?"
            rf"(?P<lenient>if\s+not\s+exists\s+)?(?:(?!on\s)(?P<name>{_PART})\s+)?"
            rf"on\s+(?:only\s+)?(?P<table>{_NAME})"
        ),
        _create_index,
    ),
    (
        _pattern(
            r"drop\s+index\s+(?P<concurrently>concurrently\s+)?(?P<lenient>if\s+exists\s+)?"
            rf"(?P<name>{_NAME})"
        ),
        _drop_index,
    ),
    (
        _pattern(rf"alter\s+table\s+{_LENIENT}(?:only\s+)?(?P<name>{_NAME})(?P<rest>.+)"),
        _alter_table,
    ),
    (_pattern(rf"delete\s+from\s+(?:only\s+)?(?P<name>{_NAME})"), _delete),
    (_pattern(rf"update\s+(?:only\s+)?(?P<name>{_NAME})(?P<rest>.+)"), _update),
    (_pattern(rf"insert\s+into\s+(?P<name>{_NAME})"), _insert),
    (_pattern(rf"comment\s+on\s+(?:table|column)\s+(?P<name>{_NAME})"), _comment),
    (_pattern(r"drop\s+schema\b"), _code),
    (_pattern(r"(?:do|with|call|merge|select|drop\s+(?:type|extension|owned))\b"), _code),
)
