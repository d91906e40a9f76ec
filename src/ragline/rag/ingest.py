"""Bringing documents in: files, rows of files, pages and texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

from ragline.core.results import IngestReport, Rejection
from ragline.errors import UsageError
from ragline.rag import files, pruning, records, sources
from ragline.rag.app import App
from ragline.rag.catalog import Policy
from ragline.rag.formats import RECORDS
from ragline.rag.formats.rows import Fields
from ragline.rag.ingest_run import Progress, Run
from ragline.rag.sources import Source, Text
from ragline.rag.urls import UrlPolicy, is_url, pages, shown

__all__ = [
    "Fields",
    "Policy",
    "Progress",
    "Text",
    "UrlPolicy",
    "ingest_paths",
    "ingest_texts",
    "named",
]


async def ingest_paths(
    app: App,
    paths: Sequence[Path],
    collection: str,
    *,
    policy: Policy | None = None,
    ignore: Sequence[str] = (),
    prune: bool = False,
    may_empty: bool = False,
    fields: Fields | None = None,
    urls: Sequence[str] = (),
    url_policy: UrlPolicy | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> IngestReport:
    """Bring files, folders and pages into a collection, which is made when missing.

    Unchanged documents cost nothing, changed ones are replaced, each in one transaction, so that an
    interrupted run is continued by running it again. `prune` removes documents below `paths` whose
    file or row is gone; it is refused where nothing at all is left below a path, unless `may_empty`.
    `fields` says what the fields of JSONL and CSV are. `urls` need a `url_policy`: UsageError without.
    """
    if urls and url_policy is None:
        raise UsageError(
            f"{shown(urls[0])!r} is a URL, and URLs are off: allow them with --allow-urls "
            "(allow_urls=True in Python)"
        )
    found, skipped = await asyncio.to_thread(pruning.find, paths, ignore)
    total = len(found) + len(urls)
    run = await Run.begin(app, collection, policy or Policy(), on_progress, total)
    await run.learn_known()
    if prune and not may_empty:
        pruning.check_not_emptied(collection, run.known, paths, [*found, *skipped])
    run.unseen = set(run.known) if prune else set()
    run.pass_over(skipped)
    await run.take(_files(run, found, fields or Fields()))
    if url_policy is not None:
        await run.take(pages(urls, url_policy))
    pruned = await run.prune(paths, ignore, found) if prune else 0
    return await run.end(pruned=pruned, build_index=True)


def named(given: Iterable[Path | str]) -> tuple[list[Path], list[str]]:
    """Return paths as such, and URLs; raise UsageError for an empty text, taken for "here" by Path."""
    several = list(given)
    if "" in several:
        raise UsageError("a path is empty; name a file or folder, or write . for the current one")
    addresses = [one for one in several if isinstance(one, str) and is_url(one)]
    return [Path(one) for one in several if one not in addresses], addresses


async def _files(
    run: Run, found: Sequence[files.Found], fields: Fields
) -> AsyncIterator[Source | Rejection]:
    like_rows = {item.source for item in found if "#" in item.source}
    for item in found:
        if item.media_type not in RECORDS:
            yield sources.from_file(item)
            continue
        async for row in records.rows(run.app.parsers, item, fields, like_rows):
            run.total += 1
            yield row
        # The file itself is in the total as well, and done now.
        run.step(0)


async def ingest_texts(
    app: App, texts: Sequence[Text], collection: str, *, policy: Policy | None = None
) -> IngestReport:
    """Bring texts into a collection, which is made when missing; as `ingest_paths` does files."""
    run = await Run.begin(app, collection, policy or Policy(), None, len(texts))
    known = [item.source for item in texts if sources.fault_of_name(item.source) is None]
    await run.learn_known(known)
    await run.take(sources.from_texts(texts))
    return await run.end(pruned=0, build_index=app.ingest_workload == "admin")
