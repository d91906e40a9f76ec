"""Writers that stop before a certain document, so that no test comes too late to break them off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

_LOCK = 4_711
_HOLD = """
    create function public.hold_up() returns trigger language plpgsql as $$
    begin
        if right(new.source, length(tg_argv[0])) = tg_argv[0] then
            perform pg_catalog.pg_advisory_xact_lock_shared(4711);
        end if;
        return new;
    end $$;
    create trigger hold_up before insert or update on ragline.document
    for each row execute function public.hold_up('{ending}')
"""


@contextmanager
def held_up(url: str, ending: str) -> Iterator[None]:
    """Have whoever writes a document whose source ends so wait until this block does."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(_HOLD.format(ending=ending).encode())
        db.execute("select pg_advisory_lock(%s)", [_LOCK])
        try:
            yield
        finally:
            # First the lock: whoever waits for it has the table.
            db.execute("select pg_advisory_unlock(%s)", [_LOCK])
            db.execute("drop function public.hold_up cascade")
