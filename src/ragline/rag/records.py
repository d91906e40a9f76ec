"""Documents that are rows of a file: JSONL, CSV, mbox. Each is known by the file and its id."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

from ragline.core.results import Rejection
from ragline.rag.files import Found
from ragline.rag.formats import Rejected
from ragline.rag.formats.rows import Fault, Fields, Place, Row
from ragline.rag.parsing import ParserPool
from ragline.rag.sources import Source

# Rejections are kept in memory until the report; a file may have millions of bad lines.
MOST_REJECTIONS = 1000


async def rows(
    parsers: ParserPool, item: Found, fields: Fields, files: Collection[str] = ()
) -> AsyncIterator[Source | Rejection]:
    """Yield the rows of a file as things to ingest, and what is wrong with the others.

    `files` are those taken in beside it: a row that would have the name of one is rejected.
    After `MOST_REJECTIONS` the rest is counted, and reported last as AND_MORE.
    """
    faults = _Faults(item.source)
    seen: set[str] = set()
    place: Place | None = Place(fields=fields)
    try:
        while place is not None:
            batch = await parsers.rows(item.path, item.media_type, place)
            found: list[Row | Fault] = [*batch.faults, *batch.rows]
            for one in sorted(found, key=lambda one: one.line):
                if isinstance(one, Fault):
                    fault = one
                elif _name(item, one.id) in files:
                    fault = _as_a_file(one)
                elif one.id in seen:
                    fault = _repeated(one)
                else:
                    seen.add(one.id)
                    yield _source(item, one)
                    continue
                if rejection := faults.one(fault):
                    yield rejection
            place = batch.place
    except Rejected as error:
        yield Rejection(source=item.source, reason=error.reason, message=error.message)
        return
    if not seen and not faults.count:
        yield Rejection(source=item.source, reason="EMPTY", message="there is no row in the file")
    if rejection := faults.others():
        yield rejection


def _name(item: Found, id_: str) -> str:
    return f"{item.source}#{id_}"


def _source(item: Found, row: Row) -> Source:
    return Source(
        source=_name(item, row.id),
        media_type=row.media_type,
        content=lambda: row.content,
        title=row.title,
        metadata=row.metadata,
    )


def _repeated(row: Row) -> Fault:
    message = f"line {row.line}: another row before it has the id {row.id[:80]!r}"
    return Fault(line=row.line, id=row.id, reason="DUPLICATE_ID", message=message)


def _as_a_file(row: Row) -> Fault:
    message = f"line {row.line}: a file beside it has the name of the row {row.id[:80]!r}"
    return Fault(line=row.line, reason="DUPLICATE_ID", message=message)


@dataclass(slots=True)
class _Faults:
    """What is wrong with the rows of a file."""

    source: str
    count: int = 0
    unlisted: Counter[str] = field(default_factory=Counter)

    def one(self, fault: Fault) -> Rejection | None:
        """Return a fault as a rejection, or None when there are too many to list."""
        self.count += 1
        if self.count > MOST_REJECTIONS:
            self.unlisted[fault.reason] += 1
            return None
        source = self.source if fault.id is None else f"{self.source}#{fault.id}"
        return Rejection(source=source, reason=fault.reason, message=fault.message)

    def others(self) -> Rejection | None:
        """Return how many were not listed, if there are any."""
        if not self.unlisted:
            return None
        kinds = ", ".join(f"{reason} {count}" for reason, count in self.unlisted.most_common())
        return Rejection(
            source=self.source,
            reason="AND_MORE",
            message=f"{self.unlisted.total()} more rows were rejected: {kinds}",
        )
