"""The audit of texts: whatever reads, names or opens a database by itself.

Text in, faults out. No fault holds a secret: `Spot.target` is a `Secret`, and evidence is put
together from parts that are none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from ragline.core.dsn_audit import finding, lines, notebook, python
from ragline.core.dsn_audit.finding import Spot

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["python", "notebook"] | lines.Kind

_BY_ENDING: dict[str, Kind] = {
    **dict.fromkeys(("py", "pyi", "pyw"), "python"),
    **dict.fromkeys(("sh", "bash", "zsh", "ksh", "envrc", "bashrc", "zshrc", "profile"), "shell"),
    **dict.fromkeys(("yaml", "yml"), "yaml"),
    **dict.fromkeys(("sql", "psql", "pgsql", "psqlrc"), "sql"),
    **dict.fromkeys(("ini", "cfg", "conf", "properties", "json", "mk", "service"), "config"),
    **dict.fromkeys(("tf", "tfvars", "hcl"), "hcl"),
    **dict.fromkeys(("js", "jsx", "mjs", "cjs", "ts", "tsx", "mts", "vue", "svelte"), "source"),
    **dict.fromkeys(("go", "rs", "java", "kt", "scala", "groovy", "gradle", "cs"), "source"),
    **dict.fromkeys(("rb", "php", "ex", "exs", "pl", "ps1"), "source"),
    "env": "env",
    "ipynb": "notebook",
    "toml": "toml",
}
_BY_NAME = re.compile(
    r"(?P<passfile>\.?pgpass(\.conf)?)|(?P<service>\.?pg_service\.conf)"
    r"|(?P<env>\.env(\..*)?|.*\.env\..*)|(?P<config>(Dockerfile|Containerfile|Makefile|Procfile)(\..*)?)",
    re.IGNORECASE,
)
_FIRST_LINE = re.compile(r"#!.*?\b(?:(?P<python>python[\d.]*)|(?P<shell>(?:ba|z|k|da)?sh))\b")

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""How a text begins that some programs of Windows write."""

# Others than these are rare, and some of Python's codecs take very long.
_DECLARED = re.compile(
    rb"[ \t\f]*#.*?coding[:=][ \t]*"
    rb"(latin-1|iso-8859-(?:1[0134-6]?|[2-9])|cp125[0-8]|koi8-[ru]|shift_jis|euc-jp|gbk|big5)(?![-\w])",
    re.IGNORECASE,
)


def kind_of(name: str, head: str = "") -> Kind | None:
    """Return how a file of this name is read, by its first line where its name says nothing."""
    if found := _BY_NAME.fullmatch(name):
        kinds: tuple[Kind, ...] = ("passfile", "service", "env", "config")
        return next(kind for kind in kinds if found[kind])
    _, dot, ending = name.rpartition(".")
    if dot:
        return _BY_ENDING.get(ending.casefold())
    if found := _FIRST_LINE.match(head):
        return "python" if found["python"] else "shell"
    return None


def audit(kind: Kind, data: bytes) -> tuple[Spot, ...]:
    """Return the faults of a file's content, in the order of its lines; whatever it holds."""
    try:
        text = data.decode(_encoding(data, kind))
        undecoded: tuple[Spot, ...] = ()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        undecoded = (Spot(line=line, kind=finding.UNPARSABLE, evidence="not UTF-8"),)
        text = data.decode("utf-8", errors="replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = _spots(kind, text)
    if undecoded:
        found = (*undecoded, *(spot for spot in found if spot.kind is not finding.UNPARSABLE))
    return tuple(sorted(_once(found), key=lambda spot: (spot.line, spot.kind.id, spot.evidence)))


def _encoding(data: bytes, kind: Kind) -> str:
    """Return what a file's mark says, or a Python source declares in its first two lines."""
    if data.startswith(UTF_16):
        return "utf-16"
    for line in data.split(b"\n", 2)[:2] if kind == "python" else ():
        if found := _DECLARED.match(line):
            return found[1].decode("ascii")
    return "utf-8-sig"


def _spots(kind: Kind, text: str) -> Iterable[Spot]:
    if kind == "python":
        return tuple(python.spots(text))
    if kind == "notebook":
        return tuple(notebook.spots(text))
    return tuple(lines.spots(text, kind))


def _once(found: Iterable[Spot]) -> Iterable[Spot]:
    """Return each fault of a line once, though two ways of looking may have seen it."""
    seen: dict[tuple[int, str, str], Spot] = {}
    for spot in found:
        key = (spot.line, spot.kind.id, spot.evidence)
        if key not in seen or seen[key].target is None:
            seen[key] = spot
    return seen.values()
