"""`ragline backup`: tables kept in a file, restored to see, and put back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir, Quiet
from ragline.errors import NotFound, PreconditionFailed, UsageError

if TYPE_CHECKING:
    from ragline.change.kind import Site
    from ragline.db.backups import Backup
    from ragline.db.pool import Connection
    from ragline.ops.backup_restore import Restored

T = TypeVar("T")

app = typer.Typer(
    help="Keep tables in a file, with pg_dump; check it by restoring it; put rows back.",
    no_args_is_help=True,
)

Reference = Annotated[
    str, typer.Argument(metavar="BACKUP", help="Its number or name.", show_default=False)
]


@app.command()
def create(
    *,
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", help="A table, as schema.table; repeatable.", show_default=False),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(
            help="The table of an attached collection, or ragline's own tables, which its "
            "collections share.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All tables of the database.")] = False,
    name: Annotated[
        str | None, typer.Option(help="What to call it beside its number.", show_default=False)
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where the file goes (default: backups in the data folder).", show_default=False
        ),
    ] = None,
    verified: Annotated[
        bool, typer.Option("--verify", help="Restore it into an empty database and compare, too.")
    ] = False,
    quiet: Quiet = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Back up tables as one moment saw them: the whole schema, and the rows of these tables."""
    if sum((bool(tables), collection is not None, every)) != 1:
        raise UsageError(
            "say what to back up: --table NAME (repeatable), --collection NAME or --all"
        )

    async def made(site: Site, connection: Connection) -> Backup:
        from ragline.ops import backup

        wanted = None if every else tables or await _of_collection(connection, str(collection))
        found = await backup.create(
            site.dsn,
            connection,
            wanted,
            folder=(folder or site.data_dir / "backups").expanduser().absolute(),
            name=name,
            advance=lambda _what, done, total: move(done, total),
            reached=site.reached,
        )
        return await backup.verify(site.dsn, connection, str(found.id)) if verified else found

    with output.bar("backing up", shown=not quiet) as move:
        done = _with_ledger(data_dir, made)
    output.emit(done, as_json=as_json, text="\n".join(_shown(done)))


@app.command()
def verify(backup: Reference, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Restore it into an empty database beside, compare every row, and drop that again."""

    async def verified(site: Site, connection: Connection) -> Backup:
        from ragline.ops import backup as backing_up

        return await backing_up.verify(site.dsn, connection, backup)

    done = _with_ledger(data_dir, verified)
    output.emit(done, as_json=as_json, text="\n".join(_shown(done)))


@app.command()
def restore(
    backup: Reference,
    *,
    into_schema: Annotated[
        str | None, typer.Option(help="A new schema for its tables.", show_default=False)
    ] = None,
    into_database: Annotated[
        str | None, typer.Option(help="A new database for all of it.", show_default=False)
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            help="Only this table of it, as schema.table; repeatable. Not with --into-database.",
            show_default=False,
        ),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Into the tables themselves: only rows that differ are written."
        ),
    ] = False,
    lose_newer: Annotated[
        bool,
        typer.Option("--lose-newer", help="In place: delete rows that are not in the backup."),
    ] = False,
    is_applied: Annotated[
        bool, typer.Option("--apply", help="Do it; without, it is only said what would be done.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup back: beside, or in place in one transaction. Says first what it would do."""
    if sum((into_schema is not None, into_database is not None, in_place)) != 1:
        raise UsageError("say where to: --into-schema NAME, --into-database NAME or --in-place")
    if tables and into_database is not None:
        raise UsageError("a database gets all of the backup: leave --table out")

    async def restored(site: Site, connection: Connection) -> Restored:
        from ragline.db import backups
        from ragline.ops import backup as backing_up
        from ragline.ops import backup_in_place
        from ragline.ops import backup_restore as restoring

        found = await backups.one(connection, backup)
        found = found.only(tables) if tables else found
        await backing_up.sweep(site.dsn, connection, Path(found.path).parent)
        if into_schema is not None:
            return await restoring.into_schema(site.dsn, found, into_schema, is_applied=is_applied)
        if into_database is not None:
            return await restoring.into_database(
                site.dsn, found, into_database, is_applied=is_applied
            )
        return await backup_in_place.in_place(
            site.dsn,
            found,
            is_applied=is_applied,
            may_lose_newer=lose_newer,
            lock_timeout_ms=site.lock_timeout_ms,
        )

    done = _with_ledger(data_dir, restored)
    output.emit(done, as_json=as_json, text="\n".join(_told(done)))
    if done.refused is not None:
        raise typer.Exit(PreconditionFailed.exit_code)


@app.command(name="list")
def list_backups(
    limit: Annotated[int, typer.Option(min=1, help="Show so many, newest first.")] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print the backups, newest first."""

    async def listed(site: Site, connection: Connection) -> list[Backup]:
        from ragline.db import backups
        from ragline.ops import backup as backing_up

        await backing_up.sweep(site.dsn, connection, site.data_dir / "backups")
        return await backups.every(connection, limit)

    found = _with_ledger(data_dir, listed)
    lines = [_line(one) for one in found] or ["no backup yet; `ragline backup create` makes one"]
    output.emit({"backups": found}, as_json=as_json, text="\n".join(lines))


@app.command()
def show(backup: Reference, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print what a backup holds, and whether its file is still what was written."""

    async def shown(_site: Site, connection: Connection) -> tuple[Backup, str | None]:
        import asyncio

        from ragline.db import backups

        found = await backups.one(connection, backup)
        return found, await asyncio.to_thread(backups.what_is_wrong, found)

    found, wrong = _with_ledger(data_dir, shown)
    lines = [*_shown(found), *([f"not usable: {wrong}"] if wrong else [])]
    output.emit(
        {**output.plain(found), "not_usable": wrong}, as_json=as_json, text="\n".join(lines)
    )


@app.command()
def remove(
    backup: Reference,
    *,
    needed_no_more: Annotated[
        bool,
        typer.Option("--needed-no-more", help="Even if the undo of a kept change needs its rows."),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete a backup and its file. It cannot be undone."""

    async def removed(_site: Site, connection: Connection) -> Backup:
        from ragline.ops import backup as backing_up

        return await backing_up.remove(connection, backup, is_needed_no_more=needed_no_more)

    done = _with_ledger(data_dir, removed)
    output.emit(done, as_json=as_json, text=f"removed backup {done.said} and {done.path}")


def _with_ledger(data_dir: Path | None, use_case: Callable[[Site, Connection], Awaitable[T]]) -> T:
    async def inside(site: Site) -> T:
        async with site.admin() as connection:
            return await use_case(site, connection)

    return runtime.with_site(data_dir, inside, quiet=True)


async def _of_collection(connection: Connection, name: str) -> Sequence[str]:
    from ragline.db import backups, collections

    found = await collections.one(connection, name)
    if found is None:
        raise NotFound(f"there is no collection {name!r}; `ragline collection list` shows all")
    if found.attached is not None:
        return [f"{found.attached.schema}.{found.attached.table}"]
    return [
        table.plain
        for table in await backups.tables(connection)
        if table.schema == "ragline" and table.kind in ("r", "p") and table.name != "backup"
    ]


def _line(backup: Backup) -> str:
    how = "verified" if backup.verified_at else "not verified"
    name = f" {backup.name}" if backup.name else ""
    many = f"{len(backup.tables)} tables" if len(backup.tables) > 1 else backup.tables[0]
    return (
        f"{backup.id}{name}  {backup.created_at:%Y-%m-%d %H:%M:%S}  {many}  "
        f"{_mib(backup.size_bytes)}  {how}"
    )


def _shown(backup: Backup) -> list[str]:
    lines = [_line(backup), f"  file {backup.path}", f"  sha256 {backup.sha256}"]
    lines += [f"  {table}: {backup.contents[table]['rows']} rows" for table in backup.tables]
    if backup.verified_at is None:
        lines.append(f"next: ragline backup verify {backup.said}")
    return lines


def _told(done: Restored) -> list[str]:
    did = "restored" if done.is_applied else "would restore"
    where = {"schema": f"schema {done.target}", "database": f"database {done.target}"}.get(
        done.how, "place"
    )
    lines = [f"{did} backup {done.backup.said} into {where}"]
    if done.how == "in-place":
        lines[0] = f"{did} backup {done.backup.said} in place"
        lines += [
            f"  {one.table}: {one.inserted} missing rows and {one.updated} that differ put back, "
            f"{one.newer} {'deleted' if done.is_applied else 'not in the backup'}"
            for one in done.differences
        ]
    else:
        lines += [f"  {table}: {rows} rows" for table, rows in done.rows.items()]
    if done.refused is not None:
        lines.append(f"refused: {done.refused}")
    elif not done.is_applied:
        lines.append("nothing was changed; add --apply to do it")
    return lines


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
