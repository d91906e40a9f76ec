"""The whole exception tree.

Every error knows its exit code on the command line and its status over HTTP. The message says what
happened, with which value, and what to do next; no message holds a secret.
"""

from __future__ import annotations


class RaglineError(Exception):
    """Anything that ragline refuses or cannot do."""

    exit_code = 1
    status = 500


class UsageError(RaglineError):
    """The caller asked for something that cannot be asked."""

    exit_code = 2
    status = 422


class ConfigError(UsageError):
    """A setting is missing, malformed or contradicts another one."""

    status = 500


class NotFound(UsageError):
    """A named thing does not exist."""

    status = 404


class Conflict(UsageError):
    """A named thing exists already, or holds something else."""

    status = 409


class StalePlan(Conflict):
    """A plan that expired, or that no longer fits what is there; plan again."""


class PreconditionFailed(RaglineError):
    """Something around us is not as it must be: a version, an extension, a privilege, a folder."""

    exit_code = 3
    status = 503


class SchemaMismatch(PreconditionFailed):
    """The database's schema is older or newer than this code."""


class ModelError(PreconditionFailed):
    """A model is missing, damaged, or not the one that a collection was made with."""

    status = 409


class RemoteModelError(ModelError):
    """A model that answers over the network did not."""

    status = 503
    spent: object = None
    """What it took (an `accounting.Spending`) where it failed before it was open; else it says so."""


class ModelRefused(RemoteModelError):
    """The provider refuses: a wrong key, an unknown model, a text too long. Repeating is no use."""


class ModelUnavailable(RemoteModelError):
    """The provider cannot be reached, stalls, fails or has no time for us; repeating may help."""


class ModelReplyInvalid(RemoteModelError):
    """The provider's answer is not what its protocol says; nothing of it is used."""


class EmbeddedServerError(PreconditionFailed):
    """The embedded PostgreSQL cannot be made, started or reached."""


class DatabaseUnreachable(RaglineError):
    """No connection could be made, or it was lost."""

    exit_code = 7
    status = 503


class PoolTimeout(DatabaseUnreachable):
    """Every connection of a workload was busy for as long as the caller would wait."""


class LockTimeout(RaglineError):
    """A lock was not free within `lock_timeout`; nothing was changed, repeating is safe."""

    exit_code = 8
    status = 503


class GateFailed(RaglineError):
    """A red line is broken: what was measured is worse than it may be."""

    exit_code = 4
    status = 409


class Inconclusive(RaglineError):
    """What was measured is not enough to say whether the red lines hold; measuring more may help."""

    exit_code = 5
    status = 409


class UndoFailed(RaglineError):
    """A change could neither be kept nor put back by itself: a person has to look."""

    exit_code = 6


class DemoFailed(RaglineError):
    """The demo ran, and its measured quality is below a floor."""

    exit_code = 4


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error to show of several that happened side by side: ours before others."""
    leaves = [
        first(error) if isinstance(error, BaseExceptionGroup) else error
        for error in group.exceptions
    ]
    return next((error for error in leaves if isinstance(error, RaglineError)), leaves[0])
