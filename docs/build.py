"""Write the generated pages of docs/reference: the schema from its comments, the commands from help.

`make docs` runs it; a test compares the pages with what it would write.
"""

from __future__ import annotations

import asyncio
import html
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import asyncpg

from ragline.core.dsn import Dsn
from ragline.db import migrate
from ragline.ops import embedded

INTRODUCTION = """\
Written by `make docs` from the comments in the database. All tables are in the schema `ragline`.
Each embedding space adds a table `embedding_<id>` with `chunk_id` and `embedding`."""
REFERENCE = Path(__file__).parent / "reference"
Row = Mapping[str, str]

TABLES = """
select c.relname as name, obj_description(c.oid) as comment
from pg_class c where c.relnamespace = 'ragline'::regnamespace and c.relkind = 'r'
  and c.relname <> 'alembic_version'
order by c.oid
"""
COLUMNS = """
select c.relname as table, a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
       case when a.attnotnull then 'no' else 'yes' end as nullable,
       col_description(c.oid, a.attnum) as comment
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relnamespace = 'ragline'::regnamespace and c.relkind = 'r' and a.attnum > 0
  and not a.attisdropped
order by c.oid, a.attnum
"""
CONSTRAINTS = """
select c.relname as table, con.conname as name, pg_get_constraintdef(con.oid) as definition
from pg_constraint con join pg_class c on c.oid = con.conrelid
where c.relnamespace = 'ragline'::regnamespace and con.contype in ('c', 'f', 'p', 'u')
order by c.oid, con.contype desc, con.conname
"""
LINKS = """
select distinct c.relname as child, p.relname as parent
from pg_constraint con join pg_class c on c.oid = con.conrelid
join pg_class p on p.oid = con.confrelid
where c.relnamespace = 'ragline'::regnamespace and con.contype = 'f' order by 1, 2
"""


def main() -> int:
    """Write the pages from a fresh database of its own."""
    folder = Path(tempfile.mkdtemp(prefix="ragline-docs-"))
    folder.chmod(0o755)
    try:
        dsn = embedded.dsn(embedded.ensure(folder / "data"))
        migrate.apply(dsn, lock_timeout_ms=2000, role_secret=None)
        pages = {"schema.md": asyncio.run(schema_page(dsn)), "commands.md": commands_page()}
    finally:
        embedded.stop(folder / "data")
        shutil.rmtree(folder)
    for name, text in pages.items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
        print(f"wrote docs/reference/{name}")
    return 0


async def schema_page(dsn: Dsn) -> str:
    """Return the page of the schema: a diagram, then every table with columns and promises."""
    connection = await asyncpg.connect(**dsn.for_asyncpg("read"))
    try:
        tables, columns, constraints, links = [
            await connection.fetch(query) for query in (TABLES, COLUMNS, CONSTRAINTS, LINKS)
        ]
    finally:
        await connection.close()
    lines = [
        "# The schema",
        "",
        INTRODUCTION,
        "",
        *_diagram(columns, links),
    ]
    for table in tables:
        lines += _table(table, columns, constraints)
    return "\n".join(lines) + "\n"


def _diagram(columns: Sequence[Row], links: Sequence[Row]) -> Iterator[str]:
    yield from ("```mermaid", "erDiagram")
    by_table = defaultdict(list)
    for column in columns:
        by_table[column["table"]].append(column)
    for link in links:
        yield f"    {link['parent']} ||--o{{ {link['child']} : has"
    for table, of_table in by_table.items():
        if table == "alembic_version":
            continue
        yield f"    {table} {{"
        for column in of_table:
            kind = column["type"].replace(" ", "_").replace("[]", "_list")
            yield f"        {kind} {column['name']}"
        yield "    }"
    yield from ("```", "")


def _table(table: Row, columns: Sequence[Row], constraints: Sequence[Row]) -> Iterator[str]:
    yield from (f"## {table['name']}", "", table["comment"], "")
    yield from ("| column | type | null | what it is |", "|---|---|---|---|")
    for column in columns:
        if column["table"] == table["name"]:
            yield (
                f"| `{column['name']}` | {column['type']} | {column['nullable']} "
                f"| {column['comment']} |"
            )
    promises = [row for row in constraints if row["table"] == table["name"]]
    if promises:
        yield from ("", "What always holds:", "")
        for row in promises:
            yield f"- `{row['name']}`: `{row['definition']}`"
    yield ""


def commands_page() -> str:
    """Return the page of the command line, as Typer writes it from the help texts."""
    command = [sys.executable, "-m", "typer", "ragline.cli", "utils", "docs", "--name", "ragline"]
    page = subprocess.run([*command, "--title", "Commands"], capture_output=True, check=True)
    return html.unescape(page.stdout.decode()).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
