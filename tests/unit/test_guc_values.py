"""Values of settings: units, lists, words, and names that are left alone."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import guc_numbers, guc_values
from ragline.core.change import Value
from ragline.core.guc_values import Guc
from ragline.errors import UsageError

NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="\x00"), min_size=1
)


def guc(name: str, vartype: str, unit: str | None = None, choices: tuple[str, ...] = ()) -> Guc:
    return Guc(
        name=name,
        vartype=vartype,
        context="user",
        unit=unit,
        low="-1" if vartype in ("integer", "real") else None,
        high="1000" if vartype in ("integer", "real") else None,
        choices=choices,
        setting="",
        default=None,
        source="default",
        source_file=None,
        is_pending=False,
    )


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("32MB", "kB", 32768),
        ("32768kB", "kB", 32768),
        ("32 MB", "8kB", 4096),
        ("1GB", "8kB", 131072),
        ("1TB", "MB", 1048576),
        ("8192B", "kB", 8),
        ("30.1GB", "kB", 31561728),
        ("0x10", None, 16),
        ("0640", None, 416),
        ("10min", "s", 600),
        ("1d", "min", 1440),
        ("500us", "ms", 0),
        ("1500us", "ms", 2),
        ("-1", "ms", -1),
        ("1e3", "ms", 1000),
        ("7", "kB", 7),
    ],
)
def test_a_number_is_read_in_its_base_unit(text: str, unit: str | None, value: float) -> None:
    assert guc_numbers.number(text, unit, is_whole=True) == value


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("32mb", "kB"),
        ("5s", "kB"),
        ("5MB", "ms"),
        ("5MB", None),
        ("MB", "kB"),
        ("1 2", None),
        ("08", None),
    ],
)
def test_what_the_server_takes_for_no_number_is_none(text: str, unit: str | None) -> None:
    assert guc_numbers.number(text, unit, is_whole=True) is None


@pytest.mark.parametrize(
    ("setting", "one", "other", "same"),
    [
        (guc("work_mem", "integer", "kB"), "32MB", "32768", True),
        (guc("work_mem", "integer", "kB"), "32MB", "32769", False),
        (guc("jit", "bool"), "yes", "on", True),
        (guc("jit", "bool"), "yes", "off", False),
        (guc("random_page_cost", "real"), "1.10", "1.1", True),
        (guc("wal_buffers", "integer", "8kB"), "-1", "2048", True),
        (guc("work_mem", "integer", "kB"), "-1", "2048", False),
        (guc("huge_pages", "enum", None, ("on", "off", "try")), "TRUE", "on", True),
        (guc("log_directory", "string"), "Log", "log", False),
        (guc("search_path", "string"), "a, b", '"a",b', True),
        (guc("search_path", "string"), "a, b", "b, a", False),
    ],
)
def test_values_are_compared_as_what_they_mean(
    setting: Guc, one: str, other: str, same: bool
) -> None:
    assert guc_values.is_same(setting, one, other) is same


@pytest.mark.parametrize(
    ("name", "want", "value"),
    [
        ("work_mem", " 32MB ", "32MB"),
        ("jit", True, "on"),
        ("random_page_cost", 1.1, "1.1"),
        ("max_connections", 90, "90"),
        ("shared_preload_libraries", "vector,pg_stat_statements", ["vector", "pg_stat_statements"]),
        ("shared_preload_libraries", ["vector"], ["vector"]),
        ("shared_preload_libraries", '["vector", "a,b"]', ["vector", "a,b"]),
        ("Search_Path", '"$user", public', ["$user", "public"]),
        ("log_destination", ["stderr", "csvlog"], ["stderr", "csvlog"]),
        ("wal_consistency_checking", [], []),
        ("synchronous_standby_names", "FIRST 1 (a, b)", "FIRST 1 (a, b)"),
        ("log_line_prefix", "%m [%p] ", "%m [%p] "),
    ],
)
def test_a_wanted_value_takes_the_form_of_the_file(name: str, want: Value, value: Value) -> None:
    assert guc_values.normal(name, want) == value


@pytest.mark.parametrize(
    ("name", "want", "said"),
    [
        ("work_mem", ["1MB"], "one value"),
        ("work_mem", None, "one value"),
        ("shared_preload_libraries", 5, "is a list"),
        ("shared_preload_libraries", ["vector", 5], "is a list"),
        ("shared_preload_libraries", {"a": 1}, "is a list"),
        ("shared_preload_libraries", "[1]", "is a list"),
        ("shared_preload_libraries", ["vector", ""], "empty element"),
        ("shared_preload_libraries", 'vector, "x', "is no list"),
        ("shared_preload_libraries", "", "empty list"),
        ("log_destination", ["stderr, csvlog"], "words apart"),
        ("work_mem", "1MB\n", None),
        ("work_mem", "1MB\njit = off", "line break"),
    ],
)
def test_what_is_no_value_is_refused(name: str, want: Value, said: str | None) -> None:
    if said is None:
        assert guc_values.normal(name, want) == "1MB"
        return
    with pytest.raises(UsageError, match=said):
        guc_values.normal(name, want)


@given(st.lists(NAMES, min_size=1))
def test_any_list_is_read_back_as_it_was_written(items: list[str]) -> None:
    text = guc_values.as_text("shared_preload_libraries", items)
    assert guc_values.as_value("shared_preload_libraries", text) == items


def test_each_element_of_a_list_is_a_literal_of_its_own() -> None:
    said = guc_values.assignment("shared_preload_libraries", ["vector", "it's", "a\\b"])
    assert said == "\"shared_preload_libraries\" = 'vector', 'it''s', E'a\\\\b'"


def test_a_name_with_a_prefix_keeps_its_parts() -> None:
    assert guc_values.assignment("hnsw.ef_search", "40") == '"hnsw"."ef_search" = \'40\''


@pytest.mark.parametrize(
    "name",
    [
        "primary_conninfo", "ssl_passphrase_command", "archive_command", "hba_file", "port",
        "data_directory", "config_file", "listen_addresses", "unix_socket_directories", "role",
        "default_transaction_read_only", "PORT", "work_mem = 1; --", "",
    ],
)  # fmt: skip
def test_names_that_hold_secrets_or_cut_us_off_are_left_alone(name: str) -> None:
    assert guc_values.why_refused(name)


@pytest.mark.parametrize("name", ["work_mem", "hnsw.ef_search", "shared_buffers", "DateStyle"])
def test_other_names_are_not(name: str) -> None:
    assert guc_values.why_refused(name) is None


def test_a_short_timeout_for_everybody_is_refused() -> None:
    setting = guc("statement_timeout", "integer", "ms")
    for text in ("0", "1s", "5min"):
        guc_values.check_for_everybody(setting, text)
    for text in ("5", "999ms", "100us"):
        with pytest.raises(UsageError, match="set it for a role"):
            guc_values.check_for_everybody(setting, text)


@pytest.mark.parametrize(
    ("name", "text", "is_risky"),
    [
        ("fsync", "off", True),
        ("fsync", "no", True),
        ("fsync", "on", False),
        ("synchronous_commit", "off", True),
        ("synchronous_commit", "local", False),
        ("zero_damaged_pages", "on", True),
        ("work_mem", "on", False),
    ],
)
def test_danger_is_known(name: str, text: str, is_risky: bool) -> None:
    assert (guc_values.risk(name, text) is not None) is is_risky


def test_examples_in_the_documentation_hold() -> None:
    assert doctest.testmod(guc_values).failed == 0
