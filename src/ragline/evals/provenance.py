"""What a run was measured on and with, so that two runs can be told apart and held together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from typing import Any

from ragline.core import hnsw, prompts, run_json, search_policy
from ragline.core.measuring import Way
from ragline.core.results import CollectionFacts
from ragline.core.runs import Settings
from ragline.models.embed import ModelFacts
from ragline.models.llm import ChatFacts
from ragline.rag.generate import Limits

_SOURCES = (".py", ".sql", ".toml")


def provenance(
    *,
    settings: Settings,
    collections: Sequence[CollectionFacts],
    server: Mapping[str, Any] | None,
    embedding: ModelFacts | None,
    chat: ChatFacts | None,
    limits: Limits | None,
    judge_id: str | None,
    way: Way | None,
) -> dict[str, Any]:
    """Return what is stored with a run.

    `settings_hash` covers all that was chosen and changes results, on whatever corpus: settings,
    models, search policies and indexes that are not the default, prompts and the way documents are
    named. `chat` and `limits` are None where nothing is
    generated.
    """
    models = {
        "embedding": _parts(embedding, "model_id", "weights_hash"),
        "chat": _parts(chat, "model_id", "provider", "base_url"),
        "judge": judge_id,
    }
    chosen = {
        "settings": run_json.plain(settings, "settings"),
        "models": models,
        "spaces": {facts.name: _space(facts) for facts in collections},
        "prompt": prompts.PROMPT_VERSION if chat else None,
        "limits": _parts(limits, "passages", "context_tokens", "max_tokens"),
        "match": way,
    }
    policies = {facts.name: _policy(facts) for facts in collections}
    indexes = {facts.name: _index(facts) for facts in collections}
    # Runs from before these could be chosen keep their hash.
    unusual = {
        "policies": {name: said for name, said in policies.items() if said},
        "indexes": {
            facts.name: indexes[facts.name] for facts in collections if _has_unusual_index(facts)
        },
    }
    return {
        "epochs": {facts.name: facts.epoch for facts in collections},
        **{name: chosen[name] for name in ("spaces", "models", "prompt", "limits", "match")},
        "policies": policies,
        "indexes": {
            facts.name: facts.space
            and {"slot": facts.space.index_slot, **(indexes[facts.name] or {})}
            for facts in collections
        },
        "server": dict(server) if server else None,
        "code": {"version": metadata.version("ragline"), "source": source_hash()},
        "seed": settings.seed,
        "settings_hash": digest(chosen | {k: v for k, v in unusual.items() if v})[:16],
    }


def digest(value: Any) -> str:
    """Return the SHA-256 of a value that JSON can hold, in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@cache
def source_hash() -> str:
    """Return a hash of ragline's own source, in hex, cut to 16: versions stay, code changes."""
    total = sha256()
    for name, data in sorted(_files(resources.files("ragline"), "")):
        total.update(f"{name}\0{len(data)}\0".encode())
        total.update(data)
    return total.hexdigest()[:16]


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], *, but: Sequence[str]
) -> list[str]:
    """Return the parts of two provenances that differ, but for those named."""
    return [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if name not in but and before.get(name) != now.get(name)
    ]


def _files(folder: Traversable, path: str) -> Iterable[tuple[str, bytes]]:
    for entry in folder.iterdir():
        name = f"{path}{entry.name}"
        if entry.is_dir():
            yield from _files(entry, f"{name}/")
        elif entry.name.endswith(_SOURCES):
            yield name, entry.read_bytes()


def _space(facts: CollectionFacts) -> dict[str, Any] | None:
    return _parts(facts.space, "model_id", "weights_hash", "dimension", "metric", "storage")


def _policy(facts: CollectionFacts) -> dict[str, Any]:
    """Return what a collection's search policy says; nothing where it is the default."""
    said = search_policy.to_json(facts.policy)
    return {name: value for name, value in said.items() if value is not None}


def _index(facts: CollectionFacts) -> dict[str, Any] | None:
    space = facts.space
    if space is None:
        return None
    return {
        "storage": space.index_storage,
        "m": space.index_m,
        "ef_construction": space.index_ef_construction,
    }


def _has_unusual_index(facts: CollectionFacts) -> bool:
    space = facts.space
    if space is None:
        return False
    # Beyond 2,000 dimensions an index holds halves in any case.
    usual = "halfvec" if space.dimension > hnsw.LARGEST["vector"] else space.storage
    return (space.index_storage, space.index_m, space.index_ef_construction) != (usual, 16, 64)


def _parts(facts: object, *names: str) -> dict[str, Any] | None:
    return None if facts is None else {name: getattr(facts, name) for name in names}
