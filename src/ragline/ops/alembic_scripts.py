"""A folder of Alembic migrations: its revisions in order, and the SQL that each of them would run.

The user's env.py is never run: it makes a connection of its own. What it says of the version table is
read from its text; naming conventions and hooks of it are not known here.
"""

from __future__ import annotations

import ast
import hashlib
import io
import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ragline.core import migration_locks, migration_statements
from ragline.core.migration_statements import Loss, OutsideIndex, Statement
from ragline.db.pool import quoted
from ragline.errors import NotFound, PreconditionFailed, RaglineError, UsageError
from ragline.ops import alembic_config

if TYPE_CHECKING:
    from alembic.runtime.migration import RevisionStep
    from alembic.script import Script, ScriptDirectory

Direction = Literal["up", "down"]
# Alembic keeps the migration that runs in its module's own names.
ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripts:
    """The migrations of a folder. `version_table` and its schema are where Alembic notes its place."""

    target: str
    directory: ScriptDirectory = field(repr=False, compare=False)
    version_table: str = "alembic_version"
    version_schema: str | None = None
    before: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """Each revision with those it builds on."""
    paths: tuple[str, ...] = ()
    """Where Python of the revisions imports from, beside where ours does."""

    @property
    def version_name(self) -> str:
        """The name of the version table, as SQL reads it."""
        schema = f"{quoted(self.version_schema)}." if self.version_schema else ""
        return f"{schema}{quoted(self.version_table)}"

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(sorted(self.directory.get_heads()))

    def knows(self, revision: str) -> bool:
        """Return whether the folder has exactly this revision."""
        return revision in self.before

    def title(self, revision: str) -> str:
        return (self.directory.get_revision(revision).doc or "").strip()

    def imports(self) -> AbstractContextManager[None]:
        """Let Python of the revisions import what is beside them; ours does not afterwards."""
        return _imports(self.paths)

    def file_hash(self, revision: str) -> str:
        """Return what tells whether a revision's file was edited since it was planned."""
        path = Path(self.directory.get_revision(revision).path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def below(self, heads: Iterable[str]) -> set[str]:
        """Return revisions with all that came before them."""
        found: set[str] = set()
        left = list(heads)
        while left:
            one = left.pop()
            if one not in found:
                found.add(one)
                left += self.before[one]
        return found

    def path(self, now: Sequence[str], want: Sequence[str]) -> list[tuple[Direction, str]]:
        """Return the revisions between two places in the order they run; what goes down first."""
        applied, wanted = self.below(now), self.below(want)
        return [
            *(("down", one) for one in reversed(self._ordered(applied - wanted))),
            *(("up", one) for one in self._ordered(wanted - applied)),
        ]

    def _ordered(self, revisions: set[str]) -> list[str]:
        """Return revisions so that each comes after those it builds on; always in the same order."""
        found: list[str] = []
        while len(found) < len(revisions):
            found.append(
                min(
                    one
                    for one in revisions
                    if one not in found and not set(self.before[one]) & revisions - set(found)
                )
            )
        return found

    def heads_of(self, applied: set[str]) -> tuple[str, ...]:
        """Return those of some revisions on which none of the others builds."""
        under = {before for one in applied for before in self.before[one]}
        return tuple(sorted(applied - under))

    def children(self, heads: Sequence[str]) -> list[str]:
        """Return the revisions that could be run next."""
        applied = self.below(heads)
        return sorted(
            one
            for one, before in self.before.items()
            if one not in applied and set(before) <= applied
        )

    def step(self, direction: Direction, revision: str) -> RevisionStep:
        """Return one revision as Alembic runs it."""
        from alembic.runtime.migration import MigrationStep

        script = self.directory.get_revision(revision)
        make = (
            MigrationStep.upgrade_from_script
            if direction == "up"
            else MigrationStep.downgrade_from_script
        )
        return make(self.directory.revision_map, script)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What a revision would run, one way. `why_not`: its Python needs a database to be read."""

    revision: str
    direction: Direction
    statements: tuple[Statement, ...]
    operations: tuple[str, ...] = ()
    why_not: str = ""

    @property
    def text(self) -> str:
        if self.why_not:
            return f"{', '.join(self.operations) or 'Python code'} ({self.why_not})"
        return ";\n".join(one.text for one in self.statements) or "nothing"

    @property
    def losses(self) -> list[Loss]:
        if self.why_not:
            said = ", ".join(self.operations) or "its Python code"
            return [Loss(kind="unknown", table=None, said=f"{self.revision}: {said}")]
        return migration_statements.losses(self.statements)

    @property
    def indexes(self) -> list[OutsideIndex]:
        """What it builds or drops outside of any transaction."""
        return [one.index for one in self.statements if one.index is not None]

    def statement_of(self, index: OutsideIndex) -> str:
        """Return the statement that builds or drops an index."""
        return next(one.text for one in self.statements if one.index == index)


def read(target: str) -> Scripts:
    """Return the migrations of an alembic.ini, or of its script folder; refuse what is neither."""
    path = Path(target)
    if not path.is_absolute():
        raise UsageError(
            f"{target!r} is not an absolute path: name the whole path of the alembic.ini"
        )
    if not path.exists():
        # Not NotFound: an undo would take it that there is nothing left to put back.
        raise UsageError(
            f"{target} is not there: name an alembic.ini, or the folder with versions/"
        )
    ini = path if path.is_file() else None
    config, folder = alembic_config.configured(path)
    if not (folder / "env.py").is_file() and not (folder / "versions").is_dir():
        raise UsageError(
            f"{folder} is no folder of Alembic migrations: it has neither env.py nor versions/. Make "
            "one with `alembic init`, or name another"
        )
    if ini is None and not (folder / "versions").is_dir():
        raise UsageError(f"{folder} has no folder versions/: nothing could be run from it")
    if alembic_config.is_ours(folder):
        raise UsageError(
            "these are ragline's own migrations, which are no change of yours: `ragline migrate plan` "
            "shows them and `ragline migrate apply` runs them"
        )
    from alembic.script import ScriptDirectory

    with _explained(target), _imports(()):
        known = list(sys.path)
        directory = ScriptDirectory.from_config(config)
        paths = tuple(one for one in sys.path if one not in known)
        before = {one.revision: _before(directory, one) for one in directory.walk_revisions()}
    table, schema = alembic_config.version_table(target, config, folder)
    return Scripts(
        target=target,
        directory=directory,
        version_table=table,
        version_schema=schema,
        before=before,
        paths=paths,
    )


def resolved(scripts: Scripts, revision: str | None, now: Sequence[str]) -> tuple[str, ...]:
    """Return the heads that a wish leads to: head, base, +1, -1, or a revision or its beginning."""
    if revision is None or revision == "base":
        return ()
    if revision in ("head", "heads"):
        if len(scripts.heads) > 1:
            named = " and ".join(
                f"{one} ({scripts.title(one)})" if scripts.title(one) else one
                for one in scripts.heads
            )
            raise PreconditionFailed(
                f"{scripts.target} has {len(scripts.heads)} heads: {named}. Join them with `alembic "
                f"merge -m 'merge' {' '.join(scripts.heads)}`, or name the one you mean"
            )
        return scripts.heads
    if revision[:1] in "+-" and revision[1:].isdigit():
        return _relative(scripts, int(revision), now)
    if all(scripts.knows(one) for one in revision.split(",")):
        return scripts.heads_of(scripts.below(revision.split(",")))
    known = [one for one in scripts.below(scripts.heads) if one.startswith(revision)]
    if len(known) != 1:
        what = "does not know" if not known else f"knows {len(known)} revisions that begin with"
        raise NotFound(
            f"{scripts.target} {what} {revision!r}: its head is {', '.join(scripts.heads) or 'none'}; "
            "`alembic history` shows all"
        )
    return scripts.heads_of(scripts.below(known))


def _relative(scripts: Scripts, count: int, now: Sequence[str]) -> tuple[str, ...]:
    applied = scripts.below(now)
    for _ in range(abs(count)):
        if count > 0:
            nexts = scripts.children(scripts.heads_of(applied))
            if len(nexts) != 1:
                why = "there is none" if not nexts else f"there are {', '.join(nexts)}"
                raise UsageError(
                    f"{count:+d} needs one next revision, and {why}; name the one you mean"
                )
            applied = applied | {nexts[0]}
        else:
            tops = scripts.heads_of(applied)
            if len(tops) != 1:
                why = "nothing is applied" if not tops else f"there are {', '.join(tops)}"
                raise UsageError(
                    f"{count:+d} needs one last revision, and {why}; name the one you mean"
                )
            applied = applied - {tops[0]}
    return scripts.heads_of(applied)


def rendered(scripts: Scripts, direction: Direction, revision: str) -> Rendered:
    """Return the SQL of a revision as `alembic upgrade --sql` writes it, or its operations' names."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy.dialects import postgresql

    script = scripts.directory.get_revision(revision)
    written = io.StringIO()
    context = MigrationContext(
        postgresql.dialect(),  # type: ignore[no-untyped-call]
        None,
        {"as_sql": True, "output_buffer": written, "script": scripts.directory},
    )
    step = scripts.step(direction, revision)
    with ONE_AT_A_TIME, _quiet(), scripts.imports():
        try:
            with Operations.context(context):
                step.migration_fn()
        except Exception as error:  # noqa: BLE001 - the user's code: it may do anything
            why = f"cannot be shown as SQL: {type(error).__name__}: {error}"[:300]
            return Rendered(
                revision=revision,
                direction=direction,
                statements=(),
                operations=_operations(Path(script.path), direction),
                why_not=why,
            )
    return Rendered(
        revision=revision,
        direction=direction,
        statements=tuple(migration_locks.statements(written.getvalue())),
    )


def _before(directory: ScriptDirectory, script: Script) -> tuple[str, ...]:
    named = (*_many(script.down_revision), *_many(script.dependencies))
    return tuple(dict.fromkeys(directory.get_revision(name).revision for name in named))


def _operations(path: Path, direction: Direction) -> tuple[str, ...]:
    """Return the operations that a revision's function names."""
    wanted = "upgrade" if direction == "up" else "downgrade"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(
        dict.fromkeys(
            f"op.{call.func.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == wanted
            for call in ast.walk(node)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and isinstance(call.func.value, ast.Name)
            and call.func.value.id == "op"
        )
    )


def _many(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


@contextmanager
def _imports(paths: Sequence[str]) -> Iterator[None]:
    was = list(sys.path)
    sys.path[:0] = paths
    try:
        yield
    finally:
        sys.path[:] = was


@contextmanager
def _explained(target: str) -> Iterator[None]:
    """Turn what Alembic, and the user's own files, complain about into a sentence."""
    try:
        yield
    except RaglineError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:500]
        raise PreconditionFailed(f"the migrations of {target} cannot be read: {said}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Alembic tells its logger of each revision it only writes out."""
    logger = logging.getLogger("alembic.runtime.migration")
    was = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = was
