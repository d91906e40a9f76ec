"""What requests may hold. Whatever passes here can be stored, searched and shown again."""

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Path, Request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from ragline.core import filters
from ragline.errors import UsageError
from ragline.rag.app import App
from ragline.rag.search import LONGEST_QUESTION, MOST_HITS

LARGEST_ID = 2**63 - 1
MOST_COLLECTIONS = 100
# An index entry holds no more than about 2,700 bytes.
LONGEST_SOURCE_BYTES = 2000
LARGEST_METADATA_BYTES = 65_536
DEEPEST_METADATA = 16


class Body(BaseModel):
    """A request's body: no field that we do not know, so that a typing error is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


async def opened(request: Request) -> App:
    """Return the ragline that the server opened."""
    app: App = request.app.state.ragline
    return app


async def json_only(request: Request) -> None:
    """Refuse a body that does not say it is JSON; a page can send other types unasked."""
    said = request.headers.get("content-type", "")
    type_ = said.partition(";")[0].strip().lower()
    if type_ != "application/json":
        raise HTTPException(
            415, f"the body must be application/json, and Content-Type says {said[:100]!r}"
        )


def _characters(value: Any) -> Any:
    if isinstance(value, str):
        _check_characters(value)
    return value


def _check_characters(text: str) -> None:
    if "\0" in text:
        raise PydanticCustomError("nul", "it holds a NUL character, which no text has; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "surrogate",
            "it holds half of a character (a lone surrogate) at {at}; send valid Unicode",
            {"at": error.start},
        ) from None


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "it is empty; write something")
    return text


def _short_source(text: str) -> str:
    if len(text.encode()) > LONGEST_SOURCE_BYTES:
        raise PydanticCustomError(
            "too_long", "it has more than {most} bytes in UTF-8", {"most": LONGEST_SOURCE_BYTES}
        )
    return text


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    for item, depth in _walk(value):
        if depth > DEEPEST_METADATA:
            raise PydanticCustomError(
                "too_deep", "it is nested more than {most} deep", {"most": DEEPEST_METADATA}
            )
        if isinstance(item, str):
            _check_characters(item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise PydanticCustomError("not_finite", "it holds a number that is not finite")
    if len(json.dumps(value, ensure_ascii=False).encode()) > LARGEST_METADATA_BYTES:
        raise PydanticCustomError(
            "too_large", "it has more than {most} bytes", {"most": LARGEST_METADATA_BYTES}
        )
    return value


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """Yield every key and value with its depth; without recursion, however deep it is."""
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        yield item, depth
        if isinstance(item, dict):
            waiting += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            waiting += [(part, depth + 1) for part in item]


def _number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise PydanticCustomError(
            "int_type",
            "it should be a whole number, not {type}",
            {"type": "true or false" if isinstance(value, bool) else "a text"},
        )
    return value


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _filter(value: Any) -> Any:
    if value is None:
        return None
    try:
        return filters.from_json(value)
    except UsageError as error:
        raise PydanticCustomError("filter", "{message}", {"message": str(error)}) from None


Ragline = Annotated[App, Depends(opened)]
JsonOnly = Depends(json_only)

# These two come last: constraints behind them would be missing on the OpenAPI page.
Characters = BeforeValidator(_characters)
# 10.0 is a whole number to JSON; "10" and true are not.
Whole = BeforeValidator(_number)

_NotBlank = (AfterValidator(_not_blank), Field(json_schema_extra={"pattern": r"\S"}))

Text = Annotated[str, Characters]
Question = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_QUESTION),
    *_NotBlank,
    Field(examples=["How do I restart the server?"]),
    Characters,
]
Title = Annotated[str, StringConstraints(min_length=1, max_length=1000), *_NotBlank, Characters]
Source = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_SOURCE_BYTES),
    *_NotBlank,
    AfterValidator(_short_source),
    Field(examples=["restart.md"]),
    Characters,
]
Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]
MetadataFilter = Annotated[Any, BeforeValidator(_filter), WithJsonSchema(filters.JSON_SCHEMA)]
Hits = Annotated[int, Field(ge=1, le=MOST_HITS), Whole]
HitsByPolicy = Annotated[
    Hits | None, Field(description="Without it the collection's search policy says, else 10.")
]

# To look for one, any name will do; a new one keeps to what every database accepts.
CollectionName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100),
    Field(examples=["handbook"]),
    Characters,
]
NewCollectionName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"),
    Field(examples=["handbook"]),
    Characters,
]
_Several = Annotated[list[CollectionName], Field(min_length=1, max_length=MOST_COLLECTIONS)]
CollectionNames = Annotated[
    _Several,
    Field(
        description="One name, or several.",
        examples=["handbook", ["handbook"]],
    ),
    BeforeValidator(_several, json_schema_input_type=CollectionName | _Several),
]
CollectionPath = Annotated[CollectionName, Path(description="Name of the collection.")]
DocumentPath = Annotated[
    int,
    Path(
        ge=-LARGEST_ID - 1,
        le=LARGEST_ID,
        description="Number of the document; from 0 down they are rows of attached tables.",
    ),
]
