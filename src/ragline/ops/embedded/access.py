"""How to reach a running cluster."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote

from ragline.core.dsn import Dsn, Host
from ragline.errors import EmbeddedServerError
from ragline.ops.embedded import owner as owners
from ragline.ops.embedded import wheel
from ragline.ops.embedded.create import DATABASE, SUPERUSER
from ragline.ops.embedded.places import Home, write

if TYPE_CHECKING:
    from pathlib import Path

    from ragline.ops.embedded.owner import Owner
    from ragline.ops.embedded.postmaster import Cluster

_ITERATIONS = 4096


def dsn(cluster: Cluster) -> Dsn:
    """Return the superuser's connection over the Unix socket."""
    parts = ("host", "port", "database", "user")
    return Dsn(
        hosts=(Host(str(cluster.socket_dir), cluster.port),),
        database=DATABASE,
        user=SUPERUSER,
        sources=dict.fromkeys(parts, "embedded"),
    )


def url(cluster: Cluster) -> str:
    """Return the URL of the superuser over the Unix socket; the system user is the credential."""
    folder = quote(str(cluster.socket_dir), safe="/", errors="surrogateescape")
    return f"postgresql://{SUPERUSER}@/{DATABASE}?host={folder}&port={cluster.port}"


def tcp_url(cluster: Cluster) -> str:
    """Return the URL over TCP, without the password (see `password_file`)."""
    if not cluster.tcp:
        raise EmbeddedServerError(
            f"the embedded server of {cluster.data_dir} listens on its socket only; "
            "ragline db stop, then ragline db start --port PORT"
        )
    return f"postgresql://{SUPERUSER}@127.0.0.1:{cluster.port}/{DATABASE}"


def password_file(cluster: Cluster) -> Path:
    """Return the file that holds the superuser's password for TCP."""
    return Home(cluster.data_dir).password


def psql_command(cluster: Cluster) -> list[str]:
    """Return the command that opens psql on the cluster, to be run by the caller."""
    # The wheel's own psql, also for root: what the system user could replace, root does not run.
    # This build has no TLS, and would refuse a PGSSLMODE=require of the caller's environment.
    return [str(wheel.programs() / "bin" / "psql"), f"{url(cluster)}&sslmode=disable"]


def ensure_password(cluster: Cluster, home: Home, owner: Owner, programs: Path) -> None:
    """Give the superuser a password and keep it in the data directory, if there is none yet."""
    if home.password.exists():
        return
    password = secrets.token_urlsafe(24)
    done = owners.run(
        owner,
        [str(programs / "bin" / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", url(cluster)],
        # Only the verifier is sent: logs and pg_stat_statements may keep the statement.
        stdin=f"alter role {SUPERUSER} password '{_verifier(password)}';\n",
    )
    if done.returncode:
        raise EmbeddedServerError(
            f"the superuser's password could not be set: {done.stdout.strip()}; "
            f"look at {home.log}, then try again"
        )
    write(home.password, password + "\n")


def _verifier(password: str) -> str:
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    as_text = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return "SCRAM-SHA-256${}:{}${}:{}".format(_ITERATIONS, *as_text)
