"""`ragline migrate rehearse`: the user's own migrations there, back and there again, on a copy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir, Quiet

if TYPE_CHECKING:
    from ragline.ops.rehearsal import Rehearsal, Rehearsed

_LOSSY = 4


def rehearse(
    path: Annotated[
        Path,
        typer.Argument(help="Your alembic.ini, or its folder of migrations.", show_default=False),
    ],
    *,
    to: Annotated[
        str, typer.Option(help="A revision, head, base, +1 or -1.", metavar="REVISION")
    ] = "head",
    max_size: Annotated[
        float, typer.Option(help="Copy at most so many gigabytes of tables.", min=0.0)
    ] = 2.0,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run migrations up, down and up again on a copy of the database, and say what each one did.

    Prints time, locks really taken, rows and rewritten tables of each revision. Nothing changes but the
    copy, which is dropped. Exit code 4: the way back does not restore the schema, or loses rows.
    """
    from ragline.ops import rehearsal, scratch
    from ragline.wiring import database

    dsn = database(runtime.load(data_dir))

    async def inside() -> Rehearsal:
        await scratch.sweep(dsn)
        return await rehearsal.rehearse(
            dsn,
            str(path.resolve()),
            to,
            max_bytes=int(max_size * 1e9),
            say=(lambda _line: None) if quiet else output.note,
        )

    found = asyncio.run(inside())
    output.emit(found, as_json=as_json, text="\n".join(_text(found)))
    if not found.is_restored:
        raise typer.Exit(_LOSSY)


def _text(found: Rehearsal) -> list[str]:
    if not found.path:
        return ["nothing to do: the database is there already"]
    size = f"{found.copied_bytes / 1e6:.1f} MB, {found.copy_s:.1f} s"
    lines = [f"on a copy of {found.copied_tables} ({size}); the database itself is as it was"]
    for step in found.steps:
        lines += _step(step)
    if found.is_restored:
        lines.append("there and back again the schema is the same, and no rows are fewer")
    else:
        lines.append("there and back again it is NOT the same:")
        lines += [f"  {line}" for line in (*found.difference, *found.lost_rows)]
        lines += [f"  and there once more: {found.again}"] if found.again else []
    return lines


def _step(step: Rehearsed) -> list[str]:
    lines = [f"{step.direction:<4} {step.revision}  {step.title}  {step.seconds * 1000:.0f} ms"]
    lines += [f"     lock {lock}" for lock in step.locks]
    lines += [f"     rows of {table}: {before} -> {after}" for table, before, after in step.rows]
    lines += [f"     rewritten: {table}" for table in step.rewritten]
    if step.slowest_s >= 0.1:
        lines.append(f"     slowest ({step.slowest_s:.1f} s): {step.slowest}")
    return lines
