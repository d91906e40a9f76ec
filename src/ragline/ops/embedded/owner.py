"""The operating system user that the embedded server runs as, and running children as that user."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ragline.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEM_USER = "ragline"
_CHILD_TIMEOUT_S = 300
_LOGIN_DEFS = Path("/etc/login.defs")
_USUAL_FIRST_PERSON = 1000
_NO_SHELLS = ("nologin", "false")
_TOOLS = "/usr/sbin:/usr/bin:/sbin:/bin"
# Nothing of the caller's environment: PG* variables would confuse the programs, and whoever can
# run programs in the server could read the keys in it.
_ENVIRONMENT = {"PATH": _TOOLS, "LC_ALL": "C"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who owns the cluster's files and runs its processes."""

    name: str
    uid: int
    gid: int
    by_root: bool
    """Root is the caller: children change to this user first."""


def find() -> Owner | None:
    """Return the user that the server runs as; None when root's system user is still to be made."""
    uid = os.geteuid()
    if uid == 0:
        return _system_user()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedServerError(
            f"user id {uid} has no entry in the passwd database, which PostgreSQL needs; "
            "add one (or run as another user), or set DATABASE_URL"
        ) from None
    return Owner(name=entry.pw_name, uid=uid, gid=os.getegid(), by_root=False)


def require() -> Owner:
    """Return the user that the server runs as; root's system user is created when missing."""
    return find() or _create_system_user()


def run(
    owner: Owner,
    command: Sequence[str],
    *,
    stdin: str = "",
    stderr: int | IO[bytes] = subprocess.STDOUT,
) -> subprocess.CompletedProcess[str]:
    """Run a command as the owner, away from our terminal, folder and environment."""
    try:
        return subprocess.run(
            command,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            cwd="/",
            env=_ENVIRONMENT,
            umask=0o077,
            start_new_session=True,
            timeout=_CHILD_TIMEOUT_S,
            user=owner.uid if owner.by_root else None,
            group=owner.gid if owner.by_root else None,
            extra_groups=() if owner.by_root else None,
        )
    except OSError as error:
        raise EmbeddedServerError(
            f"cannot run {command[0]} as user {owner.name!r}: {error.strerror}; "
            "allow it, or set DATABASE_URL"
        ) from error
    except subprocess.TimeoutExpired:
        raise EmbeddedServerError(
            f"{command[0]} did not finish within {_CHILD_TIMEOUT_S} s and was ended; "
            "look at the load of the machine and its disk, then try again"
        ) from None


def _system_user() -> Owner | None:
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return None
    if entry.pw_uid == 0:
        raise EmbeddedServerError(
            f"the system user {SYSTEM_USER!r} has user id 0, and PostgreSQL refuses to run as "
            "root; give it an id of its own, or set DATABASE_URL"
        )
    if entry.pw_uid >= _first_person() and Path(entry.pw_shell or "/bin/sh").name not in _NO_SHELLS:
        raise EmbeddedServerError(
            f"user {SYSTEM_USER!r} (id {entry.pw_uid}) is a person who can log in with "
            f"{entry.pw_shell or '/bin/sh'}, and the server's files would be theirs; rename that "
            f"user, or close it (`usermod --shell /usr/sbin/nologin {SYSTEM_USER}`), or run as an "
            "ordinary user, or set DATABASE_URL"
        )
    return Owner(name=SYSTEM_USER, uid=entry.pw_uid, gid=entry.pw_gid, by_root=True)


def _first_person() -> int:
    """Return the lowest id that the system gives to people."""
    try:
        text = _LOGIN_DEFS.read_text(errors="replace")
    except OSError:  # BusyBox has no such file
        return _USUAL_FIRST_PERSON
    found = re.search(r"^\s*UID_MIN\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else _USUAL_FIRST_PERSON


def _create_system_user() -> Owner:
    said = [_last_line(command) for command in _creation_commands() if _system_user() is None]
    if made := _system_user():
        return made
    reason = "; ".join(line for line in said if line) or "neither useradd nor adduser is installed"
    raise EmbeddedServerError(
        f"PostgreSQL refuses to run as root, and the system user {SYSTEM_USER!r} could not be "
        f"created ({reason}); create it, run as an ordinary user, or set DATABASE_URL"
    )


def _creation_commands() -> list[list[str]]:
    shell = shutil.which("nologin", path=_TOOLS) or "/bin/false"
    return [
        [
            *("useradd", "--system", "--user-group", "--no-create-home"),
            *("--home-dir", "/nonexistent", "--shell", shell, SYSTEM_USER),
        ],
        [
            *("adduser", "--system", "--group", "--no-create-home"),
            *("--home", "/nonexistent", "--shell", shell, SYSTEM_USER),
        ],
        # BusyBox
        ["adduser", "-S", "-D", "-H", "-h", "/nonexistent", "-s", shell, SYSTEM_USER],
    ]


def _last_line(command: list[str]) -> str:
    tool = shutil.which(command[0], path=_TOOLS)
    if tool is None:
        return ""
    done = subprocess.run([tool, *command[1:]], capture_output=True, text=True, env=_ENVIRONMENT)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if done.returncode and lines else ""
