"""What an audit finds: the classes with their stable ids, and one finding."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragline.core.baselines import Key, Status
    from ragline.core.dsn import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Class:
    """A kind of fault. `id` and `name` never change their meaning."""

    id: str
    name: str
    what: str
    fix: str


ENVIRONMENT_READ = Class(
    id="DSN001",
    name="environment-read",
    what="reads a database variable from the environment itself",
    fix="take the connection from the resolver (ragline.config.load().dsn), which reads DATABASE_URL "
    "and all of libpq's variables and says where each part came from",
)
HARD_CODED = Class(
    id="DSN002",
    name="hard-coded-dsn",
    what="names a database in the text",
    fix="move it to DATABASE_URL outside the tree, and read it through the resolver",
)
CREDENTIAL = Class(
    id="DSN003",
    name="credential",
    what="holds a password",
    fix="change that password, as it is in the file's history, and keep the new one in a passfile "
    "(~/.pgpass), a service file or a secret store",
)
OWN_CONNECT = Class(
    id="DSN004",
    name="own-connect",
    what="connects without the resolver",
    fix="use ragline.connect(), or give the driver what the resolver made: Dsn.for_psycopg(), "
    "for_asyncpg() or for_sqlalchemy(); in a shell, `ragline db psql` or a service file",
)
UNPARSABLE = Class(
    id="DSN005",
    name="unparsable",
    what="cannot be read as what its name says, so its other faults may be hidden",
    fix="mend the file, or allow it with a reason",
)
NO_DATABASE = Class(
    id="DSN006",
    name="unknown-database",
    what="names a database that does not exist",
    fix="correct the name, or create the database",
)
NO_USER = Class(
    id="DSN007",
    name="unknown-user",
    what="names a user that does not exist",
    fix="correct the name, or create the user",
)
NOT_REACHED = Class(
    id="DSN008",
    name="not-reached",
    what="names a target that lets nobody in, so it is not known whether it exists",
    fix="start the server, correct the address or the login, or remove what nobody uses",
)

_ALL = (
    ENVIRONMENT_READ, HARD_CODED, CREDENTIAL, OWN_CONNECT, UNPARSABLE, NO_DATABASE, NO_USER,
    NOT_REACHED,
)  # fmt: skip
CLASSES: Mapping[str, Class] = MappingProxyType({one.name: one for one in _ALL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault in one line. `evidence` is made of parts known to be no secret, never quoted."""

    path: str
    line: int
    id: str
    name: str
    evidence: str
    fix: str
    cell: int | None = None
    """Of a notebook, counted from 1."""
    status: Status = "new"
    """"known" is in the baseline, "allowed" in the allow-list, which gives the reason."""
    reason: str | None = None

    @property
    def key(self) -> Key:
        """What stays the same when the lines of a file move."""
        return self.path, self.name, self.evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A fault in a text, before it is known which file the text is of."""

    line: int
    kind: Class
    evidence: str
    target: Secret | None = None
    """A complete connection string, to be tried."""
    cell: int | None = None

    def at(self, path: str) -> Finding:
        """Return the finding in the file at `path`."""
        return Finding(
            path=path,
            line=self.line,
            id=self.kind.id,
            name=self.kind.name,
            evidence=self.evidence,
            fix=self.kind.fix,
            cell=self.cell,
        )
