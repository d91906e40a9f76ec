"""Values of PostgreSQL's settings: read with their units, compared, checked and written as SQL.

The rules are the server's own (`guc.c`), so that "32MB" and "32768kB" are one value here as well.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from ragline.core.change import Value
from ragline.core.guc_numbers import known_units, number
from ragline.core.sql_names import quoted
from ragline.errors import UsageError

# Lists whose elements the server quotes as identifiers: two names in one literal are one odd name.
_LISTS_OF_NAMES = frozenset(
    {
        "createrole_self_grant", "local_preload_libraries", "oauth_validator_libraries",
        "search_path", "session_preload_libraries", "shared_preload_libraries", "temp_tablespaces",
        "unix_socket_directories",
    }
)  # fmt: skip
_LISTS_OF_WORDS = frozenset(
    {
        "datestyle", "debug_io_direct", "listen_addresses", "log_connections", "log_destination",
        "restrict_nonsystem_relation_kind", "synchronized_standby_slots",
        "wal_consistency_checking",
    }
)  # fmt: skip
LIBRARIES = frozenset(
    {"local_preload_libraries", "session_preload_libraries", "shared_preload_libraries"}
)
_COMPUTED = frozenset(
    {
        "commit_timestamp_buffers", "io_max_concurrency", "subtransaction_buffers",
        "transaction_buffers", "wal_buffers",
    }
)  # fmt: skip
"""0 or -1 asks the server to choose, and the running value is then its choice."""

_CONFIDENTIAL = "its value may hold a secret, and the ledger keeps values"
_CUTS_OFF = "it could cut off those who have to put it back"
_RUNS = "it is a command that the server runs, which no undo takes back"
_OF_A_SESSION = "it belongs to a session or to a transaction"
_REFUSED = {
    **dict.fromkeys(("primary_conninfo", "ssl_passphrase_command"), _CONFIDENTIAL),
    **dict.fromkeys(
        (
            "allow_alter_system", "authentication_timeout", "config_file", "data_directory",
            "default_transaction_read_only", "external_pid_file", "hba_file", "ident_file",
            "listen_addresses", "oauth_validator_libraries", "port", "ssl", "ssl_ca_file",
            "ssl_cert_file", "ssl_ciphers", "ssl_crl_dir", "ssl_crl_file", "ssl_groups",
            "ssl_key_file", "ssl_max_protocol_version", "ssl_min_protocol_version",
            "ssl_tls13_ciphers", "unix_socket_directories", "unix_socket_group",
            "unix_socket_permissions", "krb_server_keyfile",
        ),
        _CUTS_OFF,
    ),
    **dict.fromkeys(
        (
            "archive_cleanup_command", "archive_command", "archive_library",
            "recovery_end_command", "restore_command",
        ),
        _RUNS,
    ),
    **dict.fromkeys(
        (
            "application_name", "client_encoding", "in_hot_standby", "is_superuser", "role",
            "seed", "session_authorization", "transaction_deferrable", "transaction_isolation",
            "transaction_read_only",
        ),
        _OF_A_SESSION,
    ),
}  # fmt: skip
_RISKY = {
    "fsync": "off: a crash of the machine can destroy the whole cluster",
    "full_page_writes": "off: a crash of the machine can destroy pages that were being written",
    "synchronous_commit": "off: a crash loses what was committed in the last moments",
    "zero_damaged_pages": "on: damaged pages are emptied, for good",
    "ignore_checksum_failure": "on: damaged pages are read as if they were good",
}
_TIMEOUTS = frozenset(
    {"idle_session_timeout", "lock_timeout", "statement_timeout", "transaction_timeout"}
)
_SHORTEST_TIMEOUT_MS = 1000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*")
_ELEMENT = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,"]+))\s*(?:,|$)')
_BARE = re.compile(r"[\w.:/+-]*(?:\s+[A-Za-z]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guc:
    """A setting as the running server describes it. `setting` is in `unit`, as pg_settings says it."""

    name: str
    vartype: str
    context: str
    unit: str | None
    low: str | None
    high: str | None
    choices: tuple[str, ...]
    setting: str
    default: str | None
    source: str
    source_file: str | None
    is_pending: bool

    @property
    def is_chosen_by_server(self) -> bool:
        """Whether its running value may be the server's own choice, and so tells nothing of a file."""
        return is_chosen_by_server(self.name)

    @property
    def needs_restart(self) -> bool:
        """Whether another value takes a restart of the server."""
        return self.context == "postmaster"

    @property
    def is_of_session(self) -> bool:
        """Whether a session may set it, so that the server can be asked what it makes of a value."""
        return self.context in ("user", "superuser")


def is_chosen_by_server(name: str) -> bool:
    """Return whether the server chooses a setting's value where it is 0 or -1."""
    return name.lower() in _COMPUTED


def is_of_one_session(name: str) -> bool:
    """Return whether a setting belongs to a session or a transaction, and tells nothing of a server."""
    return _REFUSED.get(name.lower()) == _OF_A_SESSION


def is_list(name: str) -> bool:
    """Return whether a setting's value is a list of names or words."""
    return name.lower() in _LISTS_OF_NAMES or name.lower() in _LISTS_OF_WORDS


def why_refused(name: str) -> str | None:
    """Return why ragline does not change a setting for the whole server, or None."""
    if not _NAME.fullmatch(name):
        return "that is no name of a setting"
    return _REFUSED.get(name.lower())


def is_confidential(name: str) -> bool:
    """Whether a setting's value may hold a password."""
    return _REFUSED.get(name.lower()) == _CONFIDENTIAL


def normal(name: str, want: Value) -> str | list[str]:
    """Return a wanted value in the form of `read`: a text, or a list of texts for a list.

    >>> normal("jit", False)
    'off'
    >>> normal("shared_preload_libraries", "vector, auto_explain")
    ['vector', 'auto_explain']
    """
    if is_list(name):
        return _normal_list(name, want)
    if isinstance(want, bool):
        return "on" if want else "off"
    if isinstance(want, int | float):
        return str(want)
    if not isinstance(want, str):
        raise UsageError(f"{name} cannot be {want!r}: write one value, such as '32MB'")
    bare = want.strip()
    # A number or a word; of other texts, such as log_line_prefix, the spaces around are a part.
    text = bare if _BARE.fullmatch(bare) else want
    _check_characters(name, text)
    return text


def _normal_list(name: str, want: Value) -> list[str]:
    items = _as_list(want) if isinstance(want, str) else want
    texts = list(items) if isinstance(items, Sequence) else [None]
    found = [item.strip() for item in texts if isinstance(item, str)]
    if len(found) < len(texts):
        raise UsageError(f"{name} is a list: write names with commas between, or a list of texts")
    if name.lower() in _LISTS_OF_NAMES and not any(found):
        raise UsageError(
            f"PostgreSQL cannot be given an empty list for {name}; write null, and what its "
            "configuration files say holds again"
        )
    for item in found:
        _check_characters(name, item)
        if not item:
            raise UsageError(f"{name} has an empty element; leave it out")
        if name.lower() in _LISTS_OF_WORDS and "," in item:
            raise UsageError(f"{name} has {item!r} as one element; write its words apart")
    return found


def _as_list(text: str) -> Value:
    if text.lstrip().startswith("["):
        try:
            found: Value = json.loads(text)
        except ValueError:
            return split(text)  # says how it is written
        return found
    return split(text)


def _check_characters(name: str, text: str) -> None:
    if any(character in text for character in "\n\r\0"):
        raise UsageError(f"{name} cannot have a line break in its value {text!r}; leave it out")


def split(text: str) -> list[str]:
    """Return the elements of a list as the server writes it: commas between, double quotes around.

    >>> split('vector, "a, b"')
    ['vector', 'a, b']
    """
    found, position = [], 0
    while position < len(text):
        element = _ELEMENT.match(text, position)
        if element is None:
            raise UsageError(
                f"{text!r} is no list: write names with commas between, those with other characters "
                "than letters, digits and _ in double quotes"
            )
        in_quotes, plain = element.groups()
        found.append(plain.strip() if in_quotes is None else in_quotes.replace('""', '"'))
        position = element.end()
    return found


def as_value(name: str, text: str | None) -> str | list[str] | None:
    """Return what a file or the catalog says of a setting, as a value: lists as lists."""
    return split(text) if text is not None and is_list(name) else text


def as_text(name: str, value: Value) -> str:
    """Return a value in one text, as postgresql.auto.conf has it before its quotes."""
    if not isinstance(value, str) and isinstance(value, Sequence):
        if name.lower() in _LISTS_OF_NAMES:
            return ", ".join(quoted(str(item)) for item in value)
        return ", ".join(map(str, value))
    return str(value)


def assignment(name: str, value: Value) -> str:
    """Return `name = value` for ALTER SYSTEM SET and ALTER ROLE SET: each element its own literal.

    >>> assignment("shared_preload_libraries", ["vector", "auto_explain"])
    '"shared_preload_libraries" = \\'vector\\', \\'auto_explain\\''
    """
    is_one = isinstance(value, str) or not isinstance(value, Sequence)
    items: Sequence[object] = [value] if is_one or not isinstance(value, Sequence) else value
    said = ", ".join(literal(str(item)) for item in items)
    return f"{quoted_name(name)} = {said or literal('')}"


def quoted_name(name: str) -> str:
    """Return a setting's name as SQL reads it; "hnsw.ef_search" has two parts."""
    return ".".join(f'"{part}"' for part in name.lower().replace('"', "").split("."))


def literal(text: str) -> str:
    """Return a text as a literal of SQL, whatever standard_conforming_strings is."""
    inner = text.replace("'", "''")
    return f"E'{inner}'".replace("\\", "\\\\") if "\\" in text else f"'{inner}'"


def truth(text: str) -> bool | None:
    """Return what the server takes a word for: on and off, and their beginnings; None for neither."""
    word = text.lower()
    for value, begun, whole in (
        (True, ("true", "yes"), ("on", "1")),
        (False, ("false", "no"), ("of", "off", "0")),
    ):
        if word in whole or (word and any(full.startswith(word) for full in begun)):
            return value
    return None


def is_same(guc: Guc, one: str, other: str) -> bool:
    """Return whether two texts are one value of a setting.

    `other` may be the running value, which stands for what asked the server to choose itself.
    """
    if one == other:
        return True
    if guc.vartype == "bool":
        return truth(one) is not None and truth(one) == truth(other)
    if guc.vartype in ("integer", "real"):
        is_whole = guc.vartype == "integer"
        first, second = (number(text, guc.unit, is_whole=is_whole) for text in (one, other))
        if first is None or second is None:
            return False
        is_chosen = guc.is_chosen_by_server and first <= 0
        return is_chosen or math.isclose(first, second, rel_tol=1e-9)
    if guc.vartype == "enum" and truth(one) is not None and truth(one) == truth(other):
        return True
    if is_list(guc.name):
        return split(one) == split(other)
    is_folded = guc.vartype == "enum" or guc.name == "log_timezone"
    return is_folded and one.lower() == other.lower()


def check(guc: Guc, text: str) -> None:
    """Raise UsageError where a value is not of the setting's type, or out of its range."""
    if guc.vartype == "bool" and truth(text) is None:
        raise UsageError(f"{guc.name} is a switch and cannot be {text!r}; write on or off")
    if guc.vartype == "enum":
        _check_enum(guc, text)
    if guc.vartype in ("integer", "real"):
        _check_number(guc, text)


def _check_enum(guc: Guc, text: str) -> None:
    known = {choice.lower() for choice in guc.choices}
    if text.lower() in known or (truth(text) is not None and known & {"on", "off"}):
        return
    close = get_close_matches(text.lower(), sorted(known), n=1)
    hint = f"; perhaps you mean {close[0]!r}" if close else ""
    raise UsageError(f"{guc.name} cannot be {text!r}{hint}; write one of {', '.join(guc.choices)}")


def _check_number(guc: Guc, text: str) -> None:
    value = number(text, guc.unit, is_whole=guc.vartype == "integer")
    if value is None:
        units = known_units(guc.unit)
        raise UsageError(
            f"{guc.name} cannot be {text!r}; write a number"
            + (f" in {guc.unit}, or with one of the units {units}" if units else " without a unit")
        )
    low, high = float(guc.low or "-inf"), float(guc.high or "inf")
    if not low <= value <= high:
        unit = f" {guc.unit}" if guc.unit else ""
        raise UsageError(
            f"{guc.name} cannot be {text!r}, which is {value:.15g}{unit}: it goes from {guc.low} to "
            f"{guc.high}{unit}"
        )


def check_for_everybody(guc: Guc, text: str) -> None:
    """Raise UsageError for a value that would lock ragline itself out as well."""
    if guc.name not in _TIMEOUTS:
        return
    value_ms = number(text, "ms", is_whole=False)
    if value_ms is not None and 0 < value_ms < _SHORTEST_TIMEOUT_MS:
        raise UsageError(
            f"{guc.name} = {text} for everybody would also end the sessions that could put it back; "
            f"set it for a role, such as `role eval_app.{guc.name}`, or write at least 1s"
        )


def risk(name: str, text: str) -> str | None:
    """Return what a value endangers, in words; None where it endangers nothing."""
    words = _RISKY.get(name.lower())
    if words is None or truth(text) is None:
        return None
    return f"{name} {words}" if truth(text) == words.startswith("on") else None
