"""The settings of one process: the only reader of the environment."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ragline.core import dsn_merge, libpq, remote, settings
from ragline.core.dsn import Dsn, DsnConflict, Secret, missing, not_for_asyncpg
from ragline.core.remote import EmbeddingEndpoint, Endpoint
from ragline.errors import ConfigError

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip
_OURS = frozenset(
    "AWS_BEARER_TOKEN_BEDROCK AWS_CONTAINER_AUTHORIZATION_TOKEN AWS_SECRET_ACCESS_KEY "
    "AWS_SESSION_TOKEN DATABASE_URL OPENAI_API_KEY POSTGRES_DSN RAGLINE_API_KEY RAGLINE_CHAT_KEY "
    "RAGLINE_EMBED_KEY RAGLINE_JUDGE_KEY RAGLINE_ROLE_SECRET".split()
)
_SYSTEM_SERVICE_FOLDER = "/etc/postgresql-common"  # where Debian's libpq looks
_SOCKET_FOLDERS = ("/run/postgresql", "/var/run/postgresql", "/tmp")  # noqa: S108 - libpq's own

_GIVEN = "the DSN given"
_SHORTEST_API_KEY = 16

Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings, checked; `dsn` is None when the embedded database is used."""

    dsn: Dsn | None = None
    warnings: tuple[str, ...] = ()
    data_dir: Path
    db_port: int | None = None
    model_dir: Path | None = None
    """The first of `model_dirs`: the model of new collections."""
    model_dirs: tuple[Path, ...] = ()
    """Others serve collections whose space is theirs."""
    model_precision: Literal["fp32", "int8"] = "fp32"
    """Of the default model; a folder of one's own holds what it holds."""
    embedding: EmbeddingEndpoint | None = None
    """The remote embedding model; None is the one on this machine."""
    chat: Endpoint | None = None
    """The model that writes answers; None is none: answers are made of the documents' sentences."""
    judge: Endpoint | None = None
    """The model that judges answers in an evaluation; None is none."""
    judge_max_tokens: int | None = None
    """Of one reply of the judge; None is what claims and labels need, without thinking aloud."""
    eval_cache_mb: int = 256
    """How much of a judge's replies is kept, in millions of bytes."""
    prices: Path | None = None
    threads: int = 1
    api_key: Secret | None = None
    role_secret: Secret | None = None
    lock_timeout_ms: int = 2000
    query_timeout_s: float = 30.0
    pool_timeout_s: float = 10.0
    restart_command: tuple[str, ...] = ()
    """What restarts the user's own server; without one, a person does."""
    fail_point: str | None = None
    """Where a change breaks off, for tests: "apply:1:before=die"."""


def load(
    *, data_dir: Path | None = None, dsn: str | None = None, environ: Environment | None = None
) -> Config:
    """Return the settings from the environment, or from `environ` alone.

    `data_dir` goes before RAGLINE_DATA_DIR, `dsn` before DATABASE_URL and
    POSTGRES_DSN. Raises ConfigError, naming the variable and its value
    unless it may hold a secret, and DsnConflict.
    """
    env = os.environ if environ is None else environ
    if dsn is None:
        database, warnings = _dsn(env)
    else:
        database, warnings = _resolved({**env, _GIVEN: dsn}, _GIVEN)
    embedding, chat = remote.embedding_endpoint(env), remote.chat_endpoint(env)
    judge = remote.judge_endpoint(env)
    model_dirs = _folders(env, "RAGLINE_MODEL_DIR")
    return Config(
        dsn=database,
        warnings=(
            *warnings,
            *remote.warnings(embedding.endpoint if embedding else None, chat, judge),
        ),
        data_dir=_folder(data_dir) or _path(env, "RAGLINE_DATA_DIR") or _platform_folder(),
        db_port=_port(env, "RAGLINE_DB_PORT"),
        model_dir=model_dirs[0] if model_dirs else None,
        model_dirs=model_dirs,
        model_precision=_precision(env),
        embedding=embedding,
        chat=chat,
        judge=judge,
        judge_max_tokens=settings.whole_or_none(
            env, "RAGLINE_JUDGE_MAX_TOKENS", at_least=50, at_most=1_000_000
        ),
        eval_cache_mb=settings.whole(env, "RAGLINE_EVAL_CACHE_MB", default=256, at_most=1_000_000),
        prices=_path(env, "RAGLINE_PRICES"),
        threads=settings.whole(env, "RAGLINE_THREADS", default=_usable_cpus(), at_most=1024),
        api_key=_api_key(env, "RAGLINE_API_KEY"),
        role_secret=_role_secret(env),
        lock_timeout_ms=settings.whole(
            env, "RAGLINE_LOCK_TIMEOUT_MS", default=2000, at_most=3_600_000
        ),
        query_timeout_s=settings.seconds(env, "RAGLINE_QUERY_TIMEOUT", default=30.0),
        pool_timeout_s=settings.seconds(env, "RAGLINE_POOL_TIMEOUT", default=10.0),
        restart_command=_command(env, "RAGLINE_RESTART_COMMAND"),
        fail_point=settings.text(env, "RAGLINE_FAIL_POINT"),
    )


def _command(env: Environment, name: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(env.get(name, "")))
    except ValueError as error:
        raise ConfigError(f"{name} is no command line: {error}; close its quotes") from None


def _precision(env: Environment) -> Literal["fp32", "int8"]:
    chosen = settings.choice(env, "RAGLINE_MODEL_PRECISION", ("fp32", "int8"), default="fp32")
    if chosen == "int8" and env.get("RAGLINE_MODEL_DIR"):
        raise ConfigError(
            "RAGLINE_MODEL_PRECISION is 'int8', which is a form of the default model, but "
            "RAGLINE_MODEL_DIR names another one; unset one of them"
        )
    return "int8" if chosen == "int8" else "fp32"


def pin_threads(count: int) -> None:
    """Limit the threads of numeric libraries to `count`, unless the environment says otherwise.

    They read these variables when they are loaded: call this before importing one.
    """
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, str(count))
    # A fork after tokenizers used its threads would otherwise print a warning, or hang.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if count > 1 else "false")


def child_environment(environ: Environment | None = None) -> dict[str, str]:
    """Return the environment for a child process: no PG* variables, no DSN, no key."""
    env = os.environ if environ is None else environ
    return {
        name: value
        for name, value in env.items()
        if name not in _OURS and not re.match("PG[A-Z]", name)
    }


def _dsn(env: Environment) -> tuple[Dsn | None, tuple[str, ...]]:
    """Return the user's database, or None when nothing names one, and what to warn about."""
    ours = [name for name in ("DATABASE_URL", "POSTGRES_DSN") if env.get(name, "").strip()]
    if not ours and not any(env.get(name) for name in libpq.NAMES_A_DATABASE):
        return None, ()
    found = [_resolved(env, name) for name in ours] or [_resolved(env, None)]
    dsn, warnings = found[0]
    if len(found) == 2 and found[1][0] != dsn:
        raise DsnConflict(ours[0], dsn, ours[1], found[1][0])
    if ours == ["POSTGRES_DSN"]:
        warnings = ("POSTGRES_DSN is a fallback; set DATABASE_URL instead", *warnings)
    return dsn, warnings


def _resolved(env: Environment, name: str | None) -> tuple[Dsn, tuple[str, ...]]:
    """Return the database that one variable names, completed as libpq would complete it."""
    sources = []
    if name:
        sources.append(dsn_merge.Source(name=name, parameters=_parsed(env[name].strip(), name)))
    explicit = sources[0].parameters if sources else {}
    if service := explicit.get("service") or env.get("PGSERVICE"):
        sources.append(_service(env, service, explicit.get("servicefile")))
    sources += [
        dsn_merge.Source(name=variable, parameters={parameter: env[variable]})
        for variable, parameter in libpq.PARAMETER_OF.items()
        if env.get(variable)
    ]
    dsn = dsn_merge.merge(sources, os_user=_os_user(), default_host=_default_host)
    dsn, warnings = _with_password_of_passfile(env, dsn)
    dsn.for_asyncpg("admin")  # raises here, at the start, what asyncpg cannot do
    if ignored := not_for_asyncpg(dsn):
        said = ", ".join(f"{option} ({dsn.sources.get(option)})" for option in ignored)
        warnings += (f"asyncpg, which ragline serves with, does not know and ignores: {said}",)
    return dsn, warnings


def _parsed(text: str, source: str) -> dict[str, str]:
    # Not at the top: it loads libpq, and most commands have no DSN to parse.
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        found = conninfo_to_dict(libpq.standard_form(text, source=source))
    except ProgrammingError as error:
        raise libpq.malformed(str(error), source=source) from None
    except UnicodeError:
        raise ConfigError(f"{source} is not UTF-8; percent-encode its special characters") from None
    return {key: str(value) for key, value in found.items() if value is not None}


def _service(env: Environment, name: str, named_file: str | None) -> dsn_merge.Source:
    """Return the parameters of a service; raises ConfigError when no file defines it."""
    chosen = named_file or env.get("PGSERVICEFILE")
    system = Path(env.get("PGSYSCONFDIR") or _SYSTEM_SERVICE_FOLDER, "pg_service.conf")
    files = [Path(chosen) if chosen else _home(env) / ".pg_service.conf", system]
    known: list[str] = []
    for file in files:
        text = _text(file)
        if text is None:
            continue
        source = f"service file {_short(env, file)}"
        if (parameters := libpq.service(text, name, source=source)) is not None:
            return dsn_merge.Source(
                name=f"{source} [{name}]", parameters=_known(parameters, source)
            )
        known += libpq.service_names(text)
    looked = " and ".join(_short(env, file) for file in files)
    raise ConfigError(f"{missing('service', name, known)}; looked in {looked}")


def _known(parameters: dict[str, str], source: str) -> dict[str, str]:
    from psycopg import pq

    keywords = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for key in parameters:
        if key not in keywords:
            raise ConfigError(f"{missing('keyword', key, sorted(keywords))} (in {source})")
    return parameters


def _with_password_of_passfile(env: Environment, dsn: Dsn) -> tuple[Dsn, tuple[str, ...]]:
    """Return the database with the passfile's password when it has none, and what to warn about."""
    if dsn.password:
        return dsn, ()
    named = dsn.option("passfile")
    file = Path(named) if named else _home(env) / ".pgpass"
    shown = f"passfile {_short(env, file)}"
    text, reason = _private_text(file)
    if text is None:
        return dsn, (f"{shown} is ignored: {reason}",) if reason and (
            named or file.exists()
        ) else ()
    found = [
        libpq.password_for(
            text,
            host=host.address or host.host,
            port=host.port,
            database=dsn.database,
            user=dsn.user,
        )
        for host in dsn.hosts
    ]
    fitting = [entry for entry in found if entry and entry[0]]
    if not fitting:
        return dsn, ()
    password, line = fitting[0]
    warnings: tuple[str, ...] = ()
    if len({entry and entry[0] for entry in found}) > 1:
        warnings = (f"{shown} has not one password for all hosts; that of line {line} is used",)
    sources = {**dsn.sources, "password": f"{shown} line {line}"}
    return replace(dsn, password=Secret(password), sources=sources), warnings


def _private_text(file: Path) -> tuple[str | None, str]:
    """Return the text of a passfile, or None and the reason, by libpq's rules."""
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            return None, "it is not a plain file"
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            return None, "group or others may read it; run chmod 600 on it"
        return _text(file), ""
    except OSError as error:
        return None, error.strerror or "it cannot be read"


def _text(file: Path) -> str | None:
    """Return the text of a file, or None when there is none; raises ConfigError otherwise."""
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeError:
        raise ConfigError(f"{file} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; let this user read it") from None


def _default_host(port: int) -> str:
    """Return the folder in which a server listens on this port, else "localhost"."""
    listening = (folder for folder in _SOCKET_FOLDERS if Path(folder, f".s.PGSQL.{port}").exists())
    return next(listening, "localhost")


def _home(env: Environment) -> Path:
    try:
        return Path(env.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return Path("/")


def _os_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _short(env: Environment, file: Path) -> str:
    home = _home(env)
    return f"~/{file.relative_to(home)}" if file.is_relative_to(home) else str(file)


def _folder(path: Path | None) -> Path | None:
    if path is None:
        return None
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ConfigError(f"no home folder for {str(path)!r}; write the whole path") from None


def _path(env: Environment, name: str) -> Path | None:
    return _folder(Path(env[name])) if env.get(name) else None


def _folders(env: Environment, name: str) -> tuple[Path, ...]:
    """Return the folders of a list such as PATH is; the empty names in it mean none."""
    named = [Path(text) for text in env.get(name, "").split(os.pathsep) if text.strip()]
    return tuple(dict.fromkeys(folder for one in named if (folder := _folder(one)) is not None))


def _platform_folder() -> Path:
    import platformdirs

    if os.geteuid() == 0:
        return Path("/var/lib/ragline")
    return platformdirs.user_data_path("ragline")


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _port(env: Environment, name: str) -> int | None:
    return settings.number(env, name, int, 1, 65535, "a port")


def _api_key(env: Environment, name: str) -> Secret | None:
    key = settings.header_secret(env, name)
    if key is not None and len(key.reveal()) < _SHORTEST_API_KEY:
        raise ConfigError(
            f"{name} (not shown) has fewer than {_SHORTEST_API_KEY} characters and could be "
            "guessed; use a long random text, such as `openssl rand -hex 32` prints"
        )
    return key


def _role_secret(env: Environment) -> Secret | None:
    """Return the secret from which the passwords of the workloads' roles are derived."""
    text = env.get("RAGLINE_ROLE_SECRET", "").strip()
    return Secret(text) if text else None
