"""The whole lint: each revision by itself, then how they hang together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ragline.core import migration_locks, migration_statements
from ragline.core.migration_lint import script as scripts
from ragline.core.migration_lint import sql, statement_rules
from ragline.core.migration_lint.revision import (
    DIRECTIONS,
    Direction,
    LintFinding,
    RevisionSource,
    Statement,
)
from ragline.core.migration_lint.rules import FIXES
from ragline.core.migration_lint.script import Script
from ragline.core.migration_sql import PART, plain

_ADDED = re.compile(rf"^add (?:column )?(?:if not exists )?({PART})")
_RENAMED = re.compile(r"^rename (?:column )?")
_GIVES_BACK = re.compile(r"^(?:insert into|update|with)\b")
_GOES_TOGETHER = ("drop-column", "drop-table", "rename-in-use")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    source: RevisionSource
    script: Script

    def sent(self, direction: Direction) -> tuple[Statement, ...]:
        return sent(self.source, self.script, direction)

    def finding(self, rule: str, line: int, evidence: str) -> LintFinding:
        return LintFinding(
            rule=rule,
            path=self.source.path,
            line=line,
            revision=self.script.revision,
            evidence=evidence,
            fix=FIXES[rule],
        )


def sent(source: RevisionSource, script: Script, direction: Direction) -> tuple[Statement, ...]:
    """Return what a direction sends: as it was rendered, else as its calls read."""
    rendered = source.upgrade if direction == "upgrade" else source.downgrade
    return scripts.statements(script, direction) if rendered is None else rendered


def lint(revisions: Sequence[RevisionSource]) -> list[LintFinding]:
    """Return every fault of some revisions, those that a comment allows included, by file and line."""
    read: list[_Read] = []
    found: list[LintFinding] = []
    for source in revisions:
        try:
            read.append(_Read(source=source, script=scripts.read(source.text)))
        except scripts.UNREADABLE as error:
            found.append(_unparsable(source, error))
    vectors = _vectors(read)
    for one in read:
        try:
            found += _with_allowances(one, [*_of_one(one, vectors)])
        except scripts.UNREADABLE as error:  # nested deeper than anybody writes it
            found.append(_unparsable(one.source, error))
    found += [_allowed(one, finding) for one, finding in _together(read)]
    return sorted(found, key=lambda one: (one.path, one.line, one.rule))


def with_comments(
    findings: Sequence[LintFinding], revisions: Sequence[RevisionSource]
) -> list[LintFinding]:
    """Return findings of another linter with what the revisions' comments say of them."""
    scripts_by_path = {}
    for source in revisions:
        try:
            scripts_by_path[source.path] = _Read(source=source, script=scripts.read(source.text))
        except scripts.UNREADABLE:
            continue
    return [
        _allowed(scripts_by_path[one.path], one) if one.path in scripts_by_path else one
        for one in findings
    ]


def _vectors(read: Sequence[_Read]) -> frozenset[tuple[str, str]]:
    """Return the columns of all revisions that are vectors: a change of their type may not say so."""
    found: set[tuple[str, str]] = set()
    for one in read:
        with suppress(*scripts.UNREADABLE):
            found |= statement_rules.vectors(one.sent("upgrade"))
    return frozenset(found)


def _unparsable(source: RevisionSource, error: BaseException) -> LintFinding:
    line = (error.lineno if isinstance(error, SyntaxError) else None) or 1
    return LintFinding(
        rule="unparsable",
        path=source.path,
        line=line,
        revision=None,
        evidence=str(error)[:200],
        fix=FIXES["unparsable"],
    )


def _of_one(one: _Read, vectors: frozenset[tuple[str, str]]) -> Iterator[LintFinding]:
    script = one.script
    if script.revision is None:
        yield one.finding("revision-without-id", script.line, "there is no `revision = …` in it")
    for line, how in script.formatted:
        yield one.finding("formatted-sql", line, f"op.execute of {how}")
    yield from _of_downgrade(one)
    undone = _undone(one)
    seen: set[tuple[str, int]] = set()
    for direction in DIRECTIONS:
        for rule, line, evidence in statement_rules.faults(one.sent(direction), vectors):
            if direction == "downgrade" and rule in _GOES_TOGETHER and evidence in undone:
                continue
            seen.add((rule, line))
            yield one.finding(rule, line, evidence)
    yield from _unreadable(one)
    for line in script.retyped:
        if ("vector-type-change", line) not in seen:
            yield one.finding("vector-type-change", line, "its existing_type is a vector")
    for line in script.nameless:
        if ("index-without-name", line) not in seen:
            yield one.finding("index-without-name", line, "create_index(None, …)")


def _unreadable(one: _Read) -> Iterator[LintFinding]:
    pasted = {line for line, _ in one.script.formatted}
    lines = {
        statement.line
        for direction in DIRECTIONS
        for statement in one.sent(direction)
        if not statement.sql.strip()
    }
    for line in sorted(lines - pasted):
        yield one.finding("unreadable-sql", line, "not rendered, and no literal")


def _undone(one: _Read) -> set[str]:
    """Return, as evidence would say it, what a downgrade takes back that its upgrade made."""
    evidence = set()
    for statement in one.sent("upgrade"):
        for text in sql.statements(statement.sql):
            blank = sql.without_texts(text)
            if created := statement_rules.created(blank):
                evidence.add(f"drops {created}")
            table, parts = statement_rules.altered(blank)
            for action in parts:
                if added := _ADDED.match(action):
                    evidence.add(f"{table}: drops {plain(added[1])}")
                if _RENAMED.match(action):
                    evidence |= set(_back(table, action))
    return evidence


def _back(table: str, action: str) -> Iterator[str]:
    """Yield how the way back of a renaming reads."""
    if column := re.match(rf"^rename (column )?({PART}) to ({PART})", action):
        yield f"{table}: rename {column[1] or ''}{column[3]} to {column[2]}"
    elif name := re.match(rf"^rename to ({PART})", action):
        schema, _, old = table.rpartition(".")
        new = f"{schema}.{name[1]}" if schema else name[1]
        yield f"{new}: rename to {old}"


def _of_downgrade(one: _Read) -> Iterator[LintFinding]:
    script = one.script
    function = script.functions.get("downgrade")
    upgrade = script.functions.get("upgrade")
    if upgrade is None or scripts.is_empty(upgrade):
        return
    if function is None:
        yield one.finding("missing-downgrade", upgrade.lineno, "there is no downgrade()")
    elif scripts.is_empty(function):
        yield one.finding("empty-downgrade", function.lineno, "downgrade() does nothing")
    elif scripts.is_refusal(function):
        yield one.finding("missing-downgrade", function.lineno, "downgrade() only raises")
    else:
        gives_back = any(
            _GIVES_BACK.match(text)
            for statement in one.sent("downgrade")
            for text in sql.statements(statement.sql)
        )
        sent_up = ";\n".join(statement.sql for statement in one.sent("upgrade"))
        found = migration_statements.losses(migration_locks.statements(sent_up))
        gone = [str(loss) for loss in found if loss.kind != "unknown"]
        if gone and not gives_back:
            evidence = f"upgrade() loses {gone[0]}"
            more = f", and {len(gone) - 1} more" if len(gone) > 1 else ""
            yield one.finding("lossy-downgrade", function.lineno, evidence + more)


def _together(read: Sequence[_Read]) -> Iterator[tuple[_Read, LintFinding]]:
    by_id: dict[str, list[_Read]] = defaultdict(list)
    for one in read:
        if one.script.revision is not None:
            by_id[one.script.revision].append(one)
    for revision, several in by_id.items():
        for one in several[1:]:
            other = several[0].source.path
            evidence = f"{revision} is also the revision of {other}"
            yield one, one.finding("duplicate-revision", one.script.line, evidence)
    for one in read:
        for down in one.script.downs:
            if down not in by_id:
                evidence = f"there is no revision {down}"
                yield one, one.finding("unknown-down-revision", one.script.line, evidence)
    downs = {down for one in read for down in one.script.downs}
    heads = sorted(by_id.keys() - downs)
    yield from _circles(by_id, heads)
    for head in heads if len(heads) > 1 else ():
        one = by_id[head][0]
        others = ", ".join(other for other in heads if other != head)
        yield (
            one,
            one.finding("two-heads", one.script.line, f"{head} is a head, and so is {others}"),
        )


def _circles(
    by_id: Mapping[str, Sequence[_Read]], heads: Sequence[str]
) -> Iterator[tuple[_Read, LintFinding]]:
    """Yield the revisions that no head leads to: they build on each other."""
    reached: set[str] = set()
    left = list(heads)
    while left:
        revision = left.pop()
        if revision in by_id and revision not in reached:
            reached.add(revision)
            left += [down for one in by_id[revision] for down in one.script.downs]
    for revision in sorted(by_id.keys() - reached):
        one = by_id[revision][0]
        evidence = f"{revision} builds on {', '.join(one.script.downs)}, and that on it"
        yield one, one.finding("revision-circle", one.script.line, evidence)


def _with_allowances(one: _Read, found: list[LintFinding]) -> list[LintFinding]:
    said = []
    for allowance in one.script.allowances:
        if not allowance.reason:
            evidence = f"allow {', '.join(allowance.rules)}, and no reason"
            said.append(one.finding("allow-without-reason", allowance.line, evidence))
    return [*(_allowed(one, finding) for finding in found), *said]


def _allowed(one: _Read, finding: LintFinding) -> LintFinding:
    for allowance in one.script.allowances:
        if allowance.reason and allowance.covers(finding.rule, finding.line):
            return replace(finding, status="allowed", reason=allowance.reason)
    return finding
