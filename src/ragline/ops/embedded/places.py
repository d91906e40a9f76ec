"""Where a cluster's files lie, who may touch them, and the one lock around its start and stop."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import secrets
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragline.errors import EmbeddedServerError, LockTimeout
from ragline.ops.embedded import owner as owners

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragline.ops.embedded.owner import Owner

MAJOR = "18"
_SOCKET_PATH_BYTES = 107
_LOCK_WAIT_S = 180.0


@dataclass(frozen=True, slots=True)
class Home:
    """The data directory and the places in it."""

    root: Path

    @property
    def clusters(self) -> Path:
        return self.root / "postgres"

    @property
    def pgdata(self) -> Path:
        return self.clusters / MAJOR

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def binaries(self) -> Path:
        return self.root / "binaries"

    @property
    def log(self) -> Path:
        return self.root / "postgres.log"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def password(self) -> Path:
        return self.root / "password"

    @property
    def version(self) -> Path:
        return self.root / "postgres.version"


def home_of(data_dir: Path) -> Home:
    """Return the places of a data directory, after refusing one that is not the caller's."""
    root = Path(os.path.realpath(data_dir))
    if any(ord(character) < 32 for character in str(root)):
        raise EmbeddedServerError(
            f"the data directory {str(root)!r} has a control character in its path; {_CHOOSE}"
        )
    try:
        found = root.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return Home(root)
    except PermissionError:
        raise EmbeddedServerError(
            f"the data directory {root} lies in a folder that {_me()} may not enter; {_CHOOSE}"
        ) from None
    _refuse_foreign(root, found)
    return Home(root)


def claim(home: Home, owner: Owner) -> None:
    """Make the data directory and its folders where they are missing; refuse what is not safe."""
    if owner.by_root:
        _refuse_closed(home, owner)
    _make_root(home, owner)
    if not os.access(home.root, os.W_OK | os.X_OK):
        raise EmbeddedServerError(
            f"the data directory {home.root} is not writable for {_me()}; "
            f"chmod u+rwx it, or {_CHOOSE}"
        )
    with _explained(home.root):
        if not home.clusters.is_dir():
            home.clusters.mkdir(mode=0o700)
            share(home.clusters, owner, 0o710)


@contextlib.contextmanager
def locked(home: Home) -> Iterator[None]:
    """Hold the data directory's lock: one process at a time creates, starts or stops."""
    with _explained(home.root):
        handle = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _wait_for(handle, home)
        yield
    finally:
        os.close(handle)


def socket_folder(home: Home, owner: Owner) -> Path:
    """Return a private folder, made when missing, whose path leaves room for a socket's name."""
    mark = hashlib.sha256(os.fsencode(home.root)).hexdigest()[:12]
    short = f"ragline-{owner.uid}-{mark}"
    shared = dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp"])  # noqa: S108 - checked below
    fitting = [
        folder
        for folder in (home.run, *(Path(base) / short for base in shared))
        # libpq reads a comma as the end of one host and the start of the next.
        if len(os.fsencode(folder / ".s.PGSQL.65535")) <= _SOCKET_PATH_BYTES
        and "," not in str(folder)
    ]
    # Anybody can take a name in a shared folder, and only they or root can remove it.
    free = (folder for folder in fitting if folder == home.run or not _is_taken(folder, owner))
    if fitting:
        return _private(next(free, fitting[0]), owner)
    raise EmbeddedServerError(
        f"no folder is short enough for a Unix socket ({_SOCKET_PATH_BYTES} bytes); {_CHOOSE}"
    )


def share(path: Path, owner: Owner, mode: int) -> None:
    """Let the system user through a folder that stays root's: it can enter, not replace things."""
    if owner.by_root:
        os.chown(path, -1, owner.gid)
        path.chmod(mode)


def write(path: Path, text: str, owner: Owner | None = None) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    # O_EXCL follows no link: the folder may belong to the system user, and we may be root.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            if owner is not None and owner.by_root:
                os.fchown(file.fileno(), owner.uid, owner.gid)
            file.write(os.fsencode(text))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_CHOOSE = "choose another with --data-dir or RAGLINE_DATA_DIR, or set DATABASE_URL"


def _refuse_foreign(root: Path, found: os.stat_result) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise EmbeddedServerError(f"the data directory {root} is a file, not a folder; {_CHOOSE}")
    if found.st_uid != os.geteuid():
        raise EmbeddedServerError(
            f"the data directory {root} belongs to {_user(found.st_uid)}, and this is {_me()}; "
            f"run as that user, or {_CHOOSE}"
        )
    if found.st_mode & 0o022:
        raise EmbeddedServerError(
            f"the data directory {root} is writable by others (mode "
            f"{stat.S_IMODE(found.st_mode):04o}), who could replace the database; "
            f"chmod go-w it, or {_CHOOSE}"
        )


def _make_root(home: Home, owner: Owner) -> None:
    with _explained(home.root):
        for parent in reversed(home.root.parents):
            if not parent.exists():
                parent.mkdir(exist_ok=True)
                if owner.by_root:
                    parent.chmod(0o755)  # ours, just made: a strict umask would shut the server out
        if not home.root.is_dir():
            with contextlib.suppress(FileExistsError):  # another process was faster
                home.root.mkdir(mode=0o700)
        if owner.by_root and _first_closed(owner, home.root) is not None:
            share(home.root, owner, stat.S_IMODE(home.root.stat().st_mode) | 0o010)


def _refuse_closed(home: Home, owner: Owner) -> None:
    there = next(parent for parent in home.root.parents if parent.is_dir())
    shut = _first_closed(owner, there)
    if shut is not None:
        raise EmbeddedServerError(
            f"the system user {owner.name!r}, as whom the server runs for root, may not enter "
            f"{shut}, and ragline does not change other folders' permissions; {_CHOOSE}"
        )


def _first_closed(owner: Owner, folder: Path) -> Path | None:
    chain = [str(path) for path in (*reversed(folder.parents), folder)]
    script = 'for p; do [ -x "$p" ] || { printf %s "$p"; exit; }; done'
    said = owners.run(owner, ["/bin/sh", "-c", script, "sh", *chain]).stdout
    return Path(said) if said else None


def _is_taken(folder: Path, owner: Owner) -> bool:
    try:
        return folder.lstat().st_uid != owner.uid
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _private(folder: Path, owner: Owner) -> Path:
    with _explained(folder):
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            if owner.by_root:
                os.chown(folder, owner.uid, owner.gid, follow_symlinks=False)
        found = folder.lstat()
        above = folder.parent.stat().st_mode
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.uid or found.st_mode & 0o077:
        raise EmbeddedServerError(
            f"the socket folder {folder} is not a private folder of user {owner.name!r} (it "
            f"belongs to {_user(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):04o}); "
            f"remove it, or {_CHOOSE}"
        )
    if above & 0o022 and not above & stat.S_ISVTX:
        raise EmbeddedServerError(
            f"anybody may replace files in {folder.parent}, so no socket is put there; {_CHOOSE}"
        )
    return folder


def _wait_for(handle: int, home: Home) -> None:
    until = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise LockTimeout(
                    f"another process has been starting or stopping the server of {home.root} "
                    f"for {_LOCK_WAIT_S:.0f} s; look at {home.log}, then try again"
                ) from None
            time.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddedServerError(
            f"cannot use the folder {path} as {_me()}: {error.strerror} ({error.filename}); "
            f"{_CHOOSE}"
        ) from error


def _me() -> str:
    return _user(os.geteuid())


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name!r}"
    except KeyError:
        return f"user id {uid}"
