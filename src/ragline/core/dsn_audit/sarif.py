"""Findings as SARIF 2.1.0, which code review tools show beside the lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ragline.core.dsn_audit.finding import CLASSES, CREDENTIAL
from ragline.core.dsn_audit.judging import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ragline.core.dsn_audit.finding import Finding

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_RULES = tuple(CLASSES.values())
_INDEX = {one.id: index for index, one in enumerate(_RULES)}
_CREDENTIALS = CREDENTIAL.id


def sarif(
    findings: Iterable[Finding],
    *,
    version: str,
    has_baseline: bool,
    skipped: Iterable[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Return the log of one run; `skipped` are paths that were not read, and why."""
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "ragline dsn audit",
                        "semanticVersion": version,
                        "rules": [
                            {
                                "id": one.id,
                                "name": one.name,
                                "shortDescription": {"text": one.what},
                                "help": {"text": one.fix},
                                "defaultConfiguration": {"level": _level(one.id)},
                            }
                            for one in _RULES
                        ],
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "toolExecutionNotifications": [
                            {
                                "level": "note",
                                "message": {"text": f"not read: {why}"},
                                "locations": [_location(path, None)],
                            }
                            for path, why in skipped
                        ],
                    }
                ],
                "results": [_result(one, has_baseline) for one in findings],
            }
        ],
    }


def _result(finding: Finding, has_baseline: bool) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.id,
        "ruleIndex": _INDEX[finding.id],
        "level": _level(finding.id),
        "message": {"text": f"{finding.evidence}. {finding.fix}"},
        "locations": [_location(finding.path, finding.line)],
        "partialFingerprints": {"raglineDsnAudit/v1": fingerprint(finding)},
    }
    if has_baseline:
        result["baselineState"] = "new" if finding.status == "new" else "unchanged"
    if finding.status == "allowed":
        result["suppressions"] = [{"kind": "external", "justification": finding.reason}]
    return result


def _location(path: str, line: int | None) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": quote(path, errors="replace")}}
    if line is not None:
        physical["region"] = {"startLine": line}
    return {"physicalLocation": physical}


def _level(id_: str) -> str:
    return "error" if id_ == _CREDENTIALS else "warning"
