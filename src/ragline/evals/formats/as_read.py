"""Objects of other tools, written again exactly as they were read.

A case does not tell null from nothing, or the number 7 from the text "7". What its fields do not give
back is kept in its `extra`, and holds as long as nobody changes the field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def difference(read: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return how to come from what would be written to what was read, by key."""
    found = {
        key: [_digest(written.get(key)), value]
        for key, value in read.items()
        if key not in written or _canonical(written[key]) != _canonical(value)
    }
    return found | {key: [_digest(written[key])] for key in written.keys() - read.keys()}


def restored(written: Mapping[str, Any], kept: object) -> dict[str, Any]:
    """Return what is written, with what `difference` found put back where its key is unchanged."""
    made = dict(written)
    for key, change in kept.items() if isinstance(kept, Mapping) else ():
        match change:
            case [digest] if digest == _digest(written.get(key)):
                made.pop(key, None)
            case [digest, value] if digest == _digest(written.get(key)):
                made[key] = value
    return made


def _digest(value: object) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:16]


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)
