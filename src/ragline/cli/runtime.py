"""From a command to the async inside and back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ragline.cli import output
from ragline.errors import RemoteModelError, first

if TYPE_CHECKING:
    from ragline.change.kind import Site
    from ragline.config import Config
    from ragline.core.budget import Workload
    from ragline.models.accounting import Spending
    from ragline.models.embed import Embedder
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


@asynccontextmanager
async def embedder(config: Config) -> AsyncIterator[Callable[[], Awaitable[Embedder | None]]]:
    """Lend a way to open the embedding model alone; close it, and say what it took."""
    from ragline.models import embed
    from ragline.models.accounting import Metered, Spending

    opened: list[Embedder] = []
    in_vain: list[object] = []

    async def open_embedder() -> Embedder | None:
        try:
            model = await embed.open_configured_embedder(config)
        except RemoteModelError as error:
            in_vain.append(error.spent)
            raise
        opened.extend([model] if model is not None else [])
        return model

    try:
        yield open_embedder
    finally:
        for model in opened:
            await model.close()
        say_spending(spent for spent in in_vain if isinstance(spent, Spending))
        say_spending(model.spent for model in opened if isinstance(model, Metered))


def _end_as_interrupted() -> None:
    """From here on a command that is told to end, or whose terminal is gone, ends as by Ctrl-C.

    Ignored signals stay ignored, as `nohup` wants it.
    """
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(one) is not signal.SIG_IGN:
            loop.add_signal_handler(one, signal.raise_signal, signal.SIGINT)


def with_app(
    data_dir: Path | None,
    use_case: Callable[[App], Awaitable[T]],
    *,
    search_workload: Workload = "serve",
    settles: bool = False,
) -> T:
    """Open ragline, run one use case with it, and close it again.

    A command that `settles` first ends what an interrupted change left, and says so.
    """
    from ragline import wiring

    config = load(data_dir)

    async def inside() -> T:
        if search_workload == "eval":
            # Killed, a run would be held for a minute by nobody, and its time not be known.
            _end_as_interrupted()
        async with wiring.open_app(config, search_workload=search_workload) as app:
            if settles:
                await _settle(app)
            try:
                return await use_case(app)
            finally:
                say_spending(app.spent)

    return _run(inside())


def with_eval(data_dir: Path | None, use_case: Callable[[App], Awaitable[T]]) -> T:
    """Do as `with_app` does, with searches as the `eval` workload."""
    return with_app(data_dir, use_case, search_workload="eval")


def with_site(
    data_dir: Path | None, use_case: Callable[[Site], Awaitable[T]], *, quiet: bool = False
) -> T:
    """Open what changes are made with, run one use case with it, and close it again."""
    from ragline.wiring import open_site

    config = load(data_dir)

    async def inside() -> T:
        # Ended by Ctrl-C, a change is put back before the process goes.
        _end_as_interrupted()
        say = None if quiet else output.note
        with output.bars(shown=not quiet) as advance:
            async with open_site(config, say=say, advance=advance) as site:
                try:
                    return await use_case(site)
                finally:
                    say_spending(site.app.spent)

    return _run(inside())


def settle(config: Config) -> None:
    """End what an interrupted change left, and say so."""
    from ragline import wiring

    async def inside() -> None:
        async with wiring.open_app(config) as app:
            await _settle(app)

    _run(inside())


async def _settle(app: App) -> None:
    from ragline import wiring

    for entry in await wiring.settle(app):
        output.note(f"settled first: change {entry.id} is {entry.state}: {entry.reason}")


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        raise first(group) from group
