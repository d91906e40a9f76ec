"""Conditions on the metadata of documents, as values; written as Python, as JSON or as a line of text.

    And((Compare("lang", "eq", "en"), Compare("year", "ge", 2020)))
    {"and": [{"key": "lang", "op": "eq", "value": "en"}, {"key": "year", "op": "ge", "value": 2020}]}
    lang = "en" and year >= 2020

All three give the same value. What it means is `matches`; `ragline.db.filters` says it in SQL.
"""

from ragline.core.filters.expressions import (
    DEEPEST,
    LARGEST_BYTES,
    LARGEST_EXPONENT,
    LONGEST_VALUE_BYTES,
    MOST_NODES,
    MOST_VALUES,
    And,
    Compare,
    Contains,
    Exists,
    Filter,
    In,
    Kind,
    Not,
    Or,
    Order,
    Scalar,
    kind_of,
)
from ragline.core.filters.json_form import JSON_SCHEMA, from_json, to_json
from ragline.core.filters.matching import matches
from ragline.core.filters.text_form import from_text, to_text

__all__ = [
    "DEEPEST",
    "JSON_SCHEMA",
    "LARGEST_BYTES",
    "LARGEST_EXPONENT",
    "LONGEST_VALUE_BYTES",
    "MOST_NODES",
    "MOST_VALUES",
    "And",
    "Compare",
    "Contains",
    "Exists",
    "Filter",
    "In",
    "Kind",
    "Not",
    "Or",
    "Order",
    "Scalar",
    "from_json",
    "from_text",
    "kind_of",
    "matches",
    "to_json",
    "to_text",
]
