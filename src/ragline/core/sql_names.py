"""Names of tables, columns and indexes as SQL writes them."""

from __future__ import annotations

import re

_PLAIN = re.compile("[a-z_][a-z0-9_]*")


def identifier(name: str) -> str:
    """Return a name in double quotes: SQL reads it as it is, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def quoted(name: str) -> str:
    """Return a name as people write it: quoted where it must be."""
    return name if _PLAIN.fullmatch(name) else identifier(name)


def unquoted(written: str) -> str:
    """Return the name that is meant: without its quotes, or in small letters where it has none."""
    return written[1:-1].replace('""', '"') if written.startswith('"') else written.lower()
