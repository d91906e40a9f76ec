"""From a command to the async inside and back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ragline.cli import output
from ragline.errors import first

if TYPE_CHECKING:
    from ragline.config import Config
    from ragline.models.accounting import Spending
    from ragline.rag.app import App

T = TypeVar("T")


def load(data_dir: Path | None) -> Config:
    """Return the configuration, saying its warnings on stderr."""
    from ragline import config

    loaded = config.load(data_dir=data_dir)
    for warning in loaded.warnings:
        output.note(f"warning: {warning}")
    return loaded


def say_spending(spendings: Iterable[Spending]) -> None:
    """Say on stderr what models that cost something have taken."""
    for spending in spendings:
        if spending.requests:
            output.note(f"spent: {spending}")


def with_app(data_dir: Path | None, use_case: Callable[[App], Awaitable[T]]) -> T:
    """Open ragline, run one use case with it, and close it again."""
    from ragline.wiring import open_app

    config = load(data_dir)

    async def inside() -> T:
        async with open_app(config) as app:
            try:
                return await use_case(app)
            finally:
                say_spending(app.spent)

    try:
        return asyncio.run(inside())
    except BaseExceptionGroup as group:
        raise first(group) from group
