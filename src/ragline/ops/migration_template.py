"""New revisions of a user's own Alembic folder, and the folder itself where there is none."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ragline.core.migration_lint import script as scripts
from ragline.errors import PreconditionFailed, UsageError
from ragline.ops import migration_files
from ragline.ops.migration_files import Folder

_LONGEST = 200

# In braces: what this revision is. Mako's own template, for `alembic revision`, is made of it too.
_REVISION = '''\
"""{message}

Revision ID: {revision}
Revises: {down_said}
Create Date: {created}
"""

import sqlalchemy as sa
from alembic import op

revision = {revision_quoted}
down_revision = {down}
branch_labels = None
depends_on = None


def set_time_limits() -> None:
    """Give up soon where a lock is not free: who waits for one stops every reader behind it."""
    # Local: they end with the transaction, and whatever uses the connection next has its own.
    op.execute("set local lock_timeout = '200ms'")
    op.execute("set local statement_timeout = '5s'")


def upgrade() -> None:
    set_time_limits()
    # op.add_column("my_table", sa.Column("my_column", sa.Text()))
    #
    # An index of a table in use, in a revision of its own: CONCURRENTLY lets writers go on, and
    # PostgreSQL refuses it in a transaction. A build that was broken off leaves an INVALID index,
    # which IF NOT EXISTS would take for the index: drop what is there, then build.
    #
    # with op.get_context().autocommit_block():
    #     op.execute("drop index concurrently if exists my_index")
    #     op.execute(
    #         "create index concurrently my_index on my_table using hnsw (embedding vector_cosine_ops)"
    #     )


def downgrade() -> None:
    set_time_limits()
    # The way back of all of the above. What upgrade() drops comes back empty: keep the rows in a
    # table beside, or make a backup first (`ragline backup create --table … --verify`).
    #
    # op.drop_column("my_table", "my_column")
    #
    # with op.get_context().autocommit_block():
    #     op.execute("drop index concurrently if exists my_index")
'''

_INI = """\
# Migrations of this program's own tables. Where the database is, env.py asks ragline.
[alembic]
script_location = %(here)s/migrations
prepend_sys_path = .
path_separator = os
"""

_ENV = '''\
"""Run by Alembic: where the database is, and how a migration is run on it."""

from alembic import context
from ragline import config
from sqlalchemy import create_engine, pool

# Set it to your models' metadata to have `alembic revision --autogenerate` compare with it.
target_metadata = None


def run(connection) -> None:
    # A transaction for each revision: an autocommit_block ends the one that it is in.
    context.configure(
        connection=connection,
        target_metadata=target_metadata,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql", target_metadata=target_metadata, literal_binds=True
    )
    with context.begin_transaction():
        context.run_migrations()
elif (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    # DATABASE_URL, else the variables, service and password files that libpq knows.
    dsn = config.load().dsn
    if dsn is None:
        raise SystemExit("no database is named: set DATABASE_URL")
    engine = create_engine(dsn.for_sqlalchemy("admin"), poolclass=pool.NullPool)
    with engine.connect() as connection:
        run(connection)
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A new revision, what it builds on, and every file that was written for it."""

    revision: str
    down_revision: str | None
    path: Path
    files: tuple[Path, ...]


def new(path: Path, message: str, *, may_init: bool) -> Made:
    """Write the next revision; refuse two heads, and a folder that is none unless it may be made."""
    title = _title(message)
    files: list[Path] = []
    if not _is_there(path):
        if not may_init:
            raise PreconditionFailed(
                f"{path} holds no alembic.ini and no migrations; add --init to make them there"
            )
        files = _init(path)
    folder = migration_files.find(path)
    down = _head(folder, path)
    revision = secrets.token_hex(6)
    now = datetime.now(tz=UTC).replace(microsecond=0)
    slug = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:40] or "revision"
    file = folder.versions[0] / f"{revision}_{slug}.py"
    text = _REVISION.format(
        message=title.replace("\\", "\\\\").replace('"""', "'''"),
        revision=revision,
        revision_quoted=f'"{revision}"',
        down=f'"{down}"' if down else None,
        down_said=down or "nothing",
        created=now.isoformat(),
    )
    _write(file, text)
    return Made(revision=revision, down_revision=down, path=file, files=(*files, file))


def _title(message: str) -> str:
    title = " ".join(message.split())
    if not title or not title.isprintable() or len(title) > _LONGEST or title[-1] in '"\\':
        raise UsageError(
            f"the message is a line of 1 to {_LONGEST} printable characters that says what the "
            f"revision does, and ends in a letter; {message[:80]!r} is not"
        )
    return title


def _is_there(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    return (
        (path / "alembic.ini").is_file()
        or (path / "versions").is_dir()
        or (path.name == "versions")
    )


def _head(folder: Folder, path: Path) -> str | None:
    """Return the one revision that nothing builds on; None where there is none yet."""
    downs: dict[str, tuple[str, ...]] = {}
    for versions in folder.versions:
        for file in sorted(versions.glob("*.py")):
            try:
                found = scripts.read(file.read_text(encoding="utf-8"))
            except (SyntaxError, ValueError, OSError) as error:
                raise PreconditionFailed(
                    f"{file} cannot be read, so nobody knows what comes last: {error}; mend it first"
                ) from error
            if found.revision is not None:
                downs[found.revision] = found.downs
    under = {before for several in downs.values() for before in several}
    heads = sorted(downs.keys() - under)
    if len(heads) > 1:
        raise PreconditionFailed(
            f"{path} has {len(heads)} heads ({', '.join(heads)}), so that nobody knows what the new "
            f"revision builds on: join them first with `alembic merge -m merge {' '.join(heads)}`"
        )
    if not heads and downs:
        raise PreconditionFailed(
            f"the revisions of {path} build on each other in a circle; mend down_revision first"
        )
    return heads[0] if heads else None


def _init(path: Path) -> list[Path]:
    """Make an Alembic environment in a folder, which may be missing; nothing there is replaced."""
    if path.suffix == ".ini":
        raise UsageError(f"--init takes the folder to make alembic.ini in, not {path}")
    scripts_folder = path / "migrations"
    if scripts_folder.exists():
        raise UsageError(
            f"{scripts_folder} is there already and no alembic.ini beside it; name that folder, or "
            "move it away"
        )
    files = {
        path / "migrations" / "env.py": _ENV,
        path / "migrations" / "script.py.mako": _mako(),
        # Last: what has one is a whole environment.
        path / "alembic.ini": _INI,
    }
    try:
        (scripts_folder / "versions").mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{scripts_folder} cannot be made: {error.strerror}") from error
    for file, text in files.items():
        _write(file, text)
    return list(files)


def _mako() -> str:
    """Return the template for `alembic revision`: the same text, filled by Alembic."""
    text = _REVISION.format(
        message="${message}",
        revision="${up_revision}",
        revision_quoted="${repr(up_revision)}",
        down="${repr(down_revision)}",
        down_said="${down_revision | comma,n}",
        created="${create_date}",
    )
    text = text.replace("branch_labels = None", "branch_labels = ${repr(branch_labels)}")
    text = text.replace("depends_on = None", "depends_on = ${repr(depends_on)}")
    text = text.replace(
        "from alembic import op\n", "from alembic import op\n${imports if imports else ''}\n"
    )
    up, down = (
        "    set_time_limits()\n    # op.add_column",
        "    set_time_limits()\n    # The way back",
    )
    text = text.replace(up, up.replace("\n", "\n    ${upgrades if upgrades else ''}\n", 1))
    return text.replace(down, down.replace("\n", "\n    ${downgrades if downgrades else ''}\n", 1))


def _write(file: Path, text: str) -> None:
    """Write a new file, whole or not at all; one that is there is never replaced."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.link(temporary, file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
