"""The generated pages say what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from ragline.core.dsn import Dsn

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", DOCS / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_schema_page_is_what_the_database_says(build: ModuleType, own_dsn: Dsn) -> None:
    page = await build.schema_page(own_dsn)
    assert page == (DOCS / "reference/schema.md").read_text(encoding="utf-8"), "run `make docs`"
    assert "None |" not in page


def test_the_command_page_is_what_help_says(build: ModuleType) -> None:
    written = (DOCS / "reference/commands.md").read_text(encoding="utf-8")
    assert build.commands_page() == written, "run `make docs`"


def test_every_link_between_pages_leads_somewhere() -> None:
    import re

    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
    broken = [
        f"{page.relative_to(DOCS.parent)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken
