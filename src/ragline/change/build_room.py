"""What building a vector index takes of disk and memory, and what the machine has."""

from __future__ import annotations

from ragline.change import building
from ragline.change.kind import Site
from ragline.core import hnsw
from ragline.core.hnsw import Graph
from ragline.db import indexes
from ragline.errors import PreconditionFailed
from ragline.ops import machine

_MIB = 1024 * 1024
_OF_SHARED_MEMORY = 0.5


async def checked(site: Site, graph: Graph, dimension: int, vectors: int) -> tuple[str, ...]:
    """Return warnings about memory and disk; raises PreconditionFailed where there is too little."""
    size = hnsw.index_bytes(graph, dimension, vectors)
    folder = site.restart.data_directory if site.restart else None
    free = None if folder is None else machine.free_disk_bytes(folder)
    least = hnsw.disk_needed(size)
    said = []
    if free is None:
        said.append(
            f"the index takes about {_mib(size)}; how much is free where the database lies is unknown"
        )
    elif free < least:
        raise PreconditionFailed(
            f"the index takes about {_mib(size)}, and {_mib(free)} are free where the database lies: "
            f"free {_mib(least - free)} more"
        )
    needed = hnsw.build_bytes(graph, dimension, vectors)
    memory = await _memory(site, needed)
    if memory < needed:
        said.append(
            f"the graph takes about {_mib(needed)} of memory and the build gets {_mib(memory)}: the "
            "rest of it is built on disk, several times as slowly"
        )
    return tuple(said)


async def settings(site: Site, graph: Graph, dimension: int, vectors: int) -> dict[str, str]:
    """Return what holds for the session that builds. Workers share the graph through /dev/shm."""
    memory = await _memory(site, hnsw.build_bytes(graph, dimension, vectors))
    chosen = {"maintenance_work_mem": f"{memory // 1024}kB"}
    shared = machine.shared_memory_bytes() if _is_here(site) else None
    if shared is not None and memory > shared * _OF_SHARED_MEMORY:
        chosen["max_parallel_maintenance_workers"] = "0"
    return chosen


async def _memory(site: Site, needed: int) -> int:
    async with building.session(site) as db:
        current = await indexes.build_memory(db)
    available = machine.available_bytes() if _is_here(site) else None
    return hnsw.build_memory(needed, current, available)


def _is_here(site: Site) -> bool:
    return site.restart is not None and site.restart.data_directory is not None


def _mib(size: int) -> str:
    return f"{max(1, round(size / _MIB)):,} MB"
