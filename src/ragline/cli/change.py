"""`ragline change`: everything made different on purpose, through one gated loop."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli import change_options, change_text, output, runtime
from ragline.cli.change_options import KeepFor, KeepInconclusive
from ragline.cli.options import AsJson, DataDir, Quiet, gathering
from ragline.errors import UsageError

if TYPE_CHECKING:
    from ragline.change.kind import Site
    from ragline.core.change import Entry, Part
    from ragline.core.gate import Asked

app = typer.Typer(
    help="Change a setting, role, index, embedding space or search policy, or run your own migrations: "
    "planned, measured, and kept only if it makes nothing worse.",
    no_args_is_help=True,
)

Number = Annotated[int, typer.Argument(help="The change's number.", show_default=False)]


@app.command()
@gathering("asked", change_options.asked)
def plan(
    *,
    kind: Annotated[
        str | None,
        typer.Argument(
            help="setting, role, index, space, search or migration.", show_default=False
        ),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET] NAME=VALUE...",
            help="What it should be, such as `setting work_mem=32MB`, `role eval_app work_mem=32MB`, "
            "`index docs m=24`, `space docs model=FOLDER`, `search docs ef_search=200`, `migration "
            "alembic.ini revision=head`. The word none takes a value away.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Several parts from a TOML file: tables [[part]] with kind, target, want."
        ),
    ] = None,
    apply_now: Annotated[
        bool, typer.Option("--apply", help="Apply it at once when it is planned.")
    ] = False,
    asked: Asked | None,
    keep_for: KeepFor = 7.0,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Print what a change would do, with locks, restarts and what may be lost; change nothing.

    It is applied by its number, within an hour, and only while everything is as it was planned. It is
    measured on questions made of the collections' own vectors, and on a dataset where one is named.
    """
    parts = _parts(kind, words or [], file)
    planned = runtime.with_site(
        data_dir, lambda site: _planned(site, parts, asked, keep_for * 86400), quiet=quiet
    )
    if planned is None:
        output.emit({"change": None}, as_json=as_json, text="nothing to do: all is so already")
        return
    if not apply_now:
        output.emit(planned, as_json=as_json, text=change_text.plan(planned))
        return
    output.note(change_text.plan(planned, is_next=False))
    # Whether it stays where measuring did not decide is in the plan.
    _apply(planned.id, False, data_dir, quiet=quiet, as_json=as_json)


@app.command()
def apply(
    number: Number,
    keep_inconclusive: KeepInconclusive = False,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Do what was planned, measure it, and keep it or put it back.

    Exit codes: 0 kept, 4 worse and put back, 5 undecided and put back, 6 could not be put back, 3 waits
    for a restart.
    """
    _apply(number, keep_inconclusive, data_dir, quiet=quiet, as_json=as_json)


@app.command(name="list")
def list_changes(
    limit: Annotated[int, typer.Option(min=1, help="Show so many, newest first.")] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print the ledger, newest first."""
    from ragline.change import loop

    found = runtime.with_site(data_dir, lambda site: loop.entries(site, limit))
    output.emit({"changes": found}, as_json=as_json, text=change_text.table(found))


@app.command()
def show(number: Number, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print everything the ledger knows of one change."""
    from ragline.change import loop

    found = runtime.with_site(data_dir, lambda site: loop.whole(site, number))
    output.emit(found, as_json=as_json, text=change_text.whole(found))


@app.command()
def undo(
    number: Number, data_dir: DataDir = None, quiet: Quiet = False, as_json: AsJson = False
) -> None:
    """Take a kept change back, or end one that is open. Nothing is measured: it was so before."""
    from ragline.change import loop

    ended = runtime.with_site(data_dir, lambda site: loop.undo(site, number), quiet=quiet)
    output.emit(ended, as_json=as_json, text=change_text.ended(ended))
    if ended.waits_for:
        raise typer.Exit(change_text.WAITS)


@app.command()
def resume(data_dir: DataDir = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Settle what an interrupted command left, and go on with what waited for a restart.

    Every command that changes something does the first by itself. Exit codes 4 and 5 are as for `apply`,
    where something that went on was judged.
    """
    from ragline.change import loop

    settled = runtime.with_site(data_dir, loop.resume, quiet=quiet)
    text = "\n".join(change_text.ended(one) for one in settled) or "nothing was left open"
    output.emit({"changes": settled}, as_json=as_json, text=text)
    if code := max((change_text.exit_code(one) for one in settled if one.verdict), default=0):
        raise typer.Exit(code)


@app.command()
def watch(
    number: Annotated[
        int | None, typer.Argument(help="A change (default: the newest).", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print each state and step of a change as it comes, until it is decided."""
    from ragline.change import loop

    def say(line: str) -> None:
        output.emit({"line": line}, as_json=as_json, text=line)

    async def until_decided(site: Site) -> None:
        shown, watched = 0, number
        while True:
            found = await loop.whole(site, watched)
            watched = found.entry.id  # the newest of now, also when another one is planned
            lines = change_text.progress(found)
            for line in lines[shown:]:
                say(line)
            shown = len(lines)
            is_at_rest = found.entry.waits_for or found.entry.state in ("planned", "failed")
            if is_at_rest or found.entry.closed_at is not None:
                return
            await asyncio.sleep(0.5)

    runtime.with_site(data_dir, until_decided, quiet=True)


def _parts(kind: str | None, words: list[str], file: Path | None) -> tuple[Part, ...]:
    from ragline.core import change_request

    if (kind is None) == (file is None):
        raise UsageError("say a kind and what it should be, or --file, and not both")
    if kind is not None:
        return _located(change_request.parts(kind, words))
    if file is None:
        raise AssertionError("one of the two is there")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    return _located(change_request.from_toml(text, str(file)))


def _located(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """A path is meant from here; taking a change back may happen elsewhere."""
    return tuple(
        replace(part, target=str(Path(part.target).resolve())) if part.kind == "migration" else part
        for part in parts
    )


async def _planned(
    site: Site, parts: tuple[Part, ...], asked: Asked | None, keep_for_s: float
) -> Entry | None:
    from ragline.change import loop

    await change_options.check(site.app, asked)
    return await loop.plan(site, parts, asked, keep_for_s=keep_for_s)


def _apply(
    number: int, keep_inconclusive: bool, data_dir: Path | None, *, quiet: bool, as_json: bool
) -> None:
    from ragline.change import loop

    ended = runtime.with_site(
        data_dir,
        lambda site: loop.apply(site, number, keep_inconclusive=keep_inconclusive),
        quiet=quiet,
    )
    output.emit(ended, as_json=as_json, text=change_text.ended(ended))
    if code := change_text.exit_code(ended):
        raise typer.Exit(code)
