"""`ragline snapshot`: what the server was at a time, what differs since, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli import change_text, output, runtime
from ragline.cli.options import AsJson, DataDir
from ragline.errors import NotFound, PreconditionFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ragline.change.kind import Site
    from ragline.core.change import Entry
    from ragline.core.snapshot_comparison import Comparison, Told
    from ragline.core.snapshots import Contents, Fact, Group, Snapshot
    from ragline.core.way_back import WayBack
    from ragline.db.snapshots import Listed

app = typer.Typer(
    help="Keep what the server is: settings, files, roles, extensions, versions, machine, schema, "
    "sizes, content. See what differs later, and put settings back.",
    no_args_is_help=True,
)

Reference = Annotated[
    str, typer.Argument(metavar="A", help="A snapshot's number or name.", show_default=False)
]


@app.command()
def take(
    name: Annotated[
        str | None, typer.Argument(help="What to call it beside its number.", show_default=False)
    ] = None,
    note: Annotated[str, typer.Option(help="Why it is taken.", show_default=False)] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Keep what is there now. Values that may hold a secret are kept as a hash."""
    from ragline.core import snapshots
    from ragline.db.texts import is_text

    if name is not None:
        snapshots.check_name(name)
    # Bytes that are no UTF-8 come as what no encoding knows.
    if len(note) > 2000 or not is_text(note):
        raise UsageError("--note takes at most 2000 characters, in the terminal's encoding")
    found = runtime.with_site(data_dir, lambda site: _take(site, name, note), quiet=True)
    value = {**_head(found), "groups": _groups(found.contents)}
    output.emit(value, as_json=as_json, text="\n".join(_summary(found)))


@app.command(name="list")
def list_snapshots(
    limit: Annotated[int, typer.Option(min=1, help="Show so many, newest first.")] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print the snapshots, newest first."""

    async def listed(site: Site) -> list[Listed]:
        from ragline.db import snapshots as stored

        async with site.admin() as connection:
            return await stored.every(connection, limit)

    found = runtime.with_site(data_dir, listed, quiet=True)
    output.emit({"snapshots": found}, as_json=as_json, text=_table(found))


@app.command()
def show(reference: Reference, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print a snapshot; settings that are not the default, with --json everything."""
    found = runtime.with_site(data_dir, lambda site: _one(site, reference), quiet=True)
    value = {**_head(found), "groups": _groups(found.contents), "contents": found.contents}
    output.emit(value, as_json=as_json, text="\n".join([*_summary(found), *_details(found)]))


@app.command()
def diff(
    reference: Reference,
    other: Annotated[
        str | None,
        typer.Argument(metavar="[B]", help="A later one.", show_default="what is there now"),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print exactly what differs, with where a setting comes from and whether it takes a restart.

    Sizes count from a tenth and 1 MiB on. What moves by itself is no difference.
    """
    from ragline.core import snapshot_comparison

    async def both(site: Site) -> tuple[Snapshot, Snapshot | None, Contents]:
        from ragline.ops import snapshot

        was = await _one(site, reference)
        if other is None:
            return was, None, await snapshot.now(site.dsn, lock_timeout_ms=site.lock_timeout_ms)
        later = await _one(site, other)
        return was, later, later.contents

    was, later, now = runtime.with_site(data_dir, both, quiet=True)
    found = snapshot_comparison.compared(was.contents, now)
    value = {
        "from": _head(was),
        "to": None if later is None else _head(later),
        "differences": found.differences,
        "moved": found.moved,
        "not_compared": found.not_compared,
    }
    title = (
        f"from snapshot {was.called} to {'now' if later is None else f'snapshot {later.called}'}"
    )
    output.emit(value, as_json=as_json, text="\n".join([title, *_compared(found)]))


@app.command(name="restore-plan")
def restore_plan(reference: Reference, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Plan the change that leads back to a snapshot, and change nothing.

    It holds settings of ALTER SYSTEM and of ragline's roles; `ragline change apply` puts them back.
    What it leaves out is said, with what to do.
    """
    was, way, entry = runtime.with_site(data_dir, lambda site: _planned(site, reference))
    if entry is not None:
        lines = [change_text.plan(entry)]
    elif way.left_out:
        lines = [f"no change of ragline's leads nearer to snapshot {was.called}"]
    else:
        lines = [f"nothing to do: all is as in snapshot {was.called}"]
    if way.left_out:
        lines.append("not put back by a plan:")
    for one in way.left_out:
        lines.append(output.on_one_line(f"  {one.group} {one.name}".rstrip()))
        lines.append(f"      {output.on_one_line(one.what_to_do)}")
    value = {"snapshot": _head(was), "change": entry, "left_out": way.left_out}
    output.emit(value, as_json=as_json, text="\n".join(lines))


async def _take(site: Site, name: str | None, note: str) -> Snapshot:
    from ragline.db import snapshots as stored
    from ragline.ops import snapshot

    contents = await snapshot.now(site.dsn, lock_timeout_ms=site.lock_timeout_ms)
    async with site.admin() as connection:
        return await stored.add(connection, name, note, contents)


async def _one(site: Site, reference: str) -> Snapshot:
    from ragline.db import snapshots as stored
    from ragline.db.texts import is_text

    if not is_text(reference):
        raise UsageError(f"{reference!r} is neither a number nor a name of a snapshot")
    async with site.admin() as connection:
        return await stored.one(connection, reference)


async def _planned(site: Site, reference: str) -> tuple[Snapshot, WayBack, Entry | None]:
    from ragline.change import loop
    from ragline.core import way_back
    from ragline.ops import snapshot

    was = await _one(site, reference)
    now = await snapshot.now(site.dsn, lock_timeout_ms=site.lock_timeout_ms)
    way = way_back.way_back(was.contents, now)
    if not way.parts:
        return was, way, None
    # It was so before: as with an undo, nothing has to judge it.
    title = f"back to snapshot {was.called}"
    try:
        return was, way, await loop.plan(site, way.parts, None, title=title)
    except (UsageError, NotFound, PreconditionFailed) as error:
        way = await _possible(site, way)
        if not any(one.what_to_do.endswith(str(error)) for one in way.left_out):
            raise  # of all together
    entry = await loop.plan(site, way.parts, None, title=title) if way.parts else None
    return was, way, entry


async def _possible(site: Site, way: WayBack) -> WayBack:
    """Return the way back without what cannot be planned: one setting that is gone stops no other."""
    from ragline.change import loop
    from ragline.core.way_back import LeftOut, WayBack

    parts, left = [], []
    for part in way.parts:
        try:
            await loop.preview(site, [part])
        except (UsageError, NotFound, PreconditionFailed) as error:
            was = "not there" if part.want is None else change_text.value(part.want) or "''"
            todo = f"was {was}, and cannot be planned: {error}"
            left.append(LeftOut(group=f"{part.kind}s", name=part.target, what_to_do=todo))
        else:
            parts.append(part)
    return WayBack(parts=tuple(parts), left_out=(*left, *way.left_out))


# Text.


def _head(found: Snapshot) -> Mapping[str, Any]:
    head = output.plain(found)
    return {name: head[name] for name in ("id", "name", "note", "taken_at", "by_user")}


def _groups(contents: Contents) -> Mapping[str, Any]:
    from ragline.core import snapshots

    return {
        name: {
            "facts": len(group.facts),
            "hash": snapshots.digest(group),
            "unknown": group.unknown,
            "partial": group.partial,
        }
        for name, group in contents.items()
    }


def _summary(found: Snapshot) -> list[str]:
    from ragline.core import snapshots

    note = f": {output.on_one_line(found.note)}" if found.note else ""
    lines = [f"snapshot {found.called} of {found.taken_at:%Y-%m-%d %H:%M} UTC{note}"]
    names = [name for name in snapshots.GROUPS if name in found.contents]
    return [*lines, *(f"  {name:<10}  {_group(name, found.contents[name])}" for name in names)]


def _group(name: str, group: Group) -> str:
    from ragline.core import snapshots

    if group.unknown is not None:
        return f"unknown, because {output.on_one_line(group.unknown)}"
    if name == "memory":
        said = "; ".join(_fact(name, fact) for fact in group.facts.values())
    elif name == "sizes":
        total = sum(fact["bytes"] for fact in group.facts.values())
        said = f"{len(group.facts)} tables and indexes, {change_text.size(total)}"
    else:
        said = f"{len(group.facts)}, {snapshots.digest(group)}"
    return f"{said}; {group.partial}" if group.partial else said


def _details(found: Snapshot) -> list[str]:
    lines = []
    for name in ("settings", "files", "roles", "extensions", "versions", "hardware", "content"):
        group = found.contents.get(name)
        if group is None or not group.facts:
            continue
        facts = {key: fact for key, fact in group.facts.items() if fact.get("source") != "default"}
        lines.append(f"{name}:")
        lines += [
            f"  {output.on_one_line(f'{key} = {_fact(name, fact)}{_where(name, fact)}')}"
            for key, fact in sorted(facts.items())
        ]
    return lines


def _where(group: str, fact: Fact) -> str:
    """Return where a setting comes from and when another value holds, as a diff says it."""
    from ragline.core.snapshot_comparison import source_of

    if group != "settings":
        return ""
    return f"   source: {source_of(fact)}   context: {fact['context']}"


def _compared(found: Comparison) -> list[str]:
    lines: list[str] = []
    group = None
    for one in found.differences:
        if one.group != group:
            group = one.group
            lines.append(f"{group}:")
        lines.append(f"  {_difference(one)}")
    if not lines:
        lines.append("no difference")
    lines += [
        f"memory, which moves by itself: {_fact('memory', moved.was)} -> {_fact('memory', moved.now)}"
        for moved in found.moved
        if moved.group == "memory"
    ]
    if sizes := sum(moved.group == "sizes" for moved in found.moved):
        lines.append(f"{sizes} sizes moved too, by less than 10 % or 1 MiB, or came or went")
    lines += [
        f"not compared: {one.group}: {output.on_one_line(one.reason)}" for one in found.not_compared
    ]
    return lines


def _difference(one: Told) -> str:
    said = f"{one.name}: {_fact(one.group, one.was)} -> {_fact(one.group, one.now)}"
    facts = []
    if one.source is not None and one.group != "roles":
        facts.append(f"source: {one.source}")
    if one.restart is not None:
        facts.append(f"restart: {'yes' if one.restart else 'no'}")
    if one.group == "files" and one.now and one.now.get("error"):
        facts.append(f"the server says: {one.now['error']}")
    if one.waits_for_restart:
        facts.append("waits for a restart")
    return output.on_one_line("   ".join([said, *facts]))


def _fact(group: str, fact: Fact | None) -> str:
    from ragline.core import snapshots

    if fact is None:
        return "not there"
    if group in ("settings", "files", "roles"):
        return snapshots.shown(fact)
    if group == "memory":
        return f"{change_text.size(fact['bytes'])}, {fact['share_of_machine']:.1%} of the machine's"
    if group == "hardware":
        return "unknown" if fact["value"] is None else str(fact["value"])
    if group == "sizes":
        return change_text.size(fact["bytes"])
    if "definition" in fact:
        return f"{fact['definition']}{'' if fact['is_valid'] else ' (INVALID)'}"
    if set(fact) <= {"hash"}:
        return str(fact["hash"])[:12]
    values = (f"{name} {change_text.value(value)}" for name, value in fact.items())
    return str(fact["value"]) if "value" in fact else ", ".join(values)


def _table(found: Sequence[Listed]) -> str:
    if not found:
        return "there is no snapshot yet; `ragline snapshot take` takes one"
    lines = [f"{'no.':>5}  {'taken (UTC)':<17} {'name':<20} note"]
    lines += [
        f"{one.id:>5}  {one.taken_at:%Y-%m-%d %H:%M}  {one.name or '-':<20} "
        f"{output.on_one_line(one.note)}".rstrip()
        for one in found
    ]
    return "\n".join(lines)
