"""Making a new cluster, whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from typing import TYPE_CHECKING

from ragline.errors import EmbeddedServerError
from ragline.ops.embedded import owner as owners
from ragline.ops.embedded import settings, wheel
from ragline.ops.embedded.places import MAJOR, Home, write

if TYPE_CHECKING:
    from pathlib import Path

    from ragline.ops.embedded.owner import Owner

SUPERUSER = "postgres"
DATABASE = "ragline"


def create(home: Home, owner: Owner, programs: Path) -> None:
    """Make the cluster beside its place and move it there when it is complete. Hold the lock."""
    _remove_unfinished(home)
    new = home.clusters / f".new.{secrets.token_hex(6)}"
    new.mkdir(mode=0o700)
    if owner.by_root:
        os.chown(new, owner.uid, owner.gid)
    with wheel.shell_safe(programs) as safe:
        _initdb(new, owner, safe)
    _create_database(new, owner, programs)
    _configure(new, owner)
    new.rename(home.pgdata)
    _sync(home.clusters)


def check(home: Home, owner: Owner) -> bool:
    """Whether a cluster that we can start is in its place; refuse one that is not ours."""
    try:
        found = home.pgdata.stat()
    except FileNotFoundError:
        return False
    if found.st_uid != owner.uid:
        raise EmbeddedServerError(
            f"the cluster {home.pgdata} belongs to user id {found.st_uid}, not to "
            f"{owner.name!r}; run as its owner, or choose another folder with --data-dir"
        )
    try:
        version = (home.pgdata / "PG_VERSION").read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        raise EmbeddedServerError(
            f"{home.pgdata} is there, but holds no PostgreSQL cluster; move it away, "
            "or choose another folder with --data-dir"
        ) from None
    if version != MAJOR:
        raise EmbeddedServerError(
            f"the cluster {home.pgdata} is of PostgreSQL {version}, the programs are of {MAJOR}; "
            "choose another folder with --data-dir and load the documents again"
        )
    return True


def _initdb(new: Path, owner: Owner, programs: Path) -> None:
    done = owners.run(
        owner,
        [
            *(str(programs / "bin" / "initdb"), "-D", str(new)),
            *("--encoding=UTF8", "--locale=C.UTF-8"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--data-checksums", f"--username={SUPERUSER}"),
            *("--auth-local=peer", "--auth-host=scram-sha-256"),
        ],
    )
    if done.returncode:
        raise _failed("initdb", new, done.stdout)


def _create_database(new: Path, owner: Owner, programs: Path) -> None:
    # A stand-alone backend: nobody can connect to a cluster that is not finished.
    done = owners.run(
        owner,
        [str(programs / "bin" / "postgres"), "--single", "-j", "-D", str(new), "template1"],
        stdin=f"create database {DATABASE};\n\n",
    )
    if done.returncode or "ERROR:" in done.stdout:
        raise _failed(f"creating the database {DATABASE!r}", new, done.stdout)


def _configure(new: Path, owner: Owner) -> None:
    main = new / "postgresql.conf"
    write(main, main.read_text() + settings.INCLUDE, owner)
    write(new / "pg_hba.conf", settings.hba_conf(), owner)
    write(new / "pg_ident.conf", settings.ident_conf(owner), owner)


def _failed(what: str, new: Path, said: str) -> EmbeddedServerError:
    shutil.rmtree(new, ignore_errors=True)
    lines = "\n  ".join(said.strip().splitlines()[-8:])
    return EmbeddedServerError(
        f"{what} failed in {new.parent}:\n  {lines}\nmend that, or choose another folder with "
        "--data-dir, or set DATABASE_URL"
    )


def _remove_unfinished(home: Home) -> None:
    for left in home.clusters.glob(".new.*"):
        # A killed initdb's child may still write there: what stays is removed the next time.
        shutil.rmtree(left, ignore_errors=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
