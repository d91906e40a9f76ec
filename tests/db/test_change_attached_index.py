"""Indexes of tables that are not ragline's: ordinary ones, and the vector index of an attached table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from ragline.change import building, loop
from ragline.change.building import Building
from ragline.change.kind import Site
from ragline.change.kinds.index import Index
from ragline.core.change import Arm, Part, Trial
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked, Judgement
from ragline.core.index_definition import Place, place
from ragline.errors import Conflict, NotFound, PreconditionFailed, UsageError
from ragline.rag import detach
from ragline.rag.app import App
from trials import Fixed, brought, site_of

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
ROWS = 400
FILL = """
    insert into {table} (id, body, embedding, meta)
    select g, 'text ' || g, v::real[]::public.{kind}, jsonb_build_object('n', g % 7)
    from (
        select g, array_agg(random() - 0.5) as v
        from generate_series(1, {rows}) g, generate_series(1, 16) group by g
    ) as made
"""
INDEXES = """
    select pg_get_indexdef(indexrelid) from pg_index where indrelid = $1::text::regclass order by 1
"""


@pytest.fixture
async def kind() -> Index:
    return Index()


async def made(
    db: Db, name: str = "public.docs", column: str = "vector(16)", kind: str = "vector"
) -> None:
    # As the kind sees them, definitions name every schema.
    await db.execute("set search_path = pg_catalog, pg_temp")
    await db.execute(
        f"create table {name} (id bigint primary key, body text, embedding public.{column}, meta jsonb)"
    )
    await db.execute(FILL.format(table=name, kind=kind, rows=ROWS))
    await db.execute(f"analyze {name}")


async def attached(
    db: Db, table: str = "docs", held: str = "vector", *, is_typed: bool = True
) -> None:
    """Write the rows of an attached table."""
    await db.execute(
        "insert into ragline.collection (name, chunk_size, chunk_overlap) values ('docs', 200, 0)"
    )
    space = await db.fetchval(
        """
        insert into ragline.embedding_space (
            collection_id, model_id, weights_hash, dimension, metric, storage, normalised, languages
        ) select id, 'unknown', 'unknown:docs', 16, 'cosine', $1, false, '{}'
        from ragline.collection returning id
        """,
        held,
    )
    await db.execute("update ragline.collection set active_space_id = $1", space)
    await db.execute(
        """
        insert into ragline.attached_table (collection_id, description, table_oid)
        select c.id, jsonb_build_object(
            'schema', 'public', 'table', $1::text, 'key', 'id', 'key_type', 'bigint', 'text', 'body',
            'embedding', 'embedding', 'is_typed', $2::boolean
        ), ('public.' || quote_ident($1::text))::regclass::oid
        from ragline.collection c
        """,
        table,
        is_typed,
    )


async def indexes_of(db: Db, table: str = "public.docs") -> list[str]:
    return [row[0] for row in await db.fetch(INDEXES, table) if "_pkey" not in row[0]]


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("@public.docs.docs_by_body", ("public", "docs", "docs_by_body")),
        ('@public."My ""docs"".x"."a.b"', ("public", 'My "docs".x', "a.b")),
        ("@Public.Docs.IDX", ("public", "docs", "idx")),
    ],
)
def test_a_target_names_its_parts_as_sql_does(target: str, parts: tuple[str, str, str]) -> None:
    found = place(target)

    assert (found.schema, found.table, found.name) == parts
    assert place(str(found)) == found


@pytest.mark.parametrize("target", ["@docs", "@a.b", "@a.b.c.d", '@a."b.c', "@", "@a..b"])
def test_what_is_no_place_is_refused(target: str) -> None:
    with pytest.raises(UsageError, match=r"@schema\.table\.index"):
        place(target)


async def test_an_index_of_any_table_is_made_and_taken_back(
    app: App, db: Db, own_dsn: Dsn, tmp_path: Path, kind: Index
) -> None:
    site = site_of(app, own_dsn, tmp_path, kind)
    await made(db, 'public."My ""docs"""')
    where = 'public."My ""docs"""'
    target = str(Place(schema="public", table='My "docs"', name="by meta"))
    want, _ = await kind.wanted(
        site, target, {"definition": f'create index "by meta" on {where} using gin (meta)'}
    )
    before = await indexes_of(db, where)

    was = await brought(site, kind, target, want)
    there = await indexes_of(db, where)
    await brought(site, kind, target, was)

    assert was is None
    assert there == ['CREATE INDEX "by meta" ON public."My ""docs""" USING gin (meta)']
    assert await indexes_of(db, where) == before == []


async def test_an_index_is_replaced_in_place(
    app: App, db: Db, own_dsn: Dsn, tmp_path: Path, kind: Index
) -> None:
    site = site_of(app, own_dsn, tmp_path, kind)
    await made(db)
    await db.execute("create index docs_by_body on public.docs (body)")
    target = "@public.docs.docs_by_body"
    want, _ = await kind.wanted(
        site, target, {"definition": "create index docs_by_body on public.docs (body desc)"}
    )

    was = await brought(site, kind, target, want)
    there = await indexes_of(db)
    await brought(site, kind, target, was)

    assert there == ["CREATE INDEX docs_by_body ON public.docs USING btree (body DESC)"]
    assert await indexes_of(db) == ["CREATE INDEX docs_by_body ON public.docs USING btree (body)"]


async def test_what_cannot_have_an_index_without_stopping_writers_is_refused(
    app: App, db: Db, own_dsn: Dsn, tmp_path: Path, kind: Index
) -> None:
    site = site_of(app, own_dsn, tmp_path, kind)
    await db.execute("create table public.parts (a int) partition by range (a)")
    await db.execute("create view public.seen as select 1 as a")

    async def refused(target: str, definition: str, error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            await kind.wanted(site, target, {"definition": definition})

    await refused(
        "@public.parts.i", "create index i on public.parts (a)", UsageError, "partitioned"
    )
    await refused("@public.seen.i", "create index i on public.seen (a)", UsageError, "view")
    await refused("@public.none.i", "create index i on public.none (a)", NotFound, "no table")
    await refused(
        "@pg_catalog.pg_class.i", "create index i on x (a)", UsageError, "PostgreSQL's own"
    )
    await refused("@ragline.chunk.i", "create index i on x (a)", UsageError, r"chunk\.i")


async def test_a_constraint_of_somebody_elses_is_not_dropped(
    app: App, db: Db, own_dsn: Dsn, tmp_path: Path, kind: Index
) -> None:
    site = site_of(app, own_dsn, tmp_path, kind)
    await made(db)

    with pytest.raises(UsageError, match="keeps the constraint"):
        await kind.wanted(site, "@public.docs.docs_pkey", None)


@pytest.fixture
async def place_of_docs(app: App, db: Db, own_dsn: Dsn, tmp_path: Path, kind: Index) -> Site:
    await made(db)
    await attached(db)
    return site_of(app, own_dsn, tmp_path, kind)


OWN = "CREATE INDEX docs_idx ON public.docs USING hnsw (embedding public.vector_cosine_ops)"


async def test_the_index_of_an_attached_table_keeps_its_name_and_comes_back_as_it_was(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    await db.execute(OWN)
    want, said = await kind.wanted(place_of_docs, "docs", {"m": 24})

    was = await brought(place_of_docs, kind, "docs", want)
    there = await indexes_of(db)
    await kind.tidy(place_of_docs, "docs", want)
    await brought(place_of_docs, kind, "docs", was)
    await kind.tidy(place_of_docs, "docs", was)

    assert there == [f"{OWN} WITH (m='24', ef_construction='64')"]
    assert any("twice" in line for line in said)
    assert await indexes_of(db) == [OWN]


async def test_the_index_that_stays_is_built_with_the_memory_that_its_graph_takes(
    place_of_docs: Site, kind: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Building] = []
    really = building.built

    async def noted(site: Site, one: Building) -> None:
        built.append(one)
        await really(site, one)

    monkeypatch.setattr(building, "built", noted)
    want, _ = await kind.wanted(place_of_docs, "docs", {"m": 8})
    await brought(place_of_docs, kind, "docs", want)

    assert [one.name for one in built] == ["docs_embedding__trial", "docs_embedding__hnsw"]
    assert all("maintenance_work_mem" in one.settings for one in built)


async def test_only_searches_on_trial_can_use_what_is_on_trial(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    await db.execute(OWN)
    want, _ = await kind.wanted(place_of_docs, "docs", {"m": 4, "ef_construction": 16})
    steps = kind.steps("docs", await kind.read(place_of_docs, "docs"), want)

    for step in steps:
        if step.phase == "prepare":
            await kind.run(place_of_docs, step)
    await db.execute("set enable_seqscan = off")
    plan = await db.fetch(
        "explain select id from public.docs order by embedding operator(public.<=>) "
        "array_fill(1::real, array[16])::public.vector limit 3"
    )
    arms = await kind.arms(place_of_docs, "docs", None, want)
    await kind.tidy(place_of_docs, "docs", None)

    assert "docs_idx" in str(plan)
    assert arms == ({"docs": Trial(slot=1)}, {"docs": Trial(slot=2)})
    assert await indexes_of(db) == [OWN]
    assert await db.fetchval("select count(*) from ragline.space_index where slot = 2") == 0


async def test_an_index_of_halves_is_put_beside_the_applications_own(
    place_of_docs: Site, app: App, db: Db, kind: Index
) -> None:
    await db.execute(OWN)
    version = (await app.collection("docs", fresh=True)).search_version
    want, _ = await kind.wanted(place_of_docs, "docs", {"storage": "halfvec"})

    was = await brought(place_of_docs, kind, "docs", want)
    there = await indexes_of(db)
    facts = await app.collection("docs", fresh=True)
    await brought(place_of_docs, kind, "docs", was)

    assert OWN in there
    assert len(there) == 2
    assert facts.space is not None
    assert facts.space.index_storage == "halfvec"
    assert facts.search_version > version
    assert await indexes_of(db) == [OWN]
    back = (await app.collection("docs", fresh=True)).space
    assert back is not None
    assert back.index_storage == "vector"


async def test_an_index_of_halves_that_stands_already_is_taken_and_not_built_again(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    halves = (
        "CREATE INDEX a_half ON public.docs USING hnsw "
        "(((embedding)::public.halfvec(16)) public.halfvec_cosine_ops)"
    )
    await db.execute(OWN)
    await db.execute(halves)
    want, _ = await kind.wanted(place_of_docs, "docs", {"storage": "halfvec"})
    now = await kind.read(place_of_docs, "docs")

    # Nothing can be tried beside: it is measured before and after.
    assert await kind.arms(place_of_docs, "docs", now, want) is None
    assert [step.action for step in kind.steps("docs", now, want)] == ["switch"]
    was = await brought(place_of_docs, kind, "docs", want)
    await brought(place_of_docs, kind, "docs", was)

    assert OWN in await indexes_of(db)


async def test_a_table_without_an_index_gets_one_and_loses_it_again(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    want, _ = await kind.wanted(place_of_docs, "docs", {"m": 8})

    was = await brought(place_of_docs, kind, "docs", want)
    there = await indexes_of(db)
    await brought(place_of_docs, kind, "docs", was)

    assert was is None
    assert len(there) == 1
    assert there[0].endswith(OWN.split(" ON ")[1] + " WITH (m='8', ef_construction='64')")
    assert await indexes_of(db) == []


async def test_an_ivfflat_index_makes_room_and_comes_back(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    flat = (
        "CREATE INDEX docs_flat ON public.docs USING ivfflat "
        "(embedding public.vector_cosine_ops) WITH (lists='4')"
    )
    await db.execute(flat)
    want, _ = await kind.wanted(place_of_docs, "docs", {"m": 8})

    was = await brought(place_of_docs, kind, "docs", want)
    there = await indexes_of(db)
    await brought(place_of_docs, kind, "docs", was)

    assert len(there) == 1
    assert "hnsw" in there[0]
    assert await indexes_of(db) == [flat]


@pytest.mark.parametrize(
    ("column", "kind_of", "is_typed", "on"),
    [
        ("halfvec(16)", "halfvec", True, "(embedding public.halfvec_cosine_ops)"),
        ("vector", "vector", False, "(((embedding)::public.vector(16)) public.vector_cosine_ops)"),
    ],
)
async def test_columns_of_halves_and_of_no_dimension_are_indexed(
    app: App, db: Db, own_dsn: Dsn, tmp_path: Path, kind: Index,
    column: str, kind_of: str, is_typed: bool, on: str,
) -> None:  # fmt: skip
    await made(db, column=column, kind=kind_of)
    await attached(db, held=kind_of, is_typed=is_typed)
    if kind_of == "halfvec":
        await db.execute("update ragline.space_index set storage = 'halfvec'")
    site = site_of(app, own_dsn, tmp_path, kind)
    want, _ = await kind.wanted(site, "docs", {"m": 8})

    was = await brought(site, kind, "docs", want)
    there = await indexes_of(db)
    await brought(site, kind, "docs", was)

    assert [on in one for one in there] == [True]
    assert await indexes_of(db) == []


async def test_a_table_made_anew_is_another_one(place_of_docs: Site, db: Db, kind: Index) -> None:
    await db.execute("drop table public.docs")
    await made(db)

    with pytest.raises(NotFound, match="made anew"):
        await kind.wanted(place_of_docs, "docs", {"m": 8})


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("alter table public.docs rename to moved", "is called public.moved now"),
        ("drop table public.docs", "was dropped"),
    ],
)
async def test_a_table_that_goes_while_it_is_measured_ends_the_change(
    place_of_docs: Site, app: App, db: Db, sql: str, said: str
) -> None:
    class Meddled(Fixed):
        async def pair(self, asked: Asked, now: Arm, want: Arm) -> Judgement:
            await db.execute(sql)
            return await super().pair(asked, now, want)

    await db.execute(OWN)
    place_of_docs.measure = Meddled()
    planned = await loop.plan(
        place_of_docs, (Part(kind="index", target="docs", want={"m": 24}),), Asked()
    )
    assert planned is not None

    with pytest.raises(NotFound, match=said):
        await loop.apply(place_of_docs, planned.id)

    (entry, *_) = await loop.entries(place_of_docs)
    assert entry.state == "undone"
    done = await detach.detach(app, "docs")
    if done.is_there:
        assert done.dropped_indexes == ('"public"."docs_embedding__trial"',)
        assert await indexes_of(db, "public.moved") == [OWN.replace("public.docs", "public.moved")]


async def test_what_stands_in_the_way_is_left_alone(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    await db.execute("create table public.other (a int)")
    await db.execute("create index docs_embedding__trial on public.other (a)")

    with pytest.raises(Conflict, match="rename it"):
        await kind.wanted(place_of_docs, "docs", {"m": 8})
    await kind.tidy(place_of_docs, "docs", None)

    assert await indexes_of(db, "public.other") == [
        "CREATE INDEX docs_embedding__trial ON public.other USING btree (a)"
    ]


@pytest.mark.parametrize("name", ["docs_embedding__trial", "docs_embedding__hnsw"])
async def test_an_index_of_the_applications_own_is_never_taken_for_a_trial(
    place_of_docs: Site, db: Db, kind: Index, name: str
) -> None:
    want, _ = await kind.wanted(place_of_docs, "docs", {"m": 8})
    own = f"CREATE INDEX {name} ON public.docs USING btree (body)"
    await db.execute(own)

    with pytest.raises(Conflict, match="rename it"):
        await kind.wanted(place_of_docs, "docs", {"m": 8})
    with pytest.raises(Conflict):
        await brought(place_of_docs, kind, "docs", want)
    await kind.tidy(place_of_docs, "docs", None)

    assert await indexes_of(db) == [own]


async def test_what_an_interrupted_swap_left_is_cleared_up(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    await db.execute(OWN)
    want, _ = await kind.wanted(place_of_docs, "docs", {"m": 24})
    steps = kind.steps("docs", await kind.read(place_of_docs, "docs"), want)
    swapped = next(n for n, step in enumerate(steps) if step.text.startswith("alter index"))
    for step in steps[: swapped + 1]:
        await kind.run(place_of_docs, step)
    assert len(await indexes_of(db)) == 3

    await brought(place_of_docs, kind, "docs", want)

    assert await indexes_of(db) == [f"{OWN} WITH (m='24', ef_construction='64')"]
    assert await db.fetchval("select m from ragline.space_index where slot = 1") == 24


async def test_a_definition_of_ones_own_is_no_way_around_the_collections_index(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    await db.execute(OWN)
    was = await kind.read(place_of_docs, "docs")
    assert isinstance(was, dict)

    for want in (
        {"definition": "drop table public.docs"},
        was | {"definition": "CREATE INDEX docs_idx ON public.other USING btree (a)"},
        was | {"name": "another"},
    ):
        with pytest.raises(UsageError):
            await kind.wanted(place_of_docs, "docs", want)
    assert await kind.wanted(place_of_docs, "docs", was) == (was, ())


async def test_who_may_not_change_the_table_is_told_before_anything_is_built(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    name = f"reader_{await db.fetchval('select pg_backend_pid()')}"
    await db.execute(f"create role {name} login")
    site = replace(place_of_docs, dsn=replace(place_of_docs.dsn, user=name))
    try:
        with pytest.raises(PreconditionFailed, match=f"user {name} may not change.*grant"):
            await kind.wanted(site, "docs", {"m": 8})
        await db.execute(f"alter table public.docs owner to {name}")
        with pytest.raises(PreconditionFailed, match="grant create on schema public"):
            await kind.wanted(site, "@public.docs.i", {"definition": "create index i on docs (id)"})
    finally:
        await db.execute("alter table public.docs owner to current_user")
        await db.execute(f"drop role {name}")


async def test_collections_of_one_table_share_its_index(
    place_of_docs: Site, app: App, db: Db, kind: Index
) -> None:
    await db.execute(
        "insert into ragline.collection (name, chunk_size, chunk_overlap) values ('b', 200, 0)"
    )
    await db.execute(
        """
        insert into ragline.embedding_space (
            collection_id, model_id, weights_hash, dimension, metric, storage, normalised, languages
        ) select c.id, s.model_id, s.weights_hash, s.dimension, s.metric, s.storage, false, '{}'
        from ragline.collection c, ragline.embedding_space s where c.name = 'b'
        """
    )
    await db.execute(
        "update ragline.collection c set active_space_id = s.id "
        "from ragline.embedding_space s where s.collection_id = c.id"
    )
    await db.execute(
        """
        insert into ragline.attached_table (collection_id, description, table_oid)
        select c.id, a.description || '{"only": [["body", "text 1"]]}', a.table_oid
        from ragline.collection c, ragline.attached_table a where c.name = 'b'
        """
    )
    want, said = await kind.wanted(place_of_docs, "docs", {"m": 8, "storage": "halfvec"})
    now = await kind.read(place_of_docs, "docs")
    arms = await kind.arms(place_of_docs, "docs", now, want)
    await brought(place_of_docs, kind, "docs", want)

    assert any("attached as b too" in line for line in said)
    assert kind.measured("docs") == {"collections": ("docs", "b")}
    assert arms is not None
    assert set(arms[1]) == {"docs", "b"}
    assert await kind.read(place_of_docs, "b") == want
    space = (await app.collection("b", fresh=True)).space
    assert space is not None
    assert (space.index_storage, space.index_m) == ("halfvec", 8)


async def test_an_index_of_a_part_of_the_table_is_not_tuned_past(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    await db.execute(
        """update ragline.attached_table set description = description || '{"only": [["body", "b"]]}'"""
    )
    await db.execute("update public.docs set body = 'b' where id < 300")
    await db.execute(OWN.replace("docs_idx", "docs_part") + " where body = 'b'")

    with pytest.raises(UsageError, match=r"@public\.docs\.docs_part"):
        await kind.wanted(place_of_docs, "docs", {"m": 8})


async def test_an_index_of_a_part_that_the_application_made_meanwhile_stops_no_undo(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    await db.execute(
        """update ragline.attached_table set description = description || '{"only": [["body", "b"]]}'"""
    )
    await db.execute("update public.docs set body = 'b' where id < 300")
    await db.execute(OWN)
    want, _ = await kind.wanted(place_of_docs, "docs", {"m": 8})
    was = await brought(place_of_docs, kind, "docs", want)
    part = OWN.replace("docs_idx", "docs_part") + " where body = 'b'"
    await db.execute(part)

    assert await kind.wanted(place_of_docs, "docs", was) == (was, ())
    await brought(place_of_docs, kind, "docs", was)

    assert OWN in await indexes_of(db)
    assert len(await indexes_of(db)) == 2


async def test_an_index_that_searches_would_not_use_is_no_success(
    place_of_docs: Site, db: Db, kind: Index
) -> None:
    await db.execute(OWN)
    await db.execute(
        OWN.replace("docs_idx", "docs_a_second") + " with (m = 2, ef_construction = 4)"
    )
    want = await kind.read(place_of_docs, "docs")
    assert isinstance(want, dict)
    assert want["name"] == "docs_a_second"
    other = want | {"name": "docs_idx", "definition": OWN, "m": 16, "ef_construction": 64}

    with pytest.raises(PreconditionFailed):
        await kind.confirm(place_of_docs, "docs", other)
