"""The server's configuration files, as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragline.ops.embedded.owner import Owner

MIB = 1024 * 1024
INCLUDE = "\n# ragline's settings, written at every start; what follows, and ALTER SYSTEM, wins\n"
INCLUDE += "include_if_exists = 'ragline.conf'\n"


def ragline_conf(
    memory_bytes: int, shared_memory_bytes: int | None, *, socket_folder: Path, port: int | None
) -> str:
    """Return the settings that fit a machine; with a port, also TCP on loopback.

    `shared_memory_bytes` is the size of /dev/shm; None where there is none.
    """
    memory = memory_bytes // MIB
    maintenance = _between(64, memory // 32, 512)
    settings: dict[str, str] = {
        "listen_addresses": "" if port is None else "127.0.0.1",
        "port": str(port or 5432),
        "unix_socket_directories": '"' + str(socket_folder).replace('"', '""') + '"',
        "unix_socket_permissions": "0700",
        "cluster_name": "ragline",
        "shared_preload_libraries": "vector,pg_stat_statements",
        "max_connections": "100",
        "client_connection_check_interval": "5s",
        "shared_buffers": f"{_between(128, memory // 16, 1024)}MB",
        "effective_cache_size": f"{max(256, memory // 2)}MB",
        "maintenance_work_mem": f"{maintenance}MB",
        "work_mem": "4MB",
        "max_wal_size": "1GB",
        "min_wal_size": "80MB",
        "checkpoint_timeout": "10min",
        "wal_compression": "pglz",
        "random_page_cost": "1.1",
        "jit": "off",
        "log_destination": "stderr",
        "logging_collector": "off",
        "log_line_prefix": "%m [%p] %q%u@%d %a ",
        "log_lock_waits": "on",
        "log_temp_files": "64MB",
    }
    if shared_memory_bytes is not None and shared_memory_bytes < 2 * maintenance * MIB:
        # Containers have 64 MB there: a parallel HNSW build would fail with "no space left".
        settings["dynamic_shared_memory_type"] = "mmap"
    return "# written by ragline at every start: change settings with ALTER SYSTEM\n" + _render(
        settings
    )


def hba_conf() -> str:
    """Return who may connect: mapped system users by socket, passwords over loopback."""
    return (
        "local  all          all                peer map=ragline\n"
        "local  replication  all                peer map=ragline\n"
        "host   all          all  127.0.0.1/32  scram-sha-256\n"
        "host   all          all  ::1/128       scram-sha-256\n"
    )


def ident_conf(owner: Owner) -> str:
    """Return which system users may be any role: the owner, and root where root runs it."""
    users = [owner.name, "root"] if owner.by_root else [owner.name]
    return "".join(f'ragline  "{user}"  all\n' for user in users)


def _render(settings: Mapping[str, str]) -> str:
    return "".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items())


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))
