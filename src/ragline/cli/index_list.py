"""`ragline index list`: every vector index, what it costs, what it finds, what is wrong with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir, Quiet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ragline.config import Config
    from ragline.core.checkup import Finding
    from ragline.core.index_facts import IndexFacts
    from ragline.core.index_sample import Sample
    from ragline.watch.inventory import Asked, Inventory, Listed

_GB = 1024**3
_NARROWEST = 80
_NAMED = 5
_INDENT = " " * 8
_UNKNOWN = {
    "locked": "some indexes",
    "collections": "what is of which collection",
    "cached_share": "share in cache",
    "operators": "operators of queries",
    "unused": "use",
}


def list_indexes(
    schema: Annotated[
        list[str] | None,
        typer.Option("--schema", help="Only this schema; may be given several times."),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", help="Only the table of this collection."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also indexes that are not of vectors.")
    ] = False,
    no_recall: Annotated[
        bool, typer.Option("--no-recall", help="Look into the catalog only; search nothing.")
    ] = False,
    sample: Annotated[
        int, typer.Option("--sample", help="How many queries to measure each vector index with.")
    ] = 100,
    k: Annotated[int, typer.Option("-k", help="How many rows each of them asks for.")] = 10,
    seed: Annotated[int, typer.Option(help="Which queries are drawn.")] = 0,
    largest: Annotated[
        float,
        typer.Option(
            "--largest",
            min=0,
            metavar="GB",
            help="Search no table that is larger: an exact search reads all of it.",
        ),
    ] = 2.0,
    quiet: Quiet = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the vector indexes of the database, with recall against exact search, and what to mend.

    Collections are searched as production searches them; tables that are not attached are asked
    directly, with vectors midway between stored ones. Nothing is written.
    """
    from ragline.watch.inventory import Asked

    asked = Asked(
        schemas=tuple(schema or ()),
        collection=collection,
        everything=everything,
        sample=None if no_recall else sample,
        k=k,
        seed=seed,
        largest_bytes=round(largest * _GB),
    )
    found = asyncio.run(
        _look(runtime.load(data_dir), asked, is_quiet=quiet or as_json),
    )
    output.emit(found, as_json=as_json, text="" if as_json else _text(found, asked))


async def _look(config: Config, asked: Asked, *, is_quiet: bool) -> Inventory:
    from ragline import wiring

    with output.bars(shown=not is_quiet) as advance:
        return await wiring.inventory(config, asked, advance=advance)


def _text(found: Inventory, asked: Asked) -> str:
    parts = [_table(found.indexes) if found.indexes else _nothing(found, asked)]
    parts += [line for note in _notes(found) for line in _wrapped(note)]
    if found.findings:
        parts.append("")
        parts += _findings(found.findings)
    elif found.indexes:
        parts += _wrapped(_all_well(found))
    return "\n".join(parts)


def _all_well(found: Inventory) -> str:
    blind = sum(one.sample is not None and one.sample.mean is None for one in found.indexes)
    if "locked" in found.unknown:
        return "nothing found to mend in what could be looked at"
    if blind:
        return f"nothing found to mend; what {blind:,} of the indexes find is not known"
    return "nothing found to mend"


def _nothing(found: Inventory, asked: Asked) -> str:
    if asked.everything:
        return "there are no indexes"
    if found.server.pgvector is None:
        return "the vector extension is not installed in this database: there are no vector indexes"
    return "there are no vector indexes"


def _table(listed: Iterable[Listed]) -> str:
    import io

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    table.add_column("Index", overflow="fold", ratio=5)
    table.add_column("Built as", overflow="fold", ratio=5)
    table.add_column("Rows", justify="right", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("Scans", justify="right", no_wrap=True)
    table.add_column("Recall", overflow="fold", ratio=4)
    for one in listed:
        cells = (_named(one), _built(one), _rows(one), _size(one), _scans(one), _recall(one))
        table.add_row(*(Text(cell) for cell in cells))
    console = Console(
        file=io.StringIO(), width=max(_NARROWEST, output.width()), no_color=True, highlight=False
    )
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join(line for line in lines if line)


def _named(one: Listed) -> str:
    index = one.index
    lines = [output.on_one_line(index.name), f"on {output.on_one_line(index.on)}"]
    if index.collections:
        lines.append(f"of {output.on_one_line(', '.join(index.collections))}")
    return "\n".join(lines)


def _built(one: Listed) -> str:
    index = one.index
    if not index.is_vector:
        return output.on_one_line(f"{index.method} ({', '.join(index.keys)})")
    options = " ".join(
        f"{_SHORT.get(name, name)} {value}" for name, value in _options(index).items()
    )
    dimension = "any" if index.dimension is None else f"{index.dimension}"
    lines = [
        f"{index.method} {index.metric or ', '.join(index.operator_classes)}",
        f"{index.vector_type}({dimension}) {options}".rstrip(),
        _asked_by(one.operators),
    ]
    if index.predicate is not None and not index.is_ours:
        lines.append(f"where {output.on_one_line(index.predicate)}")
    return "\n".join(lines)


def _asked_by(operators: tuple[str, ...] | None) -> str:
    if operators is None:
        return "queries: unknown"
    return f"queries use {' '.join(operators)}" if operators else "queries: none seen"


_SHORT = {"ef_construction": "efc"}
_DEFAULTS = {"hnsw": {"m": "16", "ef_construction": "64"}, "ivfflat": {"lists": "100"}}


def _options(index: IndexFacts) -> dict[str, str]:
    return {**_DEFAULTS.get(index.method, {}), **dict(index.options)}


def _rows(one: Listed) -> str:
    rows = one.index.table_rows
    if one.sample is not None and one.sample.rows is not None:
        rows = one.sample.rows
    return "unknown" if rows is None else f"{rows:,}"


def _size(one: Listed) -> str:
    from ragline.core.index_facts import bytes_said

    share = one.index.cached_share
    cached = "cache ?" if share is None else f"{share:.0%} cached"
    return f"{bytes_said(one.index.size_bytes)}\n{cached}"


def _scans(one: Listed) -> str:
    index = one.index
    if index.is_building:
        return f"{index.scans:,}\nbuilding"
    if not index.serves:
        return f"{index.scans:,}\n{'INVALID' if index.is_building is False else 'INVALID?'}"
    return f"{index.scans:,}"


def _recall(one: Listed) -> str:
    sample = one.sample
    if sample is None:
        return "not measured" if one.index.is_vector else ""
    if sample.mean is None:
        return output.on_one_line(f"unknown: {sample.why_not}")
    return "\n".join(_measured(sample))


def _measured(sample: Sample) -> list[str]:
    width = "" if sample.width is None else f", {_WIDTHS[sample.width_name]} {sample.width}"
    lines = [
        f"@{sample.k} {sample.mean:.3f}",
        sample.interval,
        f"{sample.median_ms:.1f} ms{width}",
    ]
    if sample.short:
        lines.append(f"{sample.short} of {sample.n} short")
    if sample.path is not None:
        lines.append(output.on_one_line(f"plan: {sample.path}"))
    return lines


_WIDTHS = {"ef_search": "ef", "probes": "probes"}


def _notes(found: Inventory) -> list[str]:
    lines = []
    if since := found.server.statistics_since:
        lines.append(f"scans are counted since {since:%Y-%m-%d %H:%M} UTC")
    lines += [f"unknown, {_UNKNOWN[what]}: {why}" for what, why in _by_need(found.unknown)]
    lines += _without_index(found)
    if found.others:
        many = "other index is" if found.others == 1 else "other indexes are"
        lines.append(f"{found.others:,} {many} not shown; --all shows them")
    return lines


def _without_index(found: Inventory) -> list[str]:
    if not found.bare:
        return []
    named = [
        name + ("" if rows is None else f" (about {rows:,} rows)")
        for name, rows in found.bare[:_NAMED]
    ]
    more = len(found.bare) - len(named)
    rest = f" and {more:,} more" if more else ""
    return [f"without a vector index, searched row by row: {', '.join(named)}{rest}"]


def _by_need(unknown: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(what, unknown[what]) for what in _UNKNOWN if what in unknown]


def _findings(findings: Iterable[Finding]) -> list[str]:
    lines = []
    for one in findings:
        lines.append(output.on_one_line(f"{one.status:<7} {one.id}  {one.subject or ''}".rstrip()))
        lines += _wrapped(one.evidence, _INDENT)
        if one.fix:  # on one line, to be copied
            lines.append(output.on_one_line(f"{_INDENT}fix: {one.fix}"))
    return lines


def _wrapped(text: str, indent: str = "") -> list[str]:
    import textwrap

    width = max(_NARROWEST, output.width())
    said = output.on_one_line(text)
    return textwrap.wrap(said, width, initial_indent=indent, subsequent_indent=indent or "  ")
