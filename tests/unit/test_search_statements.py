"""The SQL that search composes, as it was when somebody last looked at it.

After a change that is meant: `python tests/unit/test_search_statements.py --write`, and read the
difference.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from textwrap import dedent
from typing import get_args

import pytest

from ragline.core.attached import Attached
from ragline.core.filters import from_text
from ragline.core.results import Method
from ragline.db import attached_filters, search, statements
from ragline.db.targets import Scope

SNAPSHOTS = Path(__file__).with_name("snapshots")
# The name of the collection is the user's; no statement may hold it.
HOSTILE = "x'; drop table chunk; --"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One statement, and the file that holds it."""

    name: str
    target: search.Target
    method: Method
    is_iterative: bool = False
    is_exact: bool = False
    scope: Scope | None = None

    @property
    def file(self) -> Path:
        return SNAPSHOTS / f"{self.name}.sql"

    def sql(self) -> str:
        found = statements.statement(
            self.target,
            self.method,
            10,
            40,
            is_iterative=self.is_iterative,
            is_exact=self.is_exact,
            scope=self.scope,
        )
        return "\n".join(line.rstrip() for line in dedent(found).strip().splitlines()) + "\n"


def target(storage: str, dimension: int, metric: str = "cosine") -> search.Target:
    return search.Target(
        collection=HOSTILE,
        collection_id=7,
        space_id=3,
        dimension=dimension,
        metric=metric,
        storage=storage,
    )


SPACES = {
    "vector-384": target("vector", 384),
    "vector-2000": target("vector", 2000),
    "vector-2001": target("vector", 2001),
    "vector-4001": target("vector", 4001),
    "halfvec-384": target("halfvec", 384),
    "halfvec-3072": target("halfvec", 3072),
}
METRICS = {metric: target("vector", 384, metric) for metric in ("l2", "inner_product")}
ATTACHED = Attached(
    schema="Möbel",
    table='a "table".x',
    key="id",
    key_type="uuid",
    text="content",
    embedding="embedding",
    is_typed=False,
    metadata="metadata",
    metadata_type="json",
    filters=(("lang", "text"),),
    only=(("collection", "it's \\ ours"),),
    words="to_tsvector('english'::regconfig, content)",
    words_config="english",
)
ROWS = attached_filters.where(
    from_text('lang = "\'; drop" and year > 2020'), ATTACHED, first=1, alias="e"
)
WITHIN = Scope(
    condition=ROWS.sql, lookup=ROWS.lookup, parameters=len(ROWS.values), is_small=False, rows=20
)
TABLE = replace(target("vector", 384), attached=ATTACHED)
PLAIN = replace(
    ATTACHED, key_type="bigint", is_typed=True, only=(), filters=(), metadata_type="jsonb"
)
ATTACHED_CASES = (
    Case(name="attached.vector", target=replace(TABLE, attached=PLAIN), method="vector"),
    Case(
        name="attached.vector.on-trial",
        target=replace(TABLE, attached=PLAIN, slot=2, index_storage="halfvec"),
        method="vector",
    ),
    Case(name="attached.vector.shared", target=TABLE, method="vector", is_iterative=True),
    Case(name="attached.vector.exact", target=TABLE, method="vector", is_exact=True),
    Case(name="attached.vector.within", target=TABLE, method="vector", scope=WITHIN),
    Case(name="attached.lexical", target=TABLE, method="lexical"),
    Case(
        name="attached.hybrid.within-few",
        target=TABLE,
        method="hybrid",
        scope=replace(WITHIN, is_small=True),
    ),
)
CASES = (
    *ATTACHED_CASES,
    Case(
        name="lexical", target=search.Target(collection=HOSTILE, collection_id=7), method="lexical"
    ),
    *(
        Case(
            name=f"vector.{space}{'.iterative' if is_iterative else ''}",
            target=SPACES[space],
            method="vector",
            is_iterative=is_iterative,
        )
        for space, is_iterative in product(SPACES, (False, True))
    ),
    *(Case(name=f"vector.{name}", target=METRICS[name], method="vector") for name in METRICS),
    *(Case(name=f"hybrid.{name}", target=SPACES[name], method="hybrid") for name in SPACES),
)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_statement_is_the_one_that_was_looked_at(case: Case) -> None:
    assert case.sql() == case.file.read_text()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_statement_holds_nothing_that_a_user_said(case: Case) -> None:
    assert "drop" not in case.sql()


@pytest.mark.parametrize("method", ["vector", "hybrid"])
def test_an_iterative_scan_of_the_hybrid_method_is_not_for_its_caller_to_choose(
    method: Method,
) -> None:
    space = SPACES["vector-384"]
    once, iterative = (
        statements.statement(space, method, 10, 40, is_iterative=is_iterative)
        for is_iterative in (False, True)
    )

    assert (once == iterative) == (method == "hybrid")


def test_every_method_has_a_snapshot_and_no_snapshot_is_left_over() -> None:
    assert {case.method for case in CASES} == set(get_args(Method))
    assert {case.file for case in CASES} == set(SNAPSHOTS.glob("*.sql"))


def write() -> None:
    SNAPSHOTS.mkdir(exist_ok=True)
    for old in SNAPSHOTS.glob("*.sql"):
        old.unlink()
    for case in CASES:
        case.file.write_text(case.sql())


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/unit/test_search_statements.py --write")
    write()
