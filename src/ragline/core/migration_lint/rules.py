"""The rules, by their stable names, each with what to do about it."""

from __future__ import annotations

from types import MappingProxyType

_TIMEOUTS = "op.execute(\"set local lock_timeout = '200ms'\")"

FIXES = MappingProxyType(
    {
        "vector-index-without-concurrently": (
            "build it with postgresql_concurrently=True inside `with "
            "op.get_context().autocommit_block():`; an HNSW build of minutes else stops all writers"
        ),
        "index-without-concurrently": (
            "build it with postgresql_concurrently=True inside `with "
            "op.get_context().autocommit_block():`; writers else wait until it is built"
        ),
        "concurrently-in-transaction": (
            "PostgreSQL refuses CONCURRENTLY in a transaction: put it inside `with "
            "op.get_context().autocommit_block():`"
        ),
        "vector-type-change": (
            "a type change writes the table and its vector indexes anew under an exclusive lock: add "
            "a new column, fill it in batches, build its index CONCURRENTLY, then switch"
        ),
        "alter-system": (
            "a setting of the server belongs to no database: use `ragline change plan setting …`, "
            "which measures it and can put it back"
        ),
        "unbounded-update": (
            "it locks and writes every row in one transaction: fill in batches by key outside of the "
            "migration, or one transaction a batch in an autocommit_block"
        ),
        "unbounded-delete": (
            "it removes every row in one transaction: say which rows in `where`, in batches by key"
        ),
        "missing-lock-timeout": (
            f"begin with {_TIMEOUTS}, again after each autocommit_block: who waits for a lock stops "
            "every reader behind it"
        ),
        "missing-statement-timeout": (
            "begin with op.execute(\"set local statement_timeout = '5s'\"), again after each "
            "autocommit_block"
        ),
        "add-column-volatile-default": (
            "a default that differs by row writes the whole table under an exclusive lock: add the "
            "column without, set the default for new rows, and fill the old ones in batches"
        ),
        "not-null-without-check": (
            "it reads every row under an exclusive lock: add `check (column is not null) not valid`, "
            "validate it in a revision of its own, then set not null"
        ),
        "constraint-without-not-valid": (
            "it reads every row while writers wait: add it with postgresql_not_valid=True (NOT "
            "VALID), and validate it in a revision of its own; a key takes an index built "
            "CONCURRENTLY first (`add constraint … unique using index …`)"
        ),
        "drop-column": (
            "its values are lost: make a verified backup first (`ragline backup create --table … "
            "--verify`), or allow it with a reason"
        ),
        "drop-table": (
            "its rows are lost: make a verified backup first (`ragline backup create --table … "
            "--verify`), or allow it with a reason"
        ),
        "drop-cascade": (
            "it takes along whatever depends on it, columns with their values too: drop each thing by "
            "its name, and let the server refuse what was forgotten"
        ),
        "rewrite-under-lock": (
            "it writes the whole table anew under an exclusive lock: no migration is the place for "
            "it; make room with a tool that does it beside, or when nobody is there"
        ),
        "truncate": (
            "its rows are lost: make a verified backup first (`ragline backup create --table … "
            "--verify`), or allow it with a reason"
        ),
        "rename-in-use": (
            "the program that runs now still uses the old name: add the new one beside it, move the "
            "program over, then drop the old one"
        ),
        "missing-downgrade": (
            "write downgrade(), or have it raise NotImplementedError with the reason and allow it"
        ),
        "empty-downgrade": (
            "the version would go back and the schema would not: undo in it what upgrade() does"
        ),
        "lossy-downgrade": (
            "going back makes the column or table again, but empty: a verified backup brings the "
            "values back (`ragline backup create`), or keep them in a table beside until nobody "
            "wants to go back"
        ),
        "two-heads": (
            "make them one with `alembic merge`, or set down_revision of one to the other"
        ),
        "revision-without-id": "give the file `revision = …` and `down_revision = …`",
        "revision-circle": "these revisions build on each other: mend down_revision of one of them",
        "unreadable-sql": (
            "what it sends is known only when it runs, so nobody looked at it: make it render without "
            "a database, write it as a literal, or allow it with a reason"
        ),
        "duplicate-revision": "two files have one revision id: give one of them another",
        "unknown-down-revision": "set down_revision to a revision that exists",
        "unparsable": "mend the file: Python cannot read it",
        "create-extension-unpinned": (
            "write `create extension if not exists … with schema … version '…'`: without them it is "
            "another version on another day, in whatever schema comes first"
        ),
        "set-without-local": (
            "write `set local`: a plain `set` stays for whatever uses the connection next"
        ),
        "if-not-exists-on-concurrent-index": (
            "a build that was broken off leaves an INVALID index, which IF NOT EXISTS then takes for "
            "it: drop the index if it exists, CONCURRENTLY, and build it without IF NOT EXISTS"
        ),
        "index-without-name": "give the index a name, so that downgrade() and people can name it",
        "formatted-sql": (
            "write the statement as one text, or bind values with sa.text(…).bindparams(…): what is "
            "pasted in cannot be looked at before it runs"
        ),
        "allow-without-reason": "write `# ragline: allow RULE - why it is all right here`",
    }
)
