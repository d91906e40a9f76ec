"""Whether a dataset fits the collections it is run on: the documents that it names are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ragline.core import measuring
from ragline.core.cases import Dataset
from ragline.core.measuring import WAYS, Way
from ragline.core.results import CollectionFacts
from ragline.core.runs import Match
from ragline.db import relevance
from ragline.db.pool import Pool
from ragline.errors import UsageError

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a dataset names documents, and what to warn about. `wanted` and `there` count names."""

    way: Way
    wanted: int
    there: int
    warnings: tuple[str, ...]


async def fit(
    pool: Pool, collections: Sequence[CollectionFacts], dataset: Dataset, match: Match
) -> Fit | None:
    """Return how a dataset names the collections' documents; None where it names none.

    Raises UsageError when none of them is there, or where passages are wanted, when none of those
    stands in a chunk: every metric would be 0, and mean nothing.
    """
    wanted = {relevant.document for case in dataset.cases for relevant in case.relevant}
    if not wanted:
        return None
    found: dict[Way, dict[str, int]] = {}
    async with pool.connection() as connection:
        for way in WAYS if match == "auto" else (match,):
            found[way] = await relevance.present(connection, collections, wanted, way)
            if len(found[way]) == len(wanted):
                break
    way = measuring.way_of(wanted, {way: set(names) for way, names in found.items()})
    there = found.get(way, {})
    if not there:
        raise UsageError(_none_there(wanted, collections, match))
    return Fit(
        way=way,
        wanted=len(wanted),
        there=len(there),
        warnings=(
            *_missing(wanted, there, way),
            *_ambiguous(there, way),
            *await _cut(pool, collections, dataset, way),
        ),
    )


async def _cut(
    pool: Pool, collections: Sequence[CollectionFacts], dataset: Dataset, way: Way
) -> tuple[str, ...]:
    """Say how many passages no search can find, as no chunk holds them as a whole."""
    relevant = [one for case in dataset.cases for one in case.relevant]
    wanted: dict[str, set[str]] = {}
    for one in relevant:
        if one.passage is not None:
            wanted.setdefault(one.document, set()).add(measuring.plain(one.passage))
    total = sum(map(len, wanted.values()))
    if not total:
        return ()
    async with pool.connection() as connection:
        async for document, body in relevance.bodies(connection, collections, wanted, way):
            if wanted[document]:
                held = measuring.plain(body)
                wanted[document] = {one for one in wanted[document] if one not in held}
    cut = sum(map(len, wanted.values()))
    if not cut:
        return ()
    where = _some({document for document, passages in wanted.items() if passages})
    if cut == total and all(one.passage is not None for one in relevant):
        raise UsageError(
            f"none of the {total:,} passages that the dataset calls relevant stands in one chunk of its "
            f"document, such as {where}: give shorter ones, word for word, or leave `passage` out to "
            "measure documents"
        )
    what = f"{cut:,} of {total:,} relevant passages stand in no chunk of their document as a whole"
    return (f"{what}, and count as not found: of {where}",)


def _none_there(wanted: set[str], collections: Sequence[CollectionFacts], match: Match) -> str:
    names = " and ".join(repr(facts.name) for facts in collections)
    how = "as its source, file name, stem or row" if match == "auto" else f"as its {match}"
    return (
        f"none of the {len(wanted):,} documents that the dataset calls relevant is in {names} {how}, "
        f"such as {_some(wanted)}: name the collection that the dataset is about, or ingest its "
        "documents under these names"
    )


def _missing(wanted: set[str], there: dict[str, int], way: Way) -> tuple[str, ...]:
    missing = wanted - there.keys()
    if not missing:
        return ()
    what = f"{len(missing):,} of {len(wanted):,} relevant documents are not in the collections"
    return (f"{what} by their {way}, and count as not found: {_some(missing)}",)


def _ambiguous(there: dict[str, int], way: Way) -> tuple[str, ...]:
    several = {name for name, documents in there.items() if documents > 1}
    if not several:
        return ()
    what = f"{len(several):,} relevant documents have a {way} that others share"
    return (f"{what}, each of which counts as it: {_some(several)}",)


def _some(names: set[str]) -> str:
    listed = [repr(name) for name in sorted(names)[:_MOST_NAMED]]
    return ", ".join(listed) + (", …" if len(names) > _MOST_NAMED else "")
