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
from ragline.ops import (
    migration_files,
    migration_lint,
    migration_rendering,
    migration_template,
)

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
        timeout=240,
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

    known = tmp_path / "known.json"
    done = command.run("migrate", "lint", folder, "--baseline", known, "--write-baseline")
    assert done.returncode == 0
    done = command.run("migrate", "lint", folder, "--no-squawk")
    assert done.returncode == 4
    assert f"{made['path']}:{line + 1}  alter-system  " in done.stdout

    allowed = tmp_path / "allowed.toml"
    allowed.write_text('[[allow]]\npath = "*.py"\nrule = "alter-system"\nreason = "a test"\n')
    by_list, by_baseline = migration_lint.allow_list(allowed), migration_lint.baseline(known)
    for entries, counts, on_new, on_any in (
        ((), {}, 1, 1),
        ((), by_baseline, 0, 1),
        (by_list, {}, 0, 0),
    ):
        found = migration_lint.run([folder], allowed=entries, known=counts, with_squawk=False)
        assert (len(found.failing("new")), len(found.failing("any"))) == (on_new, on_any)


_HOSTILE = """\
import os, socket, subprocess, sys
from pathlib import Path
from alembic import op
revision = "{revision}"
down_revision = {down}
Path(__file__).with_suffix(".ran").touch()
def upgrade():
    print("no answer", flush=True)
    op.execute("alter system reset all")
    {body}
def downgrade():
    raise NotImplementedError
"""
_BODIES = {
    "sys.exit(0)": "SystemExit",
    "os._exit(0)": "its Python ended the process",
    "os.kill(os.getpid(), 9)": "os.kill",
    "socket.create_connection(('127.0.0.1', 1))": "neither connects",
    "subprocess.run(['true'])": "neither connects",
    "__import__('psycopg').connect('')": "a lint has none",
    "__import__('sqlalchemy').create_engine('postgresql+psycopg://').connect()": "a lint has none",
    "exec('while True: pass')": "took longer",
    "assert not any(one.startswith(('PG', 'DATABASE_URL')) for one in os.environ)": None,
}


@pytest.mark.parametrize("is_endless", [False, True])
def test_a_revision_that_misbehaves_costs_itself_alone_and_never_connects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_endless: bool
) -> None:
    # One of them would take for ever; the others have time.
    endless = "exec('while True: pass')"
    monkeypatch.setattr(migration_rendering, "_TIMEOUT_S", 3.0 if is_endless else 100.0)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    (tmp_path / "versions").mkdir()
    bodies = {body: said for body, said in _BODIES.items() if (body == endless) == is_endless}
    files, before = {}, None
    for number, body in enumerate(bodies):
        file = tmp_path / "versions" / f"{number}.py"
        file.write_text(_HOSTILE.format(revision=number, down=repr(before), body=body))
        files[str(file)], before = body, str(number)

    found = migration_lint.run([tmp_path], allowed=(), known={}, with_squawk=False)

    why = {files[path]: said for path, said in found.not_rendered.items()}
    for body, said in bodies.items():
        assert (said is None) == (body not in why), why
        assert said is None or said in why[body], (body, why[body])
    assert [one.path for one in found.findings if one.rule == "alter-system"] == list(files)


def test_without_rendering_no_python_of_theirs_runs(tmp_path: Path) -> None:
    file = tmp_path / "1.py"
    file.write_text(_HOSTILE.format(revision="1", down=None, body="op.execute(sys.argv[0])"))

    done = Command(folder=tmp_path).run("migrate", "lint", file, "--no-render")

    assert done.returncode == 4
    assert "alter-system" in done.stdout
    assert "unreadable-sql" in done.stdout
    assert "squawk: not run" in done.stdout
    assert not file.with_suffix(".ran").exists()


def test_an_environment_as_people_have_it_is_read(tmp_path: Path) -> None:
    """Windows' line ends, several places of revisions, folders with spaces in their names."""
    folder = tmp_path / "my app"
    made = migration_template.new(folder, "first", may_init=True)
    (folder / "more here").mkdir()
    ini = folder / "alembic.ini"
    places = f"version_locations = %(here)s/migrations/versions{os.pathsep}%(here)s/more here\n"
    ini.write_bytes((ini.read_text() + places).replace("\n", "\r\n").encode())
    made.path.write_bytes(made.path.read_text().replace("\n", "\r\n").encode())
    moved = made.path.rename(folder / "more here" / "1.py")

    second = migration_template.new(ini, 'Ünïcode "quotes" and \\ back', may_init=False)

    assert second.down_revision == made.revision
    read = migration_files.read(ini)
    assert {Path(one.path).name for one in read.sources} == {moved.name, second.path.name}
    assert read.not_rendered == {}


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
