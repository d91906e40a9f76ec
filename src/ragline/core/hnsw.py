"""HNSW indexes of pgvector: what they may be, how large they get, what building one takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeGuard

from ragline.errors import UsageError

Storage = Literal["vector", "halfvec"]
STORAGES: tuple[Storage, ...] = ("vector", "halfvec")
M = (2, 100)
EF_CONSTRUCTION = (4, 1000)
LARGEST: Mapping[str, int] = {"vector": 2000, "halfvec": 4000}
"""The most dimensions that an index of each storage holds: an element must fit a page."""
FIELDS = ("m", "ef_construction", "storage", "slot", "operator_class")

_PAGE = 8192
_USABLE = 8160
_ITEM = 4
_OPERATOR_CLASSES = {"cosine": "cosine_ops", "l2": "l2_ops", "inner_product": "ip_ops"}
# An element of the graph while it is built, without its vector and neighbours: measured.
_ELEMENT = 152
_NEIGHBOUR = 16
_LISTS = 24
# Another program may want memory as well.
_SHARE_OF_AVAILABLE = 4
_HEADROOM = 1.3
# What workers that build together set aside, whatever the graph: measured.
_FOR_WORKERS = 5 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """How an index is built. `slot` is its place; see `embedding_space.index_slot`."""

    slot: int
    storage: Storage
    m: int
    ef_construction: int

    def is_like(self, other: Graph | None) -> bool:
        """Whether both are the same but for their places."""
        return other is not None and self.shape == other.shape

    @property
    def shape(self) -> tuple[str, int, int]:
        """What it is, wherever it lies."""
        return self.storage, self.m, self.ef_construction


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A build that was measured."""

    seconds: float
    ef_construction: int


def to_json(graph: Graph) -> dict[str, Any]:
    """Return a graph as plain values."""
    return asdict(graph)


def from_json(values: Mapping[str, Any]) -> Graph:
    """Return a graph of what `to_json` wrote."""
    return Graph(**values)


def operator_class(storage: str, metric: str) -> str:
    """Return the operator class that answers searches by a metric."""
    return f"{storage}_{_OPERATOR_CLASSES[metric]}"


def first_storage(storage: Storage, dimension: int) -> Storage | None:
    """Return what an index of vectors stored so holds unless told; None where none can."""
    fitting = allowed_storages(storage, dimension)
    return fitting[0] if fitting else None


def allowed_storages(storage: Storage, dimension: int) -> tuple[Storage, ...]:
    """Return what an index can hold of vectors that are stored so; halves never become whole."""
    possible = STORAGES if storage == "vector" else STORAGES[1:]
    return tuple(one for one in possible if dimension <= LARGEST[one])


def completed(
    want: Mapping[str, Any],
    *,
    base: Graph,
    active_slot: int,
    is_built: bool,
    storage: Storage,
    dimension: int,
    metric: str,
) -> tuple[Graph, tuple[str, ...]]:
    """Return the graph that is wanted, complete, with what was chosen beyond what was said.

    What `want` leaves out is as in `base`, the graph of the active slot (`is_built`, or only described).
    It lies in the other slot than the one that searches use. Raises UsageError for what cannot be.
    """
    _check_fields(want)
    m = _whole(want, "m", M, base.m)
    ef_construction = _whole(want, "ef_construction", EF_CONSTRUCTION, base.ef_construction)
    chosen: tuple[str, ...] = ()
    if ef_construction < 2 * m:
        if "ef_construction" in want:
            raise UsageError(
                f"ef_construction is {ef_construction} and m is {m}: it must be at least twice m, "
                f"{2 * m}"
            )
        ef_construction = 2 * m
        chosen = (f"ef_construction becomes {ef_construction}, which is the least for m = {m}",)
    held = _storage(want, base.storage, storage, dimension)
    _check_operator_class(want, held, metric)
    graph = Graph(slot=_slot(want, active_slot), storage=held, m=m, ef_construction=ef_construction)
    if is_built and base.is_like(graph) and want.get("slot", base.slot) == base.slot:
        return base, chosen
    if graph.slot == active_slot and is_built:
        graph = Graph(
            slot=other_slot(active_slot), storage=held, m=m, ef_construction=ef_construction
        )
    return graph, chosen


def other_slot(slot: int) -> int:
    """Return where the next index goes."""
    return 2 if slot == 1 else 1


def index_bytes(graph: Graph, dimension: int, vectors: int) -> int:
    """Return the size of an index; measured, it is right within a tenth.

    Element and neighbours of a vector share a page where they fit one together.
    """
    element = _aligned(72 + _datum(graph.storage, dimension))
    base = element + _aligned(4 + 6 * 2 * graph.m) + 2 * _ITEM
    fitting = _USABLE // base
    if fitting == 0:
        return _PAGE * (1 + 2 * vectors)
    # One vector of m also lies in a layer above, with more neighbours; that tells where many share.
    higher = element + _mean_neighbours(graph.m) + 2 * _ITEM
    per_page = min(float(fitting), _USABLE / higher)
    return _PAGE * (1 + math.ceil(vectors / per_page))


def build_bytes(graph: Graph, dimension: int, vectors: int) -> int:
    """Return the memory in which the whole graph can be built, without falling back to the disk."""
    return vectors * _build_bytes_each(graph, dimension)


def build_memory(needed_bytes: int, current_bytes: int, available_bytes: int | None) -> int:
    """Return maintenance_work_mem for one build: what it needs, within the machine.

    `available_bytes` None: nobody knows the machine, so that the server's own setting stays.
    """
    if available_bytes is None:
        return current_bytes
    room = available_bytes // _SHARE_OF_AVAILABLE
    return max(current_bytes, min(math.ceil(needed_bytes * _HEADROOM) + _FOR_WORKERS, room))


def disk_needed(index_bytes: int) -> int:
    """Return the free space without which no build is begun."""
    return math.ceil(index_bytes * _HEADROOM)


def expected_s(graph: Graph, measured: Built | None) -> float | None:
    """Return how long a build will take, by one of the same vectors; None where none was measured.

    Nearly all the time goes into looking at `ef_construction` candidates.
    """
    if measured is None:
        return None
    return measured.seconds * graph.ef_construction / measured.ef_construction


def _check_fields(want: Mapping[str, Any]) -> None:
    for name in want:
        if name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"a vector index has no {name!r}; it has {', '.join(FIELDS)}{meant}")


def _whole(want: Mapping[str, Any], name: str, limits: tuple[int, int], default: int) -> int:
    value = want.get(name, default)
    low, high = limits
    if not _is_whole(value) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    return value


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _slot(want: Mapping[str, Any], active_slot: int) -> int:
    slot = want.get("slot", other_slot(active_slot))
    if not _is_whole(slot) or slot not in (0, 1, 2):
        raise UsageError(f"slot is {slot!r}; leave it out, and the one that is not in use is taken")
    return slot


def _storage(
    want: Mapping[str, Any], default: Storage, storage: Storage, dimension: int
) -> Storage:
    chosen = want.get("storage", default)
    fitting = allowed_storages(storage, dimension)
    for one in fitting:
        if one == chosen:
            return one
    said = f"an index of {dimension}-dimensional vectors stored as {storage} "
    if not fitting:
        raise UsageError(
            f"{said}cannot be built: the most is {LARGEST['halfvec']} dimensions; searches of it "
            "compare every vector"
        )
    raise UsageError(f"storage is {chosen!r}; {said}can hold {' or '.join(fitting)}")


def _check_operator_class(want: Mapping[str, Any], storage: Storage, metric: str) -> None:
    right = operator_class(storage, metric)
    if want.get("operator_class", right) != right:
        raise UsageError(
            f"operator_class is {want['operator_class']!r}, but searches go by {metric} distance of "
            f"{storage}, which only an index with {right} answers; leave it out"
        )


def _datum(storage: Storage, dimension: int) -> int:
    return 8 + dimension * (4 if storage == "vector" else 2)


def _aligned(size: int) -> int:
    return -(-size // 8) * 8


def _mean_neighbours(m: int) -> float:
    """A vector whose highest layer is n, as one of m ** n is, has n + 2 lists of m neighbours."""
    return sum((1 - 1 / m) * float(m) ** -n * _aligned(4 + 6 * (n + 2) * m) for n in range(20))


def _build_bytes_each(graph: Graph, dimension: int) -> int:
    neighbours = 2 * graph.m * _NEIGHBOUR + _LISTS
    neighbours += math.ceil((graph.m * _NEIGHBOUR + _LISTS) / (graph.m - 1))
    return _ELEMENT + _aligned(_datum(graph.storage, dimension)) + neighbours
