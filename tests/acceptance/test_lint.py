"""The lint step breaks when something forbidden is planted, and names it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources and the rules they are held to, to plant something in."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def plant(copy: Path, module: str, code: str) -> None:
    file = copy / "src/ragline" / module
    assert file.is_file(), "plant in a module that there is"
    file.write_text(f"{file.read_text()}\n\n{code}\n")


def run(copy: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(
        [str(PROGRAMS / program), *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
    )


def import_contract(copy: Path) -> subprocess.CompletedProcess[str]:
    return run(copy, "lint-imports", "--no-cache")


def test_the_import_contract_holds(copy: Path) -> None:
    done = import_contract(copy)

    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("rag/answer.py", "ragline.cli.output"),
        ("rag/answer.py", "ragline.wiring"),
        ("db/documents.py", "ragline.rag.ingest"),
        ("db/documents.py", "ragline.models.embed"),
        ("models/embed.py", "ragline.db.pool"),
        ("ops/embedded/settings.py", "ragline.watch.health"),
        ("core/fusion.py", "ragline.config"),
        ("config.py", "ragline.db.pool"),
        ("errors.py", "ragline.core.results"),
        ("cli/output.py", "ragline.http.app"),
        ("http/health.py", "ragline.cli.output"),
        ("http/health.py", "ragline.library"),
    ],
)
def test_an_import_against_the_layers_breaks_the_contract(
    copy: Path, module: str, imported: str
) -> None:
    plant(copy, module, f"import {imported}  # noqa")

    done = import_contract(copy)

    assert done.returncode == 1
    name = "ragline." + module.removesuffix(".py").replace("/", ".")
    assert f"{name} -> {imported}" in done.stdout


@pytest.mark.parametrize(("one", "other"), [("evals", "change"), ("change", "evals")])
def test_evaluation_and_change_may_not_know_each_other(copy: Path, one: str, other: str) -> None:
    for name in (one, other):
        (copy / "src/ragline" / name).mkdir(exist_ok=True)
        (copy / "src/ragline" / name / "__init__.py").touch()
    plant(copy, f"{one}/__init__.py", f"import ragline.{other}")

    done = import_contract(copy)

    assert done.returncode == 1
    assert f"ragline.{one} -> ragline.{other}" in done.stdout


@pytest.mark.parametrize("library", ["asyncpg", "os", "time", "random", "asyncio", "pathlib"])
def test_core_may_not_import_what_does_input_or_output(copy: Path, library: str) -> None:
    plant(copy, "core/fusion.py", f"import {library}")

    done = import_contract(copy)

    assert done.returncode == 1
    assert f"ragline.core.fusion -> {library}" in done.stdout


def test_ruff_finds_nothing_in_the_sources(copy: Path) -> None:
    done = run(copy, "ruff", "check", "--no-cache", "src")

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import os\n\nHOME = os.environ['HOME']", "TID251"),
        ("import os\n\nHOME = os.getenv('HOME')", "TID251"),
        ("import asyncpg\n\nconnect = asyncpg.connect", "TID251"),
        ("import asyncpg\n\npool = asyncpg.create_pool", "TID251"),
        ("try:\n    x = 1\nexcept Exception:\n    x = 2", "BLE001"),
        ("try:\n    x = 1\nexcept:\n    x = 2", "E722"),
        ("def sql(name: str) -> str:\n    return f'select * from t where n = {name}'", "S608"),
        ("import time\n\n\nasync def wait() -> None:\n    time.sleep(1)", "ASYNC251"),
        ("print('hello')", "T201"),
        ("from . import search", "TID252"),
    ],
)
def test_what_the_style_forbids_is_found(copy: Path, code: str, rule: str) -> None:
    plant(copy, "rag/answer.py", code)

    done = run(copy, "ruff", "check", "--no-cache", "--output-format", "concise", "src")

    assert done.returncode == 1
    assert f" {rule} " in done.stdout
    assert "src/ragline/rag/answer.py" in done.stdout


def test_functions_that_branch_too_often_are_found(copy: Path) -> None:
    branches = "\n".join(f"    if x == {n}:\n        return {n}" for n in range(12))
    plant(copy, "rag/answer.py", f"def much(x: int) -> int:\n{branches}\n    return 0")

    done = run(copy, "ruff", "check", "--no-cache", "--output-format", "concise", "src")

    assert done.returncode == 1
    assert " C901 " in done.stdout


def test_untyped_code_is_found(copy: Path) -> None:
    plant(copy, "core/fusion.py", "def untyped(x):\n    return x + 1")

    done = run(copy, "mypy", "--no-incremental", "src/ragline/core/fusion.py")

    assert done.returncode == 1
    assert "untyped" in done.stdout or "no-untyped-def" in done.stdout
