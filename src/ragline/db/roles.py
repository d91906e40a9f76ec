"""The roles of the workloads: who may act as them, and what they log in with."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ragline.core.budget import ROLES, WORKLOADS, connection_limits
from ragline.core.dsn import Dsn, Secret
from ragline.errors import PreconditionFailed

if TYPE_CHECKING:
    import psycopg

# The first server on which to be a member of a role is not enough to act as it.
_APART = 160000


def role_password(dsn: Dsn, role: str, role_secret: Secret | None) -> Secret | None:
    """Return the password of a workload's role, or None where the server asks for none.

    It is an HMAC-SHA256 of the role's name under `role_secret`, else under the DSN's own password:
    every process that can log in by the DSN knows it, nothing has to be stored, and nobody can
    compute the DSN's password from it.
    """
    key = role_secret or dsn.password
    if key is None:
        return None
    message = f"ragline role {role}".encode()
    return Secret(hmac.new(key.reveal().encode(), message, hashlib.sha256).hexdigest())


def acts_as_owner(connection: psycopg.Connection[Any]) -> bool:
    """Return whether we may act as ragline_owner."""
    acting = "set" if connection.info.server_version >= _APART else "member"
    return bool(
        one(
            connection,
            """
            select pg_catalog.pg_has_role(oid, %s)
            from pg_catalog.pg_roles where rolname = 'ragline_owner'
            """,
            acting,
        )
    )


def is_isolated(connection: psycopg.Connection[Any]) -> bool:
    """Return whether all roles exist, we may act as their owner, and the schema is not another's."""
    names: Sequence[str] = ["ragline_owner", *ROLES.values()]
    return acts_as_owner(connection) and bool(
        one(
            connection,
            """
            select count(*) = cardinality(%s::text[])
               and not exists (
                   select from pg_catalog.pg_namespace
                   where nspname = 'ragline' and nspowner <> 'ragline_owner'::regrole::oid
               )
            from pg_catalog.pg_roles where rolname = any(%s::text[])
            """,
            names,
            names,
        )
    )


def set_logins(dsn: Dsn, connection: psycopg.Connection[Any], role_secret: Secret | None) -> None:
    """Give each workload's role its connection limit and, where we know one, its password."""
    from psycopg import sql

    row = connection.execute(
        """
        select current_setting('max_connections')::int,
               current_setting('superuser_reserved_connections')::int
               + coalesce(current_setting('reserved_connections', true), '0')::int
        """
    ).fetchone()
    if row is None:
        raise PreconditionFailed("the server did not answer what max_connections is")
    limits = connection_limits(*row)
    if not _administers_roles(connection):
        return  # whoever made them keeps their limits and passwords
    _keep_out_of_logs(connection)
    for workload in WORKLOADS:
        role = sql.Identifier(ROLES[workload])
        connection.execute(
            sql.SQL("alter role {} connection limit {}").format(role, sql.Literal(limits[workload]))
        )
        if password := role_password(dsn, ROLES[workload], role_secret):
            # The server only ever sees the SCRAM verifier: statements end up in logs.
            verifier = connection.pgconn.encrypt_password(
                password.reveal().encode(), ROLES[workload].encode(), b"scram-sha-256"
            )
            connection.execute(
                sql.SQL("alter role {} password {}").format(role, sql.Literal(verifier.decode()))
            )


def _administers_roles(connection: psycopg.Connection[Any]) -> bool:
    """Return whether we may alter the workloads' roles: from 16 on, only those we were handed."""
    return bool(
        one(
            connection,
            """
            select u.rolsuper or u.rolcreaterole and (
                %s or (
                    select bool_and(
                        pg_catalog.pg_has_role(current_user, r.oid, 'member with admin option')
                    )
                    from pg_catalog.pg_roles r where r.rolname = any(%s::text[])
                )
            )
            from pg_catalog.pg_roles u where u.rolname = current_user
            """,
            connection.info.server_version < _APART,
            list(ROLES.values()),
        )
    )


def _keep_out_of_logs(connection: psycopg.Connection[Any]) -> None:
    """Hide the verifiers from server log and pg_stat_statements, as far as we may: as superuser."""
    if one(connection, "select current_setting('is_superuser')") == "on":
        for name, value in (
            ("log_statement", "none"),
            ("log_min_duration_statement", "-1"),
            ("log_min_duration_sample", "-1"),
            ("log_transaction_sample_rate", "0"),
            ("log_min_error_statement", "panic"),
            ("pg_stat_statements.track", "none"),
        ):
            connection.execute("select set_config(%s, %s, true)", [name, value])


def one(connection: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = connection.execute(query, values or None).fetchone()
    return None if row is None else row[0]
