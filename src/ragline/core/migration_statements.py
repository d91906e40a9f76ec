"""Statements of migrations: what they lock, make and rename, and may lose of what was there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ragline.core.migration_sql import last, plain

_ROWS = "writers of the same rows"
_OTHERS = "other changes of the table"
_EVERYBODY = "readers and writers"

LossKind = Literal["rows", "column", "type", "values", "unknown"]
Way = Literal["", "drop", "drop cascade", "delete", "truncate", "truncate cascade"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What may be gone after a statement. `table` as SQL writes it; None is one that cannot be told.

    `way` says how rows go, and so which other tables lose some. `is_lenient`: nothing where it is not
    there. `is_computed`: a new type whose values are made by an expression. `is_renamed`: of what the
    same migrations gave another name. `said` is the statement that cannot be read.
    """

    kind: LossKind
    table: str | None
    columns: tuple[str, ...] = ()
    new_type: str = ""
    way: Way = ""
    is_lenient: bool = False
    is_computed: bool = False
    is_renamed: bool = False
    said: str = ""

    @property
    def is_dropped(self) -> bool:
        """Whether the table or the column is gone as well."""
        return self.kind == "column" or self.way.startswith("drop")

    def __str__(self) -> str:
        if self.kind == "unknown" or self.table is None:
            what = f"`{' '.join(self.said.split())[:120]}`" if self.said else "a block of code"
            return f"what {what} does, which cannot be read beforehand"
        if self.kind == "rows":
            return f"rows of {self.table}"
        if not self.columns:
            return f"values of {self.table}"
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
    """A statement of a migration. `tables` exist before it; `creates` are tables or table.column.

    `may_create` is there already, perhaps. `renames` are old names and new ones. `calls` are names that
    may be functions; `writes` are tables whose triggers fire.
    """

    text: str
    lock: str = "none"
    blocks: str = "nothing"
    tables: tuple[str, ...] = ()
    creates: tuple[str, ...] = ()
    losses: tuple[Loss, ...] = ()
    index: OutsideIndex | None = None
    is_outside: bool = False
    may_create: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    calls: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    moves_names: bool = False
    makes_code: bool = False

    @property
    def is_form(self) -> bool:
        """Whether it changes the schema, and not rows alone."""
        return self.text.split(None, 1)[0].lower() in ("alter", "create", "drop")


def unknown(text: str) -> Loss:
    return Loss(kind="unknown", table=None, said=text)


def losses(found: Sequence[Statement], after: Sequence[Statement] = ()) -> list[Loss]:
    """Return what statements may lose of what was there before them, and before those of `after`."""
    course = _Course()
    lost: list[Loss] = []
    for at, statement in enumerate((*after, *found)):
        for loss in (*statement.losses, *course.hidden(statement)):
            one = course.of_old(loss)
            if at >= len(after) and one is not None and one not in lost:
                lost.append(one)
        course.go_on(statement)
    return lost


class _Course:
    """What the names mean after the statements so far."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.maybe_made: set[str] = set()
        self.renamed: dict[str, str] = {}
        self.is_moved = False
        self.has_code = False

    def hidden(self, statement: Statement) -> list[Loss]:
        """Code that an earlier statement made may run now."""
        may_run = self.has_code and (statement.calls or statement.writes)
        return [unknown(statement.text)] if may_run else []

    def of_old(self, loss: Loss) -> Loss | None:
        """Return what is lost of what was there at first; None where all of it was made since."""
        if loss.table is None:
            return loss
        table = plain(loss.table)
        left = tuple(one for one in loss.columns if f"{table}.{plain(one)}" not in self.made)
        if table in self.made or (loss.columns and not left):
            return None
        if self.is_moved and "." not in table:
            return Loss(kind="unknown", table=None, said=str(loss))
        names = [table, *(f"{table}.{plain(one)}" for one in left)]
        return replace(
            loss,
            columns=left,
            is_lenient=loss.is_lenient or table in self.maybe_made,
            is_renamed=any(last(one) == last(new) for one in names for new in self.renamed),
        )

    def go_on(self, statement: Statement) -> None:
        if statement.moves_names:
            # The same words may mean other tables from here on.
            self.is_moved = True
            self.made.clear()
        for old, new in statement.renames:
            self._rename(old, new)
        for name in statement.creates:
            self.made.add(name)
            self.renamed.pop(name, None)
        self.maybe_made |= set(statement.may_create)
        self.has_code = self.has_code or statement.makes_code

    def _rename(self, old: str, new: str) -> None:
        if old in self.made:
            self.made = {
                new + one.removeprefix(old) if one == old or one.startswith(f"{old}.") else one
                for one in self.made
            }
            return
        origin = self.renamed.pop(old, old)
        if origin != new:
            self.renamed[new] = origin


def created(found: Sequence[Statement]) -> set[str]:
    """Return the tables, and the columns as table.column, that statements make, if they are new."""
    return {name for one in found for name in (*one.creates, *one.may_create)}


def locks(found: Sequence[Statement]) -> tuple[str, str]:
    """Return the locks of all statements together, and the most that they hold up."""
    order = ["nothing", _ROWS, _OTHERS, "writers", _EVERYBODY]
    named = dict.fromkeys(
        f"{statement.lock} on {table}"
        for statement in found
        if statement.lock != "none"
        for table in statement.tables
    )
    most = max((order.index(statement.blocks) for statement in found), default=0)
    return ", ".join(named) or "none", order[most]
