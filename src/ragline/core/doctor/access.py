"""Who may do what: privileges, roles, row-level security and logins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ragline.core.budget import ROLES
from ragline.core.checkup import Finding
from ragline.core.doctor.facts import Facts, HbaRule, Role, Unknown
from ragline.core.doctor.words import failed, many, passed, some, unknown, warned
from ragline.core.sql_names import identifier

_ADMIN = ROLES["admin"]
_WITHOUT_SECRET = ("trust",)
_IN_THE_CLEAR = ("password",)


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield how access is."""
    yield _privileges(facts)
    if isinstance(facts.roles, Unknown):
        yield unknown("role.workloads", facts.roles)
        yield unknown("role.bypasses_rls", facts.roles)
    else:
        yield _workloads(facts, facts.roles)
        yield from _bypassing(facts, facts.roles)
    yield from _authentication(facts)


def _privileges(facts: Facts) -> Finding:
    id_, server = "role.privileges", facts.server
    who = f"user {server.user_name}"
    if server.has_schema and not server.may_use_schema:
        return failed(
            id_,
            f"{who} may not read ragline's schema",
            fix=f"set DATABASE_URL to the user who ran `ragline migrate apply`, or let that user "
            f"`grant {_ADMIN} to {identifier(server.user_name)}`",
        )
    if not server.has_schema and not (server.may_create or server.is_superuser):
        return failed(
            id_,
            f"{who} may not make ragline's schema in {server.database}",
            fix=f"`grant create on database {identifier(server.database)} to "
            f"{identifier(server.user_name)}` as its owner, "
            "or set DATABASE_URL to a user who may",
        )
    hidden = [
        what
        for what, is_seen in (
            ("some settings", server.sees_all_settings),
            ("sessions of others", server.sees_all_sessions),
        )
        if not is_seen
    ]
    if hidden:
        return warned(
            id_,
            f"{who} may work here, and does not see {' and '.join(hidden)}: some checks are unknown",
            fix=f"`grant pg_monitor to {identifier(server.user_name)}` as a superuser",
        )
    return passed(id_, f"{who}{', a superuser,' if server.is_superuser else ''} may read all of it")


def _workloads(facts: Facts, roles: Sequence[Role]) -> Finding:
    id_ = "role.workloads"
    names = {role.name for role in roles}
    lacking = [name for name in ROLES.values() if name not in names]
    if not lacking:
        return passed(id_, "every workload has its role: " + ", ".join(ROLES.values()))
    if not facts.server.has_schema:
        return unknown(id_, "ragline's schema is not there yet, and its roles come with it")
    return warned(
        id_,
        f"not isolated: no role {some(lacking)} may log in here, so all workloads are "
        f"{facts.server.user_name}",
        fix="`ragline migrate apply` as a user who may create roles",
    )


def _bypassing(facts: Facts, roles: Sequence[Role]) -> Iterator[Finding]:
    id_, count = "role.bypasses_rls", facts.server.tables_with_rls
    is_isolated = any(role.name in ROLES.values() for role in roles)
    # Without roles of its own every workload is the DSN's user: then that is an application's role.
    user = None if is_isolated else facts.server.user_name
    found = [one for role in roles if (one := _bypasses(role, user, count)) is not None]
    yield from found
    if not found:
        tables = many(count, "table")
        yield passed(
            id_,
            f"{many(len(roles), 'role')} may log in, {tables} with row-level security: none goes around",
        )


def _bypasses(role: Role, user: str | None, tables_with_rls: int) -> Finding | None:
    id_ = "role.bypasses_rls"
    how = _how(role)
    if how is None:
        return None
    if role.name in ROLES.values():
        # ragline_admin acts for the owner of ragline's own tables: that is what it is for.
        if role.name == _ADMIN and not (role.is_superuser or role.bypasses_rls):
            return None
        return failed(
            id_, f"role {role.name} {how}", subject=role.name, fix=_no_longer(role, "a superuser")
        )
    # The first superuser is who runs the server; without such tables there is nothing to go around.
    is_ours = role.name == user
    if not tables_with_rls or (role.is_first and not is_ours):
        return None
    if is_ours:
        fix = "set DATABASE_URL to a user who is neither a superuser nor the owner of these tables"
    else:
        fix = f"if an application logs in as it: {_no_longer(role, 'a superuser')}"
    return warned(
        id_,
        f"role {role.name}{', with which all of ragline logs in,' if is_ours else ''} {how}; "
        f"{many(tables_with_rls, 'table')} with row-level security",
        subject=role.name,
        fix=fix,
    )


def _how(role: Role) -> str | None:
    if role.is_superuser:
        return "is a superuser, who sees every row"
    if role.bypasses_rls:
        return "has BYPASSRLS, and sees every row"
    return f"owns {some(list(role.owned))}, and sees every row of it" if role.owned else None


def _no_longer(role: Role, who: str) -> str:
    if role.is_superuser or role.bypasses_rls:
        return f"`alter role {identifier(role.name)} nosuperuser nobypassrls` as {who}"
    return f"`alter table {role.owned[0]} force row level security` as {who}, for each table"


def _authentication(facts: Facts) -> Iterator[Finding]:
    id_ = "role.authentication"
    rules = facts.hba
    if isinstance(rules, Unknown):
        yield unknown(id_, rules)
        return
    found = [one for rule in rules if (one := _open_door(rule)) is not None]
    yield from found
    if not found:
        yield passed(
            id_,
            f"{many(len(rules), 'rule')} in pg_hba.conf; none lets a machine in without a secret",
        )


def _open_door(rule: HbaRule) -> Finding | None:
    id_ = "role.authentication"
    place = f"line {rule.line} of pg_hba.conf"
    if rule.error is not None:
        return failed(
            id_,
            f"{place} cannot be read: {rule.error}; the server goes on with the rules it had",
            subject=place,
            fix=f"correct {place}, then `select pg_reload_conf()`",
        )
    if rule.is_local:
        return None
    who = f"users {rule.users} of databases {rule.databases} from {rule.address or 'anywhere'}"
    if rule.method in _WITHOUT_SECRET:
        return failed(
            id_,
            f"{place} lets {who} in without a password",
            subject=place,
            fix=f"write scram-sha-256 for trust in {place}, then `select pg_reload_conf()`",
        )
    if rule.method in _IN_THE_CLEAR and rule.kind != "hostssl":
        return warned(
            id_,
            f"{place} has {who} send their password in the clear",
            subject=place,
            fix=f"write scram-sha-256 for password in {place}, then `select pg_reload_conf()`",
        )
    return None
