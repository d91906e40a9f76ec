"""RAG on PostgreSQL and pgvector that stays fast without letting answer quality slip.

async with ragline.connect() as rag:
    await rag.ingest(["docs/"], collection="kb")
    found = await rag.search("how do I restart it?", collection="kb")
    answer = await rag.ask("how do I restart it?", collection="kb")
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragline.library import Rag, connect

__version__ = version("ragline")
__all__ = ["Rag", "__version__", "connect"]


def __getattr__(name: str) -> object:
    # `ragline --help` should not wait for database drivers.
    if name in {"Rag", "connect"}:
        from ragline import library

        return getattr(library, name)
    raise AttributeError(f"module 'ragline' has no attribute {name!r}")
