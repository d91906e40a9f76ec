"""Scans in a plan that read more than they let through: what they look for, to think of an index.

EXPLAIN writes expressions with every parenthesis and, when verbose, with the relation before each
column; that is what is read here. What is not understood is left out, and said.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragline.core import sql_tokens
from ragline.core.sql_tokens import Token

_PASSED_THROUGH = ("Gather", "Gather Merge")
_BY_INDEX = ("Index Scan", "Index Only Scan", "Bitmap Heap Scan")
# Which side of a join may be looked up for each row of the other: 0 is the outer one.
_LOOKED_UP = {
    "Inner": (0, 1), "Left": (1,), "Semi": (1,), "Anti": (1,),
    "Right": (0,), "Right Semi": (0,), "Right Anti": (0,),
}  # fmt: skip
OF_ANOTHER = "a row of another table"
_BARE = {"and", "or", "not", "is", "distinct", "case", "between"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One side of a condition or a key of an order, without the relation's name.

    `column` is set where it is a column and nothing else, a cast to text of one included. `hides` is
    whether a constant within was taken out, so that it cannot be written down again.
    """

    text: str
    column: str | None
    columns: tuple[str, ...]
    hides: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a scan compares each row with. `value` is the other side as written: "$1", a text."""

    term: Term
    operator: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderKey:
    """What rows are sorted by. `operator` is one of pgvector's where they are sorted by nearness."""

    term: Term
    descends: bool
    nulls_first: bool
    operator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A scan of a whole table, or of an `index` that leaves rows to be thrown away.

    `rows` are those it lets through, by the planner; `cost` its own; `plan_cost` that of the whole
    statement. `order` is what its rows are sorted by right away, and `limit` how many of them are wanted
    then, None for all. `unread` are conditions not understood. `probes` is how many rows of other tables
    look for theirs here, None where none do. `is_walked` is whether the index is there for its order.
    """

    schema: str
    table: str
    node: str
    cost: float
    plan_cost: float
    rows: float
    conditions: tuple[Condition, ...]
    unread: tuple[str, ...]
    order: tuple[OrderKey, ...]
    limit: float | None
    index: str | None = None
    probes: float | None = None
    is_walked: bool = False


def scans(plan: Mapping[str, Any]) -> list[Scan]:
    """Return the scans of tables in a plan, as EXPLAIN (VERBOSE, FORMAT JSON) writes it.

    Those of indexes only where they find rows that a filter throws away.
    """
    cost = float(plan["Total Cost"])
    return [
        _scan(node, above, cost)
        for node, above in _nodes(plan, ())
        if "Relation Name" in node
        and (
            node["Node Type"] == "Seq Scan" or (node["Node Type"] in _BY_INDEX and "Filter" in node)
        )
    ]


def uses(plan: Mapping[str, Any], index: str) -> bool:
    """Whether a plan walks an index."""
    return any(node.get("Index Name") == index for node, _ in _nodes(plan, ()))


def pretends(plan: Mapping[str, Any]) -> bool:
    """Whether a plan walks an index that HypoPG pretends: their names begin with their oid, "<1234>"."""
    return any(str(node.get("Index Name", "")).startswith("<") for node, _ in _nodes(plan, ()))


def shape(plan: Mapping[str, Any]) -> str:
    """Return a plan in a line: its nodes from the top, with relations and indexes."""
    said = []
    for node, _ in _nodes(plan, ()):
        on = node.get("Index Name") or node.get("Relation Name")
        said.append(f"{node['Node Type']}{f' on {on}' if on else ''}")
    return " > ".join(said)


def conditions(text: str, alias: str) -> tuple[list[Condition], list[str]]:
    """Return the conditions that a filter is, and those of them that are not understood, as text."""
    read = sql_tokens.tokens(text)
    if read is None:
        return [], [text]
    found: list[Condition] = []
    unread: list[str] = []
    for part in _conjuncts(plain_operators(read)):
        condition = _condition(part, alias)
        if condition is None:
            unread.append(_written(part))
        else:
            found.append(condition)
    return found, unread


def order_key(text: str, alias: str) -> OrderKey | None:
    """Return a key of a sort; None for what is not understood."""
    read = sql_tokens.tokens(text)
    if not read:
        return None
    read = plain_operators(read)
    words = [token.text.lower() if token.kind == "word" else "" for token in read[-3:]]
    descends, nulls = False, None
    if words[-2:] in (["nulls", "first"], ["nulls", "last"]):
        nulls, read, words = words[-1], read[:-2], words[:-2]
    if words[-1:] in (["desc"], ["asc"]):
        descends, read = words[-1] == "desc", read[:-1]
    first = descends if nulls is None else nulls == "first"
    nearness = _condition(read, alias)
    if nearness is not None and nearness.operator in ("<->", "<=>", "<#>", "<+>", "<~>", "<%>"):
        return OrderKey(
            term=nearness.term, descends=descends, nulls_first=first, operator=nearness.operator
        )
    term = _term(_unwrapped(read), alias)
    if term is None or not term.columns:
        return None
    return OrderKey(term=term, descends=descends, nulls_first=first)


def _nodes(
    plan: Mapping[str, Any], above: tuple[Mapping[str, Any], ...]
) -> Iterator[tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]]:
    yield plan, above
    for child in plan.get("Plans", ()):
        yield from _nodes(child, (plan, *above))


def _scan(node: Mapping[str, Any], above: Sequence[Mapping[str, Any]], cost: float) -> Scan:
    alias = str(node.get("Alias", node["Relation Name"]))
    found, unread = conditions(node.get("Filter", ""), alias)
    index, sought = _index(node)
    for text in sought:
        more, left = conditions(text, alias)
        found, unread = [*found, *more], [*unread, *left]
    probes, joined = (None, []) if index else _join(node, above, alias)
    found += joined
    workers, order, limit = _parents(above, alias)
    is_walked = (
        index is not None and not sought and above[:1] != () and (above[0]["Node Type"] == "Limit")
    )
    said = str(node["Node Type"])
    return Scan(
        schema=str(node.get("Schema", "public")),
        table=str(node["Relation Name"]),
        node=f"{'Parallel ' if node.get('Parallel Aware') else ''}{said}"
        + (f" using {index}" if index else ""),
        cost=float(node["Total Cost"]),
        plan_cost=cost,
        rows=float(node["Plan Rows"]) * workers,
        conditions=tuple(found),
        unread=tuple(unread),
        order=order,
        limit=float(above[0]["Plan Rows"]) if is_walked else limit,
        index=index,
        probes=probes,
        is_walked=is_walked,
    )


def _index(node: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """Return the index that a scan goes by, and what it is asked for."""
    if node["Node Type"] == "Seq Scan":
        return None, []
    by = node
    if node["Node Type"] == "Bitmap Heap Scan":
        by = node["Plans"][0]
    sought = by.get("Index Cond")
    return str(by.get("Index Name") or "several indexes"), [sought] if sought else []


def _join(
    node: Mapping[str, Any], above: Sequence[Mapping[str, Any]], alias: str
) -> tuple[float | None, list[Condition]]:
    """Return how many rows are joined to those of a scan, and what they must have in common."""
    below = node
    for parent in above:
        if parent["Node Type"] not in (*_PASSED_THROUGH, "Hash"):
            break
        below = parent
    else:
        return None, []
    if parent["Node Type"] != "Hash Join":
        return None, []
    side = 0 if parent["Plans"][0] is below else 1
    if side not in _LOOKED_UP.get(str(parent.get("Join Type")), ()):
        return None, []
    read = sql_tokens.tokens(parent.get("Hash Cond", "")) or []
    found = [one for part in _conjuncts(plain_operators(read)) if (one := _common(part, alias))]
    return (float(parent["Plans"][1 - side]["Plan Rows"]), found) if found else (None, [])


def _common(read: Sequence[Token], alias: str) -> Condition | None:
    """Return "column = row of another table"."""
    left, operator, right = _sides(read, alias, but=())
    own = [one for one in (left, right) if one is not None and one.columns]
    if len(own) != 1 or operator != "=":
        return None
    return Condition(term=own[0], operator="=", value=OF_ANOTHER)


def _parents(
    above: Sequence[Mapping[str, Any]], alias: str
) -> tuple[float, tuple[OrderKey, ...], float | None]:
    """Return how many processes share a scan, and how what it finds is sorted and cut off."""
    workers = next(
        (
            int(node.get("Workers Planned", 0))
            for node in above
            if node["Node Type"] in _PASSED_THROUGH
        ),
        0,
    )
    # As the planner counts: the leader helps less, the more workers it has.
    processes = workers + max(0.0, 1 - 0.3 * workers)
    near = [node for node in above if node["Node Type"] not in _PASSED_THROUGH][:2]
    if not near or near[0]["Node Type"] != "Sort":
        return processes, (), None
    keys = [order_key(text, alias) for text in near[0]["Sort Key"]]
    if len(near) < 2 or near[1]["Node Type"] != "Limit":
        return processes, (), None
    order = tuple(key for key in keys if key is not None)
    return processes, order if len(order) == len(keys) else (), float(near[1]["Plan Rows"])


def plain_operators(read: Sequence[Token]) -> list[Token]:
    """Return the tokens with OPERATOR(schema.op) as the operator alone."""
    found: list[Token] = []
    at = 0
    while at < len(read):
        if (
            read[at].text == "OPERATOR"
            and at + 5 < len(read)
            and read[at + 1].text == "("
            and read[at + 4].kind == "operator"
        ):
            found.append(read[at + 4])
            at += 6
            continue
        found.append(read[at])
        at += 1
    return found


def _conjuncts(read: Sequence[Token]) -> Iterator[Sequence[Token]]:
    read = _unwrapped(read)
    if not read:
        return
    depth, start, parts = 0, 0, []
    for at, token in enumerate(read):
        depth += _step(token)
        if depth == 0 and token.kind == "word" and token.text == "AND":
            parts.append(read[start:at])
            start = at + 1
    if not parts:
        yield read
        return
    for part in (*parts, read[start:]):
        yield from _conjuncts(part)


def _condition(read: Sequence[Token], alias: str) -> Condition | None:
    """Return "left operator right" where one side is of the relation and the other is not."""
    left, operator, right = _sides(read, alias, but=_BARE)
    if left is None or right is None or bool(left.columns) == bool(right.columns):
        return None
    if left.columns:
        return Condition(term=left, operator=operator, value=right.text)
    turned = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "<@": "@>", "@>": "<@"}
    return Condition(term=right, operator=turned.get(operator, operator), value=left.text)


def _sides(
    read: Sequence[Token], alias: str, *, but: Collection[str]
) -> tuple[Term | None, str, Term | None]:
    """Return what stands on both sides of the one operator that is in no brackets, and that.

    There are none where a word of `but` is in no brackets either.
    """
    read = _unwrapped(read)
    depths = itertools.accumulate(map(_step, read))
    outside = [(at, read[at]) for at, depth in enumerate(depths) if not depth]
    operators = [at for at, token in outside if token.kind == "operator"]
    is_bare = any(token.kind == "word" and token.text.lower() in but for _, token in outside)
    if is_bare or len(operators) != 1 or operators[0] in (0, len(read) - 1):
        return None, "", None
    (at,) = operators
    left, right = (_term(_unwrapped(part), alias) for part in (read[:at], read[at + 1 :]))
    return left, read[at].text, right


def _term(read: Sequence[Token], alias: str) -> Term | None:
    """Return an expression; None where it is of another relation, or of a query within."""
    kept: list[Token] = []
    columns: list[str] = []
    hides = False
    at = 0
    while at < len(read):
        token = read[at]
        follows = read[at + 1].text if at + 1 < len(read) else ""
        if token.kind in ("word", "quoted") and follows == "." and at + 2 < len(read):
            is_function = at + 3 < len(read) and read[at + 3].text == "("
            is_type = at > 0 and read[at - 1].text == "::"
            if not is_function and not is_type:
                if token.name != alias:
                    return None
                columns.append(read[at + 2].name)
                kept.append(read[at + 2])
                at += 3
                continue
        if token.kind == "word" and token.text in ("SubPlan", "InitPlan", "hashed"):
            return None
        hides = hides or token.kind == "parameter"
        kept.append(token)
        at += 1
    return Term(
        text=_written(kept),
        column=_only_column(kept, columns),
        columns=tuple(dict.fromkeys(columns)),
        hides=hides,
    )


def _only_column(kept: Sequence[Token], columns: Sequence[str]) -> str | None:
    """Return the column that an expression is; varchar is compared as text, and indexed as itself."""
    if len(columns) != 1:
        return None
    plain = [token.text for token in kept]
    if len(plain) == 1 or (len(plain) == 5 and (plain[0], plain[2:]) == ("(", [")", "::", "text"])):
        return columns[0]
    return None


def _unwrapped(read: Sequence[Token]) -> Sequence[Token]:
    """Return the tokens without parentheses around all of them."""
    while len(read) >= 2 and read[0].text == "(" and read[-1].text == ")":
        depth = 0
        for at, token in enumerate(read):
            depth += _step(token)
            if depth == 0 and at < len(read) - 1:
                return read
        read = read[1:-1]
    return read


def _step(token: Token) -> int:
    if token.kind != "mark":
        return 0
    return {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0)


def _written(read: Sequence[Token]) -> str:
    """Return tokens as SQL again."""
    said = ""
    for at, token in enumerate(read):
        before = read[at - 1] if at else None
        is_close = token.text in (")", ",", ".", "::", "]", "[") or (
            token.text == "(" and before is not None and before.kind in ("word", "quoted")
        )
        is_open = before is None or before.text in ("(", ".", "::", "[")
        said += token.text if is_close or is_open else f" {token.text}"
    return said
