"""A collection's search policy: how it is searched where a caller does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ragline.change.kind import Kind, Site
from ragline.core import search_policy
from ragline.core.change import Arm, Step, Trial, Value
from ragline.core.results import CollectionFacts
from ragline.core.search_policy import DEFAULT, FIELDS, SearchPolicy
from ragline.db import attached_rows, policies
from ragline.db.pool import Connection
from ragline.errors import NotFound, PreconditionFailed, UsageError
from ragline.rag.query import HITS


class Search(Kind):
    """The kind `search`: values of a collection's search policy, tried on trial searches first."""

    name = "search"

    async def wanted(self, site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
        """Return the whole policy: the fields wanted, over what is there; None is all defaults."""
        facts = await site.app.collection(target, fresh=True)
        now = await self._now(site, target)
        policy = DEFAULT if want is None else _laid_over(now, want)
        changed = {
            name: value
            for name, value in search_policy.to_json(policy).items()
            if value is not None and value != getattr(now, name)
        }
        warnings = await _without_effect(site, facts, changed)
        said = (*warnings, *_short_of_rows(policy), *_fewer_hits(now, policy))
        return search_policy.to_json(policy), said

    async def read(self, site: Site, target: str) -> Value:
        """Return all fields of the policy in force."""
        return search_policy.to_json(await self._now(site, target))

    def steps(self, target: str, now: Value, want: Value) -> list[Step]:
        """Return the one step that lets searches go by another policy."""
        if now == want:
            return []
        return [
            Step(
                kind=self.name,
                target=target,
                phase="adopt",
                action="switch",
                text=f"search collection {target} with {_said(now, want)}",
                arguments={"policy": want},
                lock="one row of ragline.search_policy and of ragline.collection",
                expected_s=0.0,
            )
        ]

    async def run(self, site: Site, step: Step) -> None:
        """Write the policy."""
        policy = search_policy.from_json(step.arguments["policy"])
        async with site.admin() as connection, connection.transaction():
            await connection.execute(
                "select pg_catalog.set_config('lock_timeout', $1, true)",
                f"{site.lock_timeout_ms}ms",
            )
            if not await policies.keep(connection, step.target, policy):
                raise _removed(step.target)
        site.app.known.pop(step.target, None)

    async def confirm(self, site: Site, target: str, want: Value) -> None:
        """Read the row back, and the policy that searches are given."""
        stored = await self._now(site, target)
        in_use = (await site.app.collection(target, fresh=True)).policy
        for where, found in (("the table", stored), ("searches", in_use)):
            if search_policy.to_json(found) != want:
                raise PreconditionFailed(
                    f"the search policy of collection {target!r} should be {want}, and {where} "
                    f"have {search_policy.to_json(found)}: somebody else changed it; plan again"
                )

    async def arms(
        self, site: Site, target: str, now: Value, want: Value
    ) -> tuple[Arm, Arm] | None:
        """Return both policies: any search can be given one of its own."""
        return ({target: Trial(policy=_fields(now))}, {target: Trial(policy=_fields(want))})

    def measured(self, target: str) -> Mapping[str, Any]:
        """The collection."""
        return {"collections": (target,)}

    async def _now(self, site: Site, target: str) -> SearchPolicy:
        async with site.admin() as connection:
            policy = await policies.of(connection, target)
        if policy is None:
            raise _removed(target)
        return policy


def _removed(target: str) -> NotFound:
    return NotFound(f"collection {target!r} does not exist, or was removed meanwhile")


def _laid_over(now: SearchPolicy, want: Value) -> SearchPolicy:
    if not isinstance(want, Mapping):
        raise UsageError(
            f"a search policy is {want!r}; write the fields that should be different, such as "
            f'{{"ef_search": 40}}; there are {", ".join(FIELDS)}, and null is the default'
        )
    fields = {**search_policy.to_json(now), **want}
    policy = search_policy.from_json(fields)
    if policy.vector_weight is not None:
        fields["vector_weight"] = round(float(policy.vector_weight), 6)
    return search_policy.from_json(fields)


def _fields(value: Value) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"a search policy is a mapping, not {value!r}")
    return value


def _said(now: Value, want: Value) -> str:
    """Return what differs: "ef_search 40 (was the default)"."""
    before, after = _fields(now), _fields(want)
    return ", ".join(
        f"{name} {_value(after[name])} (was {_value(before[name])})"
        for name in FIELDS
        if before[name] != after[name]
    )


def _value(value: object) -> str:
    return "the default" if value is None else str(value)


def _short_of_rows(policy: SearchPolicy) -> list[str]:
    k = policy.k or HITS
    if policy.ef_search is None or policy.ef_search >= k or policy.iterative not in (None, "off"):
        return []
    said = f"ef_search {policy.ef_search} is less than the {k} hits asked for"
    return [f"{said}: the vector index hands over no more than that at first"]


def _fewer_hits(now: SearchPolicy, policy: SearchPolicy) -> list[str]:
    before, after = now.k or HITS, policy.k or HITS
    if after >= before:
        return []
    said = f"k {after} returns fewer than the {before} hits of today, which is measured as a loss"
    return [f"{said}: add --k {after} to judge the first {after} alone"]


async def _will_have_index(site: Site, connection: Connection, facts: CollectionFacts) -> bool:
    """Whether there is a vector index once the change, of which this may be one part, is made."""
    planned = [
        part.want for part in site.together if (part.kind, part.target) == ("index", facts.name)
    ]
    if planned:
        return planned[0] is not None
    return bool(await attached_rows.index_state(connection, facts))


async def _without_effect(
    site: Site, facts: CollectionFacts, changed: Mapping[str, Any]
) -> list[str]:
    """Return a warning for each field that no search of this collection would notice."""
    found: list[str] = []
    by_vectors = [name for name in ("vector_weight", "ef_search", "iterative") if name in changed]
    if facts.space is None:
        found += [
            f"{name} has no effect: collection {facts.name!r} has no vectors" for name in by_vectors
        ]
        by_vectors = []
    async with site.admin() as connection:
        if facts.space and not await _will_have_index(site, connection, facts):
            found += [
                f"{name} has no effect: collection {facts.name!r} has no vector index, so searches "
                "compare every vector"
                for name in by_vectors
                if name != "vector_weight"
            ]
        if "early_exit" in changed and facts.attached is not None:
            if facts.attached.words is None:
                found.append(f"early_exit has no effect: {facts.name!r} is not searched by words")
        elif "early_exit" in changed:
            postings = await policies.postings(connection, facts.id)
            if postings <= changed["early_exit"]:
                found.append(
                    f"early_exit has no effect: the words of collection {facts.name!r} have "
                    f"{postings:,} postings together, and no search stops before "
                    f"{changed['early_exit']:,}"
                )
    return found
