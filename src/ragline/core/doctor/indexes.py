"""Indexes: what the inventory finds, and what it cannot know here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ragline.core import index_findings
from ragline.core.advisories import Advisories
from ragline.core.checkup import Finding
from ragline.core.doctor.catalogue import IDS
from ragline.core.doctor.facts import Facts, Unknown
from ragline.core.doctor.words import many, passed, size, some, unknown
from ragline.core.evidence import OperatorUse
from ragline.core.index_facts import IndexFacts, ServerFacts, TableFacts
from ragline.core.sampled_indexes import SMALL

_OURS = tuple(id_ for id_ in IDS if id_.startswith("index."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Indexes and tables. `operators` None: nobody knows which ones statements use.

    `locked` are tables that are not among them, since nobody could look at them.
    """

    indexes: Sequence[IndexFacts]
    tables: Sequence[TableFacts]
    server: ServerFacts
    operators: Sequence[OperatorUse] | None
    locked: Sequence[str] = ()


def judge(facts: Facts, found: Inventory | Unknown) -> Iterator[Finding]:
    """Yield what is wrong with indexes, and a pass for each id of which nothing is."""
    if isinstance(found, Unknown):
        yield from (unknown(id_, found) for id_ in _OURS)
        return
    wrong = _findings(facts.advisories, found)
    yield from wrong
    seen = {finding.id for finding in wrong}
    not_known = _not_known(found)
    for id_ in _OURS:
        if id_ in seen:
            continue
        if id_ in not_known:
            yield unknown(id_, not_known[id_])
        else:
            yield passed(id_, _all_well(id_, found))


def _findings(known: Advisories, found: Inventory) -> list[Finding]:
    version = found.server.pgvector
    return index_findings.findings(
        found.indexes,
        found.tables,
        found.server,
        operators=found.operators,
        faults=known.of_pgvector(version) if version else (),
    )


def _not_known(found: Inventory) -> Mapping[str, Unknown]:
    """Return what nobody can say here: silence about it would look like a pass."""
    said: dict[str, Unknown] = {}
    if found.locked:
        held = Unknown(
            reason=f"somebody has locked {some(list(found.locked))}: nobody can look at its indexes; "
            "nothing is wrong with the others",
            fix="look again when that is done",
        )
        said.update(dict.fromkeys(_OURS, held))
    if found.operators is None and any(one.is_vector and not one.metrics for one in found.indexes):
        said["index.operator_class"] = Unknown(
            reason="which operators statements use is not counted, or not for this user to see",
            fix="see extension.pg_stat_statements and role.privileges",
        )
    if any(one.method == "ivfflat" for one in found.indexes):
        # pgvector keeps no count of the rows at the build; once vacuumed, only a search tells.
        said["index.ivfflat_empty"] = Unknown(
            reason="whether its lists part the rows is seen by a sample of searches only",
            fix="`ragline index list` takes one",
        )
    return said


def _all_well(id_: str, found: Inventory) -> str:
    count, vectors = len(found.indexes), sum(one.is_vector for one in found.indexes)
    if id_ == "index.unused":
        young = index_findings.young_statistics(found.server)
        if young is not None:
            return f"{count} indexes; {young}"
    if id_ in ("index.invalid", "index.duplicate", "index.unused"):
        total = sum(one.size_bytes for one in found.indexes)
        return f"none of {count} indexes ({size(total)})"
    if id_ == "index.missing":
        columns = [column for table in found.tables for column in table.vectors]
        return f"none of {many(len(columns), 'column')} of vectors with {SMALL:,} rows or more"
    return f"none of {vectors} vector indexes"
