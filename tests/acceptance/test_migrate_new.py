"""`ragline migrate new` and `migrate lint`: what we write is clean by our own rules, and runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from command import Command
from ragline.core.dsn import Dsn
from ragline.errors import NotFound, UsageError
from ragline.ops import migration_files, migration_template

_OURS = Path(__file__).parents[2] / "src" / "ragline" / "db" / "migrations"
_ALLOWED = Path(__file__).parents[2] / ".ragline-lint.toml"


def alembic(folder: Path, dsn: Dsn, *arguments: str) -> None:
    """Run Alembic as its user would, told of the database by DATABASE_URL alone."""
    url = dsn.for_psycopg("test")
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(folder / "alembic.ini"), *arguments],
        env={**kept, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def tables(dsn: Dsn) -> set[str]:
    with psycopg.connect(dsn.for_psycopg("test")) as connection:
        rows = connection.execute(
            "select relname from pg_class where relnamespace = 'public'::regnamespace"
        )
        return {row[0] for row in rows}


def test_a_new_folder_and_its_revisions_are_clean_and_run(tmp_path: Path, own_dsn: Dsn) -> None:
    command, folder = Command(folder=tmp_path), tmp_path / "my app"
    refused = command.run("migrate", "new", folder, "first")
    assert refused.returncode == 3
    assert "--init" in refused.stderr
    assert not folder.exists()

    first = command.json("migrate", "new", folder, "Notes, the first table", "--init")
    second = command.json("migrate", "new", folder / "alembic.ini", "An index")

    assert first["down_revision"] is None
    assert second["down_revision"] == first["revision"]
    write(first, "op.create_table('notes', sa.Column('id', sa.Integer))", "op.drop_table('notes')")
    file = Path(second["path"])
    # What the template shows in comments is what is run.
    shown = file.read_text().replace("my_table", "notes").replace("using hnsw ", "")
    shown = shown.replace("embedding vector_cosine_ops", "id")
    lines = [
        line.replace("# ", "", 1)
        if any(word in line for word in ("with op", "op.execute(", "create index", "    #     )"))
        else line
        for line in shown.splitlines()
    ]
    file.write_text("\n".join(lines) + "\n")
    linted = command.run("migrate", "lint", folder)
    assert linted.returncode == 0, linted.stdout
    assert "2 revisions read; findings: 0 new" in linted.stdout
    assert "squawk 2." in linted.stdout
    alembic(folder, own_dsn, "upgrade", "head")
    assert {"notes", "my_index"} <= tables(own_dsn)
    alembic(folder, own_dsn, "downgrade", "base")
    assert not {"notes", "my_index"} & tables(own_dsn)
    # Alembic's own command writes the same text.
    alembic(folder, own_dsn, "revision", "-m", "third")
    assert command.run("migrate", "lint", folder).returncode == 0


def write(made: dict[str, str], up: str, down: str) -> None:
    file = Path(made["path"])
    head, upgrade, downgrade = file.read_text().split("    set_time_limits()\n")
    file.write_text(
        f"{head}    set_time_limits()\n    {up}\n{upgrade}    set_time_limits()\n    {down}\n{downgrade}"
    )


def test_a_message_that_is_none_and_two_heads_are_refused(tmp_path: Path) -> None:
    command, folder = Command(folder=tmp_path), tmp_path / "app"
    for message in ("", "x" * 201, 'quote"', "\x1b[31m"):
        with pytest.raises(UsageError, match="says what the revision does"):
            migration_template.new(folder, message, may_init=True)
    assert not folder.exists()
    first = command.json("migrate", "new", folder, "two\nlines", "--init")
    twin = Path(first["path"]).read_text().replace(first["revision"], "twin")
    (Path(first["path"]).parent / "twin.py").write_text(twin)

    before = sorted(folder.rglob("*"))
    done = command.run("migrate", "new", folder, "third")

    assert done.returncode == 3
    assert "2 heads" in done.stderr
    assert "alembic merge" in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_fault_fails_with_its_line_until_it_is_known_or_allowed(tmp_path: Path) -> None:
    command, folder = Command(folder=tmp_path), tmp_path / "app"
    made = command.json("migrate", "new", folder, "first", "--init")
    write(made, "op.execute('alter system reset all')", "op.execute('select 1')")
    line = (
        Path(made["path"])
        .read_text()
        .splitlines()
        .index("    op.execute('alter system reset all')")
    )

    done = command.run("migrate", "lint", folder)
    assert done.returncode == 4
    assert f"{made['path']}:{line + 1}  alter-system  " in done.stdout

    known = tmp_path / "known.json"
    assert (
        command.run("migrate", "lint", folder, "--baseline", known, "--write-baseline").returncode
        == 0
    )
    assert command.run("migrate", "lint", folder, "--baseline", known).returncode == 0
    assert (
        command.run("migrate", "lint", folder, "--baseline", known, "--fail-on", "any").returncode
        == 4
    )
    allowed = tmp_path / "allowed.toml"
    allowed.write_text('[[allow]]\npath = "*.py"\nrule = "alter-system"\nreason = "a test"\n')
    assert command.run("migrate", "lint", folder, "--allow", allowed).returncode == 0


def test_a_lint_without_squawk_says_so(tmp_path: Path) -> None:
    command, folder = Command(folder=tmp_path), tmp_path / "app"
    command.json("migrate", "new", folder, "first", "--init")

    done = command.run("migrate", "lint", folder, "--no-squawk")

    assert "squawk: not run (--no-squawk)" in done.stdout


def test_what_is_no_folder_of_migrations_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.ini").write_text("nonsense")
    (tmp_path / "none.ini").write_text("[alembic]\n")
    for path, error, said in (
        ("missing", NotFound, "--init"),
        ("empty", UsageError, "neither alembic.ini nor versions"),
        ("bad.ini", UsageError, "cannot be read as an alembic.ini"),
        ("none.ini", UsageError, "no script_location"),
    ):
        with pytest.raises(error, match=said) as raised:
            migration_files.read(tmp_path / path)
        assert "\n" not in str(raised.value)


def test_our_own_migrations_pass_with_their_reasons(tmp_path: Path) -> None:
    done = Command(folder=tmp_path).run("migrate", "lint", _OURS, "--allow", _ALLOWED)

    assert done.returncode == 0, done.stdout
    assert "read from its text only" not in done.stdout
