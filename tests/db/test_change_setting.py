"""Settings of the server: what is refused, what is written, what is seen, what is put back."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changing import ask, change, put_back, settings_of, site_of
from command import PREFIX, place
from ragline.change import guc_checks, loop
from ragline.change.kind import Site, by_name
from ragline.change.kinds import setting
from ragline.change.kinds.role import Role
from ragline.change.kinds.setting import Setting
from ragline.config import Config
from ragline.core import guc_values
from ragline.core.change import Entry, Part, Value
from ragline.db import server
from ragline.errors import (
    EmbeddedServerError,
    NotFound,
    PreconditionFailed,
    RaglineError,
    UsageError,
)
from ragline.ops import autoconf, embedded, restart
from ragline.ops.restart import CommandRestart, EmbeddedRestart
from ragline.wiring import open_app


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A data directory whose server these tests may restart and break."""
    with place() as command:
        yield command.data_dir


@pytest.fixture(scope="module")
async def own(data_dir: Path) -> AsyncIterator[Site]:
    assert data_dir.parent.name.startswith(PREFIX)
    async with open_app(Config(data_dir=data_dir)) as app:
        dsn = embedded.dsn(embedded.ensure(data_dir))
        yield site_of(app, dsn, data_dir, EmbeddedRestart(data_dir))


@pytest.fixture
async def site(own: Site) -> AsyncIterator[Site]:
    """The server with no setting by ALTER SYSTEM, before and after."""
    assert await settings_of(own) == {}
    yield own
    async with own.session() as session:
        await session.execute("alter system reset all")
        await session.execute("select pg_reload_conf()")


@pytest.fixture(scope="module")
async def session(own: Site) -> AsyncIterator[server.Session]:
    async with own.session() as session:
        yield session


@pytest.mark.parametrize(
    ("target", "want", "error", "said"),
    [
        ("work_mem", "10kB", UsageError, "it goes from 64 to 2147483647 kB"),
        ("work_mem", "32XB", UsageError, "one of the units B, kB, MB, GB, TB"),
        ("work_mem", "lots", UsageError, "write a number"),
        ("work_men", "32MB", NotFound, 'the nearest that exists is "work_mem"'),
        ("hnsw.ef_serch", "40", NotFound, 'the nearest that exists is "hnsw.ef_search"'),
        ("hnsw.ef_search", "5000", UsageError, "it goes from 1 to 1000"),
        ("hnsw.iterative_scan", "relaxed", UsageError, "perhaps you mean 'relaxed_order'"),
        ("vector.ef_search", "40", NotFound, "does not exist"),
        ("jit", "perhaps", UsageError, "write on or off"),
        ("wal_level", "full", UsageError, "write one of minimal, replica, logical"),
        ("random_page_cost", "1kB", UsageError, "without a unit"),
        ("block_size", "4096", UsageError, "cannot be changed"),
        ("port", "1", UsageError, "cut off"),
        ("primary_conninfo", "host=x password=y", UsageError, "secret"),
        ("archive_command", "true", UsageError, "a command"),
        ("statement_timeout", "5ms", UsageError, "set it for a role"),
        ("work_mem; drop table x", "1MB", UsageError, "no name of a setting"),
        ("log_min_messages", "warning\nfsync = off", UsageError, "line break"),
        ("shared_preload_libraries", ["vector", "nope"], UsageError, "cannot have 'nope'"),
        ("session_preload_libraries", "nope", UsageError, "cannot have 'nope'"),
        ("max_connections", 12, PreconditionFailed, "ragline needs at least 10"),
        ("superuser_reserved_connections", 90, PreconditionFailed, "raise max_connections"),
        ("shared_preload_libraries", [], UsageError, "empty list"),
        ("default_table_access_method", "nope", UsageError, "does not take"),
    ],
)
async def test_a_bad_value_is_refused_before_anything_happens(
    site: Site, target: str, want: Value, error: type[RaglineError], said: str
) -> None:
    with pytest.raises(error, match=said.replace("(", "\\(")):
        await Setting().wanted(site, target, want)
    assert await settings_of(site) == {}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shared_buffers": "900GB"}, "available on this machine: choose smaller values"),
        ({"wal_level": "minimal"}, "max_wal_senders"),
        ({"huge_pages": "on"}, "set vm.nr_hugepages to"),
        (
            {"shared_preload_libraries": ["vector", "auto_explain,pg_stat_statements"]},
            "no such file",
        ),
        ({"wal_level": "minimal", "max_wal_senders": 0}, None),
        ({"shared_buffers": "256MB", "max_connections": 120}, None),
    ],
)
async def test_a_start_is_rehearsed_with_all_parts_of_a_change(
    site: Site, settings: dict[str, Value], said: str | None
) -> None:
    parts = [Part(kind="setting", target=name, want=want) for name, want in settings.items()]
    by_loop = replace(site, kinds={"setting": Setting()})
    if said is None:
        plan = await loop.preview(by_loop, parts)
        assert [step.action for step in plan.steps] == [*("sql" for _ in parts), "restart"]
    else:
        with pytest.raises(RaglineError, match=f"(?i){said}"):
            await loop.preview(by_loop, parts)
    assert await settings_of(site) == {}


async def test_a_setting_is_seen_by_new_connections_and_put_back(site: Site) -> None:
    before = await ask(site, "show work_mem")

    assert await change(site, Setting(), "work_mem", "7MB") is None
    assert await ask(site, "show work_mem") == "7MB"
    assert await settings_of(site) == {"work_mem": "7MB"}

    await put_back(site, Setting(), "work_mem", None)
    assert await ask(site, "show work_mem") == before
    assert await settings_of(site) == {}


@pytest.mark.parametrize(
    ("target", "want", "shown"),
    [
        ("hnsw.ef_search", 60, "60"),
        ("hnsw.iterative_scan", "strict_order", "strict_order"),
        ("jit", True, "on"),
        ("random_page_cost", 1.5, "1.5"),
        ("effective_cache_size", "0.5GB", "512MB"),
        ("wal_compression", "on", "pglz"),
        ("checkpoint_timeout", "600000ms", "10min"),
        ("log_connections", ["receipt", "authorization"], "receipt, authorization"),
        ("datestyle", "sql, dmy", "SQL, DMY"),
        ("log_timezone", "utc", "UTC"),
        ("log_file_mode", "0640", "0640"),
    ],
)
async def test_an_effect_is_read_back_however_the_value_is_written(
    site: Site, target: str, want: Value, shown: str
) -> None:
    kind = Setting()
    await change(site, kind, target, want)
    async with site.session() as session:
        await server.load_library_of(session, target)
        assert await session.fetchval(f"show {target}") == shown
    await put_back(site, Setting(), target, None)


async def test_the_same_value_in_another_unit_changes_nothing(site: Site) -> None:
    await change(site, Setting(), "work_mem", "7MB")
    kind = Setting()
    wanted, _ = await kind.wanted(site, "work_mem", "7168kB")
    assert kind.steps("work_mem", await kind.read(site, "work_mem"), wanted) == []


async def test_a_value_that_is_not_in_effect_is_not_confirmed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = Setting()
    wanted, _ = await kind.wanted(site, "work_mem", "7MB")
    await kind.run(site, kind.steps("work_mem", None, wanted)[0])
    monkeypatch.setattr(setting, "_SETTLES_S", 0.2)
    with pytest.raises(RaglineError, match="work_mem is 4096, and the files say 7MB"):
        await kind.confirm(site, "work_mem", wanted)


async def test_an_undo_broken_off_before_the_reload_is_finished(site: Site) -> None:
    await change(site, Setting(), "work_mem", "7MB")
    async with site.session() as session:
        await session.execute("alter system reset work_mem")

    kind = Setting()
    assert await kind.read(site, "work_mem") is None
    assert [step.action for step in kind.steps("work_mem", None, None)] == ["reload"]
    await put_back(site, kind, "work_mem", None)


async def test_a_role_with_its_own_value_is_named(site: Site) -> None:
    user = site.dsn.user
    async with site.session() as session:
        await session.execute(f"alter role {user} set work_mem = '9MB'")
    try:
        _, warnings = await Setting().wanted(site, "work_mem", "7MB")
        assert warnings[0].startswith("these have a value of their own and see none of it: ")
        assert warnings[0].endswith(f"; {user} = 9MB")
        await change(site, Setting(), "work_mem", "7MB")
    finally:
        async with site.session() as session:
            await session.execute(f"alter role {user} reset work_mem")
    assert await ask(site, "show work_mem") == "7MB"


async def test_danger_is_said(site: Site) -> None:
    _, warnings = await Setting().wanted(site, "fsync", "off")
    assert "can destroy the whole cluster" in warnings[0]


@pytest.mark.parametrize(
    ("items", "is_real"),
    [
        (["vector", "pg_stat_statements", "auto_explain"], True),
        (['odd, "name"', "Upper", "back\\slash", "it's"], False),
    ],
)
async def test_a_list_is_read_back_as_it_was_written(
    site: Site, items: list[str], is_real: bool
) -> None:
    name = "shared_preload_libraries"
    async with site.session() as session:
        await session.execute(f"alter system set {guc_values.assignment(name, items)}")
        text = (await server.auto_settings(session))[name]
    assert guc_values.as_value(name, text) == items
    assert guc_values.as_text(name, items) == text
    if is_real:
        assert site.restart is not None
        assert await site.restart.preflight({name: text}) is None


async def test_one_more_library_beside_the_others_and_the_server_starts(site: Site) -> None:
    there = guc_values.split(await ask(site, "show shared_preload_libraries"))
    more = [*there, "auto_explain"]

    kind = Setting()
    _, warnings = await kind.wanted(site, "shared_preload_libraries", ["auto_explain"])
    assert "vector, pg_stat_statements would not be loaded any more" in warnings[0]

    assert await change(site, Setting(), "shared_preload_libraries", more) is None
    assert await ask(site, "show auto_explain.log_min_duration") == "-1"
    assert await ask(site, "show hnsw.ef_search") == "40"

    await put_back(site, Setting(), "shared_preload_libraries", None)
    assert guc_values.split(await ask(site, "show shared_preload_libraries")) == there
    assert await settings_of(site) == {}


async def test_a_restart_broken_off_is_made_up_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await ask(site, "show max_connections")
    kind = Setting()
    wanted, _ = await kind.wanted(site, "max_connections", 90)
    steps = kind.steps("max_connections", None, wanted)
    assert [step.action for step in steps] == ["sql", "restart"]
    await kind.run(site, steps[0])
    monkeypatch.setattr(setting, "_SETTLES_S", 0.2)
    with pytest.raises(RaglineError, match="100 until the server restarts, and the files say 90"):
        await kind.confirm(site, "max_connections", wanted)

    # Taken back before the restart came, it needs none, also where another reload told the server.
    await ask(site, "select pg_reload_conf()")
    back = Setting()
    assert await back.read(site, "max_connections") == "90"
    steps = back.steps("max_connections", "90", None)
    assert [step.action for step in steps] == ["sql", "reload"]
    await put_back(site, Setting(), "max_connections", None)
    await kind.run(site, kind.steps("max_connections", None, wanted)[0])

    await change(site, Setting(), "max_connections", 90)
    assert await ask(site, "show max_connections") == "90"

    # Put back on disk, as after a start that failed; the running server knows nothing of it.
    assert site.restart is not None
    assert site.restart.data_directory is not None
    assert autoconf.repair(site.restart.data_directory, {})
    again = Setting()
    assert await again.read(site, "max_connections") is None
    assert [step.action for step in again.steps("max_connections", None, None)] == ["restart"]
    await put_back(site, again, "max_connections", None)
    assert await ask(site, "show max_connections") == before


async def test_a_server_that_does_not_start_is_repaired_on_disk(site: Site) -> None:
    await change(site, Setting(), "work_mem", "7MB")
    before = await settings_of(site)
    async with site.session() as session:
        await session.execute("alter system set shared_buffers = '900GB'")
    assert site.restart is not None
    folder = site.restart.data_directory
    assert folder is not None
    assert folder.is_relative_to(tempfile.gettempdir())
    file = folder / autoconf.NAME
    owner, mode = file.stat().st_uid, file.stat().st_mode

    with pytest.raises(EmbeddedServerError, match="could not map anonymous shared memory"):
        await site.restart.restart()
    assert autoconf.repair(folder, before)
    assert not autoconf.repair(folder, before)
    await site.restart.restart()

    assert await settings_of(site) == before
    assert (file.stat().st_uid, file.stat().st_mode) == (owner, mode)
    await put_back(site, Setting(), "work_mem", None)


async def test_a_line_that_the_server_cannot_read_is_named(site: Site) -> None:
    broken = r"ragline\.conf, line \d+ is wrong .work_men: "
    with in_ragline_conf(site, "work_men = '1MB'"), pytest.raises(PreconditionFailed, match=broken):
        await Setting().wanted(site, "work_mem", "7MB")


async def test_who_may_not_alter_system_is_told_so_first(site: Site) -> None:
    async with site.session() as session:
        await session.execute("create role weak login")
    weak = replace(site, dsn=replace(site.dsn, user="weak"))
    try:
        async with site.session() as session:
            await session.execute("grant execute on function pg_reload_conf() to weak")
        with pytest.raises(
            PreconditionFailed, match="may not see what the configuration files say"
        ):
            await Setting().wanted(weak, "work_mem", "7MB")
        async with site.session() as session:
            await session.execute(
                "grant select on pg_file_settings to weak;"
                "grant execute on function pg_show_all_file_settings() to weak"
            )
        with pytest.raises(PreconditionFailed, match="grant alter system on parameter work_mem"):
            await Setting().wanted(weak, "work_mem", "7MB")
        async with site.session() as session:
            await session.execute("grant alter system on parameter work_mem to weak")
        await change(weak, Setting(), "work_mem", "7MB")
        await put_back(weak, Setting(), "work_mem", None)
    finally:
        async with site.session() as session:
            await session.execute("drop owned by weak; drop role weak")


@pytest.mark.parametrize(
    ("role", "said"),
    [("rds_superuser", "aws rds modify-db-parameter-group"), ("neon_superuser", "Neon")],
)
async def test_a_managed_server_is_recognised(site: Site, role: str, said: str) -> None:
    await ask(site, f"create role {role}")
    await ask(site, f"create role customer login in role {role}")
    customer = replace(site, dsn=replace(site.dsn, user="customer"))
    try:
        with pytest.raises(PreconditionFailed, match=said):
            await Setting().wanted(customer, "work_mem", "7MB")
        await Setting().wanted(site, "work_mem", "7MB")  # a true superuser is no customer
    finally:
        await ask(site, "drop role customer")
        await ask(site, f"drop role {role}")


@pytest.mark.parametrize(
    ("error", "ours", "said"),
    [
        (asyncpg.DiskFullError("no space left"), PreconditionFailed, "Free space"),
        (
            asyncpg.InsufficientPrivilegeError('could not open "x": Read-only file system'),
            PreconditionFailed,
            "make it writable",
        ),
        (asyncpg.InsufficientPrivilegeError("denied"), PreconditionFailed, "such as a superuser"),
        (asyncpg.InvalidParameterValueError("bad"), UsageError, "bad"),
        (asyncpg.InternalServerError("tuple concurrently updated"), RaglineError, "tuple"),
    ],
)
def test_what_the_server_refuses_is_a_sentence(
    error: asyncpg.PostgresError, ours: type[RaglineError], said: str
) -> None:
    found = guc_checks.explained(error, "`alter system …` was refused")
    assert type(found) is ours
    assert str(found).startswith("`alter system …` was refused: ")
    assert said in str(found)


async def test_a_server_that_allows_no_alter_system_is_recognised(site: Site) -> None:
    with in_ragline_conf(site, "allow_alter_system = off"):
        await ask(site, "select pg_reload_conf()")
        await until(site, "show allow_alter_system", "off")
        with pytest.raises(PreconditionFailed, match="allow_alter_system is off on this server"):
            await Setting().wanted(site, "work_mem", "7MB")
    await ask(site, "select pg_reload_conf()")
    await until(site, "show allow_alter_system", "on")


async def test_patroni_is_recognised_by_its_connections(site: Site) -> None:
    named = {"application_name": "Patroni heartbeat"}
    async with site.session(settings=named):
        with pytest.raises(PreconditionFailed, match="patronictl edit-config -p work_mem=7MB"):
            await Setting().wanted(site, "work_mem", "7MB")


async def test_without_a_way_to_restart_the_plan_says_that_it_waits(site: Site) -> None:
    by_hand = replace(site, restart=None)
    _, warnings = await Setting().wanted(by_hand, "max_connections", 90)
    assert "waits until a person does" in warnings[0]


async def test_a_command_restarts_the_server_or_is_found_out(site: Site, data_dir: Path) -> None:
    assert await restart.data_directory(site.dsn) == embedded.data_directory(data_dir)
    script = (
        "import sys; from pathlib import Path; from ragline.ops import embedded;"
        f"embedded.stop(Path({str(data_dir)!r})); embedded.ensure(Path({str(data_dir)!r}))"
    )
    good = CommandRestart(command=("/usr/bin/env", sys.executable, "-c", script), dsn=site.dsn)
    started = await ask(site, "select pg_postmaster_start_time()")
    await good.restart()
    assert await ask(site, "select pg_postmaster_start_time()") > started

    idle = replace(good, command=("true",), ready_wait_s=0.3)
    with pytest.raises(PreconditionFailed, match="did not restart: it runs since before"):
        await idle.restart()
    with pytest.raises(PreconditionFailed, match="ended with code 3 and said:\n  no luck"):
        await replace(good, command=("sh", "-c", "echo no luck; exit 3")).restart()
    with pytest.raises(PreconditionFailed, match="cannot be run: No such file"):
        await replace(good, command=("/nowhere/restart",)).restart()


@settings(max_examples=100, deadline=None)
@given(
    # the first digits also as the server reads file modes and hexadecimal numbers
    digits=st.from_regex(
        r"[+-]?(0x[0-9a-f]{1,4}|[0-9]{1,6}(\.[0-9]{1,3})?|0[0-7]{1,3})", fullmatch=True
    ),
    space=st.sampled_from(["", " "]),
    unit=st.sampled_from(["", "B", "kB", "MB", "GB", "KB", "ms"]),
)
async def test_memory_is_read_as_the_server_reads_it(
    session: server.Session, digits: str, space: str, unit: str
) -> None:
    text = f"{digits}{space}{unit}"
    guc = await server.setting(session, "work_mem")
    try:
        shown = await server.shown_as(session, "work_mem", text)
    except asyncpg.PostgresError:
        with pytest.raises(UsageError):
            guc_values.check(guc, text)
        return
    guc_values.check(guc, text)
    assert guc_values.is_same(guc, text, shown)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
            lambda text: text == text.strip()
        ),
        min_size=1,
    )
)
async def test_any_list_goes_through_the_server_and_back(
    session: server.Session, items: list[str]
) -> None:
    transaction = session.transaction()
    await transaction.start()
    try:
        await session.execute(f"set local {guc_values.assignment('search_path', items)}")
        text = await session.fetchval("select pg_catalog.current_setting('search_path')")
    finally:
        await transaction.rollback()
    assert guc_values.as_value("search_path", text) == items
    assert guc_values.normal("search_path", text) == items


@contextmanager
def in_ragline_conf(site: Site, line: str) -> Iterator[None]:
    """A line at the end of a file that ALTER SYSTEM does not write."""
    assert site.restart is not None
    assert site.restart.data_directory is not None
    assert str(site.restart.data_directory).startswith(f"{tempfile.gettempdir()}/{PREFIX}")
    file = site.restart.data_directory / "ragline.conf"
    text = file.read_text()
    file.write_text(f"{text}{line}\n")
    try:
        yield
    finally:
        file.write_text(text)


async def until(site: Site, query: str, answer: str) -> None:
    async with asyncio.timeout(120):
        while await ask(site, query) != answer:  # noqa: ASYNC110 - in the server
            await asyncio.sleep(0.03)


class Unrehearsed(EmbeddedRestart):
    """A server of which nobody knows beforehand whether it starts."""

    async def preflight(self, settings: Mapping[str, str]) -> str | None:
        return None


async def in_one_change(site: Site, parts: Mapping[str, Value]) -> Entry:
    """Plan and apply settings and roles ("role eval_app.work_mem") as one change, unmeasured."""
    asked = [
        Part(kind="role" if "." in name else "setting", target=name, want=want)
        for name, want in parts.items()
    ]
    entry = await loop.plan(site, asked, None)
    assert entry is not None
    return await loop.apply(site, entry.id)


async def test_settings_and_roles_are_one_change_with_one_restart(site: Site) -> None:
    by_loop = replace(site, kinds=by_name([Setting(), Role()]))
    wanted: dict[str, Value] = {
        "work_mem": "7MB",
        "max_connections": 90,
        "eval_app.work_mem": "11MB",
    }
    started = await ask(site, "select pg_postmaster_start_time()")

    entry = await in_one_change(by_loop, wanted)
    assert entry.state == "kept", entry.reason
    assert await ask(site, "select pg_postmaster_start_time()") > started
    assert await settings_of(site) == {"work_mem": "7MB", "max_connections": "90"}
    assert await ask(site, "show max_connections") == "90"

    fresh = replace(site, kinds=by_name([Setting(), Role()]))
    again = await loop.undo(fresh, entry.id)
    assert again.state in ("kept", "undone"), again.reason
    assert await settings_of(site) == {}
    assert await ask(site, "show max_connections") == "100"
    assert await Role().read(site, "eval_app.work_mem") == "32MB"


async def test_a_change_with_which_the_server_does_not_start_is_put_back_by_itself(
    site: Site, data_dir: Path
) -> None:
    kinds = by_name([Setting(), Role()])
    by_loop = replace(site, kinds=kinds, restart=Unrehearsed(data_dir))
    await change(site, Setting(), "work_mem", "7MB")
    before = await settings_of(site)

    with pytest.raises(PreconditionFailed, match="could not map anonymous shared memory"):
        await in_one_change(by_loop, {"shared_buffers": "900GB", "eval_app.work_mem": "11MB"})

    assert await settings_of(site) == before
    assert await Role().read(site, "eval_app.work_mem") == "32MB"
    last = (await loop.entries(by_loop))[0]
    assert last.state == "undone", last.reason
    await put_back(site, Setting(), "work_mem", None)


async def test_a_preloaded_library_that_is_missing_is_put_back_by_itself(
    site: Site, data_dir: Path
) -> None:
    by_loop = replace(site, kinds=by_name([Unchecked()]), restart=Unrehearsed(data_dir))
    with pytest.raises(PreconditionFailed, match='could not access file "nope"'):
        await in_one_change(by_loop, {"shared_preload_libraries": ["vector", "nope"]})
    assert await settings_of(site) == {}
    assert (await loop.entries(by_loop))[0].state == "undone"


class Unchecked(Setting):
    """Settings of which the server takes any value."""

    async def wanted(self, site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
        await self.read(site, target)
        return want, ()
