"""What the doctor makes of rows: laws that hold whatever the rows are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from ragline import cli
from ragline.core.advisories import advisories, numbers
from ragline.core.budget import ROLES, connection_limits
from ragline.core.checkup import WORST_FIRST, Finding
from ragline.core.doctor import catalogue, judging
from ragline.core.doctor.facts import (
    Age,
    Archiver,
    Disk,
    Extension,
    Facts,
    FileFault,
    HbaRule,
    Model,
    Neglected,
    Prepared,
    Replica,
    Role,
    Schema,
    Server,
    Sessions,
    Setting,
    Slot,
    Space,
    Standby,
    Unknown,
    Wal,
)
from ragline.core.doctor.indexes import Inventory
from ragline.core.doctor.reaching import Refusal
from ragline.core.index_facts import IndexFacts, ServerFacts
from ragline.errors import UsageError

KNOWN = advisories(
    resources.files("ragline.core").joinpath("advisories.toml").read_text(encoding="utf-8")
)
NOW = datetime(2026, 11, 20, tzinfo=UTC)
GIB = 1024**3
SNAPSHOT = Path(__file__).parent / "snapshots" / "doctor_checks.txt"
NOBODY = Unknown(reason="nobody may look", fix="ask somebody")


def settings(**changed: str) -> dict[str, Setting]:
    said = {
        "max_connections": "100",
        "superuser_reserved_connections": "3",
        "reserved_connections": "0",
        "track_activities": "on",
        "track_counts": "on",
        "track_io_timing": "on",
        "track_activity_query_size": "1024",
        "compute_query_id": "auto",
        "pg_stat_statements.max": "5000",
        "pg_stat_statements.track": "top",
        "autovacuum": "on",
        "autovacuum_freeze_max_age": "200000000",
        "autovacuum_multixact_freeze_max_age": "400000000",
        "max_wal_size": "1024",
        "wal_keep_size": "0",
        "archive_mode": "on",
        "data_checksums": "on",
    }
    named = {name.replace("__", "."): value for name, value in changed.items()}
    return {
        name: Setting(
            name=name, setting=value, context="sighup", source="default", is_pending=False
        )
        for name, value in {**said, **named}.items()
    }


SERVER = Server(
    version_num=180006,
    version="18.6",
    user_name="me",
    is_superuser=False,
    bypasses_rls=False,
    database="kb",
    is_replica=False,
    may_create=True,
    sees_all_settings=True,
    sees_all_sessions=True,
    uses_tls=True,
    has_schema=True,
    may_use_schema=True,
    tables_with_rls=1,
)
SESSIONS = Sessions(
    connections=3, hidden=0, idle_longest_s=None, idle_who=None, oldest_s=None, oldest_who=None
)
SPACE = Space(
    id=1,
    collection="kb",
    model_id="m",
    weights_hash="w",
    dimension=384,
    storage="vector",
    is_active=True,
    attached_to=None,
    column_type="vector",
    column_dimension=384,
)


def role(name: str, **more: Any) -> Role:
    plain: dict[str, Any] = {
        "is_superuser": False,
        "is_first": False,
        "bypasses_rls": False,
        "connection_limit": -1,
        "owned": (),
    }
    return Role(name=name, **{**plain, **more})


WORKLOADS = [
    role(ROLES[workload], connection_limit=limit)
    for workload, limit in connection_limits(100, 3).items()
]
WELL = Facts(
    today=NOW.date(),
    is_local=False,
    where="postgresql://me:***@db/kb",
    answered_ms=3,
    advisories=KNOWN,
    server=SERVER,
    settings=settings(),
    extensions={
        name: Extension(name=name, available=version, installed=version)
        for name, version in (("vector", "0.8.6"), ("pg_stat_statements", "1.12"))
    },
    ages=[Age(database="kb", xid=1000, multixact=1)],
    sessions=SESSIONS,
    prepared=[],
    slots=[],
    standbys=[],
    replica=Replica(is_paused=False, has_receiver=False, to_replay_bytes=None, behind_s=None),
    neglected=[],
    roles=[role("me"), *WORKLOADS],
    hba=[],
    file_faults=[],
    wal=Wal(files=2, bytes=2**25),
    archiver=Archiver(archived=3, failed=0, is_failing=False, last_failed=None),
    disk=Disk(folder="/data", free_bytes=50 * GIB, size_bytes=100 * GIB),
    schema=Schema(applied="0009", head="0009", versions=("0001", "0009")),
    spaces=[SPACE],
    models=[Model(model_id="m", weights_hash="w", dimension=384)],
)
INVENTORY = Inventory(
    indexes=[],
    tables=[],
    server=ServerFacts(
        version=18,
        pgvector="0.8.6",
        pgvector_available="0.8.6",
        vector_schema="public",
        block_size=8192,
        shared_buffers_bytes=GIB,
        is_replica=False,
        statistics_since=NOW - timedelta(days=30),
        now=NOW,
        ef_search=40,
        probes=1,
    ),
    operators=(),
)
PARTS = [part.name for part in fields(Facts) if "Known" in str(part.type)]


def without(facts: Facts, parts: Iterable[str]) -> Facts:
    hidden: dict[str, Any] = dict.fromkeys(parts, NOBODY)
    return replace(facts, **hidden)


def judged(facts: Facts, inventory: Inventory | Unknown = INVENTORY) -> dict[str, tuple[str, ...]]:
    """Return the statuses of each check, the worst first."""
    found: dict[str, tuple[str, ...]] = {}
    for finding in judging.judge(facts, inventory):
        found[finding.id] = (*found.get(finding.id, ()), finding.status)
    return found


def bad(facts: Facts, inventory: Inventory | Unknown = INVENTORY) -> dict[str, str]:
    return {id_: said[0] for id_, said in judged(facts, inventory).items() if said[0] != "pass"}


def rank(status: str) -> int:
    return next(place for place, one in enumerate(WORST_FIRST) if one == status)


# The catalogue


def test_ids_are_stable() -> None:
    """Whoever watches a database goes by them: add, and never rename."""
    text = "".join(f"{check.id}\n" for check in catalogue.CHECKS)
    assert text == SNAPSHOT.read_text(encoding="utf-8")
    assert len(set(catalogue.IDS)) == len(catalogue.IDS)


def test_a_name_stands_for_all_that_begin_with_it() -> None:
    indexes = tuple(id_ for id_ in catalogue.IDS if id_.startswith("index."))
    assert catalogue.chosen(["index"], []) == indexes
    assert catalogue.chosen(["index.*", "wal.size"], ["index.invalid"]) == (
        *(id_ for id_ in indexes if id_ != "index.invalid"),
        "wal.size",
    )
    assert catalogue.chosen([], []) == catalogue.IDS
    with pytest.raises(
        UsageError, match=r"no check 'index.invlid'; the nearest is 'index.invalid'"
    ):
        catalogue.chosen(["index.invlid"], [])
    with pytest.raises(UsageError, match="no check 'ind'"):
        catalogue.chosen([], ["ind"])
    with pytest.raises(UsageError, match="nothing is left"):
        catalogue.chosen(["index"], ["index"])


# What cannot be known


def test_all_is_well() -> None:
    assert bad(WELL) == {}
    assert tuple(judged(WELL)) == catalogue.IDS


@given(st.sets(st.sampled_from(PARTS)), st.booleans())
def test_what_cannot_be_read_is_never_a_pass_and_nothing_else_changes(
    hidden: set[str], hides_indexes: bool
) -> None:
    facts = without(WELL, hidden)
    inventory = NOBODY if hides_indexes else INVENTORY
    found = judging.judge(facts, inventory)
    assert tuple(dict.fromkeys(one.id for one in found)) == catalogue.IDS
    assert {one.status for one in found} <= {"pass", "unknown"}
    # Each part has checks of its own that are unknown without it; `replica` only on a replica.
    said = {one.id for one in found if one.status == "unknown"}
    alone = {part: _unknown_without(part) for part in hidden}
    assert said >= set().union(*alone.values())
    assert all(alone[part] for part in hidden - {"replica"})
    assert bool({id_ for id_ in said if id_.startswith("index.")}) == hides_indexes


def _unknown_without(part: str) -> set[str]:
    return set(bad(without(WELL, [part])))


def test_on_a_replica_what_is_not_known_of_it_is_unknown() -> None:
    facts = replace(WELL, server=replace(SERVER, is_replica=True), replica=NOBODY)
    assert bad(facts) == {"replication.lag": "unknown"}


@given(st.sets(st.sampled_from(sorted(settings()))))
def test_a_setting_that_is_hidden_never_makes_a_pass_of_a_fault(hidden: set[str]) -> None:
    broken = {"track_activities": "off", "autovacuum": "off", "compute_query_id": "off"}
    whole = replace(WELL, settings=settings(**broken))
    some = {name: one for name, one in whole.settings.items() if name not in hidden}
    before, after = judged(whole), judged(replace(whole, settings=some))
    for name in broken:
        id_ = "vacuum.disabled" if name == "autovacuum" else f"tracking.{name}"
        if name not in hidden and "pg_stat_statements.track" not in hidden:
            assert after[id_] == before[id_]
        elif name in hidden and name != "autovacuum":
            assert after[id_] == ("unknown",)


def test_hidden_sessions_leave_unknown_what_they_do() -> None:
    facts = replace(WELL, sessions=replace(SESSIONS, hidden=2))
    assert bad(facts) == {"vacuum.held_back": "unknown", "pool.idle_in_transaction": "unknown"}


def test_what_the_catalog_does_not_say_of_indexes_is_unknown() -> None:
    index = IndexFacts(
        oid=1, table_oid=2, schema="public", table="t", name="i", method="hnsw",
        operator_classes=("vector_cosine_ops",), keys=("v",), key_rules=("1",), definition="…",
        size_bytes=1, table_rows=10, table_bytes=1, scans=9, rows_read=9, dimension=3,
        vector_type="vector",
    )  # fmt: skip
    with_one = replace(INVENTORY, indexes=[index])
    assert bad(WELL, with_one) == {}
    assert bad(WELL, replace(with_one, operators=None)) == {"index.operator_class": "unknown"}
    assert bad(WELL, replace(INVENTORY, operators=None)) == {}
    lists = replace(index, method="ivfflat")
    assert bad(WELL, replace(INVENTORY, indexes=[lists])) == {"index.ivfflat_empty": "unknown"}
    # What is locked hides nothing of the rest, and lets nothing pass.
    held = replace(INVENTORY, indexes=[replace(index, is_valid=False)], locked=["public.t"])
    expected = {id_: "unknown" for id_ in catalogue.IDS if id_.startswith("index.")}
    assert bad(WELL, held) == {**expected, "index.invalid": "fail"}


def test_a_finding_that_the_catalogue_does_not_know_is_told_with_its_kind() -> None:
    new = Finding(id="index.new", status="fail", evidence="…")
    odd = Finding(id="odd", status="warn", evidence="…")

    def told(*only: str) -> list[str]:
        return [one.id for one in judging.told([new, odd], catalogue.chosen(only, ()))]

    assert told() == [*catalogue.IDS, "index.new", "odd"]
    assert told("index")[-1] == "index.new"
    assert told("index.invalid") == ["index.invalid"]
    assert told("wal") == ["wal.size", "wal.archiving"]
    assert [one.id for one in judging.first([odd, new])] == ["index.new", "odd"]
    assert (catalogue.group_of("index.new"), catalogue.group_of("odd")) == ("indexes", "more")


# Thresholds


@given(st.integers(0, 2**31), st.integers(0, 2**31), st.sampled_from(("xid", "multixact")))
def test_older_is_never_better(one: int, other: int, kind: str) -> None:
    def seen(age: int) -> int:
        ages = {"xid": 0, "multixact": 0} | {kind: age}
        facts = replace(
            WELL, ages=[Age(database="d", xid=ages["xid"], multixact=ages["multixact"])]
        )
        return rank(judged(facts)[f"wraparound.{kind}"][0])

    young, old = sorted((one, other))
    assert seen(young) >= seen(old)


def test_ages_at_which_something_is_said() -> None:
    def status(xid: int) -> str:
        found = judged(replace(WELL, ages=[Age(database="d", xid=xid, multixact=0)]))
        return found["wraparound.xid"][0]

    assert [status(n * 10**6) for n in (199, 201, 400, 900, 2000)] == [
        *("pass", "pass", "warn", "fail", "fail")
    ]


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 10**13))
def test_more_room_is_never_worse(one: int, other: int, size: int) -> None:
    less, more = sorted((one, other))
    ranks = [
        rank(
            judged(
                replace(
                    WELL,
                    disk=Disk(folder="/d", free_bytes=size * part // 100, size_bytes=size),
                )
            )["disk.data"][0]
        )
        for part in (less, more)
    ]
    assert ranks[0] <= ranks[1]


def test_disk_levels() -> None:
    def status(free: float) -> str:
        disk = Disk(folder="/d", free_bytes=int(free * GIB), size_bytes=100 * GIB)
        return judged(replace(WELL, disk=disk))["disk.data"][0]

    assert [status(free) for free in (11, 9, 2.1, 1.9, 0)] == [
        *("pass", "warn", "warn", "fail", "fail")
    ]


BROKEN: Sequence[tuple[str, str, Facts]] = [
    (
        "connection.free",
        "warn",
        replace(WELL, sessions=replace(SESSIONS, connections=90)),
    ),
    ("connection.tls", "warn", replace(WELL, server=replace(SERVER, uses_tls=False))),
    ("server.version", "fail", replace(WELL, server=replace(SERVER, version_num=130001))),
    ("server.version", "unknown", replace(WELL, server=replace(SERVER, version_num=190001))),
    (
        "server.version",
        "warn",
        replace(WELL, server=replace(SERVER, version_num=170005, version="17.5 (Debian 17.5-1)")),
    ),
    (
        "role.privileges",
        "fail",
        replace(WELL, server=replace(SERVER, may_use_schema=False)),
    ),
    ("role.privileges", "warn", replace(WELL, server=replace(SERVER, sees_all_settings=False))),
    ("role.workloads", "warn", replace(WELL, roles=[role("me")])),
    (
        "role.bypasses_rls",
        "fail",
        replace(WELL, roles=[*WORKLOADS[1:], replace(WORKLOADS[0], bypasses_rls=True)]),
    ),
    (
        "role.bypasses_rls",
        "warn",
        replace(WELL, roles=[*WORKLOADS, role("app", owned=["public.t"])]),
    ),
    (
        "role.authentication",
        "fail",
        replace(
            WELL,
            hba=[
                HbaRule(
                    line=1,
                    kind="host",
                    databases="all",
                    users="all",
                    address="10.0.0.0",
                    is_local=False,
                    method="trust",
                    error=None,
                )
            ],
        ),
    ),
    (
        "tracking.compute_query_id",
        "warn",
        replace(WELL, settings=settings(compute_query_id="off")),
    ),
    (
        "tracking.pg_stat_statements.track",
        "warn",
        replace(WELL, settings=settings(pg_stat_statements__track="none")),
    ),
    (
        "tracking.track_activity_query_size",
        "warn",
        replace(WELL, settings=settings(track_activity_query_size="200")),
    ),
    ("vacuum.disabled", "fail", replace(WELL, settings=settings(autovacuum="off"))),
    (
        "vacuum.disabled",
        "warn",
        replace(WELL, neglected=[Neglected(table="public.t", dead=20_000, live=5)]),
    ),
    (
        "vacuum.held_back",
        "warn",
        replace(WELL, prepared=[Prepared(name="x", database="kb", owner="me", seconds=90_000)]),
    ),
    (
        "vacuum.held_back",
        "warn",
        replace(WELL, sessions=replace(SESSIONS, oldest_s=9000.0, oldest_who="session 1")),
    ),
    (
        "pool.idle_in_transaction",
        "warn",
        replace(WELL, sessions=replace(SESSIONS, idle_longest_s=301.0, idle_who="session 1")),
    ),
    (
        "replication.slots",
        "fail",
        replace(
            WELL,
            slots=[
                Slot(
                    name="s",
                    kind="physical",
                    is_active=False,
                    wal_status="lost",
                    kept_bytes=None,
                    xmin_age=None,
                )
            ],
        ),
    ),
    (
        "replication.slots",
        "warn",
        replace(
            WELL,
            slots=[
                Slot(
                    name="s",
                    kind="physical",
                    is_active=False,
                    wal_status="extended",
                    kept_bytes=9 * GIB,
                    xmin_age=None,
                )
            ],
        ),
    ),
    (
        "replication.lag",
        "warn",
        replace(
            WELL,
            standbys=[Standby(name="r", state="streaming", behind_bytes=2 * GIB, lag_s=None)],
        ),
    ),
    (
        "replication.lag",
        "unknown",
        replace(WELL, standbys=[Standby(name="r", state=None, behind_bytes=None, lag_s=None)]),
    ),
    (
        "pool.budget",
        "warn",
        replace(WELL, roles=[replace(one, connection_limit=50) for one in WORKLOADS]),
    ),
    (
        "pool.budget",
        "warn",
        replace(WELL, roles=[replace(one, connection_limit=-1) for one in WORKLOADS]),
    ),
    ("wal.size", "warn", replace(WELL, wal=Wal(files=400, bytes=7 * GIB))),
    (
        "wal.archiving",
        "fail",
        replace(
            WELL, archiver=Archiver(archived=1, failed=9, is_failing=True, last_failed="00000001")
        ),
    ),
    (
        "settings.files",
        "fail",
        replace(
            WELL,
            file_faults=[FileFault(place="line 1 of x", name=None, error="bad", is_unread=True)],
        ),
    ),
    (
        "settings.pending_restart",
        "warn",
        replace(
            WELL,
            settings={
                **WELL.settings,
                "wal_level": Setting(
                    name="wal_level",
                    setting="replica",
                    context="postmaster",
                    source="default",
                    is_pending=True,
                ),
            },
        ),
    ),
    (
        "schema.head",
        "fail",
        replace(
            WELL,
            schema=Schema(applied="0001", head="0009", versions=("0001", "0009")),
        ),
    ),
    ("dimension.consistency", "fail", replace(WELL, spaces=[replace(SPACE, column_dimension=3)])),
    ("dimension.consistency", "fail", replace(WELL, spaces=[replace(SPACE, column_type=None)])),
    ("dimension.consistency", "fail", replace(WELL, spaces=[replace(SPACE, storage="halfvec")])),
    (
        "dimension.consistency",
        "fail",
        replace(WELL, spaces=[replace(SPACE, attached_to="public.t", column_type=None)]),
    ),
    ("model.spaces", "warn", replace(WELL, models=[])),
    ("model.spaces", "warn", replace(WELL, spaces=[replace(SPACE, weights_hash="other")])),
]


@pytest.mark.parametrize(("id_", "status", "facts"), BROKEN)
def test_one_fault_is_one_check_that_says_so_with_what_to_do(
    id_: str, status: str, facts: Facts
) -> None:
    assert bad(facts) == {id_: status}
    worst = next(one for one in judging.judge(facts, INVENTORY) if one.id == id_)
    assert worst.evidence
    assert worst.fix or status == "unknown"


def test_the_first_superuser_counts_where_every_workload_is_that_user() -> None:
    first = role("me", is_superuser=True, is_first=True)
    assert bad(replace(WELL, roles=[first, *WORKLOADS])) == {}
    assert bad(replace(WELL, roles=[first])) == {
        "role.workloads": "warn",
        "role.bypasses_rls": "warn",
    }
    without_rls = replace(SERVER, tables_with_rls=0)
    assert bad(replace(WELL, roles=[first], server=without_rls)) == {"role.workloads": "warn"}


def test_ends_of_support_are_by_the_callers_day() -> None:
    old = replace(WELL, server=replace(SERVER, version_num=140024, version="14.24"))
    day = date(2026, 11, 12)
    assert bad(replace(old, today=day - timedelta(days=1))) == {}
    assert bad(replace(old, today=day)) == {"server.version": "warn"}


def test_what_an_attached_table_leaves_open_is_no_fault() -> None:
    space = replace(SPACE, attached_to="public.t", column_dimension=None, column_type="vector")
    assert bad(replace(WELL, spaces=[space])) == {}
    assert bad(replace(WELL, spaces=[replace(space, column_dimension=5)])) == {
        "dimension.consistency": "fail"
    }
    unknown = replace(space, model_id="unknown", weights_hash="unknown:t")
    assert bad(replace(WELL, spaces=[unknown], models=[])) == {}


def test_a_value_that_the_command_line_outranks_is_no_fault_of_the_file() -> None:
    fault = FileFault(
        place="line 1 of x", name="max_connections", error="setting could not be applied",
        is_unread=False,
    )  # fmt: skip

    def status(**more: Any) -> str:
        one = replace(WELL.settings["max_connections"], context="postmaster", **more)
        facts = replace(
            WELL, file_faults=[fault], settings={**WELL.settings, "max_connections": one}
        )
        return judged(facts)["settings.files"][0]

    assert status(source="command line") == "pass"
    assert status(source="configuration file", is_pending=True) == "pass"
    assert status(source="configuration file") == "warn"


# Advisories


def test_the_newest_have_no_known_fault_and_each_fault_ends_with_its_fix() -> None:
    for number, major in KNOWN.postgresql.items():
        assert numbers(major.newest)[0] == number
        assert KNOWN.of_server(major.newest) == []
        assert major.end_of_life > date(2026, 1, 1)
    for fault in KNOWN.server_faults:
        assert re.fullmatch(r"CVE-\d{4}-\d{4,6}", fault.id)
        for minor in fault.fixed.values():
            major_, last = numbers(minor)
            assert fault not in KNOWN.of_server(minor)
            assert fault in KNOWN.of_server(f"{major_}.{last - 1} (Debian {minor})")
    assert KNOWN.of_pgvector(KNOWN.pgvector_newest) == []
    assert [one.id for one in KNOWN.of_pgvector("0.5.1")] == [None, None]


@given(st.tuples(st.just(0), st.integers(0, 12), st.integers(0, 12)))
def test_a_fault_of_pgvector_never_comes_back(version: tuple[int, ...]) -> None:
    text = ".".join(map(str, version))
    found = KNOWN.of_pgvector(text)
    assert all(version < numbers(fault.before) for fault in found)
    statuses = [fault.status for fault in found]
    assert statuses == sorted(statuses)
    assert ("fail" in statuses) == (version < (0, 8, 0))


# When there is no answer


@pytest.mark.parametrize(
    ("sqlstate", "said", "id_"),
    [
        (None, "connection refused", "server.reachable"),
        ("57P03", "the database system is starting up", "server.reachable"),
        ("28P01", "password authentication failed", "login.accepted"),
        ("28000", "no pg_hba.conf entry for host, no encryption", "login.accepted"),
        ("3D000", 'database "x" does not exist', "database.exists"),
        ("42501", "permission denied for database", "database.exists"),
        ("53300", "sorry, too many clients already", "connection.free"),
        (None, "rejected SSL upgrade", "connection.tls"),
        (None, "[SSL: CERTIFICATE_VERIFY_FAILED]", "connection.tls"),
    ],
)
def test_a_refusal_has_its_own_check_and_nothing_else_passes(
    sqlstate: str | None, said: str, id_: str
) -> None:
    found = judging.unreached(Refusal(sentence="so it is", sqlstate=sqlstate, said=said))
    assert (found[0].id, found[0].status, found[0].evidence) == (id_, "fail", "so it is")
    assert {one.status for one in found[1:]} == {"unknown"}
    assert sorted(one.id for one in found) == sorted(catalogue.IDS)
    assert judging.resting_on(found) == id_


def test_the_worst_comes_first_and_what_is_well_is_not_urgent() -> None:
    facts = replace(WELL, models=[], wal=Wal(files=1, bytes=9 * GIB), disk=NOBODY)
    facts = replace(facts, settings=settings(autovacuum="off"))
    urgent = judging.first(judging.judge(facts, INVENTORY))
    assert [one.id for one in urgent] == ["vacuum.disabled", "model.spaces", "wal.size"]


# Every command that is advised exists


def _fixes() -> Iterator[Finding]:
    hidden = without(WELL, PARTS)
    for facts in (*(one for _, _, one in BROKEN), hidden):
        yield from judging.judge(facts, INVENTORY)
        bare = replace(
            facts,
            server=replace(facts.server, has_schema=False, may_create=False),
            schema=Schema(applied=None, head="0009", versions=()),
            extensions={},
        )
        yield from judging.judge(bare, NOBODY)
    for state in ("28P01", "3D000", "53300", None):
        yield from judging.unreached(Refusal(sentence="…", sqlstate=state, said=""))
    yield from judging.unreached(Refusal(sentence="…", sqlstate=None, said="no tls"))


def test_every_command_that_a_fix_names_exists() -> None:
    root = typer.main.get_command(cli.app)
    named = {
        tuple(said.split()[1:])
        for finding in _fixes()
        for said in re.findall(r"`(ragline [^`]+)`", f"{finding.fix} {finding.evidence}")
    }
    assert len(named) > 10
    for words in named:
        command: Any = root
        for word in words:
            children = getattr(command, "commands", None)
            if children is None:
                break
            assert word in children, words
            command = children[word]
        assert getattr(command, "commands", None) is None, f"{words} is no whole command"
