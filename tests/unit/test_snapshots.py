"""Snapshots compared: what is told of their differences, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import snapshots
from ragline.core.change import Part
from ragline.core.snapshot_comparison import compared
from ragline.core.snapshots import Contents, Group
from ragline.core.way_back import way_back
from ragline.errors import UsageError

AUTO = "/data/postgresql.auto.conf"
CONF = "/data/postgresql.conf"

_names = st.sampled_from(["a", "b", "work_mem", "x y"])
_values = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.sampled_from(["", "1MB"]))
_facts = st.dictionaries(st.sampled_from(["value", "source", "hash"]), _values, max_size=3)
_group = st.one_of(
    st.builds(Group, facts=st.dictionaries(_names, _facts, max_size=4)),
    st.builds(
        Group,
        facts=st.dictionaries(_names, _facts, max_size=4),
        partial=st.sampled_from([None, "some are hidden"]),
    ),
    st.builds(Group, unknown=st.sampled_from(["no rights", "busy"])),
)
_contents = st.dictionaries(
    st.sampled_from(["settings", "extensions", "schema", "hardware", "new"]), _group, max_size=5
)


@given(_contents)
def test_nothing_differs_from_itself(contents: Contents) -> None:
    assert compared(contents, contents).differences == ()


@given(_contents)
def test_what_is_stored_is_read_as_it_was(contents: Contents) -> None:
    assert snapshots.from_json(snapshots.to_json(contents)) == contents


@given(_contents, _contents)
def test_everything_that_differs_is_told_or_said_not_to_be_compared(
    was: Contents, now: Contents
) -> None:
    found = compared(was, now)
    told = {one.group for one in found.differences} | {one.group for one in found.not_compared}
    assert {name for name in {*was, *now} if was.get(name) != now.get(name)} <= told


@given(_contents)
def test_an_unknown_group_is_always_said(contents: Contents) -> None:
    said = {one.group for one in compared(contents, contents).not_compared}
    assert {name for name, group in contents.items() if group.unknown is not None} <= said


def test_what_is_unknown_for_one_reason_is_said_once() -> None:
    one, other = ({"files": Group(unknown=reason)} for reason in ("no rights", "busy"))
    said = [found.reason for found in compared(one, one).not_compared]
    assert said == ["unknown then and now, because no rights"]
    said = [found.reason for found in compared(one, other).not_compared]
    assert said == ["unknown then, because no rights", "unknown now, because busy"]


# A server


def setting(value: str, **more: Any) -> dict[str, Any]:
    plain = {"unit": "kB", "source": "default", "file": None, "context": "user"}
    return {"value": value, **plain, "pending_restart": False, **more}


def line(name: str, value: str, *, auto: bool = True, applied: bool = True) -> dict[str, Any]:
    file = AUTO if auto else CONF
    said = {"name": name, "file": file, "value": value, "auto": auto, "applied": applied}
    return {**said, "error": None}


def server(
    settings: Mapping[str, Any] | None = None, *lines: Mapping[str, Any], **groups: Any
) -> Contents:
    files = {f"{one['file']}: {one['name']}": one for one in lines}
    made = {"settings": Group(facts=settings or {}), "files": Group(facts=files)}
    return {**made, **{name: Group(facts=facts) for name, facts in groups.items()}}


def from_auto(value: str, **more: Any) -> dict[str, Any]:
    return setting(value, **{"source": "configuration file", "file": AUTO, **more})


def test_a_changed_setting_is_one_line_though_its_files_differ_too() -> None:
    was = server({"work_mem": setting("4096")}, line("work_mem", "4MB", auto=False))
    now = server(
        {"work_mem": from_auto("8192")},
        line("work_mem", "4MB", auto=False, applied=False),
        line("work_mem", "8MB"),
    )
    (one,) = compared(was, now).differences
    assert (one.group, one.name, one.restart) == ("settings", "work_mem", False)
    assert one.source == f"default -> {AUTO}"
    assert (snapshots.shown(one.was), snapshots.shown(one.now)) == ("4MB", "8MB")


def test_what_waits_for_a_restart_is_one_line_of_its_file() -> None:
    conf = line("shared_buffers", "1GB", auto=False)
    was = server({"shared_buffers": setting("131072", context="postmaster", unit="8kB")}, conf)
    now = server(
        {
            "shared_buffers": setting(
                "131072", context="postmaster", unit="8kB", pending_restart=True
            )
        },
        {**conf, "applied": False},
        line("shared_buffers", "64MB", applied=False),
    )
    (one,) = compared(was, now).differences
    assert (one.group, one.name, one.source) == ("files", "shared_buffers", AUTO)
    assert one.restart is True
    assert one.waits_for_restart


def test_a_fault_in_a_file_is_one_line_though_no_other_line_is_applied_any_more() -> None:
    def lines(*, is_applied: bool) -> list[dict[str, Any]]:
        return [line(n, "1", auto=False, applied=is_applied) for n in ("jit", "port", "fsync")]

    was = server({"jit": setting("1")}, *lines(is_applied=True))
    fault = {**line("jitt", "on", auto=False, applied=False), "error": "unrecognized"}
    now = server({"jit": setting("1")}, *lines(is_applied=False), fault)
    for one, other in ((was, now), (now, was)):
        assert [(d.group, d.name) for d in compared(one, other).differences] == [("files", "jitt")]


def test_a_server_that_lies_elsewhere_differs_in_where_it_lies_alone() -> None:
    def at(folder: str, value: str) -> Contents:
        file = f"{folder}/postgresql.conf"
        settings = {
            "jit": setting(value, source="configuration file", file=file),
            "data_directory": setting(folder, unit=None, source="override"),
        }
        return server(settings, {**line("jit", value), "file": file, "auto": False})

    told = [one.name for one in compared(at("/one", "on"), at("/two", "on")).differences]
    assert told == ["data_directory"]
    told = [one.name for one in compared(at("/one", "on"), at("/two", "off")).differences]
    assert told == ["data_directory", "jit"]


def test_a_line_that_no_server_reads_yet_is_told() -> None:
    was, now = server({"jit": setting("on")}), server({"jit": setting("on")}, line("jit", "off"))
    (one,) = compared(was, now).differences
    assert (one.group, one.name) == ("files", "jit")


def test_sizes_are_told_from_a_tenth_and_a_mebibyte_on() -> None:
    mebibyte = 1024**2
    sizes = {"small": 8192, "large": 100 * mebibyte, "grows": 20 * mebibyte, "goes": 9 * mebibyte}
    later = {"small": 900_000, "large": 109 * mebibyte, "grows": 22 * mebibyte}

    def of(found: Mapping[str, int]) -> Contents:
        return server(sizes={name: {"kind": "table", "bytes": n} for name, n in found.items()})

    found = compared(of(sizes), of(later))
    assert [one.name for one in found.differences] == ["grows"]
    assert {one.name for one in found.moved} == {"small", "large", "goes"}


def test_settings_that_one_side_may_not_see_are_no_differences() -> None:
    was = server({"work_mem": setting("4096"), "data_directory": setting("/data", unit=None)})
    seen = Group(facts={"work_mem": setting("8192")}, partial="some are hidden")
    found = compared(was, {**was, "settings": seen})
    assert [one.name for one in found.differences] == ["work_mem"]
    assert [one.group for one in found.not_compared] == ["settings"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("primary_conninfo", "host=x"),
        ("ssl_passphrase_command", "echo x"),
        ("archive_command", "aws --key x"),
        ("myapp.secret_key", "x"),
        ("myapp.url", "postgresql://me:word@host/db"),
        ("MyApp.Password", "x"),
        ("myapp.jwt", "x"),
        ("myapp.signing_key", "x"),
        ("myapp.anything", "x"),
    ],
)
def test_what_may_hold_a_secret_is_a_hash(name: str, value: str) -> None:
    kept = snapshots.kept(name, value)
    assert list(kept) == ["hash"]
    assert value not in str(kept)
    assert kept == snapshots.kept(name.upper(), value)
    assert kept != snapshots.kept(name, value + "y")


@pytest.mark.parametrize(
    "name",
    ["work_mem", "password_encryption", "max_connections", "ssl", "hnsw.iterative_scan"],
)
def test_what_holds_none_is_kept_as_it_is(name: str) -> None:
    assert snapshots.kept(name, "x") == {"value": "x"}


@pytest.mark.parametrize("value", ["on", "12", "0.5", "64MB", "5 s", None, ""])
def test_a_switch_or_a_number_of_an_application_is_kept(value: str | None) -> None:
    is_kept = value != "5 s"
    assert (snapshots.kept("myapp.limit", value) == {"value": value}) is is_kept


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        ("4096", "kB", "4MB"),
        ("131072", "8kB", "1GB"),
        ("600", "s", "10min"),
        ("1500", "ms", "1500ms"),
        ("-1", "kB", "-1"),
        ("0", "ms", "0"),
        ("1.1", None, "1.1"),
        ("", None, "''"),
        (None, None, "unset"),
    ],
)
def test_values_are_shown_as_people_write_them(
    value: str | None, unit: str | None, said: str
) -> None:
    assert snapshots.shown({"value": value, "unit": unit}) == said


@pytest.mark.parametrize("name", ["1", "now", "", "a b", "ü", "x" * 65])
def test_a_name_that_could_be_something_else_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        snapshots.check_name(name)


# The way back


def role(name: str, value: object, who: str = "eval_app", *, here: bool = True) -> dict[str, Any]:
    return {"role": who, "name": name, "is_here": here, "value": value}


def test_the_way_back_holds_what_alter_system_and_our_roles_have_otherwise() -> None:
    roles = {
        "eval_app.connection_limit": role("connection_limit", 5, here=False),
        "eval_app.work_mem": role("work_mem", "32MB"),
        "somebody.work_mem": role("work_mem", "1MB", who="somebody"),
    }
    later = {
        "eval_app.connection_limit": role("connection_limit", 3, here=False),
        "eval_app.jit": role("jit", "off"),
    }
    was = server(
        {"work_mem": from_auto("4096")},
        line("work_mem", "4MB"),
        line("shared_preload_libraries", "vector, auto_explain"),
        roles=roles,
    )
    now = server(
        {"work_mem": from_auto("8192")}, line("work_mem", "8MB"), line("jit", "off"), roles=later
    )
    way = way_back(was, now)
    assert set(map(str, way.parts)) == {
        str(Part(kind="setting", target="jit", want=None)),
        str(Part(kind="setting", target="work_mem", want="4MB")),
        str(
            Part(
                kind="setting",
                target="shared_preload_libraries",
                want=["vector", "auto_explain"],
            )
        ),
        str(Part(kind="role", target="eval_app.connection_limit", want=5)),
        str(Part(kind="role", target="eval_app.jit", want=None)),
        str(Part(kind="role", target="eval_app.work_mem", want="32MB")),
    }
    assert [one.name for one in way.left_out] == ["somebody.work_mem"]


_auto = st.dictionaries(
    st.sampled_from(["work_mem", "jit", "shared_buffers", "port"]),
    st.sampled_from(["1", "2", "on"]),
)


@given(_auto, _auto)
def test_the_parts_lead_to_the_lines_of_then_and_to_nothing_else(
    then: dict[str, str], here: dict[str, str]
) -> None:
    was, now = (server({}, *(line(n, v) for n, v in auto.items())) for auto in (then, here))
    way = way_back(was, now)
    reached: dict[str, Any] = dict(here)
    for part in way.parts:
        assert reached.get(part.target) != part.want
        reached[part.target] = part.want
    # A port is never ragline's to change, so it is said.
    left = {one.name for one in way.left_out}
    assert left == ({"port"} if then.get("port") != here.get("port") else set())
    found = {name: value for name, value in reached.items() if value is not None}
    assert {**found, "port": None} == {**then, "port": None}


def test_a_line_of_a_persons_own_file_that_nobody_read_yet_is_said() -> None:
    was = server({"jit": setting("on")})
    way = way_back(was, server({"jit": setting("on")}, line("jit", "off", auto=False)))
    assert way.parts == ()
    assert [(one.group, one.name) for one in way.left_out] == [("files", "jit")]
    assert CONF in way.left_out[0].what_to_do


def test_what_no_plan_puts_back_is_said_with_what_to_do() -> None:
    index = {"table": "public.t", "definition": "CREATE INDEX i ON public.t (a)", "is_valid": True}
    was = server(
        {"work_mem": setting("4096", source="configuration file", file=CONF)},
        {**line("primary_conninfo", ""), "value": None, "hash": "sha256:1"},
        schema={"index public.i": index},
        content={"kb": {"epoch": 1, "documents": 2, "hash": "x"}},
        extensions={"vector": {"version": "0.8.1", "schema": "public"}},
    )
    now = server(
        {"work_mem": setting("8192", source="configuration file", file=CONF)},
        schema={},
        content={"kb": {"epoch": 2, "documents": 3, "hash": "y"}},
        extensions={"vector": {"version": "0.8.2", "schema": "public"}},
    )
    way = way_back(was, now)
    assert way.parts == ()
    todo = {f"{one.group} {one.name}": one.what_to_do for one in way.left_out}
    assert "mend it there" in todo["settings work_mem"]
    assert CONF in todo["settings work_mem"]
    assert "hash" in todo["settings primary_conninfo"]
    assert "CREATE INDEX i ON public.t (a)" in todo["schema index public.i"]
    assert "backup" in todo["content kb"]
    assert "0.8.1" in todo["extensions vector"]


def test_a_list_that_nobody_can_read_is_said_and_stops_nothing_else() -> None:
    was = server({}, line("shared_preload_libraries", 'a,,"b'), line("work_mem", "4MB"))
    way = way_back(was, server({}))
    assert [part.target for part in way.parts] == ["work_mem"]
    assert [(one.group, one.name) for one in way.left_out] == [
        ("settings", "shared_preload_libraries")
    ]
    assert "is no list" in way.left_out[0].what_to_do


def test_a_setting_of_a_database_says_so() -> None:
    was = server({}, roles={})
    now = server({}, roles={"every role.jit": role("jit", "off", who=snapshots.EVERY_ROLE)})
    (one,) = compared(was, now).differences
    assert (one.source, one.restart) == ("database", False)


def test_without_the_files_nothing_is_planned_and_it_is_said() -> None:
    was = server({"work_mem": from_auto("4096")}, line("work_mem", "4MB"))
    now = {**server({"work_mem": from_auto("8192")}), "files": Group(unknown="no rights")}
    way = way_back(was, now)
    assert way.parts == ()
    assert {one.group for one in way.left_out} == {"settings", "files"}
    assert "superuser" in way.left_out[0].what_to_do
